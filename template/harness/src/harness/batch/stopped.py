"""A batch answers `pilot kill` as a service does, from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from harness.serving.asgi import seen
from harness.serving.confirming import confirming
from harness.serving.service import Service


@contextmanager
def answering_to_stops(service: Service) -> Iterator[str]:
    """Say whether a stop is seen, and whether decisions by a model are under way, to whoever asks.

    Gives the address; empty where none could be opened.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="stops", daemon=True)
    thread.start()
    context = confirming(lambda: seen(service))
    try:
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
