"""A request is as old as the system says, whoever came to look at it when."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import uvloop

from harness.serving import lag
from harness.serving.accepting import Loop
from harness.serving.lag import MOST_S, TICK_S, Looks, arrived
from harness.store import DecisionStore

HELD_S = 0.6


def test_the_system_tells_when_bytes_arrived() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as caller,
        listener.accept()[0] as taken,
    ):
        caller.send(b"x")
        sent = time.monotonic()
        time.sleep(0.3)
        first = arrived(taken)
        caller.send(b"x")
        again = time.monotonic()
        second = arrived(taken)
    assert first == pytest.approx(sent, abs=0.15)
    assert second == pytest.approx(again, abs=0.15)


def test_where_the_system_does_not_tell_nobody_knows() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert arrived(one) is None
    assert arrived(one) is None  # closed
    assert arrived(None) is None  # no socket at all


def test_what_cannot_be_is_not_believed() -> None:
    class Told:
        def __init__(self, since_ms: int) -> None:
            self.since_ms = since_ms

        def getsockopt(self, *_: int) -> bytes:
            return struct.pack("=52xI", self.since_ms)

    assert arrived(Told(round(MOST_S * 1000))) is None
    assert arrived(Told(1000)) == pytest.approx(time.monotonic() - 1, abs=0.5)
    # A tick of the system's clock makes nothing old.
    before = time.monotonic()
    assert (arrived(Told(round(TICK_S * 1000))) or 0) >= before

    class Short(Told):
        def getsockopt(self, *_: int) -> bytes:
            return b"1234"

    assert arrived(Short(1)) is None


def test_what_came_since_a_look_that_is_younger_than_a_tick_need_not_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, soon = [100.0], list[Callable[[], None]]()
    monkeypatch.setattr(lag.time, "monotonic", lambda: now[0])
    looks = Looks(SimpleNamespace(call_soon=soon.append))  # type: ignore[arg-type]

    def over() -> None:
        (done,) = soon
        soon.clear()
        done()

    looks.found()
    assert not looks.recent()  # when it looked before that, nobody knows
    over()
    now[0] = 100.003
    looks.found()
    assert not looks.recent()  # it came after the first look, which may have been long before 100.0
    over()
    now[0] = 100.009
    looks.found()
    looks.found()  # somebody else's, of the same look
    assert looks.recent()  # it came after the look that began after 100.0
    now[0] = 100.0 + TICK_S
    assert not looks.recent()
    over()
    assert looks.recent()  # 100.003
    now[0] = 101.0
    looks.found()
    assert not looks.recent()


@pytest.mark.parametrize("made", [Loop, uvloop.new_event_loop, asyncio.new_event_loop])
def test_what_a_loop_runs_next_it_runs_before_it_looks_again(made: Callable[[], Any]) -> None:
    """And after all that it found, however many they are: so no moment is taken for one before a look."""
    order = list[str]()

    async def both() -> None:
        loop, pairs = asyncio.get_running_loop(), [socket.socketpair() for _ in range(3)]
        looks = Looks(loop)

        def readable(taken: socket.socket) -> None:
            taken.recv(1)
            looks.found()
            order.append("found")
            if order.count("found") == 2:
                pairs[2][0].send(b"x")  # for the next look

        over = looks._over

        def seen() -> None:
            order.append("over")
            over()

        looks._over = seen  # type: ignore[method-assign]
        for one, other in pairs:
            other.setblocking(False)
            loop.add_reader(other, readable, other)
            del one
        for one, _ in pairs[:2]:
            one.send(b"x")
        while len(order) < 5:
            await asyncio.sleep(0.01)
        for each in (each for pair in pairs for each in pair):
            loop.remove_reader(each)
            each.close()

    with asyncio.Runner(loop_factory=made) as runner:
        runner.run(asyncio.wait_for(both(), 30))
    assert order == ["found", "found", "over", "found", "over"]


def test_of_many_who_came_while_the_service_stood_still_each_is_as_old_as_that(
    tiny: Any, served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that none is too old to be decided, on however slow a machine.
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "30000")
    tiny.offered()
    running, many = served(), 60
    service, address = psutil.Process(running.process.pid), urlsplit(running.url)
    body = json.dumps(tiny.record).encode()
    head = b"POST /decide HTTP/1.1\r\nHost: pilot\r\nContent-Type: application/json\r\n"
    one = head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def answered(line: socket.socket) -> str:
        got = b""
        while not got.endswith(b"}"):
            got += line.recv(65_536)
        return str(json.loads(got.partition(b"\r\n\r\n")[2])["decision_id"])

    with ExitStack() as stack:
        lines = [
            stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=60))
            for _ in range(many)
        ]
        for line in lines:  # so that none of them is new
            line.sendall(one)
            answered(line)
        time.sleep(0.2)
        os.kill(service.pid, signal.SIGSTOP)
        try:
            for line in lines:
                line.sendall(one)
            time.sleep(HELD_S)
        finally:
            os.kill(service.pid, signal.SIGCONT)
        made = {answered(line) for line in lines}
    kept = DecisionStore(tiny.settings().sqlite_url(tiny.settings().store.url))
    ages = [each.elapsed_ms / 1000 for each in kept.latest(2 * many) if each.decision_id in made]
    kept.close()
    assert len(ages) == many
    assert min(ages) >= HELD_S - 0.1


@pytest.mark.parametrize("new", [True, False], ids=["a caller who comes", "a caller who is there"])
def test_a_request_that_came_while_the_service_stood_still_is_as_old_as_that(
    tiny: Any, served: Callable[..., Any], new: bool
) -> None:
    tiny.offered()
    running = served()
    service = psutil.Process(running.process.pid)
    with httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client:
        client.post("/decide", json=tiny.record).raise_for_status()
        time.sleep(0.2)  # until nothing but the request could tell that the loop is late
        os.kill(service.pid, signal.SIGSTOP)
        going = threading.Timer(HELD_S, os.kill, (service.pid, signal.SIGCONT))
        going.start()
        if new:
            made = httpx.post(f"{running.url}/decide", json=tiny.record, timeout=30, trust_env=False).json()
        else:
            made = client.post("/decide", json=tiny.record).json()
        going.join()
    kept = DecisionStore(tiny.settings().sqlite_url(tiny.settings().store.url))
    (found,) = [each for each in kept.latest(10) if each.decision_id == made["decision_id"]]
    kept.close()
    assert HELD_S - 0.1 <= found.elapsed_ms / 1000 < 10 * HELD_S
