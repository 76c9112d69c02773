"""The consumer's own process: ``python consumer_process.py FILE [SECRET]``.

It needs nothing but Python, knows nothing of the harness, and checks signatures by itself, as a team that is
told only the documentation would. ``POST /decisions`` takes a delivery and appends it to FILE before it
answers; ``POST /control`` says from then on which answer deliveries get.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MINUTES_OLD = 5


class Inbox:
    """What arrived, one JSON document a line, and how the next delivery is answered."""

    def __init__(self, file: Path, secret: str) -> None:
        self.file = file
        self.secret = secret
        self.status = 200
        self.entity_status: dict[str, int] = {}
        self.lock = threading.Lock()

    def take(self, headers: Any, body: bytes) -> int:
        """Take one delivery; gives the status that it is answered with."""
        if self.secret and not self.signed(headers, body):
            return 401
        with self.lock:
            content = json.loads(body)
            status = self.entity_status.get(content["entity"], self.status)
            entry = {
                "status": status,
                "key": headers.get("Idempotency-Key"),
                "signed": bool(self.secret),
                "content": content,
            }
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        return status

    def signed(self, headers: Any, body: bytes) -> bool:
        """Whether the delivery comes from somebody who has the secret, and lately."""
        sent_at = headers.get("Pilot-Timestamp", "")
        if not sent_at.isdigit() or abs(time.time() - int(sent_at)) > MINUTES_OLD * 60:
            return False
        made = hmac.new(self.secret.encode(), f"{sent_at}.".encode() + body, hashlib.sha256).hexdigest()
        return hmac.compare_digest(f"v1={made}", headers.get("Pilot-Signature", ""))

    def told(self, content: dict[str, Any]) -> None:
        """Answer otherwise from now on."""
        with self.lock:
            self.status = content["status"]
            self.entity_status = content["entities"]


def handler(inbox: Inbox) -> type[BaseHTTPRequestHandler]:
    """The HTTP around it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/control":
                inbox.told(json.loads(body))
                return self.answer(200)
            return self.answer(inbox.take(self.headers, body) if self.path == "/decisions" else 404)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *_: Any) -> None:
            """Say nothing."""

    return Handler


def main(file: str, secret: str = "", port: str = "0") -> None:
    """Listen on the loopback, and say where."""
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), handler(Inbox(Path(file), secret)))
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # until whoever started this has ended


if __name__ == "__main__":
    main(*sys.argv[1:])
