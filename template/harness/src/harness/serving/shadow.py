"""A model run beside the decision, on a thread and in a process of its own: whatever it does, nobody waits.

The decision is fixed and on record by the time that the model beside hears of it. The queue is bounded, and
what finds no place in it is dropped and counted. Nothing is tried twice. The thread writes what came of it in
batches, one short transaction a second at most. What it holds when the process is killed is lost: the rows
and counts of about that second.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Any, Protocol

from harness.errors import PilotError
from harness.pilot import Amount, Choice
from harness.serving.breaker import BreakerOpen
from harness.serving.calls import Busy, TooSlow
from harness.serving.logs import failed
from harness.serving.scored import ScoreInvalid
from harness.store import Decision, Shadowed, ShadowStore
from harness.store.database import now
from harness.store.shadow import Status

log = logging.getLogger("harness.serving")

WRITE_EVERY_S = 1.0
WRITE_AT_ROWS = 200
# Two amounts are the same decision up to this part of the range that the contract allows.
SAME_WITHIN = 0.01
# What kept the model from being asked is no fault of its own; everything else that it raises is.
STATUSES: dict[type[BaseException], Status] = {
    TooSlow: "too_slow",
    ScoreInvalid: "invalid",
    Busy: "dropped",
    BreakerOpen: "dropped",
}


class Said(Protocol):
    """What a model said of one record."""

    @property
    def score(self) -> float:
        """A number that its contract's decision can take."""

    @property
    def decision(self) -> str | float:
        """What it would have decided, by the contract in its own package."""


class Host(Protocol):
    """Where a model runs."""

    def score(self, digest: str, record: Mapping[str, Any]) -> Said:
        """What the model says of a record; raises whatever keeps it from saying anything."""

    def state(self, digest: str) -> str:
        """``loaded``, or why it is not; waits for a model that is being loaded."""

    def close(self) -> None:
        """End it, whatever it is doing."""


class Shadow:
    """Runs models beside decisions. One object serves every process that is forked from this one.

    Args:
        host_factory: Makes where the models run; called on the thread, when the first record is there.
        store: Where it is written what came of it.
        queue_size: How many decisions may wait at most.
        budget_s: Seconds after which an answer is too slow to be one, whatever the host allows.
        may_run: Whether a model may still be run: asked again right before, because a stop may have come.
        agree: Whether two decisions are the same.
        dropped: Told of each decision that is dropped.
    """

    def __init__(
        self,
        host_factory: Callable[[], Host],
        store: ShadowStore,
        queue_size: int,
        budget_s: float,
        *,
        may_run: Callable[[str], bool],
        agree: Callable[[str | float, str | float], bool],
        dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self._make: Callable[[], _InProcess] = lambda: _InProcess(
            host_factory, store, queue_size, budget_s, may_run, agree, dropped
        )
        self._by_process: dict[int, _InProcess] = {}

    def offer(self, decision: Decision, digest: str) -> None:
        """Have a model run beside a decision that is on record. Neither waits nor raises."""
        try:
            # A forked child has not its parent's thread, no right to its host, and locks that may be held.
            own = self._by_process.get(os.getpid())
            if own is None:
                own = self._by_process.setdefault(os.getpid(), self._make())
            own.take(decision, digest)
        except Exception as error:
            failed("a decision was not run in shadow", error)

    def close(self) -> None:
        """Write what is known, count what waits as dropped, and end the host without waiting for it."""
        own = self._by_process.get(os.getpid())
        if own is not None:
            own.close()


class _InProcess:
    """What one process has of it: a queue, a thread, and the host that the thread makes."""

    def __init__(
        self,
        host_factory: Callable[[], Host],
        store: ShadowStore,
        queue_size: int,
        budget_s: float,
        may_run: Callable[[str], bool],
        agree: Callable[[str | float, str | float], bool],
        told_dropped: Callable[[], None],
    ) -> None:
        self._told_dropped = told_dropped
        self._host_factory = host_factory
        self._store = store
        self._budget_s = budget_s
        self._may_run = may_run
        self._agree = agree
        self._queue: Queue[tuple[Decision, str] | None] = Queue(queue_size)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._host: Host | None = None
        self._closed = False
        self._answering: str | None = None
        self._under_way: tuple[Decision, str] | None = None
        self._rows: list[Shadowed] = []
        self._dropped: Counter[tuple[str, bool]] = Counter()
        self._unwritten = False

    def take(self, decision: Decision, digest: str) -> None:
        with self._lock:
            if self._closed:
                return
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                thread.start()
                self._thread = thread
        try:
            self._queue.put_nowait((decision, digest))
        except Full:
            with self._lock:
                self._drop(decision, digest)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed, host = True, self._host
            if self._under_way is not None:
                self._drop(*self._under_way)
        with suppress(Empty):
            while (waiting := self._queue.get_nowait()) is not None:
                with self._lock:
                    self._drop(*waiting)
        with suppress(Full):
            self._queue.put_nowait(None)  # wakes a thread that waits for work
        self._write()
        if host is not None:
            host.close()

    def _drop(self, decision: Decision, digest: str) -> None:
        self._dropped[digest, decision.sandbox] += 1
        self._told_dropped()

    def _run(self) -> None:
        written = time.monotonic()
        while not self._closed:
            due = written + WRITE_EVERY_S - time.monotonic()
            try:
                waiting = self._queue.get(timeout=max(due, 0.0) if self._rows or self._dropped else None)
            except Empty:
                waiting = None
            if waiting is not None:
                with self._lock:
                    self._under_way = waiting
                row = self._beside(*waiting)
                with self._lock:
                    self._under_way = None
                    if row is not None and not self._closed:  # what was closed on has counted it as dropped
                        self._rows.append(row)
            if len(self._rows) >= WRITE_AT_ROWS or time.monotonic() >= written + WRITE_EVERY_S:
                self._write()
                written = time.monotonic()

    def _beside(self, decision: Decision, digest: str) -> Shadowed | None:
        started = time.perf_counter()
        status: Status = "ok"
        said: dict[str, Any] = {}
        try:
            if not self._may_run(digest):
                return None  # stopped meanwhile: what waited is not run, and says nothing of the model
            host = self._ready()
            if self._answering != digest:
                host.state(digest)  # the time in which a model is loaded is not its own
                started = time.perf_counter()
            answer = host.score(digest, dict(decision.record))
            said = {
                "score": float(answer.score),
                "decision": json.dumps(answer.decision, ensure_ascii=False, allow_nan=False),
                "agrees": self._agree(decision.decision, answer.decision),
            }
        except BaseException as error:  # sys.exit() in a library is a failure like any other
            status = self._status(error, digest)
            if status == "error" and not self._closed:
                failed("the model in shadow failed", error)
        elapsed_s = time.perf_counter() - started
        if status == "ok" and elapsed_s > self._budget_s:
            status, said = "too_slow", {}
        self._answering = digest if status == "ok" else None
        return Shadowed(
            at=decision.decided_at,
            digest=digest,
            sandbox=decision.sandbox,
            status=status,
            decision_id=decision.decision_id,
            bucket=decision.bucket,
            elapsed_ms=elapsed_s * 1000,
            **said,
        )

    def _status(self, error: BaseException, digest: str) -> Status:
        if isinstance(error, PilotError) and self._host is not None:
            # After a failure a process is started anew: what comes meanwhile was not asked, if it does start.
            with suppress(Exception):
                return "dropped" if self._host.state(digest) == "loaded" else "error"
        return next((told for kind, told in STATUSES.items() if isinstance(error, kind)), "error")

    def _ready(self) -> Host:
        if self._host is None:
            host = self._host_factory()
            with self._lock:
                self._host, late = host, self._closed
            if late:  # nobody else would end it
                host.close()
        return self._host

    def _write(self) -> None:
        with self._lock:
            rows, self._rows = self._rows, []
            dropped, self._dropped = self._dropped, Counter()
        counted = [
            Shadowed(now(), digest, sandbox, "dropped", times=times)
            for (digest, sandbox), times in dropped.items()
        ]
        try:
            self._store.add([*rows, *counted])
        except Exception as error:
            with self._lock:
                for row in (*rows, *counted):
                    self._dropped[row.digest, row.sandbox] += row.times
            if not self._unwritten:
                failed("what the model in shadow said was not recorded", error)
            self._unwritten = True
        else:
            self._unwritten = False


def agreement(declared: Choice | Amount) -> Callable[[str | float, str | float], bool]:
    """How two decisions of a contract are held against each other.

    Answers have to be the same. Amounts may be apart by a hundredth of the range that the contract allows.
    """
    if isinstance(declared, Choice):
        return lambda served, beside: served == beside
    apart = (declared.high - declared.low) * SAME_WITHIN
    return lambda served, beside: abs(float(served) - float(beside)) <= apart
