"""One model's lane: its queue, its breaker, its process, and the thread that hands it what waits together.

Whatever waits is one call, up to a bound; one record alone goes at once. How many go together follows from
what calls have taken: a call is not to take more than a part of the budget, or a slow model that answered
records one by one in time would answer none of a batch.
"""

from __future__ import annotations

import logging
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Waited
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty

from harness.errors import PilotError
from harness.pipeline.manifest import named
from harness.serving.breaker import Breaker, BreakerOpen, Rule, Ticket
from harness.serving.calls import Busy, Call, Overloaded, TooSlow
from harness.serving.handed import Handed
from harness.serving.limits import Limits
from harness.serving.packaged import Surroundings, surroundings
from harness.serving.processes import ModelDied, ModelFailed, ModelProcess, NotLoaded
from harness.serving.scored import Scored, ScoreInvalid
from harness.serving.servers import process_server

log = logging.getLogger("harness.serving")

LOAD_AGAIN_AFTER_S = 10.0
LOADING = "it is being loaded"
ENDING = "it is being ended"
# A process's first call makes Polars and the model's library start their threads. Were it ended for that, a
# model with a budget of milliseconds would never get beyond it. Its caller waits no longer than any other.
FIRST_CALL_S = 1.0
# A call may take a quarter of the budget before more go together, and half of it before fewer do.
GROWS_BELOW, SHRINKS_ABOVE = 0.25, 0.5
LEARNS = 0.2


@dataclass(frozen=True)
class Terms:
    """What every model of a host is held to; harness.serving.host.ModelHost says what each means."""

    models: Path
    reasons: int
    in_flight: int
    batch: int
    budget_s: float
    reasons_s: float | None
    limits: Limits
    rule: Rule
    variables: tuple[str, ...]
    beside: bool
    started: Callable[[], None]
    asked: Callable[[int], None]


@dataclass(frozen=True)
class _Load:
    done: Future[None] = field(default_factory=Future)


class Lane:
    """One model.

    Args:
        terms: What it is held to.
        digest: The package.

    Attributes:
        used: The monotonic time at which it was last asked for.
    """

    def __init__(self, terms: Terms, digest: str) -> None:
        self.used = time.monotonic()
        self._terms = terms
        self._digest = digest
        self._block = True
        self._breaker = Breaker(terms.rule)
        self._lock = threading.Lock()
        self._inside = 0
        self._most = terms.in_flight * terms.batch
        self._size = 1
        self._call_s = 0.0
        self._calls: Handed[Call | _Load | None] = Handed()
        self._process: ModelProcess | None = None
        self._failed: tuple[float, PilotError] | None = None
        self._settled = threading.Event()
        self._closed = False
        self._ended = False
        threading.Thread(target=self._work, name="model", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process; 0 where there is none."""
        process = self._process
        return process.pid if process else 0

    @property
    def inside(self) -> int:
        """How many calls wait or are under way."""
        return self._inside

    @property
    def left_alone(self) -> bool:
        """Whether it has failed too often of late."""
        return self._breaker.open

    def put(self, call: Call, loop: AbstractEventLoop | None = None) -> None:
        """Have the model asked; what becomes of it is told. In an event loop, where one runs this.

        Raises:
            PilotError: It cannot be loaded.
            BreakerOpen: It has failed too often of late.
            Busy: Every place is taken.
            Overloaded: It, or what waits already, will take too much of the budget.
        """
        if self._closed:  # by a state that names other models, just now
            raise Busy
        failed = self._failed
        if failed is not None and not _again(failed):
            raise failed[1]
        with self._lock:
            if self._inside >= self._most:
                raise Busy
            waits_s = self._waits_s() if self._inside > self._size else 0.0
            if waits_s + call.besides_s > SHRINKS_ABOVE * self._terms.budget_s:
                raise Overloaded
            call.ticket = self._breaker.ask()
            self._inside += 1
        self._calls.put(call, loop)

    def expire(self, call: Call) -> None:
        """Its time is over: tell its asker so, unless it was answered."""
        if call.over or not call.claim():
            return
        if call.taken:
            error: Exception = TooSlow()
        else:
            self._breaker.told(call.ticket, well=None)
            error = Busy() if self._settled.is_set() else _loading(self._terms.models / self._digest)
        self._tell([(call, error)])

    def state(self, wait_s: float) -> str:
        """``loaded``, or why it is not."""
        if self._closed or (self._process is None and (self._failed is None or _again(self._failed))):
            load = _Load()
            self._calls.put(load)
            if self._closed and load.done.cancel():  # it may have come too late for anybody to answer
                return ENDING
            try:
                load.done.result(wait_s)
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
        """End its process; what is under way or waits fails."""
        self._closed = True
        self._calls.put(None)
        process = self._process
        if process is not None:
            process.kill()  # not only after the call that is under way

    def _work(self) -> None:
        self._try_to_start()
        while not self._ended:
            batch = self._taken()
            try:
                self._answer(batch)
            except BaseException as error:  # of the machine's, such as no memory: this thread has to go on
                self._refuse(batch, error)
            with self._lock:
                self._inside -= len(batch)
        if self._process is not None:
            self._process.end()

    def _taken(self) -> list[Call]:
        """What waits, up to the bound; waits itself only where nothing does."""
        batch: list[Call] = []
        while len(batch) < self._size and not self._ended:
            try:
                asked = self._calls.get(block=not batch)
            except Empty:
                break
            if asked is None:
                self._ended = True
            elif isinstance(asked, _Load):
                self._load(asked)
            else:
                batch.append(asked)
        return batch

    def _load(self, load: _Load) -> None:
        error: BaseException | None = None
        try:
            if self._closed:
                raise Busy
            self._ready()
        except BaseException as raised:
            error = raised
        if not load.done.set_running_or_notify_cancel():
            return
        if error is None:
            load.done.set_result(None)
        else:
            load.done.set_exception(error)

    def _answer(self, batch: Sequence[Call]) -> None:
        asked: list[Call] = []
        for call in batch:
            if call.over:
                continue
            try:
                if self._closed:  # what still waits is not worth a process
                    raise Busy
                # It may have waited behind those that opened it.
                self._breaker.check(call.ticket)
            except (Busy, BreakerOpen) as error:
                self._refuse([call], error)
            else:
                asked.append(call)
        if not asked:
            return
        try:
            process = self._ready()
        except BaseException as error:
            self._refuse(asked, error)
            return
        began = time.monotonic()
        for call in asked:
            call.taken, call.began = True, began
        self._terms.asked(len(asked))
        self._hand_over(asked, process)

    def _hand_over(self, asked: Sequence[Call], process: ModelProcess) -> None:
        terms = self._terms
        first = not process.asked
        allowed_s = max(terms.budget_s, FIRST_CALL_S) if first else terms.budget_s
        started = time.monotonic()
        try:
            answers = self._scores(process, asked, started + allowed_s)
        except BaseException as error:
            # One call failed, whatever many records it carried; and one of them may be to blame for all.
            self._size = 1
            for call in asked:
                self._note(call.ticket, well=False if call is _one_that_counts(asked) else None)
            self._process = None
            process.end()
            self._tell([(call, error) for call in asked if call.claim()])
            if not self._closed:
                self._try_to_start()
            return
        if not first:
            self._learn(len(asked), time.monotonic() - started)
        lacks = False
        for call, answer in zip(asked, answers, strict=True):
            lacks = lacks or (isinstance(answer, ModelFailed) and answer.lacks)
            if call.ticket.probe or not isinstance(answer, Scored):
                self._note(call.ticket, well=isinstance(answer, Scored))
        restart = lacks and self._block
        if restart:
            self._block, self._process = False, None
            process.end()
        self._tell([(call, answer) for call, answer in zip(asked, answers, strict=True) if call.claim()])
        if restart and not self._closed:
            self._try_to_start()

    def _scores(
        self, process: ModelProcess, asked: Sequence[Call], deadline: float
    ) -> list[Scored | ModelFailed | ScoreInvalid]:
        try:
            return process.score_all(
                [call.record for call in asked], deadline, reasons_s=self._terms.reasons_s
            )
        except ModelDied:
            raise
        except ModelFailed as error:  # a message has a size, and a record may have no form that can be sent
            if len(asked) == 1:
                return [error]
        middle = len(asked) // 2
        return [
            found
            for half in (asked[:middle], asked[middle:])
            for found in self._scores(process, half, deadline)
        ]

    def _learn(self, records: int, seconds: float) -> None:
        """Fit how many go together, and what is expected of those that wait, to what a call has taken."""
        budget_s = self._terms.budget_s
        if seconds > SHRINKS_ABOVE * budget_s:
            self._size = max(1, records // 2)
        elif records >= self._size and seconds <= GROWS_BELOW * budget_s:
            self._size = min(self._terms.batch, 2 * self._size)
        self._call_s += LEARNS * (seconds - self._call_s)

    def _waits_s(self) -> float:
        """How long one more would wait; while calls are quick, more and more go together."""
        quick = self._call_s <= GROWS_BELOW * self._terms.budget_s
        return self._inside // (self._terms.batch if quick else self._size) * self._call_s

    def _refuse(self, calls: Sequence[Call], error: BaseException) -> None:
        for call in calls:
            self._breaker.told(call.ticket, well=None)
        self._tell([(call, error) for call in calls if call.claim()])

    def _tell(self, answers: Sequence[tuple[Call, Scored | BaseException]]) -> None:
        for told in dict.fromkeys(call.told for call, _ in answers):
            told([(call, answer) for call, answer in answers if call.told == told])

    def _note(self, ticket: Ticket, *, well: bool | None) -> None:
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


def _one_that_counts(asked: Sequence[Call]) -> Call:
    """The call whose failure is the breaker's business: the one that tries the model again, if any does."""
    return next((call for call in asked if call.ticket.probe), asked[0])


def _again(failed: tuple[float, PilotError]) -> bool:
    return time.monotonic() - failed[0] >= LOAD_AGAIN_AFTER_S


def _of_the_machine(error: Exception) -> PilotError:
    what = f"the model's process cannot be started: {type(error).__name__}: {error}"
    return PilotError(what, where="serving", mend="See what this machine has left of memory.")


def _loading(folder: Path) -> PilotError:
    return PilotError(LOADING, where=str(folder), mend="The fallback decides meanwhile.")
