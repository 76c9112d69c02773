"""What a connection may take: time for a request to arrive, bytes of headers, and its place among the others.

uvicorn waits for a request as long as its sender likes, takes as many headers as come, and refuses new
callers once it holds as many connections as it may. Here a request has to arrive in time, and when every
place is taken the connection that has waited longest for its next request gives up its own: whoever asks for
something is served before whoever only holds a line.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from harness.serving.accepting import Loop
from harness.serving.balance import Balance
from harness.serving.headers import HEADERS
from harness.serving.lag import ARRIVED, Looks, arrived

MOST_HEADERS = 64
MOST_HEADER_BYTES = 16 * 1024
# What is still sent after its answer is read and forgotten, so that the answer is not lost; but not for ever.
MOST_UNHEEDED_BYTES = 1 << 20
# Chunks of one byte have five of their own.
MOST_CHUNKING = 8
# Files that are open besides: databases, logs, models' processes.
RESERVED_FILES = 256
LOOK_EVERY_S = 1.0

log = logging.getLogger("harness.serving")


@dataclass(frozen=True)
class Bounds:
    """What all connections of a process may take together, and each alone.

    Attributes:
        connections: How many there may be.
        within_s: Seconds for the headers of a request, and again for its body, and for an answer to be taken.
    """

    connections: int
    within_s: float


def raise_file_limit(connections: int) -> int:
    """Allow this process the files that so many connections need, as far as the system lets it.

    Returns:
        How many connections there may be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, raised), hard))
        soft = max(soft, raised)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    allowed = max(8, soft - RESERVED_FILES)
    log.warning(
        "%d connections at once, and not %d: the system allows %d open files", allowed, connections, soft
    )
    return allowed


class Config(uvicorn.Config):
    """uvicorn's own, with the bounds that each process keeps.

    Args:
        app: The application.
        bounds: The bounds.
        balance: What the workers hold that listen on one socket; None where there is one process.
        options: uvicorn's.
    """

    def __init__(self, app: Any, bounds: Bounds, balance: Balance | None = None, **options: Any) -> None:
        super().__init__(app, http=Bounded, ws="none", **options)
        self.bounds = bounds
        self.balance = balance
        self._keeper: Keeper | None = None

    def get_loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop]:
        """What makes the event loop."""
        return self._loop

    def keeper(self) -> Keeper:
        """What keeps the bounds of this process; it is made in the event loop that keeps them."""
        if self._keeper is None:
            self._keeper = Keeper(self.bounds)
        return self._keeper

    def _loop(self) -> Loop:
        made = Loop()
        made.balance, made.held = self.balance, lambda: self.keeper().held
        return made


class Keeper:
    """Knows for what each connection waits, and since when; in each table the oldest stands first.

    Attributes:
        held: How many there are.
        waiting: Those that have sent no whole headers since their last answer.
        arriving: Those whose body is not complete.
        stuck: Those that do not take their answer.
        looks: When this process looked whether any of them has sent something.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.most = raise_file_limit(bounds.connections)
        self.held = 0
        self.waiting: dict[Bounded, float] = {}
        self.arriving: dict[Bounded, float] = {}
        self.stuck: dict[Bounded, float] = {}
        self._within_s = bounds.within_s
        self._loop = asyncio.get_running_loop()
        self.looks = Looks(self._loop)
        self._every_s = min(LOOK_EVERY_S, bounds.within_s / 2)
        self._loop.call_later(self._every_s, self._look)

    def room(self, connections: int) -> bool:
        """Whether there is a place for one more, if need be that of the one that has waited longest."""
        if connections <= self.most:
            return True
        longest = next(iter(self.waiting), None)
        if longest is None:
            return False
        longest.end()
        return True

    def forget(self, connection: Bounded) -> None:
        """A connection has ended."""
        for table in (self.waiting, self.arriving, self.stuck):
            table.pop(connection, None)

    def _look(self) -> None:
        self._loop.call_later(self._every_s, self._look)
        before = self._loop.time() - self._within_s
        _late(self.waiting, before, Bounded.too_slow)
        _late(self.arriving, before, Bounded.too_slow)
        _late(self.stuck, before, Bounded.end)


def _late(table: dict[Bounded, float], before: float, end: Callable[[Bounded], None]) -> None:
    late = []
    for connection, since in table.items():
        if since > before:
            break
        late.append(connection)
    for connection in late:
        end(connection)


class Bounded(HttpToolsProtocol):
    """uvicorn's protocol on httptools, kept within bounds."""

    config: Config

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._keeper = config.keeper()
        self._whole = False  # whether the headers of the request under way are complete
        self._fed = 0  # bytes since the request began
        self._body = 0  # of these, bytes of its body
        self._unheeded = 0  # bytes since its answer was sent
        self._socket: Any = None
        self._why: tuple[int, str, str] = BAD
        self._read = False  # whether it was read at the last look, and so all that had come until then

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A place is taken, or the connection is refused."""
        super().connection_made(transport)
        self._socket = transport.get_extra_info("socket")
        self._keeper.held += 1
        if not self._keeper.room(len(self.connections)):
            self._refuse(FULL)
            return
        self._keeper.waiting[self] = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """The place is free."""
        self._keeper.held -= 1
        self._keeper.forget(self)
        super().connection_lost(exc)
        if self.config.balance is not None:
            self.config.balance.tell(self._keeper.held)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it is more than a request has."""
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        self._keeper.looks.found()
        self._fed += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # No other protocol is spoken here; uvicorn would go on with what it takes for one.
            self._refuse(BAD)
            return
        except httptools.HttpParserError:
            self._refuse(self._why)
            return
        if not self._whole:
            if self._fed > MOST_HEADER_BYTES:
                self._refuse(HEADERS_TOO_LARGE)
        elif self in self._keeper.arriving:
            if self.cycle.response_complete:
                self._unheeded += len(data)
                if self._unheeded > MOST_UNHEEDED_BYTES:
                    self.end()
            elif self._fed > MOST_HEADER_BYTES + MOST_CHUNKING * self._body:
                self._refuse(BAD)
        self._read = not self.flow.read_paused

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._whole = False
        self._body = self._unheeded = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what follows a body in its place is none, and nobody has checked it."""
        if not self._whole:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers are complete: the request is no longer waited for, and its body is."""
        if len(self.headers) > MOST_HEADERS or (
            self._fed > MOST_HEADER_BYTES
            and len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            > MOST_HEADER_BYTES
        ):
            self._why = HEADERS_TOO_LARGE
            raise ValueError("headers")
        self._whole = True
        self._keeper.waiting.pop(self, None)
        self._keeper.arriving[self] = self.loop.time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is complete."""
        self._keeper.arriving.pop(self, None)
        self._fed = 0
        known = self._read and self._keeper.looks.recent()
        self.scope["state"][ARRIVED] = None if known else arrived(self._socket)
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait()

    def on_response_complete(self) -> None:
        """The answer was sent: the next request is waited for, once this one is complete."""
        super().on_response_complete()
        if self not in self._keeper.arriving and self.cycle.response_complete:
            self._wait()

    def pause_writing(self) -> None:
        """The caller does not take its answer."""
        self._keeper.stuck[self] = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The caller takes its answer."""
        self._keeper.stuck.pop(self, None)
        super().resume_writing()

    def end(self) -> None:
        """Give up the place at once."""
        self._keeper.forget(self)
        self.transport.abort()

    def too_slow(self) -> None:
        """A request did not arrive in time; nothing is said to whoever has sent nothing of one."""
        if self._fed:
            self._refuse(LATE)
        else:
            self.end()

    def _wait(self) -> None:
        if not self.transport.is_closing():
            self._whole = False
            self._keeper.waiting[self] = self.loop.time()

    def _refuse(self, why: tuple[int, str, str]) -> None:
        """Say why, where no answer is under way already, and end."""
        if self._unanswered():
            status, code, detail = why
            body = b'{"error":"%s","detail":"%s"}' % (code.encode(), detail.encode())
            lines = [STATUS_LINE[status]]
            for name, value in (*self.server_state.default_headers, *HEADERS):
                lines += [name, b": ", value, b"\r\n"]
            lines.append(b"content-type: application/json\r\nconnection: close\r\n")
            lines.append(b"content-length: %d\r\n\r\n" % len(body))
            self.transport.write(b"".join([*lines, body]))
        self._keeper.forget(self)
        self._keeper.stuck[self] = self.loop.time()
        self.transport.close()

    def _unanswered(self) -> bool:
        """Whether what is written now is the answer to the request that is refused."""
        if self.pipeline:
            return False
        if self._whole:
            return not self.cycle.response_started
        return self.cycle is None or self.cycle.response_complete


BAD = (400, "bad_request", "The request is no HTTP.")
LATE = (408, "too_slow", "The request did not arrive in time.")
HEADERS_TOO_LARGE = (
    431,
    "too_large",
    f"A request has {MOST_HEADERS} headers and {MOST_HEADER_BYTES:,} bytes of them at most.",
)
FULL = (503, "busy", "Every connection that this process may hold is in use.")
