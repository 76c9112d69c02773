"""Starting the service: what must hold before it listens, and the process that listens."""

from __future__ import annotations

import errno
import ipaddress
import logging
import signal
import socket

import uvicorn

from harness import pilot
from harness.control import Control, StateUnreadable, noted
from harness.errors import PilotError
from harness.serving.app import create_app
from harness.serving.service import Service
from harness.settings import Settings
from harness.store import DecisionStore


def build_service(settings: Settings) -> Service:
    """Everything that deciding needs. A model that cannot be loaded is no reason not to start.

    Raises:
        PilotError: The contract, the fallback or the store is missing or unusable.
    """
    return Service(
        contract=pilot.load_contract(settings.pilot.package),
        fallback=pilot.load_fallback(settings.pilot.package),
        control=Control(settings.path(settings.control.folder)),
        store=DecisionStore(settings.sqlite_url(settings.store.url)),
        models=settings.path(settings.serving.models),
        reasons=settings.serving.reasons,
        in_flight=settings.serving.in_flight,
        budget_s=settings.serving.budget_ms / 1000,
    )


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Listen until the process is told to end, by Ctrl-C or SIGTERM; both are how a service ends well.

    Raises:
        PilotError: The address is not allowed in the stage, or is in use.
    """
    service = build_service(settings)
    check_stage(settings, service.control, host)
    listener = listen(host, port)
    try:
        service.model_state()
    except StateUnreadable as error:
        logging.getLogger("harness.serving").error("the fallback decides: %s", error)
    address = listener.getsockname()
    url = f"http://{f'[{host}]' if ':' in host else host}:{address[1]}"
    app = create_app(service, name=settings.pilot.name)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    # uvicorn answers what is under way, and then raises the signal again for whoever handled it before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    try:
        with noted(settings.root, service.control.folder, url):
            logging.getLogger("harness.serving").info("listening on %s", url)
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        service.store.close()


def check_stage(settings: Settings, control: Control, host: str) -> None:
    """Hold the sandbox to the loopback, and every other stage to a state outside the work tree.

    Raises:
        PilotError: The host or the control folder is not allowed.
    """
    try:
        state = control.state()
    except StateUnreadable:
        state = None
    if state is None or state.stage == "sandbox":
        if not loopback(host):
            raise PilotError(
                f"the sandbox listens on the loopback only, not on {host}",
                where="pilot.toml [serving] host",
                mend='Use "127.0.0.1".',
            )
    elif control.folder.resolve().is_relative_to(settings.root):
        raise PilotError(
            f"in the stage '{state.stage}' the control state may not lie in the work tree, "
            "where `git clean` would delete it",
            where="pilot.toml [control] folder",
            mend="Move the folder outside, such as to /var/lib/<pilot>, and name it there.",
        )


def loopback(host: str) -> bool:
    """Whether a host reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, opened before the model is loaded so that a port in use is told at once.

    Raises:
        PilotError: The address is in use or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is: with 0, the default,
    # every answer on a connection that is kept open waits 40 ms for the caller's acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PilotError(
                f"port {port} on {host} is in use",
                where="pilot.toml [serving] port",
                mend="End the service that runs there, or choose another port with --port.",
            ) from error
        raise PilotError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            where="pilot.toml [serving]",
            mend="Use an address of this machine and a port that you may open.",
        ) from error
    listener.set_inheritable(True)
    return listener
