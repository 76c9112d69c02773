"""Callers that hold their lines, or send what no request has: the others are answered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import uvicorn

from harness.control import live
from harness.serving import accepting, connections
from harness.serving.balance import Balance
from harness.serving.connections import RESERVED_FILES, Bounds, Config, raise_file_limit
from harness.serving.listener import listen

Serve = Callable[..., Any]
WITHIN_S = 30
START = b"POST /decide HTTP/1.1\r\nHost: pilot\r\nContent-Type: application/json\r\n"


def place(running: Any) -> tuple[str, int]:
    parts = urlsplit(running.url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


@contextmanager
def lines(running: Any, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections, each of which has sent that much."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            line = stack.enter_context(socket.create_connection(place(running), timeout=WITHIN_S))
            if sent:
                line.sendall(sent)
            made.append(line)
        yield made


def said(line: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    content = b""
    with contextlib.suppress(ConnectionError):
        while part := line.recv(65_536):
            content += part
    return content


def status(content: bytes) -> int:
    return int(content.split(b" ", 2)[1]) if content else 0


def ended(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return line.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        line.settimeout(WITHIN_S)


def answered(running: Any, body: Any, times: int = 20) -> list[float]:
    """Milliseconds that each of so many calls takes, each on a connection of its own."""
    taken = []
    with httpx.Client(trust_env=False, timeout=WITHIN_S, headers={"connection": "close"}) as client:
        for _ in range(times):
            started = time.perf_counter()
            answer = client.post(f"{running.url}/decide", json=body)
            taken.append((time.perf_counter() - started) * 1_000)
            assert answer.status_code == 200
    return sorted(taken)


async def small(scope: Any, receive: Any, send: Any) -> None:
    """Answers a request when its body is complete; /at-once before, /slow late, and /large in many parts."""
    assert scope["type"] == "http"
    while scope["path"] != "/at-once":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if not message["more_body"]:
            break
    # What came as trailers must not have become headers.
    seen = json.dumps([name.decode() for name, _ in scope["headers"]]).encode()
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    parts = [b"x" * 100_000] * 100 if scope["path"] == "/large" else [seen]
    length = b"%d" % sum(map(len, parts))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    for number, part in enumerate(parts, 1):
        await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})


@dataclass
class Listening:
    """A server in a thread of this process."""

    url: str
    server: uvicorn.Server


@pytest.fixture
def listening() -> Iterator[Callable[..., Listening]]:
    """Start a server that keeps these bounds around a small application."""
    started: list[tuple[Listening, threading.Thread]] = []

    def start(most: int = 100, within_s: float = 0.6, balance: Balance | None = None) -> Listening:
        listener = listen("127.0.0.1", 0)
        config = Config(
            small,
            Bounds(most, within_s),
            balance,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        found = Listening(f"http://127.0.0.1:{listener.getsockname()[1]}", server)
        started.append((found, thread))
        return found

    yield start
    for each, thread in started:
        each.server.should_exit = True
        thread.join(timeout=WITHIN_S)
        assert not thread.is_alive()


@pytest.fixture
def running(listening: Callable[..., Listening]) -> Listening:
    return listening()


def test_it_serves_with_the_fast_loop_and_parser_and_keeps_bounds_in_every_process(
    tiny: Any, served: Serve
) -> None:
    running = served("--workers", "2", PILOT_SERVING__REQUEST_TIMEOUT_S="1")
    workers = [reader.pid for reader in live(tiny.root)]
    assert len(workers) == 2
    for worker in map(psutil.Process, workers):
        loaded = {each.path for each in worker.memory_maps()}
        assert {name for name in ("uvloop", "httptools") for path in loaded if name in path} == {
            "uvloop",
            "httptools",
        }
    with lines(running, 10, START) as slow:
        assert {status(said(line)) for line in slow} == {408}


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /dec",
        START + b"X-Slow: ",
        START + b"Content-Length: 99\r\n\r\n{",
        START + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
    ids=["nothing", "a word", "headers", "a body", "chunks"],
)
def test_whoever_does_not_go_on_is_told_and_cut_off_and_others_are_answered(
    running: Any, sent: bytes
) -> None:
    with lines(running, 20, sent) as slow:
        answered(running, {}, 5)
        for line in slow:
            content = said(line)
            assert status(content) == (408 if sent else 0), content
            assert not sent or b'"too_slow"' in content


def test_a_drop_now_and_then_does_not_lengthen_the_time(running: Any, wait: Callable[..., Any]) -> None:
    for start, drop in ((START, b"X-A: b\r\n"), (START + b"Content-Length: 9999\r\n\r\n", b" ")):
        with lines(running, 1, start) as (line,):

            def dripped(line: socket.socket = line, drop: bytes = drop) -> bool:
                with contextlib.suppress(OSError):
                    line.sendall(drop)
                return ended(line) or bool(_peek(line))

            wait(dripped)
            assert status(said(line)) in (408, 0)


def _peek(line: socket.socket) -> bytes:
    line.setblocking(False)
    try:
        return line.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, ConnectionError):
        return b""
    finally:
        line.settimeout(WITHIN_S)


def test_a_body_that_ends_early_is_nobodys_error(tiny: Any, served: Serve) -> None:
    tiny.offered()
    running = served()
    for path in (b"/decide", b"/outcomes", b"/control/kill"):
        with lines(running, 3, START.replace(b"/decide", path) + b"Content-Length: 99\r\n\r\n{"):
            pass
    answered(running, tiny.record, 3)
    assert httpx.get(f"{running.url}/health", trust_env=False).json()["stopped"] is True
    assert "ERROR" not in (tiny.root / "service-0.log").read_text()


HEAVY = {
    "many headers": START + b"".join(b"X-%d: y\r\n" % n for n in range(100)) + b"\r\n",
    "a long header": START + b"X: " + b"y" * 20_000 + b"\r\n\r\n",
    "a long header that does not end": START + b"X: " + b"y" * 20_000,
    "a long address": b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: pilot\r\n\r\n",
    "an address that does not end": b"GET /" + b"x" * 20_000,
}


@pytest.mark.parametrize("what", HEAVY)
def test_more_headers_than_a_request_has_are_refused(running: Any, what: str) -> None:
    with lines(running, 1, HEAVY[what]) as (line,):
        content = said(line)
    assert status(content) == 431, content
    assert b"x-content-type-options: nosniff" in content.lower()
    answered(running, {}, 1)


def test_what_is_no_http_is_refused_and_fills_no_log(running: Any, caplog: pytest.LogCaptureFixture) -> None:
    for sent in (
        b"\x16\x03\x01\x02\x00" * 40,
        b"GET / HTTP/9.9\r\n\r\n",
        START + b"Content-Length: -1\r\n\r\n",
    ):
        with lines(running, 3, sent) as wrong:
            assert {status(said(line)) for line in wrong} == {400}
    with lines(running, 1, START + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") as (
        line,
    ):
        assert status(said(line)) == 400
    with lines(
        running, 1, b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    ) as (line,):
        said(line)
    assert not caplog.records


def test_what_follows_a_chunked_body_is_no_header(running: Any) -> None:
    """The caller was checked by the headers before it."""
    late = b"2\r\n{}\r\n0\r\nAuthorization: Bearer pilot_0\r\n\r\n"
    start = START + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with lines(running, 1, start + late) as (line,):
        content = said(line)
    assert status(content) == 200
    assert b"host" in content
    assert b"authorization" not in content


@pytest.mark.parametrize(
    "flood", [b"0\r\n" + b"X: y\r\n" * 20_000, b"1;" + b"x" * 100_000], ids=["trailers", "extensions"]
)
def test_what_surrounds_a_body_has_an_end(listening: Callable[..., Listening], flood: bytes) -> None:
    running = listening(within_s=600)
    with lines(running, 1, START + b"Transfer-Encoding: chunked\r\n\r\n") as (line,):
        with contextlib.suppress(ConnectionError):
            line.sendall(flood)
        assert status(said(line)) in (400, 0)


def test_after_an_answer_the_rest_of_a_body_is_not_read_for_ever(listening: Callable[..., Listening]) -> None:
    running = listening(within_s=600)
    start = b"POST /at-once HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n"

    def send_all(line: socket.socket) -> None:
        for _ in range(2_000):
            line.sendall(b" " * 65_536)

    with lines(running, 1, start) as (line,), pytest.raises(ConnectionError):
        send_all(line)


def test_whoever_takes_no_answer_is_cut_off(running: Any, wait: Callable[..., Any]) -> None:
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        line.connect(place(running))
        line.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        wait(lambda: running.server.server_state.connections)
        wait(lambda: not running.server.server_state.connections)


def held(tiny: Any, running: Any, count: int) -> None:
    """Whatever so many idle lines hold, others are answered, and about as fast."""
    alone = answered(running, tiny.record, 40)
    slo_ms = max(250.0, 10 * alone[len(alone) // 2])
    with lines(running, count):
        meanwhile = answered(running, tiny.record, 40)
        assert meanwhile[-3] < slo_ms, (alone, meanwhile)
        assert psutil.Process(running.process.pid).num_fds() >= count


def test_idle_connections_give_up_their_place_to_whoever_asks(
    listening: Callable[..., Listening], wait: Callable[..., Any]
) -> None:
    running = listening(most=50, within_s=600)
    with lines(running, 50) as first, lines(running, 100) as later:
        answered(running, {}, 10)
        wait(lambda: sum(ended(line) for line in first) == 50)
        assert not any(ended(line) for line in later[-30:]), "who waits longest goes first"


def test_other_workers_are_told_how_many_lines_there_are_as_they_come_and_go(
    listening: Callable[..., Listening], wait: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "TELLS_EVERY_S", 600)  # at once, that is, and not with the next second
    told = [-1]

    class Shared(Balance):
        def tell(self, held: int) -> None:
            told.append(held)

    running = listening(within_s=600, balance=Shared(2))
    with lines(running, 3) as made:
        wait(lambda: told[-1] == 3)
        made[0].close()
        wait(lambda: told[-1] == 2)
        answered(running, {}, 1)
    wait(lambda: told[-1] == 0)


def test_when_every_place_is_in_use_a_newcomer_is_told_so(
    listening: Callable[..., Listening], wait: Callable[..., Any]
) -> None:
    running = listening(most=8, within_s=600)
    busy = START + b"Content-Length: 99\r\n\r\n{"
    with lines(running, 8, busy) as in_use:
        wait(lambda: sum(each.cycle is not None for each in running.server.server_state.connections) == 8)
        with lines(running, 1) as (more,):
            content = said(more)
        assert (status(content), b'"busy"' in content) == (503, True)
        assert not any(ended(line) for line in in_use)
    wait(lambda: not running.server.server_state.connections)
    answered(running, {}, 2)


def test_one_line_serves_many_requests_and_is_never_late(running: Any) -> None:
    with lines(running, 1) as (line,):
        for _ in range(3):
            # Longer in all than a request may take.
            time.sleep(0.3)
            line.sendall(START + b"Content-Length: 2\r\n\r\n{}")
            assert status(line.recv(65_536)) == 200
        # What was sent whole is not late, however long its answer takes.
        line.sendall(START.replace(b"/decide", b"/slow") + b"Content-Length: 2\r\n\r\n{}")
        assert status(line.recv(65_536)) == 200
        two = START + b"Content-Length: 2\r\n\r\n{}"
        line.sendall(two + two)
        content = b""
        while content.count(b"HTTP/1.1 200") < 2:
            content += line.recv(65_536)


def test_a_thousand_idle_connections_hold_nobody_up(tiny: Any, served: Serve) -> None:
    tiny.offered()
    held(tiny, served(PILOT_SERVING__REQUEST_TIMEOUT_S="600"), 1_000)


@pytest.mark.slow
def test_ten_thousand_idle_connections_hold_nobody_up(tiny: Any, served: Serve) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 600)
    tiny.offered()
    running = served(PILOT_SERVING__REQUEST_TIMEOUT_S="600")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        held(tiny, running, count)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_is_raised_and_the_places_stay_below(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = [1_024, 4_096]
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: tuple(limit))
    monkeypatch.setattr(connections.resource, "setrlimit", lambda _, wanted: limit.__setitem__(0, wanted[0]))
    assert raise_file_limit(2_000) == 2_000
    assert limit[0] == 2_000 + RESERVED_FILES
    assert raise_file_limit(100_000) == 4_096 - RESERVED_FILES
    assert limit[0] == 4_096
