"""How late an event loop comes to what is due: the time that a request waited before anybody saw it.

What has arrived stands in the loop's own queue until its turn, and no clock of a request counts that. Under
more load than a process can take it is most of what a caller waits.
"""

from __future__ import annotations

import asyncio
import time

EVERY_S = 0.02


class Lag:
    """Measures the loop of whoever asks, while anybody does."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = 0.0
        self._late_s = 0.0
        self._asked = False

    def seconds(self, loop: asyncio.AbstractEventLoop) -> float:
        """By how much the loop is behind: what the last look found, or more where the next is overdue.

        Args:
            loop: The loop that runs this.
        """
        if loop is not self._loop:
            self._loop, self._late_s = loop, 0.0
            self._look_again(loop)
        self._asked = True
        return max(self._late_s, time.monotonic() - self._due)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asked = False
        self._due = time.monotonic() + EVERY_S
        loop.call_later(EVERY_S, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        self._late_s = max(0.0, time.monotonic() - self._due)
        if self._asked:
            self._look_again(loop)
        else:  # nobody asks any more, and an idle service has no reason to wake
            self._loop = None
