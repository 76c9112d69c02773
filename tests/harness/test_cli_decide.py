"""`pilot decide`, whatever answers there: one line that says what it was, and no decision made up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from harness.cli.decide import address, ask, held_back
from harness.errors import CheckFailed, PilotError

GOOD = {"decision_id": "d", "decision": "water", "served_by": "model"}


@contextmanager
def answering(status: int, body: Any) -> Iterator[str]:
    """A server that gives one answer to everything."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_decision_is_passed_on() -> None:
    with answering(200, GOOD) as url:
        assert ask(url, {}) == GOOD


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>Welcome</html>"),
        (200, b"\xff\xfe"),
        (200, {"decision": "water"}),
        (200, []),
        (200, 7),
        (404, {"detail": "Not Found"}),
        (422, {"detail": "another service's words"}),
        (422, {"fields": []}),
        (422, {"fields": "none"}),
        (500, b""),
        (502, b"Bad Gateway"),
    ],
)
def test_what_is_no_decision_service_is_named_as_such(status: int, body: Any) -> None:
    with answering(status, body) as url, pytest.raises(PilotError, match="no decision service") as caught:
        ask(url, {})
    assert (caught.value.exit_code, caught.value.where) == (2, url)
    assert f"({status})" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": "not_recorded", "detail": "the disk is full."}, "the disk is full"),
        ({"error": "fallback_failed"}, "fallback_failed"),
    ],
)
def test_a_service_that_decided_nothing_is_quoted(body: dict[str, str], said: str) -> None:
    with answering(503, body) as url, pytest.raises(PilotError, match="no decision was made") as caught:
        ask(url, {})
    assert f"(503): {said}. `pilot status`" in str(caught.value)


def test_a_record_that_breaks_the_contract_is_the_callers(tiny: Any) -> None:
    fields = [{"field": "dryness", "message": "too dry"}, {"field": "crop", "message": "unknown"}]
    with answering(422, {"fields": fields}) as url, pytest.raises(CheckFailed) as caught:
        ask(url, {})
    assert (caught.value.exit_code, caught.value.where) == (1, "dryness")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://", "dryfield", "http://[::1"])
def test_where_nothing_answers_the_start_of_a_service_is_named(url: str) -> None:
    with pytest.raises(PilotError, match="no service answers") as caught:
        ask(url, {})
    assert "pilot serve" in str(caught.value)


def test_the_address_of_a_service_on_ipv6_has_brackets(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_SERVING__HOST", "::1")
    assert address(tiny.settings()) == "http://[::1]:0"


def test_an_example_comes_from_what_was_held_back(tiny: Any, records: Callable[[], None]) -> None:
    with pytest.raises(PilotError, match="no records yet"):
        held_back(tiny.settings(), 1)
    records()
    assert held_back(tiny.settings(), 1) == tiny.record
    with pytest.raises(PilotError, match="fewer than 2 records"):
        held_back(tiny.settings(), 2)


@pytest.fixture
def records(tiny: Any) -> Callable[[], None]:
    import polars as pl

    from harness.pipeline import layout

    def write() -> None:
        file = tiny.root / layout.TEST_RECORDS
        file.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame([tiny.record]).write_parquet(file)

    return write
