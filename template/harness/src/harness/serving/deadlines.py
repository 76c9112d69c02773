"""What happens to what is not done in time, for things that all have the same time.

Because they do, they end in the order in which they began, and one thread that sleeps until the first of
them is due is enough: it wakes about once in that time, however many there are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol, TypeVar

from harness.serving.logs import failed


class Timed(Protocol):
    """Something that has to be done in time."""

    @property
    def over(self) -> bool:
        """Whether it is done."""


_Kind = TypeVar("_Kind", bound=Timed)


class Deadlines:
    """Ends what is not over at its deadline. The thread starts with the first deadline."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[float, Timed, Callable[..., None]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = False
        self._closed = False

    def add(self, deadline: float, timed: _Kind, expire: Callable[[_Kind], None]) -> None:
        """Have ``expire`` called with it at the deadline, unless it is over by then.

        Args:
            deadline: A monotonic time, no earlier than any that was added before.
            timed: What has to be done.
            expire: What happens to it where it was not; must not wait.
        """
        with self._lock:
            closed = self._closed
            if not closed:
                self._waiting.put((deadline, timed, expire))
            if not self._started:
                self._started = True
                threading.Thread(target=self._watch, name="deadlines", daemon=True).start()
        if closed and not timed.over:
            expire(timed)

    def close(self) -> None:
        """Add no more: what still comes is due at once, and what was added keeps its time."""
        with self._lock:
            self._closed = True
            self._waiting.put(None)

    def _watch(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            deadline, timed, expire = waiting
            while not timed.over and (left := deadline - time.monotonic()) > 0:
                time.sleep(left)
            try:
                if not timed.over:
                    expire(timed)
            except BaseException as error:
                failed("a deadline was missed", error)
