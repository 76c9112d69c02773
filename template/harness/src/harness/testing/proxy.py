"""A connection that can be cut: a TCP proxy in front of a database."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

CHUNK = 16 * 1024


class Proxy:
    """Stands on a port of this machine in front of a PostgreSQL; with the block it ends.

    Args:
        url: The database, as ``harness.simulate.embedded.server`` yields it, or one with host and port.

    Attributes:
        url: The database through the proxy.
        passed: How many bytes the database has sent through it since the last ``cut_after`` or ``restore``.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = _target(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        user = f"{parts.username}@" if parts.username else ""
        self.url = f"postgresql://{user}127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        self.passed = 0
        self._limit: int | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self._cut()

    def cut_after(self, count: int) -> None:
        """Cut every connection once the database has sent so many bytes more, and refuse new ones."""
        with self._lock:
            self.passed, self._limit = 0, count

    def restore(self) -> None:
        """Let connections through again."""
        with self._lock:
            self.passed, self._limit = 0, None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.socket(self._target[0])
                server.connect(self._target[1])
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            for source, target, counted in ((client, server, False), (server, client, True)):
                arguments = (source, target, counted)
                threading.Thread(target=self._pass, args=arguments, name="proxy", daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while part := source.recv(CHUNK):
                allowed = self._allowed(len(part)) if counted else len(part)
                target.sendall(part[:allowed])
                if allowed < len(part):
                    self._cut()
                    return
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _allowed(self, size: int) -> int:
        with self._lock:
            left = size if self._limit is None else max(0, self._limit - self.passed)
            self.passed += min(size, left)
            return min(size, left)

    def _cut(self) -> None:
        with self._lock:
            open_now, self._open = self._open, set()
        for each in open_now:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _target(url: str) -> tuple[int, str | tuple[str, int]]:
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host", [""])[0]
    if folder.startswith("/"):
        return socket.AF_UNIX, f"{folder}/.s.PGSQL.{parts.port or 5432}"
    return socket.AF_INET, (parts.hostname or "127.0.0.1", parts.port or 5432)
