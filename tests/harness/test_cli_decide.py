"""`pilot decide`, whatever answers there: one line that says what it was, and no decision made up."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from certificates import certified
from harness.cli.decide import address, ask, held_back
from harness.errors import CheckFailed, PilotError
from harness.serving.tls import loaded

GOOD = {"decision_id": "d", "decision": "water", "served_by": "model"}


@contextmanager
def answering(status: int, body: Any, tls: ssl.SSLContext | None = None) -> Iterator[str]:
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

    class Quiet(HTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that goes away is what some tests are about."""

    with Quiet(("127.0.0.1", 0), Page) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
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


def test_where_nothing_answers_the_start_of_a_service_is_named() -> None:
    with pytest.raises(PilotError, match="no service answers") as caught:
        ask("http://127.0.0.1:1", {})
    assert "pilot serve" in str(caught.value)


@pytest.mark.parametrize("url", ["http://", "dryfield", "127.0.0.1:80", "http://[::1", "ftp://127.0.0.1"])
def test_an_address_that_is_none_is_not_taken_for_a_service_that_does_not_run(url: str) -> None:
    with pytest.raises(PilotError, match="it is no address") as caught:
        ask(url, {})
    assert (caught.value.where, caught.value.mend) == (url, "Write it as http://host:port.")


def test_plain_http_and_tls_that_meet_are_told_apart(tmp_path: Path) -> None:
    with answering(200, GOOD) as url, pytest.raises(PilotError, match=r"speaks no TLS. Write http://"):
        ask(url.replace("http:", "https:"), {})
    certificate, key = certified(tmp_path)
    with answering(200, GOOD, loaded(certificate, key)) as url:
        with pytest.raises(PilotError, match=r"speaks no plain HTTP .* write https://"):
            ask(url, {})
        with pytest.raises(PilotError, match=r"is not trusted \(self-signed certificate\)") as caught:
            ask(url.replace("http:", "https:"), {})
        assert "[serving] tls_certificate" in caught.value.mend
        trusted = ssl.create_default_context(cafile=certificate)
        assert ask(url.replace("http:", "https:"), {}, trusted=trusted) == GOOD


def test_who_has_asked_too_often_is_told_what_limits_it() -> None:
    said = {"error": "too_many", "detail": "More requests than this caller has; the next one in 9 s."}
    with answering(429, said) as url, pytest.raises(PilotError, match=r"in 9 s\. Wait .* rate_per_s"):
        ask(url, {})


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
