"""A service to be asked, in a thread: what it answers, and how long it takes, is the test's to say."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, bytes, dict[str, str]]


@dataclass
class Stub:
    """What was asked, and where."""

    url: str
    asked: list[bytes] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


def decided(body: bytes) -> Answer:
    """A decision, named after what was asked."""
    said = {"served_by": "model", "why": "assigned", "decision_id": f"d-{json.loads(body)['n']}"}
    return 200, json.dumps(said).encode(), {}


@contextmanager
def answering(
    answer: Callable[[bytes], Answer] = decided, *, stage: str = "sandbox", keep: bool = True
) -> Iterator[Stub]:
    """A server on the loopback that answers every POST as ``answer`` says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            self._give(200, json.dumps({"stage": stage}).encode(), {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            stub.asked.append(body)
            stub.tokens.add(self.headers.get("Authorization", ""))
            self._give(*answer(body))

        def _give(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            if not keep:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 512
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A caller that went away is no mistake."""

    server = Server(("127.0.0.1", 0), Handler)
    stub = Stub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def standing_still(after: int, for_s: float) -> Callable[[bytes], Answer]:
    """Answers at once but for one time, when it stands still for everybody."""
    lock, count = threading.Lock(), 0

    def answer(body: bytes) -> Answer:
        nonlocal count
        with lock:
            count += 1
            if count == after:
                time.sleep(for_s)
        return decided(body)

    return answer
