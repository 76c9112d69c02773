"""Workers that share a socket hold about as many connections each, and nobody waits long for a worker."""

from __future__ import annotations

import asyncio
import errno
import math
import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, ClassVar

import psutil
import pytest

from harness.control import live
from harness.serving import accepting, balance
from harness.serving.accepting import BEYOND, LEAVES_FOR_S, Loop
from harness.serving.balance import SILENT_S, Balance
from harness.serving.listener import listen

Serve = Callable[..., Any]
Wait = Callable[..., Any]
OTHER, THIRD = -1, -2  # no process has such a number


def told_by(shared: Balance, pid: int, held: int, ago_s: float = 0.0) -> None:
    """Another process's word, as that process writes it."""
    moment = time.monotonic() - ago_s
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(balance.os, "getpid", lambda: pid)
        patched.setattr(balance.time, "monotonic", lambda: moment)
        shared.tell(held)


def test_a_worker_sees_the_fewest_that_another_holds() -> None:
    shared = Balance(3)
    assert shared.fewest() == float("inf")
    shared.tell(1)
    assert shared.fewest() == float("inf")  # its own does not count
    told_by(shared, OTHER, 7)
    told_by(shared, THIRD, 4)
    assert shared.fewest() == 4
    told_by(shared, THIRD, 9)
    assert shared.fewest() == 7


def test_nobody_is_left_to_a_worker_that_says_nothing_any_more() -> None:
    shared = Balance(2)
    told_by(shared, OTHER, 0, ago_s=SILENT_S + 1)
    assert shared.fewest() == float("inf")
    told_by(shared, OTHER, 0, ago_s=SILENT_S - 1)
    assert shared.fewest() == 0


def test_nobody_is_left_to_a_worker_that_ends_though_its_connections_still_close() -> None:
    shared = Balance(2)
    told_by(shared, OTHER, 5)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(balance.os, "getpid", lambda: OTHER)
        shared.leave()
        shared.tell(4)
    assert shared.fewest() == float("inf")


def test_whoever_comes_takes_the_place_of_who_has_been_silent_longest() -> None:
    shared = Balance(1)  # with 4 places
    for pid in range(-4, 0):
        told_by(shared, pid, 10 - pid, ago_s=-pid)
    told_by(shared, -9, 3)
    told_by(shared, -9, 2)
    assert shared.fewest() == 2
    told_by(shared, -9, 20)
    # -4 told 4 s ago and gave its place up; -3 is silent; of -2 and -1 the fewest is 11.
    assert shared.fewest() == 11


def _tell(shared: Balance, held: int, told: Any, ended: Any) -> None:
    shared.tell(held)
    told.set()
    ended.wait(30)


def test_processes_that_are_forked_from_another_one_share_it() -> None:
    context = multiprocessing.get_context("forkserver")
    shared, told, ended = Balance(2), context.Event(), context.Event()
    process = context.Process(target=_tell, args=(shared, 6, told, ended))
    process.start()
    try:
        assert told.wait(30)
        assert shared.fewest() == 6
    finally:
        ended.set()
        process.join()


class Held(asyncio.Protocol):
    """A connection that is counted."""

    made: ClassVar[list[Any]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(transport)


Connect = Callable[[int], None]


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(Held, "made", [])
    with listen("127.0.0.1", 0) as made:
        yield made


@pytest.fixture
def connect(listener: socket.socket) -> Iterator[Connect]:
    with ExitStack() as stack:

        def connected(count: int) -> None:
            for _ in range(count):
                stack.enter_context(socket.create_connection(listener.getsockname()))

        yield connected


def serving(listener: socket.socket, others: float, busy: Callable[[], Any]) -> Any:
    """Run something beside a worker whose only neighbour holds so many connections."""

    class Neighbour(Balance):
        def others(self) -> list[float]:
            return [others] if math.isfinite(others) else []

    async def served() -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop.balance, loop.held = Neighbour(2), lambda: len(Held.made)
        server = await loop.create_server(Held, sock=listener)
        try:
            return await busy()
        finally:
            server.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(served())


@pytest.fixture
def no_turn_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a moment in which the machine runs something else would be one."""
    monkeypatch.setattr(accepting, "SHORT_S", 60)


async def turns(count: int, each_s: float = 0.0) -> int:
    for _ in range(count):
        time.sleep(each_s)
        await asyncio.sleep(0)
    return len(Held.made)


@pytest.fixture
def nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system that does not tell how many wait."""
    monkeypatch.setattr(accepting, "callers", lambda _listener: None)


@pytest.mark.usefixtures("no_turn_is_long")
def test_a_worker_that_holds_more_leaves_callers_to_the_others(
    listener: socket.socket, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "LEAVES_FOR_S", 60)

    async def meanwhile() -> int:
        connect(40)
        return await turns(100, 0.001)

    # The other one, which holds nobody, is left its half.
    assert serving(listener, 0, meanwhile) == 20


@pytest.mark.usefixtures("no_turn_is_long", "nobody_tells")
def test_where_nobody_tells_how_many_wait_a_worker_that_holds_more_leaves_all_of_them(
    listener: socket.socket, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "LEAVES_FOR_S", 60)

    async def meanwhile() -> int:
        connect(40)
        return await turns(100)

    assert serving(listener, 0, meanwhile) <= BEYOND + 2


def test_it_is_known_how_many_wait_where_the_system_tells(listener: socket.socket, connect: Connect) -> None:
    assert accepting.callers(listener) == 0
    connect(3)
    assert accepting.callers(listener) == 3
    listener.accept()[0].close()
    assert accepting.callers(listener) == 2
    for other in (socket.socketpair()[0], socket.create_connection(listener.getsockname())):
        with other:
            assert accepting.callers(other) is None


def test_callers_whom_nobody_else_takes_up_do_not_wait_long(
    listener: socket.socket, connect: Connect
) -> None:
    async def until_all() -> float:
        connect(40)
        began = time.monotonic()
        while len(Held.made) < 40:
            assert time.monotonic() < began + 10
            await asyncio.sleep(0.001)
        return time.monotonic() - began

    assert LEAVES_FOR_S <= serving(listener, 0, until_all) < 20 * LEAVES_FOR_S


@pytest.mark.usefixtures("no_turn_is_long")
def test_a_worker_that_holds_fewer_takes_up_at_once_what_it_lacks(
    listener: socket.socket, connect: Connect
) -> None:
    async def one_turn() -> int:
        connect(40)
        return await turns(3)

    assert 20 <= serving(listener, 20, one_turn) <= 24


@pytest.mark.usefixtures("no_turn_is_long")
def test_those_who_wait_are_shared_among_the_workers_that_live(
    listener: socket.socket, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "LEAVES_FOR_S", 60)

    class Three(Balance):
        def others(self) -> list[float]:
            return [0, 0]

    async def served() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop.balance, loop.held = Three(8), lambda: len(Held.made)
        server = await loop.create_server(Held, sock=listener)
        connect(60)
        taken = await turns(200, 0.001)
        server.close()
        return taken

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(served()) == 20


def test_who_is_dead_or_has_no_room_is_no_other() -> None:
    shared = Balance(3)
    told_by(shared, OTHER, 5)
    told_by(shared, THIRD, 7, ago_s=SILENT_S + 1)
    told_by(shared, -3, math.inf)  # type: ignore[arg-type]
    assert shared.others() == [5]


async def long_turns(connect: Connect) -> int:
    connect(100)
    return await turns(6, 0.02)


def test_a_busy_worker_takes_up_what_makes_all_equal(
    listener: socket.socket, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "LEAVES_FOR_S", 60)
    # Of 120, of which the other one holds 20. Alone it would take up 80 in each of these turns.
    assert serving(listener, 20, lambda: long_turns(connect)) == 60


@pytest.mark.usefixtures("nobody_tells")
def test_where_nobody_tells_how_many_wait_a_busy_worker_takes_up_little_more_than_the_others_hold(
    listener: socket.socket, connect: Connect
) -> None:
    assert 20 + BEYOND <= serving(listener, 20, lambda: long_turns(connect)) <= 20 + 2 * BEYOND + 20 / 8


def test_a_quiet_time_is_no_long_turn(
    listener: socket.socket, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker would take up the next 64 together, however much later they came."""
    monkeypatch.setattr(accepting, "SHORT_S", 0.4)

    async def quiet() -> int:
        connect(3)
        await turns(10)
        await asyncio.sleep(0.5)
        connect(40)
        await turns(2)
        left = 0
        with suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
                left += 1
        return 40 - left

    assert serving(listener, float("inf"), quiet) <= 4


def test_whoever_left_a_caller_leaves_the_next_one_too(
    listener: socket.socket, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour took the first one up, so it has time, and is not given up."""
    monkeypatch.setattr(accepting, "LEAVES_FOR_S", 0.1)

    async def one_by_one() -> int:
        for _ in range(3):
            connect(1)
            await turns(2)
            with suppress(BlockingIOError):
                listener.accept()[0].close()  # a neighbour
            await asyncio.sleep(0.3)
        return len(Held.made)

    assert serving(listener, -10, one_by_one) == 0


def test_nobody_is_left_to_a_worker_without_a_file_for_one_more(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "AGAIN_AFTER_S", 0.05)
    monkeypatch.setattr(accepting, "TELLS_EVERY_S", 0.01)
    refusals = iter([errno.EMFILE])
    told: list[tuple[float, int]] = []

    class Full(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            if error := next(refusals, 0):
                raise OSError(error, "no room")
            return super().accept()

    class Listening(Balance):
        def tell(self, held: int) -> None:
            super().tell(held)
            told.append((time.monotonic(), self._told[2]))

    async def made() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop.balance, loop.held = Listening(1), lambda: len(Held.made)
        with Full(fileno=listener.detach()) as full:
            server = await loop.create_server(Held, sock=full)
            with socket.create_connection(full.getsockname()):
                await asyncio.sleep(0.2)
            server.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(made())
    without = [at for at, held in told if held == float("inf")]
    assert len(without) >= 2, "it goes on saying so"
    assert told[-1][1] == 1


def test_callers_who_are_being_greeted_count_also_when_another_one_goes() -> None:
    shared = Balance(1)
    shared.greeted = 30
    shared.tell(1)
    shared.tell(0)  # as whoever loses a connection does, who knows of no greeting
    assert shared._told[2] == 30


def test_an_alone_worker_tells_nobody_and_takes_up_all(listener: socket.socket, connect: Connect) -> None:
    async def alone() -> int:
        await asyncio.get_running_loop().create_server(Held, sock=listener)
        connect(40)
        return await turns(200)

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(alone()) == 40


def test_a_worker_tells_also_when_nobody_comes(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "TELLS_EVERY_S", 0.01)
    told = []

    class Listening(Balance):
        def tell(self, held: int) -> None:
            told.append(held)

    async def quiet() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop.balance = Listening(2)
        server = await loop.create_server(Held, sock=listener)
        await asyncio.sleep(0.1)
        server.close()
        told.append(-1)
        await asyncio.sleep(0.05)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(quiet())
    assert told.index(-1) == len(told) - 1 >= 3


def test_the_workers_of_a_service_share_those_who_come_together(tiny: Any, served: Serve, wait: Wait) -> None:
    running = served("--workers", "2")
    host, port = running.url.removeprefix("http://").split(":")
    wait(lambda: len(live(tiny.root)) == 2, within=60)
    workers = [psutil.Process(reader.pid) for reader in live(tiny.root)]

    def holding() -> list[int]:
        return sorted(
            sum(line.status == psutil.CONN_ESTABLISHED for line in each.net_connections("tcp"))
            for each in workers
        )

    seen = []
    for _ in range(5):
        with ExitStack() as lines:
            for _ in range(64):
                lines.enter_context(socket.create_connection((host, int(port))))
            wait(lambda: sum(holding()) == 64)
            seen.append(holding())
        wait(lambda: sum(holding()) == 0)
    # One of them may be kept from running for a while; not each time.
    assert max(fewer for fewer, _ in seen) >= 20, seen
