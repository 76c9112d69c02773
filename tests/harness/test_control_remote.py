"""remote.json restricts and never permits; what is missing, damaged or too old lets no model decide."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.control import Arm, Control, RemoteRule, Slot, State, Why, kill
from harness.control.permission import bucket
from harness.control.remote import AHEAD_S, REMOTE, Remote, write_remote
from harness.control.sealed import checksum

A, B = "a" * 64, "b" * 64
Put = Callable[..., State]


@pytest.fixture
def say(folder: Path) -> Callable[..., Remote]:
    """Put in force what a flag service said: everybody, a moment ago, unless told otherwise."""

    def say(*, ago_s: float = 0.0, **changes: Any) -> Remote:
        values = {
            "source": "unleash http://flags.example",
            "flag": "fields",
            "group": "fields",
            "fetched_at": datetime.now(UTC) - timedelta(seconds=ago_s),
            "pct": 100,
            "killed": False,
            "proof": 'etag "1"',
        }
        remote = Remote(**{**values, **changes})
        write_remote(folder, remote)
        return remote

    return say


def required(folder: Path, max_stale_s: float = 300) -> Control:
    return Control(folder, remote=RemoteRule(max_stale_s=max_stale_s))


def test_without_a_remote_control_nothing_is_restricted(put: Put, folder: Path) -> None:
    put()
    assert Control(folder).permission("plot 1").arm is Arm.CHAMPION


def test_a_remote_control_that_is_named_and_absent_lets_no_model_decide(
    put: Put, folder: Path, say: Any
) -> None:
    put()
    control = required(folder)
    assert control.permission("plot 1").why is Why.NO_REMOTE
    say()
    assert control.permission("plot 1").arm is Arm.CHAMPION
    (folder / REMOTE).unlink()
    assert control.permission("plot 1").why is Why.NO_REMOTE


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
def test_a_file_that_is_there_counts_whether_it_is_named_or_not(
    put: Put, folder: Path, say: Any, named: bool
) -> None:
    put()
    control = required(folder) if named else Control(folder)
    say(killed=True)
    assert control.permission("plot 1").why is Why.REMOTE_KILLED
    say(pct=0)
    assert control.permission("plot 1").why is Why.OUTSIDE_ROLLOUT
    say(ago_s=301)
    assert control.permission("plot 1").why is Why.REMOTE_STALE


@pytest.mark.parametrize(("local", "remote"), [(30, 70), (70, 30), (0, 100), (100, 0), (50, 50)])
def test_the_smaller_share_is_in_force(put: Put, folder: Path, say: Any, local: int, remote: int) -> None:
    put(champion=None, challenger=Slot(digest=B, pct=local))
    say(pct=remote)
    control = Control(folder)
    for number in range(2_000):
        entity = f"plot {number}"
        wanted = bucket("fields", entity) <= min(local, remote)
        assert (control.permission(entity).arm is Arm.CHALLENGER) is wanted


def test_a_remote_share_restricts_the_champion_as_well(put: Put, folder: Path, say: Any) -> None:
    put(challenger=Slot(digest=B, pct=10))
    say(pct=20)
    control = Control(folder)
    arms = {}
    for number in range(2_000):
        entity = f"plot {number}"
        arms.setdefault(bucket("fields", entity), control.permission(entity).arm)
    assert all(arms[number] is Arm.CHALLENGER for number in range(1, 11))
    assert all(arms[number] is Arm.CHAMPION for number in range(11, 21))
    assert all(arms[number] is Arm.FALLBACK for number in range(21, 101))


def test_a_remote_control_starts_nothing_that_is_stopped_here(put: Put, folder: Path, say: Any) -> None:
    say()
    assert Control(folder).permission("plot 1").why is Why.NO_STATE
    put(latched=True)
    assert Control(folder).permission("plot 1").why is Why.LATCHED
    put(rev=2)
    kill(folder, reason="a test")
    assert Control(folder).permission("plot 1").why is Why.KILLED


def test_a_hold_is_about_promotions_and_not_about_the_remote_share(put: Put, folder: Path, say: Any) -> None:
    put(held=True)
    say()
    assert Control(folder).permission("plot 1").arm is Arm.CHAMPION


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
def test_a_remote_file_cut_off_or_changed_at_any_byte_stops_the_model_or_says_the_same(
    put: Put, folder: Path, say: Any, named: bool
) -> None:
    put()
    say(pct=100)
    content = (folder / REMOTE).read_bytes().rstrip()
    control = required(folder) if named else Control(folder)
    for length in range(len(content)):
        (folder / REMOTE).write_bytes(content[:length])
        assert control.permission("plot 1").why is Why.REMOTE_UNREADABLE, length
    before = Control(folder)
    for at in range(len(content)):
        (folder / REMOTE).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        found = control.permission("plot 1")
        if found.arm is not Arm.FALLBACK:
            assert isinstance(before.remote.read(), Remote)
            assert before.remote.read().pct == 100  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "changes",
    [
        {"pct": -1},
        {"pct": 101},
        {"pct": True},
        {"pct": "50"},
        {"pct": 50.0},
        {"pct": None},
        {"killed": 0},
        {"killed": "false"},
        {"killed": None},
        {"schema_version": 2},
        {"schema_version": True},
        {"fetched_at": "2026-01-01T00:00:00"},
        {"fetched_at": "soon"},
        {"group": "another"},
        {"group": ""},
        {"proof": ""},
        {"further": 1},
    ],
    ids=str,
)
def test_a_remote_file_that_says_what_cannot_be_stops_the_model(
    put: Put, folder: Path, say: Any, changes: dict[str, Any]
) -> None:
    put()
    document = say().model_dump(mode="json") | changes
    document.pop("sha256", None)
    (folder / REMOTE).write_text(json.dumps({**document, "sha256": checksum(document)}))
    assert Control(folder).permission("plot 1").why is Why.REMOTE_UNREADABLE


@pytest.mark.parametrize("missing", ["pct", "killed", "fetched_at", "group", "proof", "sha256"])
def test_a_remote_file_that_leaves_something_out_stops_the_model(
    put: Put, folder: Path, say: Any, missing: str
) -> None:
    put()
    say()
    document = json.loads((folder / REMOTE).read_bytes())
    document.pop("sha256")
    document.pop(missing, None)
    sealed = document if missing == "sha256" else {**document, "sha256": checksum(document)}
    (folder / REMOTE).write_text(json.dumps(sealed))
    assert Control(folder).permission("plot 1").why is Why.REMOTE_UNREADABLE


def test_a_remote_file_out_of_reach_stops_the_model(
    open_folder: Path, unprivileged: Callable[[Callable[[], Any]], Any], folder: Path, say: Any, put: Put
) -> None:
    put()
    say()
    for name in ("state.json", REMOTE):
        (open_folder / name).write_bytes((folder / name).read_bytes())
        (open_folder / name).chmod(0o644)
    assert unprivileged(lambda: Control(open_folder).permission("plot 1").why) is Why.ASSIGNED
    (open_folder / REMOTE).chmod(0)
    assert unprivileged(lambda: Control(open_folder).permission("plot 1").why) is Why.REMOTE_UNREADABLE


def test_what_was_said_holds_for_as_long_as_pilot_toml_says(put: Put, folder: Path, say: Any) -> None:
    put()
    say(ago_s=20)
    assert required(folder, max_stale_s=30).permission("plot 1").arm is Arm.CHAMPION
    assert required(folder, max_stale_s=10).permission("plot 1").why is Why.REMOTE_STALE


def test_what_was_said_becomes_too_old_without_anybody_writing(
    put: Put, folder: Path, say: Any, wait: Callable[..., Any]
) -> None:
    put()
    say()
    control = required(folder, max_stale_s=1)
    assert control.permission("plot 1").arm is Arm.CHAMPION
    wait(lambda: control.permission("plot 1").why is Why.REMOTE_STALE)
    say()
    assert control.permission("plot 1").arm is Arm.CHAMPION


@pytest.mark.parametrize(("ahead_s", "holds"), [(AHEAD_S - 5, True), (AHEAD_S + 5, False), (3600, False)])
def test_an_answer_from_the_future_is_not_fresh(
    put: Put, folder: Path, say: Any, ahead_s: float, holds: bool
) -> None:
    put()
    say(ago_s=-ahead_s)
    assert (Control(folder).permission("plot 1").arm is Arm.CHAMPION) is holds


def test_a_clock_that_is_set_back_makes_no_answer_younger(
    put: Put, folder: Path, say: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()
    began = time.time()
    say()
    control = required(folder, max_stale_s=100)
    assert control.permission("plot 1").arm is Arm.CHAMPION
    steady = time.monotonic()
    # Somebody or something sets the clock back a little each minute; the other clock goes on.
    monkeypatch.setattr(time, "time", lambda: began + 1)
    monkeypatch.setattr(time, "monotonic", lambda: steady + 99)
    assert control.permission("plot 1").arm is Arm.CHAMPION
    monkeypatch.setattr(time, "monotonic", lambda: steady + 101)
    assert control.permission("plot 1").why is Why.REMOTE_STALE


def test_a_stop_that_is_restored_with_an_older_time_is_honoured(
    put: Put, folder: Path, say: Any, wait: Callable[..., Any]
) -> None:
    put()
    say(killed=True)
    stopped = (folder / REMOTE).read_bytes()
    say()
    control = Control(folder)
    wait(lambda: control.permission("plot 1").arm is Arm.CHAMPION and control.remote._watched._cached)
    (folder / REMOTE).write_bytes(stopped)
    os.utime(folder / REMOTE, (1_000_000_000, 1_000_000_000))
    assert control.permission("plot 1").why is Why.REMOTE_KILLED


def test_a_child_sees_a_remote_stop_whether_it_was_forked_before_or_after(
    put: Put, folder: Path, say: Any, in_child: Callable[[Callable[[], Any]], Any]
) -> None:
    put()
    say()
    control = Control(folder)
    assert control.permission("plot 1").arm is Arm.CHAMPION

    def asked() -> Why:
        say(killed=True)
        return control.permission("plot 1").why

    assert in_child(asked) is Why.REMOTE_KILLED
    assert control.permission("plot 1").why is Why.REMOTE_KILLED


def test_writing_leaves_nothing_beside_and_never_touches_the_state(put: Put, folder: Path, say: Any) -> None:
    put()
    before = (folder / "state.json").read_bytes()
    say()
    assert sorted(path.name for path in folder.iterdir()) == [REMOTE, "state.json"]
    assert (folder / "state.json").read_bytes() == before
