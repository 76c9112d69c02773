"""Models in processes of their own: what hangs, dies or lies there costs a call, and never the service.

Each model has a process and a thread of the service that hands it one call at a time (harness.serving.lane).
Callers wait for their own budget and no longer; a call past its budget ends with the process, since a
time-out alone would end neither a Python thread nor what it does. The thread starts the process again at
once, while callers wait.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import PilotError
from harness.pipeline.manifest import Manifest, named
from harness.serving.breaker import BreakerOpen, Rule
from harness.serving.calls import Busy, Call, Overloaded, TooSlow
from harness.serving.deadlines import Deadlines
from harness.serving.lane import Lane, Terms
from harness.serving.limits import Limits
from harness.serving.processes import ModelDied, ModelFailed
from harness.serving.scored import Scored, ScoreInvalid
from harness.serving.servers import LOAD_WITHIN_S

__all__ = [
    "BreakerOpen",
    "Busy",
    "Call",
    "Limits",
    "ModelDied",
    "ModelFailed",
    "ModelHost",
    "Overloaded",
    "Rule",
    "ScoreInvalid",
    "Scored",
    "TooSlow",
]

# A champion, a challenger, and the one before: a change of the state must not wait for a start.
MOST_MODELS = 3


class Standing(NamedTuple):
    """How a model stands.

    Attributes:
        loaded: Whether it has a process.
        left_alone: Whether it has failed too often of late.
        inside: How many calls wait or are under way.
    """

    loaded: bool
    left_alone: bool
    inside: int


class ModelHost:
    """Scores records with packaged models that run in processes of their own.

    Nothing is started before a model is asked for, and a fork of this process starts its own.

    Args:
        models: The folder that keeps packages, one folder a digest.
        reasons: How many reasons an answer has.
        in_flight: How many calls of one model may wait or be under way at once.
        batch: How many records a call carries at most.
        budget_s: Seconds that a caller waits, and that a call may take.
        reasons_s: Seconds of a call that reasons may take before they are left for later; None for no limit.
        limits: What each process may take.
        breaker: When a model that fails is left alone.
        variables: Names of variables of this process's environment that the models may read.
        beside: Whether the models run beside decisions, and so apart from those that decide.
        started: Told of each process that was started for a model.
        asked: Told how many records a model is asked about, at each call.
    """

    def __init__(
        self,
        models: Path,
        *,
        reasons: int,
        in_flight: int,
        budget_s: float,
        batch: int = 1,
        reasons_s: float | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        breaker: Rule = Rule(),  # noqa: B008 - frozen
        variables: Sequence[str] = (),
        beside: bool = False,
        started: Callable[[], None] = lambda: None,
        asked: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._terms = Terms(
            models=models,
            reasons=reasons,
            in_flight=in_flight,
            batch=batch,
            budget_s=budget_s,
            reasons_s=reasons_s,
            limits=limits,
            rule=breaker,
            variables=tuple(sorted(set(variables))),
            beside=beside,
            started=started,
            asked=asked,
        )
        self.start_anew()
        _hosts.add(self)

    def score(self, digest: str, record: Mapping[str, Any]) -> Scored:
        """What the model says of a record, within the budget whatever the model does.

        Raises:
            PilotError: The package cannot be loaded, or is not loaded yet.
            BreakerOpen: It has failed too often of late.
            Busy: It had other calls for as long as the budget allowed to wait, or every place is taken.
            Overloaded: What waits already will take too much of the budget.
            TooSlow: It took longer than the budget.
            ModelDied: Its process ended.
            ModelFailed: It raised.
            ScoreInvalid: What it gave is no valid score.
        """
        answer: Future[Scored | BaseException] = Future()

        def told(answers: Sequence[tuple[Call, Scored | BaseException]]) -> None:
            answer.set_result(answers[0][1])

        self.put(digest, Call(record, told))
        found = answer.result()
        if isinstance(found, BaseException):
            raise found
        return found

    def put(self, digest: str, call: Call, loop: AbstractEventLoop | None = None) -> None:
        """Have the model asked, together with what else waits for it; ``call.told`` hears of the answer.

        It hears of it within the budget whatever the model does: a score, or one of the exceptions that
        ``score`` raises.

        Args:
            digest: The package.
            call: What it is asked.
            loop: The event loop that runs this; None for none.

        Raises:
            PilotError: The package cannot be loaded.
            BreakerOpen: It has failed too often of late.
            Busy: Every place is taken.
            Overloaded: What waits already will take too much of the budget.
        """
        lane = self._model(digest)
        deadline = time.monotonic() + self._terms.budget_s
        lane.put(call, loop)
        self._deadlines.add(deadline, call, lane.expire)

    def manifest(self, digest: str) -> Manifest:
        """The package's manifest.

        Raises:
            PilotError: There is no such package.
        """
        found = self._manifests.get(digest)
        if found is None:
            found = self._manifests[digest] = named(self._terms.models / digest, digest)
        return found

    def state(self, digest: str, *, wait_s: float = LOAD_WITHIN_S) -> str:
        """``loaded``, or why it is not; a model that nobody asked for is loaded now.

        Args:
            digest: The package.
            wait_s: Seconds to wait for a model that is being loaded.
        """
        return self._model(digest).state(wait_s)

    def pids(self) -> dict[str, int]:
        """The process of each model that runs, by its digest."""
        return {digest: model.pid for digest, model in list(self._known.items()) if model.pid}

    def standing(self) -> dict[str, Standing]:
        """How each model stands that was asked for, by its digest. Nobody is waited for."""
        return {
            digest: Standing(bool(model.pid), model.left_alone, model.inside)
            for digest, model in list(self._known.items())
        }

    def close(self) -> None:
        """End every process; a call that is under way fails."""
        with self._lock:
            self._closed = True
            models = list(self._known.values())
            self._known.clear()
        self._deadlines.close()
        for model in models:
            model.close()

    def start_anew(self) -> None:
        """Know of nothing, as after a fork: threads do not come along, and the processes are the parent's."""
        self._lock = threading.Lock()
        self._closed = False
        self._known: dict[str, Lane] = {}
        self._deadlines = Deadlines()
        self._manifests: dict[str, Manifest] = {}

    def _model(self, digest: str) -> Lane:
        model = self._known.get(digest)
        if model is None:
            with self._lock:
                model = self._known.get(digest)
                if self._closed:
                    raise PilotError("the service is ending", where="serving", mend="Ask another one.")
                if model is None:
                    model = self._known[digest] = Lane(self._terms, digest)
                    self._end_the_oldest()
        model.used = time.monotonic()
        return model

    def _end_the_oldest(self) -> None:
        by_use = sorted(self._known, key=lambda digest: self._known[digest].used, reverse=True)
        for digest in by_use[MOST_MODELS:]:
            self._known.pop(digest).close()


_hosts: weakref.WeakSet[ModelHost] = weakref.WeakSet()


def _forked() -> None:
    for host in list(_hosts):
        host.start_anew()


os.register_at_fork(after_in_child=_forked)
