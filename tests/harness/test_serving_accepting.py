"""Callers who come together are all taken up, however long the turns of a busy event loop are."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
import uvloop

from harness.serving import accepting
from harness.serving.accepting import Loop
from harness.serving.listener import listen

CALLERS = 150
BUSY_S = 0.005


class Counted(asyncio.Protocol):
    """A connection that is counted."""

    made: ClassVar[list[Any]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(transport)


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(Counted, "made", [])
    with listen("127.0.0.1", 0) as made:
        yield made


@pytest.fixture
def callers(listener: socket.socket) -> Iterator[Callable[[int], list[socket.socket]]]:
    with ExitStack() as stack:
        yield lambda count: [
            stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(count)
        ]


def run(made: Callable[[], Any], loop: type[uvloop.Loop] = Loop) -> Any:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(made())


def turns(listener: socket.socket, loop: type[uvloop.Loop], wanted: int, each_s: float) -> int:
    """How many turns of a loop that has so much to do in each it takes until so many callers are taken up."""

    async def count() -> int:
        server = await asyncio.get_running_loop().create_server(Counted, sock=listener)
        for turn in range(10 * wanted):
            if len(Counted.made) >= wanted:
                server.close()
                return turn
            time.sleep(each_s)
            await asyncio.sleep(0)
        raise AssertionError(f"{len(Counted.made)} of {wanted}")

    found: int = run(count, loop)
    return found


def test_callers_who_come_together_are_taken_up_together(
    listener: socket.socket, callers: Callable[[int], list[socket.socket]]
) -> None:
    callers(CALLERS)
    assert turns(listener, Loop, CALLERS, BUSY_S) < CALLERS / 5


def test_what_it_is_for_is_still_so(
    listener: socket.socket, callers: Callable[[int], list[socket.socket]]
) -> None:
    """When this fails, uvloop takes up callers together by itself, and its own loop will do."""
    callers(CALLERS)
    assert turns(listener, uvloop.Loop, CALLERS, 0) >= CALLERS


def test_one_turn_takes_up_so_many_and_no_more(
    listener: socket.socket,
    callers: Callable[[int], list[socket.socket]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever is in is not to wait for all who come."""
    monkeypatch.setattr(accepting, "MOST_TOGETHER", 2)
    callers(CALLERS)
    assert turns(listener, Loop, CALLERS, BUSY_S) >= CALLERS / 2


def test_a_worker_that_has_little_to_do_leaves_callers_to_its_neighbours(
    listener: socket.socket,
    callers: Callable[[int], list[socket.socket]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accepting, "SHORT_S", 1.0)  # no turn of this test is as long as that
    callers(CALLERS)
    assert turns(listener, Loop, CALLERS, 0) >= CALLERS


def test_no_answer_waits_for_the_callers_acknowledgement(
    listener: socket.socket, callers: Callable[[int], list[socket.socket]]
) -> None:
    async def made() -> int:
        await asyncio.get_running_loop().create_server(Counted, sock=listener)
        callers(1)
        while not Counted.made:
            await asyncio.sleep(0.001)
        own: socket.socket = Counted.made[0].get_extra_info("socket")
        return own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    assert run(made)


def test_a_closed_server_takes_nobody_up_and_keeps_whom_it_has(
    listener: socket.socket, callers: Callable[[int], list[socket.socket]]
) -> None:
    async def closed() -> None:
        server = await asyncio.get_running_loop().create_server(Counted, sock=listener)
        callers(1)
        while not Counted.made:
            await asyncio.sleep(0.001)
        server.close()
        server.close()
        await server.wait_closed()
        callers(1)
        await asyncio.sleep(0.05)
        assert len(Counted.made) == 1
        assert not Counted.made[0].is_closing()

    run(closed)


@pytest.mark.parametrize("closing", [False, True], ids=["later", "closed meanwhile"])
def test_without_a_file_for_one_more_callers_wait_and_the_loop_does_not_spin(
    listener: socket.socket,
    callers: Callable[[int], list[socket.socket]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    closing: bool,
) -> None:
    monkeypatch.setattr(accepting, "AGAIN_AFTER_S", 0.05)
    refusals = iter([errno.EMFILE, errno.ENOMEM])
    tried = []

    class Full(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            tried.append(1)
            if error := next(refusals, 0):
                raise OSError(error, "no room")
            return super().accept()

    async def made() -> int:
        with Full(fileno=listener.detach()) as full:
            server = await asyncio.get_running_loop().create_server(Counted, sock=full)
            with socket.create_connection(full.getsockname()):
                await asyncio.sleep(0.02)
                if closing:
                    server.close()
                await asyncio.sleep(0.3)
                server.close()
                return len(Counted.made)

    with caplog.at_level(logging.ERROR):
        assert run(made) == (0 if closing else 1)
    assert len(tried) <= 5
    assert "callers wait: no room" in caplog.text


def test_a_caller_who_speaks_no_tls_leaves_nothing_behind(
    listener: socket.socket, callers: Callable[[int], list[socket.socket]], caplog: pytest.LogCaptureFixture
) -> None:
    async def refused() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server = await asyncio.get_running_loop().create_server(Counted, sock=listener, ssl=context)
        (caller,) = callers(1)
        caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
        caller.setblocking(False)
        for _ in range(500):
            await asyncio.sleep(0.01)
            try:
                if caller.recv(1024) == b"":
                    break
            except BlockingIOError:
                continue
            except ConnectionError:
                break
        else:
            raise AssertionError("the line is still held")
        server.close()

    with caplog.at_level(logging.DEBUG):
        run(refused)
    assert not Counted.made
    assert "never retrieved" not in caplog.text
