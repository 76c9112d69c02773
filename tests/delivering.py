"""What tests of deliveries share: a consumer in the test's own process, and a deliverer in a hurry."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness.control import Control
from harness.control.state import STATE
from harness.serving.delivery import Deliverer, Pace
from harness.store import Decision, DecisionStore, Outbox, put

MADE = Decision(
    decision_id="d-0",
    decided_at="2026-03-01T10:00:00.000000+00:00",
    record_key="r-1",
    entity="Äcker-7",
    record={"plot": "Äcker-7", "measured_on": "2026-03-01", "dryness": 30.5, "crop": None},
    decision="water",
    score=0.305,
    reasons=[{"feature": "dryness", "value": 0.305, "effect": 0.305}],
    served_by="model",
    assigned="champion",
    why="assigned",
    model_digest="a" * 64,
    revision=3,
    bucket=100,
    stage="sandbox",
    sandbox=True,
    elapsed_ms=1.25,
)
SECRET = "between the two of us"
QUICK = Pace(
    idle=0.01,
    first_wait=0.05,
    longest_wait=0.2,
    pause=0.02,
    longest_pause=0.1,
    answer=0.3,
    note=0.05,
    stand_by=0.02,
    refused=10_000,
)


class Receiver:
    """A consumer in this process, that answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: dict[str, int] = {}  # by entity
        self.status = 200
        self.location = ""
        self.hanging: set[str] = set()
        self.free = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # the sender was killed before it had sent it all
                    self.close_connection = True
                    return
                receiver.got.append((dict(self.headers), body))
                entity = json.loads(body)["entity"]
                if entity in receiver.hanging:
                    receiver.free.wait(20)
                self.send_response(receiver.answers.get(entity, receiver.status))
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/decisions"

    def names(self) -> list[str]:
        return [json.loads(body)["decision_id"] for _, body in self.got]

    def close(self) -> None:
        self.free.set()
        self.server.shutdown()
        self.server.server_close()


def record(store: DecisionStore, *entities: str, first: int = 0, **changes: Any) -> list[str]:
    made = [f"d-{number}" for number in range(first, first + len(entities))]
    for name, entity in zip(made, entities, strict=True):
        store.record(replace(MADE, decision_id=name, entity=entity, **changes))
    return made


def delivered(store: DecisionStore) -> bool:
    return Outbox(store.database).waiting().count == 0


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver until the end of the block."""
    running = Receiver()
    try:
        yield running
    finally:
        running.close()


@contextmanager
def queueing(folder: Path) -> Iterator[DecisionStore]:
    """A store whose decisions wait to be delivered."""
    opened = DecisionStore(f"sqlite:///{folder}/decisions.db", alongside=(put,))
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def delivering(
    folder: Path, tiny: Any, store: DecisionStore, receiver: Receiver
) -> Iterator[Callable[..., Deliverer]]:
    """Starts deliverers: to the receiver unless told otherwise; in the sandbox unless a state was put."""
    started: list[Deliverer] = []
    if not (tiny.control / STATE).exists():
        tiny.put()

    def start(url: str = "", secret: str = "", pace: Pace = QUICK) -> Deliverer:
        outbox, control = Outbox(store.database), Control(tiny.control)
        address = url or receiver.url
        made = Deliverer(outbox, control, url=address, secret=secret, root=folder, pace=pace)
        made.start()
        started.append(made)
        return made

    try:
        yield start
    finally:
        receiver.free.set()
        for each in started:
            each.stop()
