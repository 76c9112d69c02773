"""An event loop that takes up all callers who are there, as asyncio's own does.

libuv, on which uvloop stands, accepts one connection in each of its turns. While turns are short that shares
callers out among workers, and nobody waits. In a process that is busy they are not short, and callers who
come together wait one turn after the other, before anybody has looked at what they ask: of 1,000 that came at
once 700 waited for more than five seconds, where those who were in got an answer in a third of one.

Nor does whoever looks first take all whom it finds, where workers share a socket: harness.serving.balance.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvloop

from harness.serving.balance import Balance

# In a shorter turn than this a worker has little to do, takes up one, and leaves the next to its neighbours.
SHORT_S = 0.002
# In a longer one, one for each part of it that is so long.
EACH_S = 0.00025
# Whoever is in is not to wait for whoever comes.
MOST_TOGETHER = 256
# A worker that holds more than another by more than this leaves to it who comes, as far as that makes them
# equal. It looks at that again so often, and after so long it takes up itself who is there.
MORE = 1
LEAVES_S = 0.002
LEAVES_FOR_S = 0.05
# Where it cannot be told how many wait, it takes up together no more than what brings it so far beyond the
# others, and a share of what it holds: what was taken up once stays.
BEYOND = 4
BEYOND_SHARE = 1 / 8
# What Linux says of a socket that listens: that it does (tcpi_state), and how many wait (tcpi_unacked).
WAITING, LISTENS = struct.Struct("=B23xI"), 10
TELLS_EVERY_S = 1.0
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
        balance: What the processes hold that have copies; None where this is the only one.
        held: How many connections this process holds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        protocols: Protocols,
        tls: ssl.SSLContext | None,
        balance: Balance | None = None,
        held: Callable[[], int] = lambda: 0,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._protocols = protocols
        self._tls = tls
        self._balance = balance
        self._held = held
        self._open = True
        self._room = True  # whether there are files for more
        self._leaves_until = math.inf  # while it leaves callers to others
        self._patient = True  # whether it leaves any to others
        self._left_at = math.inf  # when it last left callers waiting
        self._next_turn: asyncio.Handle = loop.call_soon(self._nobody_waits)
        # asyncio keeps no task alive that nobody holds.
        self._greeting: set[asyncio.Task[Any]] = set()
        listener.setblocking(False)
        loop.add_reader(listener.fileno(), self._accept)
        if balance is not None:
            self._keep_saying()

    def close(self) -> None:
        """Take up nobody any more; who was taken up stays."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener.fileno())
            if self._balance is not None:
                self._balance.leave()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for: who was taken up is the protocol's business."""

    def _accept(self) -> None:
        now = time.monotonic()
        lacks = self._lacks()
        if self._patient and self._leaves(lacks):
            self._next_turn.cancel()
            self._left_at = math.inf
            self._leaves_until = now + LEAVES_FOR_S
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(LEAVES_S, self._left_to_others)
            return
        took = self._take_up(self._together(lacks, now - self._left_at))
        self._say()
        if took:
            self._left_at = time.monotonic()
            self._next_turn = self._loop.call_soon(self._turn)

    def _take_up(self, most: int) -> bool:
        """Take up so many, if there are as many. Returns whether there may be more."""
        self._next_turn.cancel()
        for _ in range(most):
            try:
                caller, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                self._nobody_waits()
                return False
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                log.error("callers wait: %s", error.strerror)
                self._room = False
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(AGAIN_AFTER_S, self._again)
                return False
            task = self._loop.create_task(self._greet(caller))
            self._greeting.add(task)
            task.add_done_callback(self._greeted)
        return True

    def _together(self, lacks: float, turn_s: float) -> int:
        """How many to take up in this turn, after one that took so long."""
        waiting = turn_s / EACH_S if turn_s >= SHORT_S else 1
        if self._patient and math.isfinite(lacks):
            waiting = max(lacks, min(waiting, self._share(lacks)), 1)
        return int(min(waiting, MOST_TOGETHER))

    def _leaves(self, lacks: float) -> bool:
        """Whether those who wait are the others' to take up."""
        return lacks < -MORE and self._share(lacks) < 1

    def _share(self, lacks: float) -> float:
        """How many of those who wait are this one's, for all to hold the same in the end."""
        count = callers(self._listener)
        # Somebody waited a moment ago: a system that knows of none does not know.
        if self._balance is None or not count:
            return lacks + BEYOND + BEYOND_SHARE * self._holds()
        others = len(self._balance.others())
        return (count + others * lacks) / (others + 1)

    def _turn(self) -> None:
        # After this the loop looks at the socket; when it comes here again, nobody was there.
        self._next_turn = self._loop.call_soon(self._nobody_waits)

    def _nobody_waits(self) -> None:
        self._left_at = math.inf
        self._patient = True

    def _greeted(self, task: asyncio.Task[Any]) -> None:
        self._greeting.discard(task)
        self._say()

    def _say(self) -> None:
        if self._balance is not None:
            self._balance.greeted = len(self._greeting) if self._room else math.inf
            self._balance.tell(self._held())

    def _holds(self) -> int:
        return self._held() + len(self._greeting)

    def _lacks(self) -> float:
        """How many fewer it holds than any other; infinity without others."""
        return math.inf if self._balance is None else self._balance.fewest() - self._holds()

    def _left_to_others(self) -> None:
        self._patient = time.monotonic() < self._leaves_until
        if self._patient and self._leaves(self._lacks()):
            self._loop.call_later(LEAVES_S, self._left_to_others)
        else:
            self._again()
            # When the loop has looked at the socket and nobody was there, the others have come after all.
            self._next_turn = self._loop.call_soon(self._turn)

    def _keep_saying(self) -> None:
        if self._open:
            self._say()
            self._loop.call_later(TELLS_EVERY_S, self._keep_saying)

    def _again(self) -> None:
        self._room = True
        if self._open:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    async def _greet(self, caller: socket.socket) -> None:
        with suppress(OSError):  # it has gone, or speaks no TLS that is taken, and its line is closed
            await self._loop.connect_accepted_socket(self._protocols, caller, ssl=self._tls)


def callers(listener: socket.socket) -> int | None:
    """How many callers wait to be taken up; None where the system does not tell."""
    try:
        told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, WAITING.size)
        state, count = WAITING.unpack(told)
    except (AttributeError, OSError, struct.error):
        return None
    return int(count) if state == LISTENS else None


class Loop(uvloop.Loop):
    """uvloop's, except for how it listens on a socket that it is given.

    Attributes:
        balance: What the processes hold that listen on the same; None where this is the only one.
        held: How many connections this process holds.
    """

    balance: Balance | None = None
    held: Callable[[], int] = staticmethod(lambda: 0)

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """Listen."""
        listener: socket.socket | None = options.get("sock")
        if listener is None:
            return await super().create_server(*arguments, **options)
        listener.listen(options.get("backlog", socket.SOMAXCONN))
        return Accepting(self, listener, arguments[0], options.get("ssl"), self.balance, self.held)
