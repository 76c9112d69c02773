"""Many records at once, scored by a model in a process of its own: columns there, scores back.

The process is the same as a service's: forked, confined and ended alike, and what it says is checked as if a
stranger had said it. One record that the model cannot take must not cost the others their score, so a call
that fails is halved until that record fails alone.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.control import Why
from harness.errors import PilotError
from harness.pilot import Choice
from harness.pipeline.manifest import named
from harness.serving.breaker import Breaker, BreakerOpen, Rule
from harness.serving.calls import TooSlow
from harness.serving.limits import Limits
from harness.serving.packaged import surroundings
from harness.serving.processes import (
    ModelDied,
    ModelFailed,
    ModelProcess,
    NotLoaded,
    are_reasons,
    failure,
)
from harness.serving.servers import process_server
from harness.serving.why import why_of
from harness.serving.wire import Ended, Late, Malformed, encode, exactly, receive, send

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

log = logging.getLogger("harness.serving")

# A model that fails everywhere fails in the first halves already; from there on it is not asked further.
MOST_FAILURES = 64
LEAST_S = 1.0
MOST_TEXT_BYTES = 1 << 28
# How much longer than one call all the halves of it may take together.
TIMES_THE_BUDGET = 3.0


@dataclass(frozen=True)
class Scores:
    """What a model says of many records.

    Attributes:
        values: Doubles, shape (n,); NaN where there is no score.
        why: What led to there being none, for each record; ``Why.ASSIGNED`` where there is one.
        reasons: The reasons of each record, feature, value and effect; empty where none were asked for.
        decision: What the packaged contract decides; None where the model gave no score at all.
    """

    values: np.ndarray
    why: np.ndarray
    reasons: list[list[list[Any]]]
    decision: Any


class BulkModel:
    """One model.

    Args:
        models: The folder that keeps packages.
        digest: The package.
        reasons: How many reasons each record has.
        budget_s: Seconds that a whole chunk may take.
        rule: When the model is left alone; a call of which no record has a score counts as one failure.
        variables: Names of variables of this process's environment that the model may read.
    """

    def __init__(
        self,
        models: Path,
        digest: str,
        *,
        reasons: int,
        budget_s: float,
        rule: Rule,
        variables: Sequence[str] = (),
    ) -> None:
        self._models, self._digest = models, digest
        self._reasons = reasons
        self._budget_s = budget_s
        self._variables = tuple(sorted(set(variables)))
        # Chunks take longer than single calls, so failures lie further apart.
        window_s = max(rule.window_s, 2 * rule.failures * TIMES_THE_BUDGET * budget_s)
        self._breaker = Breaker(replace(rule, window_s=window_s))
        self._block = True
        self._process: ModelProcess | None = None
        self._closed = False

    def score(self, columns: pa.Table) -> Scores:
        """Score records; whatever the model does, each has a score or the reason why not."""
        import numpy as np

        count = columns.num_rows
        values, why = np.full(count, np.nan), np.full(count, Why.ASSIGNED, dtype=object)
        reasons: list[list[list[Any]]] = [[] for _ in range(count)] if self._reasons else []
        try:
            ticket = self._breaker.ask()
        except BreakerOpen as error:
            why[:] = why_of(error)
            return Scores(values, why, reasons, None)
        pending, failures, decision = [(0, count)], 0, None
        until = time.monotonic() + TIMES_THE_BUDGET * self._budget_s
        given_up = False
        while pending:
            start, stop = pending.pop()
            part = columns.slice(start, stop - start)
            try:
                found, told = self._asked(part, self._budget_s * part.num_rows / count)
            except Exception as error:
                failures += 1
                alone = part.num_rows == 1
                given_up = _hopeless(error) or failures > MOST_FAILURES or time.monotonic() > until
                if not (alone or given_up):
                    middle = (start + stop) // 2
                    pending += [(middle, stop), (start, middle)]
                    continue
                for first, after in [(start, stop), *(pending if given_up else ())]:
                    why[first:after] = why_of(error)
                if given_up:
                    break
            else:
                values[start:stop] = found
                if told:
                    reasons[start:stop] = told
                decision = self._process.decision if self._process is not None else decision
        if decision is not None:
            invalid = ~np.isnan(values) & ~_valid(values, decision)
            invalid |= np.isnan(values) & (why == Why.ASSIGNED)
            if invalid.any():
                log.error("%d of %d scores are no valid ones", int(invalid.sum()), count)
            values[invalid], why[invalid] = np.nan, Why.SCORE_INVALID
        well = bool(np.isfinite(values).any())
        if self._breaker.told(ticket, well=well):
            what = "answers again" if well else "has failed too often and is left alone for a while"
            log.error("the model %s %s", self._digest[:12], what)
        return Scores(values, why, reasons, decision)

    def close(self) -> None:
        """End the process; a call that is under way fails."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()

    def _asked(self, part: pa.Table, allowed_s: float) -> tuple[np.ndarray, list[list[list[Any]]]]:
        try:
            return self._ask(part, allowed_s)
        except ModelFailed as error:
            if not (error.lacks and self._block):
                raise
        # It needs what was kept away from it.
        self._block = False
        self._end()
        return self._ask(part, allowed_s)

    def _ask(self, part: pa.Table, allowed_s: float) -> tuple[np.ndarray, list[list[list[Any]]]]:
        import numpy as np

        process = self._ready()
        process.asked += 1
        rows, content = part.num_rows, _stream(part)
        deadline = time.monotonic() + max(allowed_s, LEAST_S)
        try:
            call = {"id": process.asked, "columns": len(content), "reasons": self._reasons}
            send(process.connection, encode(call), deadline)
            send(process.connection, content, deadline)
            answer = receive(process.connection, deadline)
            if type(answer.get("id")) is not int or answer["id"] != process.asked:
                raise ModelDied("the model's process answered what was not asked")
            if (failed := failure(answer)) is not None:
                raise failed
            scores, text = answer.get("scores"), answer.get("reasons")
            if scores != 8 * rows or type(text) is not int or not 0 <= text <= MOST_TEXT_BYTES:
                raise ModelDied("the model's process sent something that is no answer")
            values = np.frombuffer(exactly(process.connection, scores, deadline), dtype="<f8")
            reasons = self._told(exactly(process.connection, text, deadline), rows)
        except Late:
            self._end()
            raise TooSlow from None
        except Ended:
            self._end()
            raise ModelDied("the model's process ended") from None
        except Malformed as error:
            self._end()
            raise ModelDied(f"the model's process sent {error}") from None
        except ModelDied:
            self._end()
            raise
        return values, reasons

    def _told(self, text: bytes, rows: int) -> list[list[list[Any]]]:
        try:
            told: Any = json.loads(text)
        except (ValueError, RecursionError):
            told = None
        expected = rows if self._reasons else 0
        fits = isinstance(told, list) and len(told) == expected
        if not fits or not all(are_reasons(each, self._reasons) for each in told):
            raise ModelDied("the model's process sent reasons that are none")
        found: list[list[list[Any]]] = told
        return found

    def _ready(self) -> ModelProcess:
        if self._closed:
            raise PilotError("the batch is ending", where="pilot decide --batch", mend="Run it again.")
        if self._process is not None and not self._process.idle:
            self._end()
        if self._process is None:
            try:
                self._process = self._start()
            except NotLoaded:
                if not self._block:
                    raise
                self._block = False
                self._process = self._start()
        return self._process

    def _start(self) -> ModelProcess:
        folder = self._models / self._digest
        wanted = surroundings(folder, named(folder, self._digest), block=self._block)
        server = process_server(replace(wanted, variables=self._variables))
        return ModelProcess(
            server, models=self._models, digest=self._digest, reasons=self._reasons, limits=Limits()
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


def _hopeless(error: Exception) -> bool:
    """Whether fewer records would fail alike: there is no process."""
    return isinstance(error, PilotError | OSError)


def _valid(values: np.ndarray, decision: Any) -> np.ndarray:
    """``decision.valid`` of each."""
    import numpy as np

    low, high = (0.0, 1.0) if isinstance(decision, Choice) else (decision.low, decision.high)
    found: np.ndarray = np.isfinite(values) & (values >= low) & (values <= high)
    return found


def _stream(part: pa.Table) -> memoryview:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.schema) as writer:
        writer.write_table(part)
    return memoryview(sink.getvalue())
