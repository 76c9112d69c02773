"""An answer that is written as a whole is the same as one that is sent in messages."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from harness.serving import connections, whole
from harness.serving.app import create_app
from harness.serving.connections import Bounds, Config
from harness.serving.lag import Looks
from harness.serving.listener import listen
from harness.serving.strict import Strict, Unwelcome, strictly
from harness.serving.underway import Passage

WITHIN_S = 30
HEAD = b"Host: pilot\r\nContent-Type: application/json\r\n"


async def in_messages(send: Any, status: int, headers: Any, body: bytes, same: Any) -> None:
    """What is done where the server is another one."""
    every = [*headers, *same.headers]
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(tiny: Any) -> Iterator[tuple[str, int]]:
    """Where a service of our own server listens."""
    with listen("127.0.0.1", 0) as listener:
        config = Config(
            create_app(tiny.service(), name="dry field").whole,
            Bounds(100, 10.0),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(WITHIN_S)


def request(record: Any, *more: bytes, version: bytes = b"1.1") -> bytes:
    body = json.dumps(record).encode()
    lines = [HEAD, *(line + b"\r\n" for line in more), b"Content-Length: %d\r\n\r\n" % len(body)]
    return b"POST /decide HTTP/" + version + b"\r\n" + b"".join(lines) + body


def asked(address: tuple[str, int], sent: bytes, answers: int = 1, ends: bool = False) -> bytes:
    """What comes back, until so many answers are there and the other side has ended or says nothing more.

    Args:
        address: Where to ask.
        sent: The requests.
        answers: How many there are to be.
        ends: Whether the other side is to end, which is waited for.
    """
    with socket.create_connection(address, timeout=WITHIN_S) as line:
        line.sendall(sent)
        got = b""
        while len(re.findall(rb"HTTP/1.1 (?!100)", got)) < answers or not got.endswith(b"}"):
            part = line.recv(65_536)
            assert part, got
            got += part
        line.settimeout(2 if ends else 0.2)  # after five seconds the server ends whatever is idle
        try:
            got += b"ENDED" if line.recv(1) == b"" else b"MORE"
        except TimeoutError:
            got += b"OPEN"
    return got


def alike(got: bytes) -> list[str]:
    """Its lines, in the order of their names, without what differs from call to call."""
    text = re.sub(r'"decision_id":"[^"]+"', '"decision_id":""', got.decode())
    text = re.sub(r"(?im)^(date|x-request-id): .*$", r"\1", text)
    return sorted(line.lower() for line in text.split("\r\n"))


def test_it_is_the_same_whatever_is_asked(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.offered()
    good, bad = tiny.record, {**tiny.record, "heat": "much"}
    all_that_is_sent = (
        (request(good), 1),
        (request(bad), 1),
        (request(good, b"Authorization: Bearer pilot_no"), 1),
        (request(good, b"Connection: close"), 1, True),
        (request(good, version=b"1.0"), 1, True),
        (request(good) + request(bad) + request(good), 3),
        (request(good, b"Expect: 100-continue"), 1),
    )
    written = []
    write = whole._write

    async def seen(*arguments: Any) -> None:
        written.append(arguments)
        await write(*arguments)

    monkeypatch.setattr(whole, "_write", seen)
    with serving(tiny) as address:
        as_a_whole = [alike(asked(address, *sent)) for sent in all_that_is_sent]
    assert len(written) == 9, "or the two are one way"
    monkeypatch.setattr(whole, "answer", in_messages)
    with serving(tiny) as address:
        assert [alike(asked(address, *sent)) for sent in all_that_is_sent] == as_a_whole
    assert len(written) == 9
    ended = [any("ended" in line for line in each) for each in as_a_whole]
    assert ended == [False, False, False, True, True, False, False]
    assert any("100 continue" in line for line in as_a_whole[6])


def test_a_request_leaves_nothing_for_the_collector(tiny: Any) -> None:
    """One cycle in each, and a service spends a tenth of its time on finding them."""
    tiny.offered()
    with serving(tiny) as address, socket.create_connection(address, timeout=WITHIN_S) as line:

        def ask(times: int) -> None:
            for _ in range(times):
                line.sendall(request(tiny.record))
                assert line.recv(65_536).endswith(b"}")

        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            ask(20)
            # Until then what ends a request at its deadline keeps hold of it.
            time.sleep(tiny.settings().serving.budget_ms / 1000 + 0.1)
            ask(1)
            gc.collect()
            # By what it belongs to: services of earlier tests may leave something of their own.
            under_way = tiny.services[-1].underway
            left = [
                each
                for each in gc.garbage
                if (isinstance(each, RequestResponseCycle) and each.scope["server"] == address)
                or (isinstance(each, Passage) and each._underway is under_way)
            ]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert left == []


class Transport:
    """Where the answer goes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.written.append(b"CLOSED")

    def pause_reading(self) -> None:
        """As asyncio's."""

    def resume_reading(self) -> None:
        """As asyncio's."""


@pytest.fixture
def cycle() -> Callable[..., Any]:
    def made(**changes: Any) -> Any:
        transport: Any = Transport()
        said: dict[str, Any] = {
            "scope": {"type": "http", "method": "POST", "headers": []},
            "transport": transport,
            "flow": FlowControl(transport),
            "logger": None,
            "access_logger": SimpleNamespace(info=lambda *_: transport.written.append(b"LOGGED")),
            "access_log": False,
            "default_headers": [(b"date", b"today")],
            "message_event": asyncio.Event(),
            "expect_100_continue": False,
            "keep_alive": True,
            "on_response": lambda: transport.written.append(b"DONE"),
            **changes,
        }
        return RequestResponseCycle(**said)

    return made


HEADERS = [(b"content-length", b"2"), (b"x-name", b"a")]


def test_head_and_body_are_one_write(cycle: Callable[..., Any]) -> None:
    answering = cycle()
    asyncio.run(whole.answer(answering.send, 200, HEADERS, b"{}"))
    assert answering.transport.written == [
        b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\nx-name: a\r\n\r\n{}",
        b"DONE",
    ]
    assert answering.response_complete
    assert answering.message_event.is_set()


def test_what_is_the_same_in_every_answer_stands_beside_its_own(cycle: Callable[..., Any]) -> None:
    same = whole.Same([(b"x-same", b"b")])
    assert same.names == {b"x-same"}
    answering, other = cycle(), cycle(access_log=False)
    asyncio.run(whole.answer(answering.send, 200, HEADERS, b"{}", same))
    head = b"date: today\r\ncontent-length: 2\r\nx-name: a\r\nx-same: b\r\n\r\n{}"
    assert answering.transport.written == [b"HTTP/1.1 200 OK\r\n" + head, b"DONE"]

    async def wrapped(message: Any) -> None:
        await other.send(message)

    asyncio.run(whole.answer(wrapped, 200, HEADERS, b"{}", same))
    assert b"".join(other.transport.written) == b"HTTP/1.1 200 OK\r\n" + head + b"DONE"
    with pytest.raises(RuntimeError, match="line break"):
        whole.Same([(b"x-same", b"b\r\nset-cookie: c")])


def test_a_body_that_is_there_is_taken_at_once(cycle: Callable[..., Any]) -> None:
    asking = cycle()
    asking.body, asking.more_body = bytearray(b"{}"), False
    asking.flow.pause_reading()
    asking.message_event.set()
    assert whole.body(asking.receive) == b"{}"
    assert not asking.body
    assert not asking.flow.read_paused
    assert not asking.message_event.is_set()  # so that whoever waits for it to go does wait


@pytest.mark.parametrize(
    "state", ["more_body", "waiting_for_100_continue", "disconnected", "response_complete"]
)
def test_a_body_that_is_not_there_is_left_to_the_server(cycle: Callable[..., Any], state: str) -> None:
    asking = cycle()
    asking.body, asking.more_body = bytearray(b"{}"), False
    setattr(asking, state, True)
    assert whole.body(asking.receive) is None
    assert asking.body == b"{}"


def test_another_servers_body_is_left_to_it() -> None:
    async def receive() -> Any:
        raise AssertionError

    assert whole.body(receive) is None


def test_a_body_that_is_there_may_be_no_longer_than_another(cycle: Callable[..., Any]) -> None:
    async def length(size: int) -> int:
        asking = cycle()
        asking.body, asking.more_body = bytearray(b'"' + b"a" * (size - 2) + b'"'), False
        scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}
        return len((await strictly(Strict(scope, asking.receive), 10)).document)

    assert asyncio.run(length(10)) == 8
    with pytest.raises(Unwelcome, match="10 bytes"):
        asyncio.run(length(11))


def test_who_was_not_read_for_a_while_is_asked_how_old_it_is(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a loop has looked a moment ago, what it reads is as young, unless it has not read all since."""
    tiny.offered()
    asked_for = list[Any]()
    monkeypatch.setattr(connections, "arrived", asked_for.append)
    monkeypatch.setattr(Looks, "recent", lambda _: True)
    one = request(tiny.record)
    with serving(tiny) as address, socket.create_connection(address, timeout=WITHIN_S) as line:

        def ask(times: int) -> int:
            line.sendall(one * times)
            got = b""
            while got.count(b"HTTP/1.1 200") < times or not got.endswith(b"}"):
                got += line.recv(65_536)
            return len(asked_for)

        assert ask(1) == 1  # it may have stood in the queue of those whom nobody had taken up
        assert ask(1) == 1
        assert ask(2) == 1  # of which the second has reading stopped until it is answered
        assert ask(1) == 2
        assert ask(1) == 2
    assert None not in asked_for  # but its connection


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\n", b"\ra", b"a\r\n", b"a\0", b"\x7f"])
def test_a_header_with_a_line_break_is_never_sent(cycle: Callable[..., Any], value: bytes) -> None:
    answering = cycle()
    with pytest.raises(RuntimeError, match="line break"):
        asyncio.run(whole.answer(answering.send, 200, [*HEADERS, (b"x-more", value)], b"{}"))
    assert answering.transport.written == []
    assert not answering.response_started  # so that the server says what it is: its own fault


def test_nothing_is_written_to_whoever_has_gone(cycle: Callable[..., Any]) -> None:
    answering = cycle()
    answering.disconnected = True
    asyncio.run(whole.answer(answering.send, 200, HEADERS, b"{}"))
    assert answering.transport.written == []


def test_whoever_does_not_read_is_waited_for(cycle: Callable[..., Any]) -> None:
    async def slow() -> None:
        answering = cycle(message_event=asyncio.Event())
        answering.flow.pause_writing()
        answer = asyncio.ensure_future(whole.answer(answering.send, 200, HEADERS, b"{}"))
        await asyncio.sleep(0.01)
        assert answering.transport.written == []
        answering.flow.resume_writing()
        await answer
        assert len(answering.transport.written) == 2

    asyncio.run(slow())


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-name", b"a")],
        [(b"content-length", b"3"), (b"x-name", b"a")],
        [(b"content-length", b"2"), (b"connection", b"close")],
    ],
    ids=["no length", "another length", "a word on the connection"],
)
def test_what_says_more_than_it_knows_goes_the_server_s_own_way(
    cycle: Callable[..., Any], headers: list[tuple[bytes, bytes]]
) -> None:
    answering = cycle()
    with suppress(RuntimeError):  # of a body that has another length than it is said to have
        asyncio.run(whole.answer(answering.send, 200, headers, b"{}"))
    assert len(answering.transport.written) >= 2
    assert not answering.transport.written[0].endswith(b"{}")
    assert answering.keep_alive is (headers[-1][0] != b"connection")


def test_under_another_server_its_lines_in_the_log_are_made(cycle: Callable[..., Any]) -> None:
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [],
        "path": "/decide",
        "query_string": b"",
        "http_version": "1.1",
        "client": None,
    }
    answering = cycle(access_log=True, scope=scope)
    asyncio.run(whole.answer(answering.send, 200, HEADERS, b"{}"))
    assert answering.transport.written[0] == b"LOGGED"
    assert b"".join(answering.transport.written[1:]).endswith(b"\r\n\r\n{}DONE")
