"""Model calls under a cap and a time budget: a call that hangs costs its own place, and nobody's answer.

A time-out does not end a Python thread. A call past its budget is left behind and keeps its place until it
returns; once every place is kept so, further calls are refused at once instead of waiting. The threads are
daemons, so that a service which is told to end does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Busy(Exception):
    """Every place was taken for as long as the budget allowed to wait."""


class TooSlow(Exception):
    """The call was not done within the budget."""


class Workers:
    """A few threads for calls that may hang.

    Args:
        places: How many calls may be under way at once.
        budget_s: Seconds that a caller waits, for a place and for the result together.
    """

    def __init__(self, places: int, budget_s: float) -> None:
        self._count = places
        self._budget_s = budget_s
        self._places = threading.Semaphore(places)
        self._queue: SimpleQueue[tuple[Callable[[], Any], Future[Any], _Wait]] = SimpleQueue()
        self._lock = threading.Lock()
        self._left_behind = 0
        self._threads = 0

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` in another thread and wait for it, no longer than the budget.

        Raises:
            Busy: There was no place.
            TooSlow: There was one, and the call was left behind.
            BaseException: Whatever ``work`` raised.
        """
        deadline = time.monotonic() + self._budget_s
        if self._left_behind >= self._count or not self._places.acquire(timeout=self._budget_s):
            raise Busy
        future: Future[T] = Future()
        wait = _Wait()
        with self._lock:
            if self._threads < self._count:
                self._threads += 1
                threading.Thread(target=self._work, name="model", daemon=True).start()
        self._queue.put((work, future, wait))
        try:
            return future.result(max(0.0, deadline - time.monotonic()))
        except Late:
            with self._lock:
                if not future.done():
                    wait.given_up = True
                    self._left_behind += 1
            if future.done():
                return future.result()
            raise TooSlow from None

    def _work(self) -> None:
        while True:
            work, future, wait = self._queue.get()
            result: Any = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as raised:  # a panic of a native library is no Exception
                error = raised
            with self._lock:
                if wait.given_up:
                    self._left_behind -= 1
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
            self._places.release()


class _Wait:
    given_up = False
