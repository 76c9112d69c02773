"""A request is as old as the system says, whoever came to look at it when."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

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
    now = [100.0]
    monkeypatch.setattr(lag.time, "monotonic", lambda: now[0])
    looks = Looks()
    looks.look(100.0)
    assert not looks.recent()  # when it looked before that, nobody knows
    now[0] = 100.004
    looks.look(100.003)
    assert looks.recent()  # it came after 100.0
    now[0] = 100.0 + TICK_S + 0.001
    looks.look(100.003)  # somebody else's, of the same look
    assert not looks.recent()
    looks.look(now[0])
    assert looks.recent()  # it came after 100.003


def test_a_loop_tells_when_it_looked_on_the_clock_that_only_grows() -> None:
    async def both() -> float:
        await asyncio.sleep(0.01)
        return time.monotonic() - asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert 0 <= runner.run(both()) < 5


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
