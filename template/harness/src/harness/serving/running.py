"""`pilot serve`: the process that listens, or several that listen on one socket and their supervisor."""

from __future__ import annotations

import logging
import signal
import socket
import time
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import uvicorn
import uvicorn._subprocess
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from harness.errors import PilotError
from harness.serving import zygote
from harness.serving.balance import Balance
from harness.serving.beforehand import look
from harness.serving.connections import Bounds, Config
from harness.serving.forking import Forked, begin_importing
from harness.serving.listener import listen
from harness.serving.place import InWorkers, Place
from harness.serving.tls import renew, tls_options
from harness.settings import Settings

# A model may take long to load; after that the workers are watched, ready or not.
START_WITHIN_S = 60
# A worker that says nothing for so long is taken for hung, and another takes its place.
HUNG_AFTER_S = 10
# What is under way when the service is told to end has so long; then it is cut off.
END_WITHIN_S = 30

log = logging.getLogger("harness.serving")


def serve(settings: Settings, *, host: str, port: int, workers: int = 1, debug: bool = False) -> None:
    """Listen until the process is told to end, by Ctrl-C or SIGTERM; both are how a service ends well.

    Args:
        settings: The pilot's settings.
        host: The address to listen on.
        port: The port; 0 lets the system choose.
        workers: How many processes answer.
        debug: Whether whole tracebacks are logged.

    Raises:
        PilotError: The address is not allowed in the stage, or is in use, or routes.py cannot be served, or a
            worker could not start, or the certificate cannot be used.
    """
    if workers > 1:
        try:
            tls = tls_options(settings)
            begin_importing()
            look(settings, host, debug=debug)
            with closing(listen(host, port)) as listener:
                place = Place(settings, host, _url(listener, host, tls), debug, zygote.begin(settings))
                _several(_config(InWorkers(place), settings, tls, workers), listener, place.url)
        finally:
            zygote.end()
        return
    # What starts several workers has no use for these.
    from harness.serving.asgi import PerProcess
    from harness.serving.server import prepare

    tls = tls_options(settings)
    prepared = prepare(settings, host)
    with closing(listen(host, port)) as listener:
        place = Place(settings, host, _url(listener, host, tls), debug)
        prepared.load()
        _alone(_config(PerProcess(place, prepared), settings, tls, 1), listener, settings)


def _url(listener: socket.socket, host: str, tls: dict[str, Any]) -> str:
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def _config(app: Any, settings: Settings, tls: dict[str, Any], workers: int) -> Config:
    bounds = Bounds(settings.serving.connections, settings.serving.request_timeout_s)
    return Config(
        app,
        bounds,
        Balance(workers) if workers > 1 else None,
        workers=workers,
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        # What a caller says of its own address counts for nothing here.
        proxy_headers=False,
        timeout_worker_healthcheck=HUNG_AFTER_S,
        **tls,
    )


def _alone(config: Config, listener: socket.socket, settings: Settings) -> None:
    # uvicorn answers what is under way, and then raises the signal again for whoever handled it before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    if config.is_ssl:
        config.load()
        if (context := config.ssl) is not None:
            signal.signal(signal.SIGHUP, lambda _number, _frame: renew(context, settings))
    uvicorn.Server(config).run(sockets=[listener])


def _several(config: Config, listener: socket.socket, url: str) -> None:
    # uvicorn has no word for it: it would start a new interpreter for each worker.
    uvicorn._subprocess.spawn = SimpleNamespace(Process=Forked)  # type: ignore[assignment]
    supervisor = _Supervisor(config, [listener], url)
    supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise PilotError(
            "a worker could not start, so the service ended",
            where="pilot serve",
            mend="The lines above say why.",
        )


class _Supervisor(Multiprocess):
    """uvicorn's own, which says which worker it replaced, and ends also one that is frozen.

    Args:
        config: What each worker serves.
        sockets: What they listen on.
        url: The same as callers write it.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], url: str) -> None:
        super().__init__(config, sockets)
        self._url = url

    def init_processes(self) -> None:
        """Start the workers, and say so when every one of them can be asked."""
        super().init_processes()
        deadline = time.monotonic() + START_WITHIN_S
        if all(process.wait_until_ready(deadline - time.monotonic()) for process in self.processes):
            log.info("%d workers, listening on %s", len(self.processes), self._url)

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that died or hang."""
        before = [process.pid for process in self.processes]
        super().keep_subprocess_alive()
        after = {process.pid for process in self.processes}
        for pid in before:
            if pid not in after:
                log.error("worker %d died or did not answer, and another takes its place", pid)
        if zygote.lost():
            log.warning("what has the models' libraries ready is gone: a new worker imports them itself")

    def handle_hup(self) -> None:
        """Replace the workers one after the other; a new one has as long to start as the first ones had."""
        self.config.timeout_worker_healthcheck = START_WITHIN_S
        try:
            super().handle_hup()
        finally:
            self.config.timeout_worker_healthcheck = HUNG_AFTER_S

    def join_all(self) -> None:
        """Wait until every worker has answered what was under way, and no longer than that may take."""
        deadline = time.monotonic() + END_WITHIN_S
        for process in self.processes:
            process.process.join(max(0.0, deadline - time.monotonic()))
            if process.process.is_alive():
                log.error("worker %d did not end and is cut off", process.pid)
                process.process.kill()
                process.process.join()
