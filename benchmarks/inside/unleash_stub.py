"""As much of Unleash's client API as UnleashClient asks for: one flag, with ETags. It is no Unleash server.

``POST /flip`` with ``true`` or ``false`` switches the flag; it holds when that has been answered. The process
ends when standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FLAG = "model_enabled"


class Stub(BaseHTTPRequestHandler):
    """The requests."""

    protocol_version = "HTTP/1.1"
    enabled = True
    revision = 0

    def do_GET(self) -> None:
        etag = f'"{Stub.revision}"'
        if self.headers.get("If-None-Match") == etag:
            self._answer(304, b"", etag)
            return
        flag = {"name": FLAG, "type": "kill-switch", "enabled": Stub.enabled}
        content = {
            "version": 2,
            "features": [{**flag, "strategies": [{"name": "default", "parameters": {}}]}],
        }
        self._answer(200, json.dumps(content).encode(), etag)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/flip":
            Stub.enabled, Stub.revision = json.loads(body), Stub.revision + 1
        self._answer(202, b"", "")

    def _answer(self, status: int, body: bytes, etag: str) -> None:
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Listen on the loopback, and say where."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.daemon_threads = True
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
