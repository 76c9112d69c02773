"""Alerts: told once a day, to a log or by Apprise, never lost, and never with the address in a log."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.alerts import Alert, Outbox

SECRET = "k7-very-secret-path"


class Target:
    """A server that takes what Apprise posts as JSON.

    Attributes:
        status: What it answers.
        waits_s: How long it takes to answer.
        received: The bodies that it took.
    """

    def __init__(self) -> None:
        self.status, self.waits_s = 200, 0.0
        self.received: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert SECRET in self.path
                time.sleep(outer.waits_s)
                if outer.status == 200:
                    outer.received.append(json.loads(body))
                answer = f"what {SECRET} was sent to".encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.address = f"json://127.0.0.1:{self.server.server_address[1]}/{SECRET}"

    @property
    def titles(self) -> list[str]:
        return [each["title"] for each in self.received]


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Target()
    yield found
    found.server.shutdown()
    found.server.server_close()


def alert(trouble: str, day: str = "2026-03-10", *, title: str = "") -> Alert:
    return Alert(trouble, title or trouble, f"{trouble} has changed", f"{day}T12:00:00+00:00")


def lines(file: Path) -> list[str]:
    return [json.loads(line)["trouble"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_log_is_a_target_and_every_alert_is_kept_in_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = Outbox("log", tmp_path).raise_all([alert("drift"), alert("missing")])
    assert (done.sent, done.repeated, done.undelivered, done.problem) == (2, 0, 0, "")
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", "drift: drift has changed"),
        ("WARNING", "missing: missing has changed"),
    ]
    assert lines(tmp_path / "alerts.jsonl") == ["drift", "missing"]
    assert (tmp_path / "undelivered.jsonl").read_text() == ""


def test_apprise_takes_title_and_text_to_the_target(tmp_path: Path, target: Target) -> None:
    assert Outbox(target.address, tmp_path).raise_all([alert("drift")]).sent == 1
    assert [(each["title"], each["message"]) for each in target.received] == [("drift", "drift has changed")]


def test_a_trouble_that_lasts_is_told_once_a_day(tmp_path: Path, target: Target) -> None:
    outbox = Outbox(target.address, tmp_path)
    assert outbox.raise_all([alert("drift")]).sent == 1
    again = outbox.raise_all([alert("drift"), alert("missing")])
    assert (again.sent, again.repeated) == (1, 1)
    assert outbox.raise_all([alert("drift", "2026-03-11")]).sent == 1
    assert target.titles == ["drift", "missing", "drift"]


def test_a_trouble_that_ended_and_came_back_is_told_at_once(tmp_path: Path, target: Target) -> None:
    outbox = Outbox(target.address, tmp_path)
    outbox.raise_all([alert("drift")])
    outbox.raise_all([], ended=["drift", "never there"])
    outbox.raise_all([alert("drift")])
    assert target.titles == ["drift", "drift"]


@pytest.mark.parametrize("status", [401, 404, 500])
def test_what_reached_nobody_is_kept_and_sent_first_next_time(
    tmp_path: Path, target: Target, status: int
) -> None:
    outbox = Outbox(target.address, tmp_path)
    target.status = status
    done = outbox.raise_all([alert("drift"), alert("missing")])
    assert (done.sent, done.undelivered) == (0, 2)
    assert done.problem == "the target of [alerts] did not take it"
    assert lines(tmp_path / "undelivered.jsonl") == ["drift", "missing"]
    target.status = 200
    done = outbox.raise_all([alert("drift"), alert("score")])
    assert (done.sent, done.repeated, done.undelivered) == (3, 1, 0)
    assert target.titles == ["drift", "missing", "score"]
    assert outbox.raise_all([]).sent == 0


def test_an_alert_is_on_disk_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    outbox = Outbox("log", tmp_path)
    monkeypatch.setattr(outbox, "_send", killed)
    with pytest.raises(KeyboardInterrupt):
        outbox.raise_all([alert("drift")])
    assert Outbox("log", tmp_path).raise_all([]).sent == 1


def test_a_target_that_does_not_answer_is_given_up(tmp_path: Path, target: Target) -> None:
    target.waits_s = 3.0
    began = time.monotonic()
    done = Outbox(target.address, tmp_path, within_s=0.3).raise_all([alert("drift"), alert("missing")])
    assert time.monotonic() - began < 2.0
    assert (done.sent, done.undelivered, done.problem) == (0, 2, "no answer within 0.3 s")


@pytest.mark.parametrize("status", [200, 500])
def test_the_address_and_what_the_target_answers_are_never_logged(
    tmp_path: Path, target: Target, status: int, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    target.status = status
    done = Outbox(target.address, tmp_path).raise_all([alert("drift")])
    wrong = Outbox(f"nothing://{SECRET}", tmp_path / "other").raise_all([alert("drift")])
    assert wrong.problem == "[alerts] target is no Apprise address"
    said = "".join(capfd.readouterr()) + caplog.text + done.problem + wrong.problem
    assert SECRET not in said
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or SECRET not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["", "[]", "{", '"x"'])
def test_a_damaged_list_of_what_was_told_tells_once_more(tmp_path: Path, target: Target, damage: str) -> None:
    outbox = Outbox(target.address, tmp_path)
    outbox.raise_all([alert("drift")])
    (tmp_path / "open.json").write_text(damage)
    assert outbox.raise_all([alert("drift")]).sent == 1


def test_a_line_that_was_cut_short_costs_no_other(tmp_path: Path, target: Target) -> None:
    target.status = 500
    outbox = Outbox(target.address, tmp_path)
    outbox.raise_all([alert("drift")])
    with (tmp_path / "undelivered.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"trouble": "mis')
    target.status = 200
    assert outbox.raise_all([alert("score")]).sent == 2
    assert target.titles == ["drift", "score"]


def test_two_runs_at_once_tell_once(tmp_path: Path, target: Target) -> None:
    outboxes = [Outbox(target.address, tmp_path) for _ in range(4)]
    threads = [threading.Thread(target=each.raise_all, args=([alert("drift")],)) for each in outboxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.titles == ["drift"]
