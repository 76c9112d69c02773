"""An answer that is written as a whole: head and body with one write, by who knows that it is all there.

ASGI sends an answer in messages, and the server looks through each header for what has no place in it. Of an
answer of the service's own every part is known, and that was a tenth of what a decision costs.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from harness.serving.underway import Message

NOT_IN_A_HEADER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Headers = Sequence[tuple[bytes, bytes]]


async def answer(
    send: Callable[[Message], Awaitable[None]], status: int, headers: Headers, body: bytes
) -> None:
    """Give an answer: as a whole where the server is our own, and in messages elsewhere.

    Args:
        send: ASGI's; that of our own server belongs to the request, and what a layer wraps does not.
        status: The answer's status, of one that has a body.
        headers: Its headers, names in small letters. Without the body's content-length, or with a word on the
            connection, they go the server's own way.
        body: Its body.

    Raises:
        RuntimeError: A header holds what has no place in one.
    """
    request = getattr(send, "__self__", None)
    # Under another server this one's lines in the log are made while it sends.
    if isinstance(request, RequestResponseCycle) and not request.access_log:
        said = dict(headers)
        if said.get(b"content-length") == b"%d" % len(body) and b"connection" not in said:
            await _write(request, status, headers, body)
            return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _write(request: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> None:
    if request.flow.write_paused and not request.disconnected:
        await request.flow.drain()
    if request.disconnected:
        return
    lines = [b"%s: %s\r\n" % header for header in (*request.default_headers, *headers)]
    if not request.keep_alive:
        lines.append(b"connection: close\r\n")
    head = b"".join(lines)
    if not head.count(b"\n") == head.count(b"\r") == len(lines) or NOT_IN_A_HEADER.search(head):
        raise RuntimeError("a header holds a line break or another control character")
    request.response_started = True
    request.waiting_for_100_continue = False
    request.transport.write(b"".join((STATUS_LINE[status], head, b"\r\n", body)))
    request.response_complete = True
    request.message_event.set()
    if not request.keep_alive:
        request.transport.close()
    request.on_response()
