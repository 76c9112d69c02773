"""Where just this process says what it sees: an address of its own, on the loopback, for whoever stops.

Whoever connects is told in one line of JSON, and the connection ends. It runs on the service's event loop,
without a thread, so a process that is frozen or blocked says nothing, and is named by `pilot kill`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

HOST = "127.0.0.1"

log = logging.getLogger("harness.serving")


@asynccontextmanager
async def confirming(seen: Callable[[], dict[str, Any]]) -> AsyncIterator[str]:
    """Say what is seen to whoever asks, and give the address; empty where none could be opened.

    Args:
        seen: What this process sees right now.
    """

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(json.dumps(seen()).encode())
            await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(answer, HOST, 0)
    except OSError as error:
        log.warning("no address of this process's own: %s; `pilot kill` asks the service's common one", error)
        yield ""
        return
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()
