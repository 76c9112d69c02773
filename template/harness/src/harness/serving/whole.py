"""A body that is read as a whole, and an answer that is written so: head and body with one write.

ASGI hands over both in messages, and the server looks through each header of an answer for what has no place
in it. Of an answer of the service's own every part is known, and that was a tenth of what a decision costs.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from harness.serving.underway import Message

NOT_IN_A_HEADER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Headers = Sequence[tuple[bytes, bytes]]


def _lines(headers: Headers) -> bytes:
    made = b"".join([b"%s: %s\r\n" % header for header in headers])
    if not made.count(b"\n") == made.count(b"\r") == len(headers) or NOT_IN_A_HEADER.search(made):
        raise RuntimeError("a header holds a line break or another control character")
    return made


class Same:
    """Headers that are the same in every answer: looked through once.

    Args:
        headers: The headers, names in small letters.

    Attributes:
        headers: The same.
        names: Their names.
        lines: What is written.

    Raises:
        RuntimeError: A header holds what has no place in one.
    """

    def __init__(self, headers: Headers = ()) -> None:
        self.headers = tuple(headers)
        self.names = frozenset(name for name, _ in headers)
        self.lines = _lines(headers)


NONE = Same()


def body(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    """A request's body, where the server is our own and has all of it; else None, and it is to be received.

    Args:
        receive: ASGI's; that of our own server belongs to the request, and what a layer wraps does not.
    """
    request = getattr(receive, "__self__", None)
    if not isinstance(request, RequestResponseCycle) or request.more_body:
        return None
    if request.waiting_for_100_continue or request.disconnected or request.response_complete:
        return None
    found, request.body = bytes(request.body), bytearray()
    request.flow.resume_reading()
    request.message_event.clear()
    return found


async def answer(
    send: Callable[[Message], Awaitable[None]],
    status: int,
    headers: Headers,
    body: bytes,
    same: Same = NONE,
) -> None:
    """Give an answer: as a whole where the server is our own, and in messages elsewhere.

    Args:
        send: ASGI's; that of our own server belongs to the request, and what a layer wraps does not.
        status: The answer's status, of one that has a body.
        headers: Its own headers, names in small letters. Without the body's content-length, or with a word on
            the connection, they go the server's own way.
        body: Its body.
        same: The headers that it has besides.

    Raises:
        RuntimeError: A header holds what has no place in one.
    """
    request = getattr(send, "__self__", None)
    # Under another server this one's lines in the log are made while it sends.
    if isinstance(request, RequestResponseCycle) and not request.access_log:
        said = dict(headers)
        if said.get(b"content-length") == b"%d" % len(body) and b"connection" not in said:
            await _write(request, status, headers, body, same)
            return
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *same.headers]})
    await send({"type": "http.response.body", "body": body})


async def _write(
    request: RequestResponseCycle, status: int, headers: Headers, body: bytes, same: Same
) -> None:
    if request.flow.write_paused and not request.disconnected:
        await request.flow.drain()
    if request.disconnected:
        return
    own = _lines([*request.default_headers, *headers])
    end = b"\r\n" if request.keep_alive else b"connection: close\r\n\r\n"
    request.response_started = True
    request.waiting_for_100_continue = False
    request.transport.write(b"".join((STATUS_LINE[status], own, same.lines, end, body)))
    request.response_complete = True
    request.message_event.set()
    if not request.keep_alive:
        request.transport.close()
    request.on_response()
