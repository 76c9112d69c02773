"""An event loop that takes up all callers who are there, as asyncio's own does.

libuv, on which uvloop stands, accepts one connection in each of its turns. While turns are short that shares
callers out among workers, and nobody waits. In a process that is busy they are not short, and callers who
come together wait one turn after the other, before anybody has looked at what they ask: of 1,000 that came at
once 700 waited for more than five seconds, where those who were in got an answer in a third of one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvloop

# In a shorter turn than this a worker has little to do, takes up one, and leaves the next to its neighbours.
SHORT_S = 0.002
# In a longer one, one for each part of it that is so long.
EACH_S = 0.00025
# Whoever is in is not to wait for whoever comes.
MOST_TOGETHER = 64
# Without a file or memory for one more, looking again at once would help nobody.
AGAIN_AFTER_S = 1.0
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger("harness.serving")

Protocols = Callable[[], asyncio.Protocol]


class Accepting:
    """What listens on a socket of which other processes may hold copies.

    Args:
        loop: Whose callers they are.
        listener: The socket.
        protocols: Makes the protocol of each connection.
        tls: What callers are spoken to with; None in plain text.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        protocols: Protocols,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._protocols = protocols
        self._tls = tls
        self._open = True
        self._left_at = math.inf  # when it last left callers waiting
        # asyncio keeps no task alive that nobody holds.
        self._greeting: set[asyncio.Task[Any]] = set()
        listener.setblocking(False)
        loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Take up nobody any more; who was taken up stays."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener.fileno())

    async def wait_closed(self) -> None:
        """Nothing is left to wait for: who was taken up is the protocol's business."""

    def _accept(self) -> None:
        turn_s = time.monotonic() - self._left_at
        for _ in range(1 if turn_s < SHORT_S else min(MOST_TOGETHER, int(turn_s / EACH_S))):
            try:
                caller, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                self._left_at = math.inf
                return
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                log.error("callers wait: %s", error.strerror)
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(AGAIN_AFTER_S, self._again)
                return
            task = self._loop.create_task(self._greet(caller))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)
        self._left_at = time.monotonic()

    def _again(self) -> None:
        if self._open:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    async def _greet(self, caller: socket.socket) -> None:
        with suppress(OSError):  # it has gone, or speaks no TLS that is taken, and its line is closed
            await self._loop.connect_accepted_socket(self._protocols, caller, ssl=self._tls)


class Loop(uvloop.Loop):
    """uvloop's, except for how it listens on a socket that it is given."""

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """Listen."""
        listener: socket.socket | None = options.get("sock")
        if listener is None:
            return await super().create_server(*arguments, **options)
        listener.listen(options.get("backlog", socket.SOMAXCONN))
        return Accepting(self, listener, arguments[0], options.get("ssl"))
