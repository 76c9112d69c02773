"""The stages behind the door: a request goes through them with those that came at the same time.

Who may decide a request is asked when it comes in. Then it waits in its model's lane (harness.serving.lane)
or for the fallback. What was decided waits to be recorded, many in one transaction, while the next are
scored. Every stage takes whatever waits, up to a bound, and never waits for more to come. Each has a bound of
its own, and what finds no place is told so at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty
from typing import Any, TypeAlias

import sqlalchemy as sa

from harness.control import Permission, Why
from harness.pilot import Reason
from harness.serving.calls import Overloaded
from harness.serving.deadlines import Deadlines
from harness.serving.followed import NOBODY, Followed
from harness.serving.handed import Handed
from harness.serving.logs import together
from harness.serving.tracing import NOTHING, Span
from harness.serving.underway import Passage
from harness.store import Decision, IdempotencyConflict, StoreUnavailable

log = logging.getLogger("harness.serving")

# As many threads as a service has elsewhere for code that blocks.
MOST_FALLBACKS = 40
# A fallback that takes longer gets another thread beside it.
STUCK_AFTER_S = 0.01
# How long a request may wait for the fallback beyond its budget, on a machine that is busy.
BEGINS_WITHIN_S = 0.25
# A transaction of more would be faster by little, and let its first wait for its last.
MOST_TOGETHER = 256
# Fewer than these are no queue, however long one of them took.
FEW = 64

Result = Decision | BaseException
Answer: TypeAlias = Future[Decision] | asyncio.Future[Decision]
# Decisions that were made since.
More: TypeAlias = Callable[[], Sequence[Decision]]
# A request, what was decided, the decision that was made of it and the one that stands.
Done: TypeAlias = "tuple[Asked, Outcome, Decision, Decision]"
# Where the code at hand runs, and who asked waits; None in a thread.
Loop: TypeAlias = asyncio.AbstractEventLoop | None


@dataclass(frozen=True)
class Outcome:
    """What was decided, and who decided it by which permission."""

    permission: Permission
    why: Why
    decision: str | float
    reasons: tuple[Reason, ...]
    score: float | None = None
    pending: bool = False

    @property
    def served_by(self) -> str:
        """``model`` or ``fallback``."""
        return "fallback" if self.score is None else "model"


@dataclass(eq=False)
class Asked:
    """A request on its way.

    Attributes:
        record: The validated record.
        entity: Whom it is about.
        key: The caller's name for the request; None where it gave none.
        decided_at: When it came in, UTC, ISO 8601.
        started: The same on the clock that only grows.
        passage: Counts it among what a stop waits for.
        answer: What the asker waits for.
        loop: Where the asker waits; None for a thread.
        permission: The one that was asked for last.
        by: By what it can be followed, in logs.
        span: The part of a trace that it is.
        why: Why the fallback is to decide it.
        behind: Since when it waits for the fallback or its record, on the same clock.
    """

    record: Mapping[str, Any]
    entity: str
    key: str | None
    decided_at: str
    started: float
    passage: Passage
    answer: Answer
    loop: Loop
    permission: Permission
    by: Followed = NOBODY
    span: Span = NOTHING
    why: Why = Why.ASSIGNED
    behind: float = 0.0
    begun: bool = False
    _once: threading.Lock = field(default_factory=threading.Lock)

    def claim(self) -> bool:
        """Take what the fallback gave, or that it gave nothing in time; False when somebody has."""
        return self._once.acquire(blocking=False)

    @property
    def over(self) -> bool:
        """Whether somebody has claimed it."""
        return self._once.locked()

    def settle(self, result: Result) -> None:
        """Give the answer, where the asker waits."""
        if isinstance(result, BaseException):
            self.passage.leave()
            if not self.answer.done():
                self.answer.set_exception(result)
            return
        # Before the asker goes on: from here to the end of its answer the decision is under way.
        self.passage.decided()
        if not self.answer.done():
            self.answer.set_result(result)


def settle(results: Sequence[tuple[Asked, Result]]) -> None:
    """Give answers; whoever waits in an event loop hears of all of them at once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Asked, Result]]] = {}
    for asked, result in results:
        if asked.loop is None:
            asked.settle(result)
        else:
            by_loop.setdefault(asked.loop, []).append((asked, result))
    for loop, of_its in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_all, of_its)
        except RuntimeError:  # the loop has ended, and nobody waits any more
            for asked, _ in of_its:
                asked.passage.leave()


def _settle_all(results: Sequence[tuple[Asked, Result]]) -> None:
    for asked, result in results:
        asked.settle(result)


class Fallbacks:
    """Runs the team's fallback: on one thread while it is quick, and beside a call that is not on others.

    A call that hangs keeps its thread, and no other request. Its own is told so after a time.

    Args:
        decide: Has the fallback decide one request; must not raise.
        late: Told of a request that was not decided in time.
        within_s: Seconds within which a request has to be decided.
        budget_s: Seconds within which it has to be begun, since the request came in.
    """

    def __init__(
        self,
        decide: Callable[[Asked], None],
        late: Callable[[Asked, bool], None],
        *,
        within_s: float,
        budget_s: float,
    ) -> None:
        self._decide = decide
        self._late = late
        self._within_s = within_s
        self._budget_s = budget_s
        self._queue: Handed[Asked | None] = Handed()
        self._deadlines = Deadlines()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = False
        self._done = 0
        self._waiting = threading.Event()
        self._closed = False

    def put(self, asked: Asked, loop: Loop = None) -> None:
        """Have the fallback decide it; in an event loop, where one runs this."""
        if not self._threads:
            with self._lock:
                if not self._threads:
                    self._another()
                    threading.Thread(target=self._watch, name="fallbacks", daemon=True).start()
        asked.begun = False
        self._queue.put(asked, loop)
        self._deadlines.add(asked.behind + self._within_s, asked, self._expire)
        if not self._waiting.is_set():
            self._waiting.set()

    def close(self) -> None:
        """End the threads, once nothing waits."""
        self._closed = True
        self._deadlines.close()
        self._waiting.set()
        for _ in range(self._threads):
            self._queue.put(None)

    def _another(self) -> None:
        threading.Thread(target=self._work, name="fallback", daemon=True).start()
        self._threads += 1  # only now: where the system gives no thread, the next request tries again

    def _watch(self) -> None:
        while not self._closed:
            self._waiting.wait()
            busy = True
            while busy and not self._closed:
                before = self._done
                time.sleep(STUCK_AFTER_S)
                busy = self._done != before
                if busy:  # and there is no need to be woken
                    continue
                # Before it looks, so that nobody is missed.
                self._waiting.clear()
                with self._lock:
                    busy = len(self._queue) > 0
                    if busy and self._threads < MOST_FALLBACKS:
                        with suppress(RuntimeError):  # the system gives none just now, and is asked again
                            self._another()

    def _next(self) -> Asked | None:
        """What waits; None for a thread that is not needed any more, since another one waits already."""
        try:
            return self._queue.get(block=False)
        except Empty:
            pass
        with self._lock:
            if self._idle:
                self._threads -= 1
                return None
            self._idle = True
        try:
            return self._queue.get()
        finally:
            self._idle = False

    def _work(self) -> None:
        while (asked := self._next()) is not None:
            now = time.monotonic()
            asked.begun = now < max(asked.started + self._budget_s, asked.behind + BEGINS_WITHIN_S)
            if asked.begun:
                if not asked.over:
                    self._decide(asked)
            else:
                self._expire(asked)
            self._done += 1

    def _expire(self, asked: Asked) -> None:
        if asked.claim():
            self._late(asked, asked.begun)


class Recorder:
    """Records what was decided: whatever waits, in one transaction, on a thread of its own.

    Args:
        record_all: Writes decisions, and those made since, which it asks for when it begins to write; gives
            what stands for each.
        decision: Makes the decision of a request and its outcome.
        recorded: Told of decisions that are on record, each with what stands for it, before their askers are.
    """

    def __init__(
        self,
        record_all: Callable[[Sequence[Decision], More], Sequence[Decision | IdempotencyConflict]],
        decision: Callable[[Asked, Outcome], Decision],
        recorded: Callable[[Sequence[Done]], None],
    ) -> None:
        self._record_all = record_all
        self._decision = decision
        self._recorded = recorded
        self._queue: Handed[tuple[Asked, Outcome] | None] = Handed()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._behind = 0
        self._lag_s = 0.0

    @property
    def behind(self) -> int:
        """How many requests wait for their fallback or their record."""
        return self._behind

    def enter(self, asked: Asked) -> None:
        """Count a request that no model is asked about any more: it waits for its fallback or its record."""
        asked.behind = time.monotonic()
        with self._lock:
            self._behind += 1

    @property
    def lag_s(self) -> float:
        """Seconds that one more would wait, by what those before have waited; 0 where there is no queue."""
        return self._lag_s if self._behind >= FEW else 0.0

    def full(self, most: int, within_s: float) -> bool:
        """Whether one more would be too many: by their number, or because it has not that much time left."""
        return self._behind >= most or self.lag_s > within_s

    def put(self, asked: Asked, outcome: Outcome, loop: Loop = None) -> None:
        """Have it recorded and answered; in an event loop, where one runs this."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._work, name="recorder", daemon=True)
                    thread.start()
                    self._thread = thread
        self._queue.put((asked, outcome), loop)

    def settle(self, results: Sequence[tuple[Asked, Result]]) -> None:
        """Give answers to requests that were counted."""
        with self._lock:
            self._behind -= len(results)
        settle(results)

    def close(self) -> None:
        """End once everything that waits is on record."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        # A transaction may take along the word that this is the end, and others come while it is written.
        while not self._ended or len(self._queue):
            waiting = self._taken(MOST_TOGETHER, block=True)
            if waiting:
                self._record(waiting)

    def _taken(self, most: int, *, block: bool) -> list[tuple[Asked, Outcome]]:
        taken: list[tuple[Asked, Outcome]] = []
        while len(taken) < most:
            try:
                found = self._queue.get(block=block and not (taken or self._ended))
            except Empty:
                break
            if found is None:
                self._ended = True
                continue
            taken.append(found)
        return taken

    def _record(self, waiting: list[tuple[Asked, Outcome]], *, with_more: bool = True) -> None:
        made: list[Decision] = []

        def more() -> list[Decision]:
            # Other processes were writing meanwhile: who came since need not wait for them once more.
            came = self._taken(MOST_TOGETHER - len(waiting), block=False) if with_more else []
            waiting.extend(came)  # before anything can fail: now they are this one's to answer
            since = [self._decision(asked, outcome) for asked, outcome in came]
            made.extend(since)
            return since

        try:
            made += [self._decision(asked, outcome) for asked, outcome in waiting]
            standing = self._record_all(tuple(made), more)
        except BaseException as error:
            # What one of them holds may be what the database refuses: the others are not to pay for it.
            if len(waiting) > 1 and not _unavailable(error):
                for each in waiting:
                    self._record([each], with_more=False)
                return
            self.settle([(asked, error) for asked, _ in waiting])
            return
        results = [(asked, stands) for (asked, _), stands in zip(waiting, standing, strict=True)]
        # They are on record, whatever cannot be said of them.
        with suppress(Exception), together():
            self._recorded(
                [
                    (asked, outcome, own, stands)
                    for (asked, outcome), own, stands in zip(waiting, made, standing, strict=True)
                    if isinstance(stands, Decision)
                ]
            )
        ended = time.monotonic()
        self._lag_s = max(ended - asked.behind for asked, _ in waiting)
        self.settle(results)


def _unavailable(error: BaseException) -> bool:
    """Whether the store takes nothing at all, and not just this."""
    return isinstance(error, StoreUnavailable) and not isinstance(
        error.__cause__, sa.exc.DataError | sa.exc.IntegrityError
    )


def overloaded() -> Overloaded:
    """That there is no place behind the models either."""
    return Overloaded("too much is asked at once; ask again in a second")
