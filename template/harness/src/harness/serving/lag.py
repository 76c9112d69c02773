"""What a request has waited before anybody here looked at it, which no clock of a request counts.

Under more load than a process can take, a request stands in the system's buffer, and its connection in the
queue of those that nobody has taken up, for longer than all that follows takes: the system knows it of each
connection. What has been read stands in the event loop's own queue until its turn: how late the loop comes to
what is due tells that, and is all that is known where the system does not tell.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import time
from typing import Any

EVERY_S = 0.02
# In a request's state, as ASGI calls it: when its last bytes arrived, on the clock that only grows.
ARRIVED = "harness.arrived"
# Of Linux's tcp_info: tcpi_last_data_recv, in milliseconds.
_SINCE = struct.Struct("=52xI")
# Nobody's request is older: what says so has been misread.
MOST_S = 3600.0
# The system counts in ticks of its clock, up to so long, and would call every other request a tick old.
TICK_S = 0.01


def arrived(connection: Any) -> float | None:
    """When the last bytes of a connection arrived, on the clock that only grows.

    Args:
        connection: The socket.

    Returns:
        The moment; None where the system does not tell.
    """
    now = time.monotonic()
    try:
        (since_ms,) = _SINCE.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SINCE.size))
    except (AttributeError, OSError, struct.error):
        return None
    since_s = since_ms / 1000
    return now - max(0.0, since_s - TICK_S) if since_s < MOST_S else None


class Looks:
    """When a loop looked whether somebody has sent something.

    What is read from a connection after one look came after the look before it, if that was read as well. No
    loop tells when it looked: what it is given to run next runs after all that one look found, and before the
    next look.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open = False
        # Moments before the next look, and before the last one.
        self._next = self._before = -math.inf

    def found(self) -> None:
        """Somebody has sent something, by the look whose findings are gone through now."""
        if not self._open:
            self._open = True
            self._loop.call_soon(self._over)

    def recent(self) -> bool:
        """Whether what came since the look before this one is younger than the system can tell."""
        return time.monotonic() - self._before < TICK_S

    def _over(self) -> None:
        self._open = False
        self._before, self._next = self._next, time.monotonic()


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
