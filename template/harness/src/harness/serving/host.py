"""Models in processes of their own: what hangs, dies or lies there costs a call, and never the service.

Each model has a process and a thread of the service that hands it one call at a time. Callers wait for their
own budget and no longer; a call past its budget ends with the process, since a time-out alone would end
neither a Python thread nor what it does. The thread starts the process again at once, while callers wait.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Waited
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from harness.errors import PilotError
from harness.pipeline.manifest import Manifest, named
from harness.serving.breaker import Breaker, BreakerOpen, Rule, Ticket
from harness.serving.calls import Busy, TooSlow
from harness.serving.limits import Limits
from harness.serving.packaged import Surroundings, surroundings
from harness.serving.processes import (
    LOAD_WITHIN_S,
    ModelDied,
    ModelFailed,
    ModelProcess,
    NotLoaded,
    process_server,
)
from harness.serving.scored import Scored, ScoreInvalid

__all__ = ["BreakerOpen", "Busy", "Limits", "ModelDied", "ModelFailed", "ModelHost", "Rule", "ScoreInvalid"]
__all__ += ["Scored", "TooSlow"]

log = logging.getLogger("harness.serving")

LOAD_AGAIN_AFTER_S = 10.0
# A champion, a challenger, and the one before: a change of the state must not wait for a start.
MOST_MODELS = 3
LOADING = "it is being loaded"
ENDING = "it is being ended"
# A process's first call makes Polars and the model's library start their threads. Were it ended for that, a
# model with a budget of milliseconds would never get beyond it. Its caller waits no longer than any other.
FIRST_CALL_S = 1.0


@dataclass(frozen=True)
class _Terms:
    models: Path
    reasons: int
    in_flight: int
    budget_s: float
    limits: Limits
    rule: Rule
    variables: tuple[str, ...]
    beside: bool
    started: Callable[[], None]


class ModelHost:
    """Scores records with packaged models that run in processes of their own.

    Nothing is started before a model is asked for, and a fork of this process starts its own.

    Args:
        models: The folder that keeps packages, one folder a digest.
        reasons: How many reasons an answer has.
        in_flight: How many calls of one model may wait or be under way at once.
        budget_s: Seconds that a caller waits, and that a call may take.
        limits: What each process may take.
        breaker: When a model that fails is left alone.
        variables: Names of variables of this process's environment that the models may read.
        beside: Whether the models run beside decisions, and so apart from those that decide.
        started: Told of each process that was started for a model.
    """

    def __init__(
        self,
        models: Path,
        *,
        reasons: int,
        in_flight: int,
        budget_s: float,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        breaker: Rule = Rule(),  # noqa: B008 - frozen
        variables: Sequence[str] = (),
        beside: bool = False,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        names = tuple(sorted(set(variables)))
        self._terms = _Terms(models, reasons, in_flight, budget_s, limits, breaker, names, beside, started)
        self.start_anew()
        _hosts.add(self)

    def score(self, digest: str, record: Mapping[str, Any]) -> Scored:
        """What the model says of a record, within the budget whatever the model does.

        Raises:
            PilotError: The package cannot be loaded, or is not loaded yet.
            BreakerOpen: It has failed too often of late.
            Busy: It had other calls for as long as the budget allowed to wait.
            TooSlow: It took longer than the budget.
            ModelDied: Its process ended.
            ModelFailed: It raised.
            ScoreInvalid: What it gave is no valid score.
        """
        return self._model(digest).score(record)

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

    def standing(self) -> dict[str, tuple[bool, bool]]:
        """Of each model that was asked for: whether it is loaded, and whether failures have it left alone."""
        return {digest: (bool(model.pid), model._breaker.open) for digest, model in list(self._known.items())}

    def close(self) -> None:
        """End every process; a call that is under way fails."""
        with self._lock:
            self._closed = True
            models = list(self._known.values())
            self._known.clear()
        for model in models:
            model.close()

    def start_anew(self) -> None:
        """Know of nothing, as after a fork: threads do not come along, and the processes are the parent's."""
        self._lock = threading.Lock()
        self._closed = False
        self._known: dict[str, _Model] = {}
        self._manifests: dict[str, Manifest] = {}

    def _model(self, digest: str) -> _Model:
        model = self._known.get(digest)
        if model is None:
            with self._lock:
                model = self._known.get(digest)
                if self._closed:
                    raise PilotError("the service is ending", where="serving", mend="Ask another one.")
                if model is None:
                    model = self._known[digest] = _Model(self._terms, digest)
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


@dataclass(frozen=True)
class _Call:
    record: Mapping[str, Any] | None  # None has the model loaded, and no more
    ticket: Ticket = Ticket()  # noqa: RUF009 - frozen
    future: Future[Scored | None] = field(default_factory=Future)


class _Model:
    """One model: its process, its breaker, and the thread that hands it one call at a time."""

    def __init__(self, terms: _Terms, digest: str) -> None:
        self.used = time.monotonic()
        self._terms = terms
        self._digest = digest
        self._block = True
        self._breaker = Breaker(terms.rule)
        self._places = threading.Semaphore(terms.in_flight)
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._process: ModelProcess | None = None
        self._failed: tuple[float, PilotError] | None = None
        self._settled = threading.Event()
        self._closed = False
        threading.Thread(target=self._work, name="model", daemon=True).start()

    @property
    def pid(self) -> int:
        process = self._process
        return process.pid if process else 0

    def score(self, record: Mapping[str, Any]) -> Scored:
        deadline = time.monotonic() + self._terms.budget_s
        if self._closed:  # by a state that names other models, just now
            raise Busy
        failed = self._failed
        if failed is not None and not _again(failed):
            raise failed[1]
        ticket = self._breaker.ask()
        if not self._places.acquire(timeout=self._terms.budget_s):
            self._breaker.told(ticket, well=None)
            raise Busy
        call = _Call(record, ticket)
        try:
            self._calls.put(call)
            return _scored(call.future.result(max(0.0, deadline - time.monotonic())))
        except Waited:
            if not call.future.cancel():
                if call.future.done():
                    return _scored(call.future.result())
                raise TooSlow from None
            self._breaker.told(ticket, well=None)
            if not self._settled.is_set():
                raise _loading(self._terms.models / self._digest) from None
            raise Busy from None
        finally:
            self._places.release()

    def state(self, wait_s: float) -> str:
        if self._closed or (self._process is None and (self._failed is None or _again(self._failed))):
            call = _Call(None)
            self._calls.put(call)
            if self._closed and call.future.cancel():  # it may have come too late for anybody to answer
                return ENDING
            try:
                call.future.result(wait_s)
            except Waited:
                return LOADING
            except PilotError as error:
                return str(error)
            except Busy:
                return ENDING
        failed = self._failed
        if failed is not None:
            return str(failed[1])
        return "loaded, and left alone after too many failures" if self._breaker.open else "loaded"

    def close(self) -> None:
        self._closed = True
        self._calls.put(None)
        process = self._process
        if process is not None:
            process.kill()  # not only after the call that is under way

    def _work(self) -> None:
        self._try_to_start()
        while (call := self._calls.get()) is not None:
            try:
                if self._closed:  # what still waits is not worth a process
                    raise Busy
                if call.record is not None:
                    # It may have waited behind those that opened it.
                    self._breaker.check(call.ticket)
                process = self._ready()
            except BaseException as error:  # of the machine's, such as no memory: this thread has to go on
                if call.future.set_running_or_notify_cancel():
                    self._breaker.told(call.ticket, well=None)
                    call.future.set_exception(error)
                continue
            if call.future.set_running_or_notify_cancel():
                self._hand_over(call, process)
        if self._process is not None:
            self._process.end()

    def _hand_over(self, call: _Call, process: ModelProcess) -> None:
        if call.record is None:
            call.future.set_result(None)
            return
        try:
            allowed_s = self._terms.budget_s if process.asked else max(self._terms.budget_s, FIRST_CALL_S)
            scored = process.score(call.record, time.monotonic() + allowed_s)
        except BaseException as error:
            self._note(call.ticket, well=False)
            goes_on = isinstance(error, ModelFailed | ScoreInvalid) and not isinstance(error, ModelDied)
            if isinstance(error, ModelFailed) and error.lacks and self._block:
                self._block = goes_on = False
            if not goes_on:
                self._process = None
                process.end()
            call.future.set_exception(error)
            if not goes_on and not self._closed:
                self._try_to_start()
        else:
            self._note(call.ticket, well=True)
            call.future.set_result(scored)

    def _note(self, ticket: Ticket, *, well: bool) -> None:
        if self._breaker.told(ticket, well=well):
            what = "answers again" if well else "has failed too often and is left alone for a while"
            log.error("the model %s %s", self._digest[:12], what)

    def _try_to_start(self) -> None:
        try:
            self._ready()
        except BaseException as error:
            log.error("model not loaded: %s", error)

    def _ready(self) -> ModelProcess:
        """The process, started where there is none; not more often than it may be tried."""
        if self._process is not None:
            if self._process.idle:
                return self._process
            log.error("the process of the model %s ended between two calls", self._digest[:12])
            self._process.end()
            self._process = None
        if self._failed is not None and not _again(self._failed):
            raise self._failed[1]
        self._settled.clear()
        try:
            self._process = self._start()
        except Exception as error:
            known = error if isinstance(error, PilotError) else _of_the_machine(error)
            self._failed = time.monotonic(), known
            raise known from error
        else:
            self._failed = None
            return self._process
        finally:
            self._settled.set()

    def _start(self) -> ModelProcess:
        started = time.monotonic()
        folder = self._terms.models / self._digest
        manifest = named(folder, self._digest)
        try:
            process = self._in(surroundings(folder, manifest, block=self._block))
        except NotLoaded:
            if not self._block:
                raise
            # It may need what was kept away from it.
            process = self._in(surroundings(folder, manifest, block=False))
            self._block = False
        took = time.monotonic() - started
        self._terms.started()
        self._breaker.wait_at_least(2 * took)
        log.info("the model %s is loaded in process %d after %.2f s", self._digest[:12], process.pid, took)
        return process

    def _in(self, wanted: Surroundings) -> ModelProcess:
        terms = self._terms
        return ModelProcess(
            process_server(replace(wanted, variables=terms.variables, beside=terms.beside)),
            models=terms.models,
            digest=self._digest,
            reasons=terms.reasons,
            limits=terms.limits,
        )


def _scored(result: Scored | None) -> Scored:
    assert result is not None  # a call with a record
    return result


def _again(failed: tuple[float, PilotError]) -> bool:
    return time.monotonic() - failed[0] >= LOAD_AGAIN_AFTER_S


def _of_the_machine(error: Exception) -> PilotError:
    what = f"the model's process cannot be started: {type(error).__name__}: {error}"
    return PilotError(what, where="serving", mend="See what this machine has left of memory.")


def _loading(folder: Path) -> PilotError:
    return PilotError(LOADING, where=str(folder), mend="The fallback decides meanwhile.")
