"""The service as an ASGI application, for `pilot serve` and for any other server.

``gunicorn -k uvicorn_worker.UvicornWorker 'harness.serving.asgi:application()'`` and
``uvicorn --factory harness.serving.asgi:application`` serve the pilot of the working directory, with as many
workers as they are told. What listens there is another program's business, so the address is not known here:
the sandbox is then open to nobody without a token.

Nothing is built before a process serves, and a process that was forked from one that serves builds its own:
connections, threads and locks do not survive a fork, and a pre-loaded one would be shared or dead.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse

from harness.control import noted
from harness.errors import PilotError, unforeseen
from harness.serving import logs
from harness.serving.app import create_app, in_force
from harness.serving.confirming import confirming
from harness.serving.headers import PLAIN
from harness.serving.place import Place
from harness.serving.server import Prepared, delivering, prepare
from harness.serving.servers import end_servers, fork_from
from harness.serving.service import Service
from harness.serving.tracing import tracing
from harness.serving.underway import Application, Message
from harness.settings import load_settings

# Without its note a stop does not know of this process, and asks it nothing.
NOTED_AGAIN_S = 5.0
# A decision passes through several threads, and each hand-over may wait so long for whoever computes. At
# Python's own 5 ms the p99 at 800 requests a second was twice what it is at this, and no more were answered.
SWITCH_S = 0.0005

log = logging.getLogger("harness.serving")


def application() -> PerProcess:
    """The application for a server other than `pilot serve`."""
    return PerProcess()


class PerProcess:
    """An application that is built in each process that serves it, when it first does.

    Args:
        place: Where `pilot serve` listens; None under another server.
        prepared: What this process has built already.
    """

    def __init__(self, place: Place | None = None, prepared: Prepared | None = None) -> None:
        self._place = place
        self._prepared = prepared
        self._pid = 0
        self._starting: asyncio.Future[Application] | None = None
        self._app: Application | None = None
        self._stack = AsyncExitStack()
        # What a process had before it was forked stays open in this one: closing it would say goodbye to a
        # database in the name of the other.
        self._inherited: list[Any] = []

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request, or the server's word that it begins or ends."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        app = self._app if self._pid == os.getpid() else None
        if app is None:
            try:
                app = await self._here()
            except PilotError as error:
                log.error("%s", error)
                await JSONResponse({"error": "not_started"}, 503, headers=PLAIN)(scope, receive, send)
                return
        try:
            await app(scope, receive, send)
        except Exception as error:
            if self._place is not None:
                raise  # our own server logs it without what is in it
            logs.failed("Exception in ASGI application", error)

    async def _live(
        self, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        await receive()
        try:
            await self._here()
        except PilotError as error:
            log.error("%s", error)
            await send({"type": "lifespan.startup.failed"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _here(self) -> Application:
        """The application of this very process.

        Raises:
            PilotError: It cannot be built; the next call tries again.
        """
        if self._starting is None or self._pid != os.getpid():
            self._inherited.append((self._starting, self._stack))
            self._pid, self._stack, self._app = os.getpid(), AsyncExitStack(), None
            self._starting = asyncio.ensure_future(self._start(self._stack))
        starting = self._starting
        try:
            self._app = await asyncio.shield(starting)
            return self._app
        except Exception as error:
            if self._starting is starting:
                self._starting = None
            if isinstance(error, PilotError):
                raise
            raise unforeseen(error, Path.cwd()) from error

    async def _start(self, stack: AsyncExitStack) -> Application:
        place = self._place
        debug = place is not None and place.debug
        logs.set_up(debug=debug)
        prepared, self._prepared = self._prepared, None
        fork_from(place.zygote if place else None)
        settings = place.settings if place else load_settings()
        logs.set_up(debug=debug, form=settings.serving.log_format)
        if prepared is None:
            prepared = prepare(settings, place.host if place else None)
        service = prepared.service
        stack.enter_context(tracing(settings.pilot.name))
        stack.callback(end_servers)
        stack.callback(service.close)
        prepared.load()
        app = create_app(
            service,
            name=settings.pilot.name,
            routes=prepared.routes,
            routes_budget_s=settings.serving.routes_budget_ms / 1000,
            root=settings.root,
            most_bytes=settings.serving.max_body_kb * 1024,
            tls=settings.serving.tls_certificate is not None,
        )
        if service.access.oidc is not None:
            service.access.oidc.start()
            stack.callback(service.access.oidc.close)
        stack.enter_context(service.metrics.sampling())
        stack.enter_context(delivering(settings, service))
        address = await stack.enter_async_context(confirming(lambda: seen(service)))
        url = "" if place is None else place.url
        again = stack.enter_context(noted(settings.root, service.control.folder, url, address))
        keeping = asyncio.ensure_future(_keep(again))
        stack.callback(keeping.cancel)
        # What is there by now stays: a collection that went through it all would hold up whoever asks then.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH_S)
        if multiprocessing.parent_process() is not None:
            _end_with_the_supervisor(stack)
            log.info("worker %d is ready", os.getpid())
        elif place is not None:
            log.info("listening on %s", url)
        return app.whole


async def _keep(again: Callable[[], None]) -> None:
    """Leave this process's note again where it could not be left, or somebody has deleted it."""
    while True:
        await asyncio.sleep(NOTED_AGAIN_S)
        again()


def seen(service: Service) -> dict[str, Any]:
    """What this process says to whoever stops: what it sees, and what is under way."""
    # The stop before the count: a decision that begins to count in between has seen the stop.
    stopped = in_force(service)
    counted = asdict(service.underway.count())
    return {
        "pid": os.getpid(),
        **stopped,
        "under_way": counted["under_way"],
        "last_model_decision": counted["last"],
    }


def _end_with_the_supervisor(stack: AsyncExitStack) -> None:
    """A worker whose supervisor was killed would go on, and hold the port, with nobody to end it."""
    supervisor = multiprocessing.parent_process()
    if supervisor is None:
        return
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(supervisor.sentinel)
        log.error("the process that started this worker is gone: it ends too")
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(supervisor.sentinel, ended)
    stack.callback(loop.remove_reader, supervisor.sentinel)
