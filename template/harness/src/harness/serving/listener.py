"""What a service listens on."""

from __future__ import annotations

import errno
import socket

from harness.errors import PilotError


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
