"""What is handed to a thread: it is woken once for all that an event loop hands over at a time.

Woken for each, it takes the processor from the loop each time, finds one thing, and sleeps again: under load
that was a third of what a decision cost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

_Thing = TypeVar("_Thing")


class Handed(Generic[_Thing]):
    """A queue without a bound, in order, from any threads to any."""

    def __init__(self) -> None:
        self._things: deque[_Thing] = deque()
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._gathering: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._things)

    def put(self, thing: _Thing, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Hand it over.

        Args:
            thing: What to hand over.
            loop: The event loop that runs this: whoever sleeps is woken when it comes round. None for none.
        """
        self._things.append(thing)
        if loop is None:
            self._woken.put(None)
        elif self._gathering is not loop:
            self._gathering = loop
            loop.call_soon(self._wake)

    def get(self, *, block: bool = True) -> _Thing:
        """The first of what was handed over; sleeps until there is something.

        Raises:
            Empty: There is nothing, and it is not to ``block``.
        """
        while True:
            try:
                return self._things.popleft()
            except IndexError:
                if not block:
                    raise Empty from None
            self._woken.get()

    def _wake(self) -> None:
        # Before the waking: what is put after this has a waking of its own.
        self._gathering = None
        self._woken.put(None)
