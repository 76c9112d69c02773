"""The service's side of its models' processes: having them forked, asking them, and ending them.

After a fork of this process its connections belong to the parent alone, and the child closes its copies of
them.
"""

from __future__ import annotations

import math
import os
import select
import socket
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import PilotError
from harness.pilot import Amount, Choice, Reason
from harness.serving.calls import TooSlow
from harness.serving.limits import Limits
from harness.serving.logs import Elsewhere
from harness.serving.scored import Scored, ScoreInvalid
from harness.serving.servers import LOAD_WITHIN_S, ProcessServer
from harness.serving.wire import Ended, Late, Malformed, encode, receive, send

MOST_TEXT = 1_000

_Kind = TypeVar("_Kind", bound=Elsewhere)


class ModelFailed(Elsewhere):
    """The model raised something.

    Attributes:
        lacks: Whether it was for a library that is kept away from models which do not name it.
    """

    lacks = False


class ModelDied(ModelFailed):
    """The model's process ended during the call, or had to be ended."""


class NotLoaded(PilotError):
    """The package's code could not be loaded in its process."""


class InvalidElsewhere(Elsewhere, ScoreInvalid):
    """The model's process says that the score is not valid."""


_running: weakref.WeakSet[ModelProcess] = weakref.WeakSet()


def _forked() -> None:
    """In a new fork of this process: let go of what is the parent's."""
    for process in list(_running):
        process.forget()


os.register_at_fork(after_in_child=_forked)


class ModelProcess:
    """A model in a process of its own, loaded.

    Args:
        server: Where it is forked.
        models: The folder that keeps packages.
        digest: The package.
        reasons: How many reasons an answer has.
        limits: What the process may take.

    Attributes:
        pid: The process's id.
        asked: How many records it was asked about.

    Raises:
        PilotError: There is no process, or the package is damaged.
        NotLoaded: The package's code raises.
    """

    def __init__(
        self, server: ProcessServer, *, models: Path, digest: str, reasons: int, limits: Limits
    ) -> None:
        self._server = server
        self._reasons = reasons
        self.asked = 0
        self._where = str(models / digest)
        self.pid, self._channel = server.fork()
        _running.add(self)
        asked = {"models": str(models), "digest": digest, "reasons": reasons}
        deadline = time.monotonic() + LOAD_WITHIN_S
        try:
            send(
                self._channel,
                encode({**asked, "path": sys.path, "limits": asdict(limits)}),
                deadline,
            )
            self._decision = self._loaded(receive(self._channel, deadline))
        except (Ended, Late, Malformed, ValueError, TypeError, KeyError) as error:
            self.end()
            what = "took too long" if isinstance(error, Late) else "ended"
            raise PilotError(
                f"the process that loads the packaged model {what}",
                where=self._where,
                mend="See the log; correct model.py or features.py and run `pilot run`.",
            ) from error
        except BaseException:
            self.end()
            raise

    def score_all(
        self, records: Sequence[Mapping[str, Any]], deadline: float, *, reasons_s: float | None = None
    ) -> list[Scored | ModelFailed | ScoreInvalid]:
        """Ask the model, and check what it says as if a stranger had said it.

        Args:
            records: Records that the contract accepts.
            deadline: The monotonic time at which the answer has to be there.
            reasons_s: Seconds that reasons may take before they are left for later; None sets no limit.

        Returns:
            For each record what the model says: a score; ``ModelFailed`` where it raised; ``ScoreInvalid``
            where what it gave is no valid score.

        Raises:
            ModelDied: The process ended or made no sense; it is of no further use.
            TooSlow: There was no answer in time; the process is of no further use.
            ModelFailed: They cannot be sent; the process goes on.
        """
        self.asked += 1
        try:
            message = encode({"id": self.asked, "records": records, "reasons_s": reasons_s})
        except (TypeError, ValueError) as error:
            raise ModelFailed(f"{type(error).__name__}: a record that cannot be sent") from None
        try:
            send(self._channel, message, deadline)
            answer = receive(self._channel, deadline)
        except Late:
            raise TooSlow from None
        except Ended:
            raise ModelDied("the model's process ended") from None
        except Malformed as error:
            raise ModelDied(f"the model's process sent {error}") from None
        if answer.get("id") != self.asked or isinstance(answer["id"], bool):
            raise ModelDied("the model's process answered what was not asked")
        answers = answer.get("answers")
        if not isinstance(answers, list) or len(answers) != len(records):
            raise ModelDied("the model's process gave another number of answers")
        return [self._found(each) for each in answers]

    @property
    def connection(self) -> socket.socket:
        """The connection to it, for what goes to and fro in another form than a record."""
        return self._channel

    @property
    def decision(self) -> Choice | Amount:
        """What the packaged contract decides."""
        return self._decision

    @property
    def idle(self) -> bool:
        """Whether it is there and silent, as it has to be between two calls."""
        try:
            return not select.select([self._channel], [], [], 0)[0]
        except (OSError, ValueError):
            return False

    def kill(self) -> None:
        """Kill the process, whatever it does; a call that is under way fails."""
        self._server.kill(self.pid)

    def end(self) -> None:
        """Kill the process, when no call is under way."""
        self.kill()
        self.forget()

    def forget(self) -> None:
        """Close the connection."""
        _running.discard(self)
        self._channel.close()

    def _loaded(self, told: Mapping[str, Any]) -> Choice | Amount:
        if "refused" in told:
            said = {name: str(told["refused"][name]) for name in ("what", "where", "mend")}
            kind = NotLoaded if told.get("code") is True else PilotError
            raise kind(said["what"], where=said["where"], mend=said["mend"])
        declared = dict(told["loaded"])
        kind = declared.pop("kind")
        if not all(isinstance(value, str | int | float) for value in declared.values()):
            raise ValueError("a decision of other things")
        return Choice(**declared) if kind == "choice" else Amount(**declared)

    def _found(self, answer: Any) -> Scored | ModelFailed | ScoreInvalid:
        if not isinstance(answer, dict):
            raise ModelDied("the model's process sent an answer that is none")
        if (failed := failure(answer)) is not None:
            return failed
        score = answer.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise ModelDied("the model's process sent a score that is no number")
        if not math.isfinite(score) or not self._decision.valid(score):
            return ScoreInvalid("out of range")
        given = answer.get("reasons", "")
        pending = given is None
        given = [] if pending else given
        if not isinstance(given, list) or len(given) > self._reasons or not all(map(_is_reason, given)):
            raise ModelDied("the model's process sent reasons that are none")
        reasons = tuple(Reason(feature, value, effect) for feature, value, effect in given)
        return Scored(float(score), reasons, self._decision.of(float(score)), pending)


def are_reasons(given: Any, most: int) -> bool:
    """Whether that is a list of so many reasons at most, each of which can be kept."""
    return isinstance(given, list) and len(given) <= most and all(map(_is_reason, given))


def failure(answer: Mapping[str, Any]) -> ModelFailed | ScoreInvalid | None:
    """What an answer tells instead of a score; None where it has one."""
    if "failed" in answer:
        failed = _said(ModelFailed, answer["failed"])
        failed.lacks = answer.get("lacks") is True
        return failed
    return _said(InvalidElsewhere, answer["invalid"]) if "invalid" in answer else None


def _is_reason(given: Any) -> bool:
    if not isinstance(given, list) or len(given) != 3:
        return False
    feature, value, effect = given
    if not isinstance(feature, str) or isinstance(effect, bool):
        return False
    if not (value is None or isinstance(value, str | int | float)):
        return False
    if not (effect is None or isinstance(effect, int | float)):
        return False
    return all(map(_can_be_kept, given))


def _can_be_kept(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        # Half a surrogate pair and NUL cannot be recorded.
        return (
            len(value) <= MOST_TEXT and "\0" not in value and value == value.encode(errors="ignore").decode()
        )
    return not isinstance(value, int) or value.bit_length() < 64


def _said(kind: type[_Kind], given: Any) -> _Kind:
    texts = given if isinstance(given, list) else []
    described, trace = [str(text) for text in [*texts, "", ""][:2]]
    return kind(" ".join(described.split())[:200] or "an unknown exception", trace)
