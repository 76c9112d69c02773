"""The service's listening socket."""

from __future__ import annotations

import asyncio
import socket

from harness.serving.listener import listen


def test_answers_are_sent_at_once() -> None:
    """Otherwise Nagle's algorithm and the caller's delayed acknowledgement add 40 ms to every answer."""

    async def delayed() -> bool:
        found: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            found.set_result(not accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        server = await asyncio.start_server(connected, sock=listen("127.0.0.1", 0))
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.close()
            return await asyncio.wait_for(found, timeout=5)

    assert not asyncio.run(delayed())
