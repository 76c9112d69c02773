"""What Unleash may answer, and what is made of it.

A server of a few lines stands in here for what the real one never does; that is in ``test_kill_remote.py``.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import formatdate
from typing import Any

import pytest

from harness.control import Arm, Why, settings_control
from harness.control.remote import REMOTE, Remote
from harness.errors import PilotError
from harness.sync import Refused, Unreachable, push_kill, sync_once
from harness.sync.once import source_of
from harness.sync.strategy import share
from harness.sync.unleash import Unleash

Run = Callable[..., subprocess.CompletedProcess[str]]
ROLLOUT = {"rollout": "25", "stickiness": "userId", "groupId": "dryfield"}


def feature(**changes: Any) -> dict[str, Any]:
    """A flag as Unleash 7.6.5 sends it."""
    strategy = {"name": "flexibleRollout", "constraints": [], "parameters": dict(ROLLOUT), "variants": []}
    found = {
        "name": "dryfield",
        "type": "kill-switch",
        "enabled": True,
        "project": "default",
        "stale": False,
        "strategies": [strategy],
        "variants": [],
        "description": None,
        "impressionData": False,
    }
    return {**found, **changes}


def features(*found: dict[str, Any]) -> bytes:
    return json.dumps(
        {"version": 2, "features": list(found), "query": {"environment": "development"}}
    ).encode()


def answer(
    body: bytes,
    status: str = "200 OK",
    *,
    at: float | None = None,
    tag: str = '"1"',
    length: int | None = None,
    more: str = "",
) -> bytes:
    said = formatdate(time.time() if at is None else at, usegmt=True)
    head = (
        f"HTTP/1.1 {status}\r\nDate: {said}\r\nContent-Length: {len(body) if length is None else length}\r\n"
    )
    return (head + f"ETag: {tag}\r\nConnection: close\r\n{more}\r\n").encode() + body


class Wire:
    """A server that sends what it is told to, byte for byte."""

    def __init__(self) -> None:
        self.answers: Callable[[str], bytes] | None = lambda _asked: answer(features(feature()))
        self.asked: list[str] = []
        self.pause_s = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with suppress(OSError):
            asked = connection.recv(65536).decode()
            self.asked.append(asked)
            if self.answers is None:
                return  # it stays open, and nothing comes
            said = self.answers(asked)
            for at in range(0, len(said), 1 if self.pause_s else len(said)):
                connection.sendall(said[at : at + 1] if self.pause_s else said)
                time.sleep(self.pause_s)
            connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()
        for each in self._open:
            each.close()


@pytest.fixture
def wire(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    found = Wire()
    tiny.toml.write_text(tiny.toml.read_text() + f'\n[remote]\nsource = "unleash"\nurl = "{found.url}"\n')
    monkeypatch.setenv("PILOT_REMOTE__TOKEN", "default:development.a-test")
    tiny.champion("a" * 64)
    yield found
    found.close()


def asked(tiny: Any, within_s: float = 1.0) -> Any:
    settings = tiny.settings()
    return sync_once(settings, source_of(settings, within_s))


def test_an_answer_is_written_with_what_proves_it(tiny: Any, wire: Wire) -> None:
    wire.answers = lambda _asked: answer(features(feature()), tag='"abc"')
    synced = asked(tiny)
    assert (synced.answer.pct, synced.answer.killed) == (25, False)
    found = settings_control(tiny.settings()).remote.read()
    assert isinstance(found, Remote)
    assert (found.pct, found.killed, found.flag, found.group) == (25, False, "dryfield", "dryfield")
    assert found.source == f"unleash {wire.url}"
    assert found.proof == 'etag "abc"'
    assert abs(found.age_s()) < 5
    assert "Authorization: default:development.a-test" in wire.asked[0]
    assert "default:development.a-test" not in (tiny.control / REMOTE).read_text()


def test_304_proves_that_what_was_said_is_so_still(tiny: Any, wire: Wire) -> None:
    settings = tiny.settings()
    source = source_of(settings)
    first = sync_once(settings, source)
    wire.answers = lambda _asked: answer(b"", "304 Not Modified", length=0)
    second = sync_once(settings, source)
    assert 'If-None-Match: "1"' in wire.asked[1]
    assert second.answer == first.answer
    assert second.fetched_at > first.fetched_at


def test_304_to_a_question_without_a_tag_proves_nothing(tiny: Any, wire: Wire) -> None:
    wire.answers = lambda _asked: answer(b"", "304 Not Modified", length=0)
    with pytest.raises(Unreachable, match="304"):
        asked(tiny)
    assert not (tiny.control / REMOTE).exists()


NOT_FRESH: dict[str, tuple[type[PilotError], Callable[[str], bytes] | None]] = {
    "nothing": (Unreachable, None),
    "half a body": (
        Unreachable,
        lambda _: answer(features(feature())[:-20], length=1000),
    ),
    "half a head": (Unreachable, lambda _: answer(features(feature()))[:40]),
    "half a document": (Unreachable, lambda _: answer(features(feature())[:-20])),
    "an empty document": (Unreachable, lambda _: answer(b"{}")),
    "no document": (Unreachable, lambda _: answer(b"<html>Sign in</html>")),
    "a list of something else": (Unreachable, lambda _: answer(b'{"features": ["dryfield"]}')),
    "an old answer": (Unreachable, lambda _: answer(features(feature()), at=time.time() - 600)),
    "an answer of later": (Unreachable, lambda _: answer(features(feature()), at=time.time() + 600)),
    "a cached answer": (Unreachable, lambda _: answer(features(feature()), more="Age: 400\r\n")),
    "an answer without a date": (
        Unreachable,
        lambda _: answer(features(feature())).replace(b"Date: ", b"Was: "),
    ),
    "another protocol": (Unreachable, lambda _: b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a redirect": (
        Refused,
        lambda _: answer(b"", "302 Found", more="Location: http://127.0.0.1:1/login\r\n"),
    ),
    "500": (Unreachable, lambda _: answer(b"", "500 Internal Server Error")),
    "503 with flags": (Unreachable, lambda _: answer(features(feature()), "503 Service Unavailable")),
    "429": (Unreachable, lambda _: answer(b"", "429 Too Many Requests")),
    "401": (Refused, lambda _: answer(b"{}", "401 Unauthorized")),
    "403": (Refused, lambda _: answer(b"{}", "403 Forbidden")),
    "404": (Refused, lambda _: answer(b"{}", "404 Not Found")),
    "201": (Refused, lambda _: answer(features(feature()), "201 Created")),
    "a flag of several strategies": (
        Refused,
        lambda _: answer(features(feature(strategies=feature()["strategies"] * 2))),
    ),
    "a flag that is neither on nor off": (Refused, lambda _: answer(features(feature(enabled="yes")))),
}


@pytest.mark.parametrize("name", NOT_FRESH)
def test_anything_but_a_present_answer_makes_nothing_younger(tiny: Any, wire: Wire, name: str) -> None:
    asked(tiny)
    before = (tiny.control / REMOTE).read_bytes()
    kind, wire.answers = NOT_FRESH[name]
    began = time.monotonic()
    with pytest.raises(kind) as raised:
        asked(tiny)
    assert time.monotonic() - began < 10
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)
    assert (tiny.control / REMOTE).read_bytes() == before
    assert settings_control(tiny.settings()).permission("plot 7").why in (Why.ASSIGNED, Why.OUTSIDE_ROLLOUT)


def test_a_byte_now_and_then_is_no_answer_in_time(tiny: Any, wire: Wire) -> None:
    wire.pause_s = 0.3  # each read has something within a second; the whole would take a minute
    began = time.monotonic()
    with pytest.raises(Unreachable, match="no answer within 1 s"):
        asked(tiny)
    assert time.monotonic() - began < 10


def test_an_answer_without_an_end_is_cut_off(tiny: Any, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.sync.unleash.LARGEST_BYTES", 1000)
    wire.answers = lambda _asked: answer(b" " * 1001)
    with pytest.raises(Unreachable, match="more than 1,000 bytes"):
        asked(tiny, 5)


def test_a_flag_that_is_off_or_absent_stops_and_only_the_absent_one_is_an_error(
    tiny: Any, wire: Wire
) -> None:
    wire.answers = lambda _asked: answer(features(feature(enabled=False, strategies=[])))
    assert not asked(tiny).refused
    assert settings_control(tiny.settings()).permission("plot 1").why is Why.REMOTE_KILLED
    wire.answers = lambda _asked: answer(features(feature()))
    asked(tiny)
    assert settings_control(tiny.settings()).permission("plot 1").why is not Why.REMOTE_KILLED
    wire.answers = lambda _asked: answer(features(feature(name="dryfield-2")))
    assert asked(tiny).refused
    assert settings_control(tiny.settings()).permission("plot 1").why is Why.REMOTE_KILLED


def strategies(**changes: Any) -> dict[str, Any]:
    return feature(strategies=[{**feature()["strategies"][0], **changes}])


UNDERSTOOD = {
    "a rollout": (feature(), 25),
    "a rollout of none": (strategies(parameters={**ROLLOUT, "rollout": "0"}), 0),
    "a rollout of all": (strategies(parameters={**ROLLOUT, "rollout": "100"}), 100),
    "a rollout as a number": (strategies(parameters={**ROLLOUT, "rollout": 40}), 40),
    "sticky by default": (strategies(parameters={**ROLLOUT, "stickiness": "default"}), 25),
    "sticky to nothing": (strategies(parameters={"rollout": "25", "stickiness": "random"}), 25),
    "an older rollout": (
        strategies(name="gradualRolloutUserId", parameters={"percentage": "30", "groupId": "dryfield"}),
        30,
    ),
    "a random rollout": (strategies(name="gradualRolloutRandom", parameters={"percentage": "30"}), 30),
    "everybody": (strategies(name="default", parameters={}), 100),
    "with a title": (strategies(title="Slowly", sortOrder=3, disabled=False, segments=[]), 25),
}
REFUSED = {
    "constraints": strategies(constraints=[{"contextName": "country", "operator": "IN", "values": ["DE"]}]),
    "segments": strategies(segments=[7]),
    "variants of the strategy": strategies(variants=[{"name": "a", "weight": 500}]),
    "variants": feature(variants=[{"name": "a", "weight": 500}]),
    "dependencies": feature(dependencies=[{"feature": "parent"}]),
    "a key of later": feature(schedule={"from": "09:00"}),
    "a key of later in the strategy": strategies(schedule={"from": "09:00"}),
    "a strategy that is disabled": strategies(disabled=True),
    "no strategy": feature(strategies=[]),
    "strategies that are none": feature(strategies=None),
    "strategies of something else": feature(strategies=["default"]),
    "a list of users": strategies(name="userWithId", parameters={"userIds": "1,2"}),
    "another group": strategies(parameters={**ROLLOUT, "groupId": "another"}),
    "no group": strategies(parameters={"rollout": "25", "stickiness": "userId"}),
    "an older rollout of another group": strategies(
        name="gradualRolloutUserId", parameters={"percentage": "30", "groupId": "another"}
    ),
    "sticky to a session": strategies(parameters={**ROLLOUT, "stickiness": "sessionId"}),
    "half a percent": strategies(parameters={**ROLLOUT, "rollout": "2.5"}),
    "more than all": strategies(parameters={**ROLLOUT, "rollout": "101"}),
    "less than none": strategies(parameters={**ROLLOUT, "rollout": "-1"}),
    "no share": strategies(parameters={"stickiness": "userId", "groupId": "dryfield"}),
    "a share that is true": strategies(parameters={**ROLLOUT, "rollout": True}),
    "digits of another script": strategies(parameters={**ROLLOUT, "rollout": "٣٠"}),
    "everybody with a parameter": strategies(name="default", parameters={"country": "DE"}),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_gradual_rollout_is_understood(name: str) -> None:
    found, wanted = UNDERSTOOD[name]
    assert share(found, group="dryfield", where="here") == wanted


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_and_never_guessed(name: str) -> None:
    with pytest.raises(Refused, match="here: ") as raised:
        share(REFUSED[name], group="dryfield", where="here")
    assert raised.value.exit_code == 1


def test_what_no_longer_is_understood_holds_until_it_is_too_old(
    tiny: Any, wire: Wire, wait: Callable[..., Any]
) -> None:
    tiny.toml.write_text(tiny.toml.read_text() + "every_s = 0.5\nmax_stale_s = 1\n")
    wire.answers = lambda _asked: answer(features(strategies(parameters={**ROLLOUT, "rollout": "100"})))
    asked(tiny)
    wire.answers = lambda _asked: answer(features(REFUSED["constraints"]))
    control = settings_control(tiny.settings())
    assert control.permission("plot 1").arm is Arm.CHAMPION

    def too_old() -> bool:
        with suppress(Refused):
            asked(tiny)
        return control.permission("plot 1").why is Why.REMOTE_STALE

    wait(too_old)


def test_a_push_has_a_time_limit_and_never_raises(
    tiny: Any, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_token = push_kill(tiny.settings(), "a test")
    assert not no_token.done
    assert "PILOT_REMOTE__ADMIN_TOKEN" in no_token.problem
    monkeypatch.setenv("PILOT_REMOTE__ADMIN_TOKEN", "*:*.a-test")
    no_environment = push_kill(tiny.settings(), "a test")
    assert "environment is not named" in no_environment.problem
    tiny.toml.write_text(tiny.toml.read_text() + 'environment = "production"\n')
    wire.answers = lambda _asked: answer(b"", "403 Forbidden")
    assert "the token is refused (403)" in push_kill(tiny.settings(), "a test").problem
    wire.answers = None
    began = time.monotonic()
    frozen = push_kill(tiny.settings(), "a test")
    assert time.monotonic() - began < 10
    assert "no answer within 3 s" in frozen.problem
    monkeypatch.setattr(Unleash, "stop", lambda _self, _reason: 1 / 0)
    assert "ZeroDivisionError" in push_kill(tiny.settings(), "a test").problem


def test_a_push_asks_for_off_in_the_environment(
    tiny: Any, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.toml.write_text(tiny.toml.read_text() + 'environment = "production"\nproject = "credit"\n')
    monkeypatch.setenv("PILOT_REMOTE__ADMIN_TOKEN", "*:*.a-test")
    wire.answers = lambda _asked: answer(b"", "200 OK")
    assert push_kill(tiny.settings(), "a test").done
    assert wire.asked[0].startswith(
        "POST /api/admin/projects/credit/features/dryfield/environments/production/off HTTP/1.1\r\n"
    )
    assert "Authorization: *:*.a-test\r\n" in wire.asked[0]


def test_without_a_flag_service_nothing_is_pushed(tiny: Any) -> None:
    assert push_kill(tiny.settings(), "a test").told() is None
