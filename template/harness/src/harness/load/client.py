"""The process that asks: ``python -m harness.load.client``, one JSON job a line, one JSON result a line.

It sends each request when it is due, whether or not those before were answered: a service that stands still
for a second has then kept everybody waiting who came within it, and not only whom it was answering. Closed
loops leave them out (Tene, "How NOT to Measure Latency", 2015, calls it coordinated omission). It notes how
late it was itself, so that its own want of time is not taken for the service's.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import ssl
import sys
import time
from array import array
from collections import deque
from contextlib import suppress
from typing import Any, cast

import httptools

OPEN_AT_ONCE = 64
MOST_FILES = 65_536
DRAIN_EVERY_S = 0.05
# Of an answer that never came.
NEVER = -1.0


class Asking:
    """One job: so many requests, each at its time.

    Args:
        job: ``host``, ``port``, ``tls``, ``trusts``, ``head`` and ``bodies`` (the request as it is written),
            ``due`` (seconds from the start), ``connections`` (open from the start), ``most_connections``
            (more are opened while all are busy), ``answer_within_s``, ``decisions`` (whether anything else is
            no answer), ``ids`` (whether decisions are named).
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.due: list[float] = job["due"]
        count = len(self.due)
        self.requests = [_written(job["head"], body) for body in job["bodies"]]
        self.woke = array("d", [NEVER] * count)
        self.sent = array("d", [NEVER] * count)
        self.ended = array("d", [NEVER] * count)
        self.status = array("i", [0] * count)
        self.retry_after = array("b", [0] * count)
        self.said: list[str] = [""] * count
        self.ids: list[str] = [""] * count
        self.left = count
        self.idle: deque[Connection] = deque()
        self.waiting: deque[int] = deque()
        self.open: set[Connection] = set()
        self.opening = 0
        self.began = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._tls = ssl.create_default_context() if job["tls"] else None
        if self._tls is not None and job["trusts"]:
            self._tls.load_verify_locations(job["trusts"])

    async def connect(self) -> None:
        """Open the connections that there are from the start, or nothing is measured but connecting."""
        wanted = self.job["connections"]
        while len(self.open) < wanted:
            part = min(OPEN_AT_ONCE, wanted - len(self.open))
            before = len(self.open)
            await asyncio.gather(*(self._open() for _ in range(part)))
            if len(self.open) == before:
                return  # what is due will say so

    async def run(self, start: float) -> None:
        """Send everything when it is due, and wait for what is still to come.

        Args:
            start: The moment from which ``due`` counts, in seconds of ``time.monotonic``.
        """
        self.began = start
        place, count = 0, len(self.due)
        while place < count:
            now = time.monotonic() - start
            while place < count and self.due[place] <= now:
                self.woke[place] = now
                self._send(place)
                place += 1
            if place < count:
                await asyncio.sleep(max(0.0, self.due[place] - (time.monotonic() - start)))
        await self._drained()

    async def _drained(self) -> None:
        last = self.due[-1] + self.job["answer_within_s"] if self.due else 0.0
        while self.left and time.monotonic() - self.began < last:
            await asyncio.sleep(DRAIN_EVERY_S)
        for place, ended in enumerate(self.ended):
            if ended == NEVER:
                self.ended[place] = time.monotonic() - self.began
                self.said[place] = "no answer in time" if self.sent[place] != NEVER else "not sent in time"

    def close(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        for each in list(self.open):
            each.abort()

    def _send(self, place: int) -> None:
        # In turns, or the first connection, and the worker behind it, would get all that one can answer.
        if self.idle:
            self._write(self.idle.popleft(), place)
            return
        self.waiting.append(place)
        if len(self.open) + self.opening < self.job["most_connections"]:
            self.opening += 1
            task = asyncio.ensure_future(self._open_one_more())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _write(self, connection: Connection, place: int) -> None:
        self.sent[place] = time.monotonic() - self.began
        connection.ask(place, self.requests[place % len(self.requests)])

    async def _open_one_more(self) -> None:
        try:
            failed = await self._open()
        finally:
            self.opening -= 1
        if failed and self.waiting:
            self.answered(self.waiting.popleft(), 0, failed)

    async def _open(self) -> str:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(
                lambda: Connection(self),
                self.job["host"],
                self.job["port"],
                ssl=self._tls,
            )
        except OSError as error:
            return type(error).__name__
        return ""

    def free(self, connection: Connection) -> None:
        """A connection can take a request."""
        if self.waiting:
            self._write(connection, self.waiting.popleft())
        else:
            self.idle.append(connection)

    def lost(self, connection: Connection, place: int | None) -> None:
        """A connection is gone, and with it the answer that it was to bring."""
        self.open.discard(connection)
        with suppress(ValueError):
            self.idle.remove(connection)
        if place is not None:
            self.answered(place, 0, "connection lost")
        if self.left and len(self.open) + self.opening < self.job["connections"]:
            self.opening += 1
            task = asyncio.ensure_future(self._open_one_more())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def answered(self, place: int, status: int, body: bytes | str, retry_after: bool = False) -> None:
        """Note what became of a request."""
        if self.ended[place] != NEVER:
            return
        self.ended[place] = time.monotonic() - self.began
        self.status[place], self.retry_after[place] = status, retry_after
        self.left -= 1
        if isinstance(body, str):
            self.said[place] = body
            return
        try:
            said = json.loads(body)
            if status == 200:
                self.said[place] = f"{said['served_by']} {said['why']}"
                if self.job["ids"]:
                    self.ids[place] = said["decision_id"]
            else:
                self.said[place] = str(said.get("error", ""))
        except (ValueError, LookupError, AttributeError, TypeError):
            self.said[place] = "no decision"
            if status == 200 and self.job["decisions"]:
                self.status[place] = 0

    def result(self, cpu_s: float) -> dict[str, Any]:
        """What became of every request, in columns."""
        return {
            "woke": self.woke.tolist(),
            "sent": self.sent.tolist(),
            "ended": self.ended.tolist(),
            "status": self.status.tolist(),
            "retry_after": self.retry_after.tolist(),
            "said": self.said,
            "ids": self.ids if self.job["ids"] else [],
            "cpu_s": cpu_s,
            "connections": len(self.open),
        }


class Connection(asyncio.Protocol):
    """One connection that is kept open, with one request under way at most."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._transport: asyncio.Transport | None = None
        self._place: int | None = None
        self._start()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._asking.open.add(self)
        self._asking.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        place, self._place = self._place, None
        self._asking.lost(self, place)

    def ask(self, place: int, request: bytes) -> None:
        """Send one request."""
        assert self._transport is not None
        self._place = place
        self._transport.write(request)

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """A part of an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the answer."""
        if name.lower() == b"retry-after":
            self._retry_after = value.strip().isdigit()

    def on_body(self, body: bytes) -> None:
        """A part of the answer's body."""
        self._body += body

    def on_message_complete(self) -> None:
        """The answer is whole."""
        status, keep = self._parser.get_status_code(), self._parser.should_keep_alive()
        place, self._place = self._place, None
        body, retry_after = self._body, self._retry_after
        self._start()
        if place is not None:
            self._asking.answered(place, status, body, retry_after)
        if keep:
            self._asking.free(self)
        else:
            self.abort()

    def _start(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._retry_after = False


def _written(head: str, body: str) -> bytes:
    content = body.encode()
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asking = Asking(json.loads(line))
        try:
            await asking.connect()
            print("ready", flush=True)
            told = await loop.run_in_executor(None, sys.stdin.readline)
            if not told:
                return
            gc.collect()
            gc.disable()  # a pause of this process would be told of as one of the service's
            spent = time.process_time()
            await asking.run(float(told))
            spent = time.process_time() - spent
            gc.enable()
            print(json.dumps(asking.result(spent)), flush=True)
        finally:
            asking.close()


def _allow_files() -> None:
    """As many open files as the system lets this process have: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a system that says one thing and allows another
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    """Take jobs until nobody gives any more."""
    _allow_files()
    try:
        import uvloop
    except ImportError:  # there is none for every system
        asyncio.run(_serve())
    else:
        uvloop.run(_serve())


if __name__ == "__main__":
    main()
