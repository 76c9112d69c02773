"""A stop is in force when `kill` returns, whatever else is broken; nothing starts by accident."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.control import (
    SENTINEL,
    Arm,
    Control,
    Slot,
    State,
    Stop,
    Why,
    actions,
    arm,
    hold,
    kill,
    offer,
    read_audit,
    read_state,
)
from harness.control import audit as audit_file
from harness.control.audit import AUDIT, END
from harness.control.identity import account
from harness.control.responses import roll_back
from harness.control.rights import refuse
from harness.control.state import LOCK, STATE, StateUnreadable, replace
from harness.control.tokens import issue
from harness.errors import PilotError

A, B = "a" * 64, "b" * 64
Put = Callable[..., State]
HOLD = """
import fcntl, sys
with open(sys.argv[1], "ab") as stream:
    fcntl.flock(stream, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held_lock(folder: Path, python: Callable[..., subprocess.Popen[str]]) -> None:
    """Another process holds the writer's lock, and does not let go."""
    process = python(HOLD, folder / LOCK)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"


def content(folder: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.is_file() and file.name not in (LOCK,)
    }


def test_kill_stops_the_next_request_and_arm_starts_the_one_after(
    put: Put, folder: Path, reader: Control
) -> None:
    put(rev=4)
    assert kill(folder, reason="too dry") == Stop(read_state(folder))
    found = reader.permission("plot 1")
    assert (found.arm, found.why, found.revision) == (Arm.FALLBACK, Why.KILLED, 5)
    armed = arm(folder, reason="rain came")
    assert (armed.rev, armed.latched, armed.reason) == (6, False, "rain came")
    assert reader.permission("plot 1").arm is Arm.CHAMPION
    assert not (folder / SENTINEL).exists()


def test_kill_is_two_stops_and_lifting_one_of_them_starts_nothing(
    put: Put, folder: Path, reader: Control
) -> None:
    put()
    kill(folder, reason="twice")
    (folder / SENTINEL).unlink()
    assert reader.permission("plot 1").why is Why.LATCHED
    kill(folder, reason="twice")
    put(rev=9)
    assert reader.permission("plot 1").why is Why.KILLED


def test_the_sentinel_and_the_audit_say_who_and_why(put: Put, folder: Path) -> None:
    put()
    kill(folder, reason="zu trocken: Größe")
    note = json.loads((folder / SENTINEL).read_text(encoding="utf-8"))
    assert note["reason"] == "zu trocken: Größe"
    entry = read_audit(folder)[-1]
    assert (entry["action"], entry["reason"], entry["revision"]) == ("kill", "zu trocken: Größe", 2)
    assert entry["actor"] == note["actor"] != ""


def test_the_actor_is_the_account_and_not_a_variable(
    put: Put, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()
    for name in ("USER", "LOGNAME", "SUDO_USER"):
        monkeypatch.setenv(name, "somebody-else")
    kill(folder, reason="who")
    assert read_audit(folder)[-1]["actor"] != "somebody-else"


def test_kill_without_a_state_or_even_a_folder_holds(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    assert kill(folder, reason="early") == Stop(None)
    assert Control(folder).permission("plot 1").why is Why.KILLED
    assert offer(folder, digest=A, flag_key="fields", reason="first model") is not None
    assert Control(folder).permission("plot 1").arm is Arm.FALLBACK


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": "\\ud800"}'])
def test_kill_with_a_damaged_state_holds_and_leaves_the_damage_to_be_looked_at(
    folder: Path, reader: Control, damage: bytes
) -> None:
    (folder / STATE).write_bytes(damage)
    stop = kill(folder, reason="damaged")
    assert stop.state is None
    (told,) = stop.missing
    assert told.startswith("the latch in state.json (")
    assert reader.permission("plot 1").why is Why.KILLED
    assert (folder / STATE).read_bytes() == damage
    assert [entry["action"] for entry in read_audit(folder)] == ["kill"]


def test_kill_while_another_process_holds_the_lock_returns_soon_and_holds(
    put: Put, folder: Path, reader: Control, held_lock: None
) -> None:
    put()
    started = time.monotonic()
    (told,) = kill(folder, reason="cannot wait").missing
    assert told.startswith("the latch in state.json and the line in audit.jsonl (another process")
    assert time.monotonic() - started < 10
    assert reader.permission("plot 1").why is Why.KILLED


def test_kill_with_an_audit_that_cannot_be_written_holds(put: Put, folder: Path, reader: Control) -> None:
    put()
    (folder / AUDIT).mkdir()
    stop = kill(folder, reason="no audit")
    assert stop.missing == ("the line in audit.jsonl (Is a directory)",)
    assert stop.state == read_state(folder)
    assert reader.permission("plot 1").why is Why.KILLED
    (folder / SENTINEL).unlink()
    assert reader.permission("plot 1").why is Why.LATCHED


def test_kill_with_a_state_that_cannot_be_replaced_holds_and_claims_no_revision(
    put: Put, folder: Path, reader: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.control.actions.write_state", full)
    stop = kill(folder, reason="disk full")
    assert stop == Stop(None, ("the latch in state.json (No space left on device)",))
    assert reader.permission("plot 1").why is Why.KILLED
    assert reader.permission("plot 1").revision == 1


def test_02_kill_on_a_full_disk_still_makes_an_empty_file(
    put: Put, folder: Path, reader: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.control.actions.replace", full)
    kill(folder, reason="disk full")
    assert (folder / SENTINEL).read_bytes() == b""
    assert reader.permission("plot 1").why is Why.KILLED


def test_a_kill_that_cannot_be_written_says_so_and_names_the_file(
    open_folder: Path, unprivileged: Callable[..., Any]
) -> None:
    open_folder.chmod(0o555)

    def attempt() -> str:
        try:
            kill(open_folder, reason="read-only")
        except PilotError as error:
            return str(error)
        return "no error"

    said = unprivileged(attempt)
    assert "WAS NOT STOPPED" in said
    assert str(open_folder / SENTINEL) in said


@pytest.mark.parametrize("reason", ["St\udcf6rung", "\ud800", "a\u2028b\x85c", "x" * 100_000, "a\nb\x00"])
def test_no_reason_is_too_odd_to_stop(put: Put, folder: Path, reader: Control, reason: str) -> None:
    put()
    kill(folder, reason=reason)
    assert reader.permission("plot 1").why is Why.KILLED
    arm(folder, reason=reason)
    assert reader.permission("plot 1").arm is Arm.CHAMPION
    assert [entry["action"] for entry in read_audit(folder)] == ["kill", "arm"]


def test_a_kill_during_an_arm_outlives_it(
    put: Put, folder: Path, reader: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(latched=True)
    kill(folder, reason="first")
    append = audit_file.append

    def slow(*arguments: Any, **more: Any) -> None:
        append(*arguments, **more)
        monkeypatch.setattr(audit_file, "append", append)
        # A second person stops while the first one arms, finds the lock held and gives up waiting for it.
        second = threading.Thread(target=kill, args=(folder,), kwargs={"reason": "second"})
        second.start()
        second.join(timeout=20)
        assert not second.is_alive()

    monkeypatch.setattr(audit_file, "append", slow)
    with pytest.raises(PilotError, match="stopped the model anew"):
        arm(folder, reason="too soon")
    assert reader.permission("plot 1").why is Why.KILLED
    assert json.loads((folder / SENTINEL).read_text())["reason"] == "second"


def test_a_kill_file_made_by_hand_during_an_arm_outlives_it(
    put: Put, folder: Path, reader: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(latched=True)
    append = audit_file.append

    def by_hand(*arguments: Any, **more: Any) -> None:
        append(*arguments, **more)
        (folder / SENTINEL).touch()

    monkeypatch.setattr(audit_file, "append", by_hand)
    arm(folder, reason="the latch only")
    assert reader.permission("plot 1").why is Why.KILLED


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_arm_lifts_any_kind_of_kill_file(put: Put, folder: Path, reader: Control, kind: str) -> None:
    put()
    sentinel = folder / SENTINEL
    if kind == "file":
        sentinel.touch()
    elif kind == "folder":
        sentinel.mkdir()
    else:
        sentinel.symlink_to("nowhere")
    arm(folder, reason="lifted")
    assert reader.permission("plot 1").arm is Arm.CHAMPION
    assert {file.name for file in folder.iterdir()} == {STATE, AUDIT, END, LOCK}


def test_arm_is_refused_when_nothing_is_stopped(put: Put, folder: Path) -> None:
    put()
    before = content(folder)
    with pytest.raises(PilotError, match="nothing is stopped"):
        arm(folder, reason="why not")
    assert content(folder) == before


def test_arm_is_refused_without_a_state(folder: Path, reader: Control) -> None:
    (folder / SENTINEL).touch()
    with pytest.raises(PilotError, match="no control state"):
        arm(folder, reason="nothing there")
    assert reader.killed()


def test_arm_is_refused_with_a_damaged_state_and_the_stop_stays(folder: Path, reader: Control) -> None:
    (folder / STATE).write_text("{")
    kill(folder, reason="damaged")
    before = content(folder)
    with pytest.raises(PilotError, match="cannot be trusted"):
        arm(folder, reason="hopeful")
    assert content(folder) == before
    assert reader.killed()


def test_arm_is_refused_when_it_cannot_be_audited_and_nothing_changes(
    put: Put, folder: Path, reader: Control
) -> None:
    put()
    kill(folder, reason="stop")
    (folder / AUDIT).unlink()
    (folder / AUDIT).mkdir()
    before = content(folder)
    with pytest.raises(PilotError, match="audit cannot be written"):
        arm(folder, reason="unrecorded")
    assert content(folder) == before
    assert reader.permission("plot 1").why is Why.KILLED


def test_offer_is_refused_when_it_cannot_be_audited_and_nothing_changes(put: Put, folder: Path) -> None:
    put()
    (folder / AUDIT).mkdir()
    before = content(folder)
    with pytest.raises(PilotError, match="audit cannot be written"):
        offer(folder, digest=B, flag_key="fields", reason="unrecorded")
    assert content(folder) == before


@pytest.mark.parametrize("action", ["arm", "offer"])
def test_a_disk_that_fills_up_is_told_and_starts_nothing(
    put: Put, folder: Path, reader: Control, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    put(latched=True)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.control.actions.write_state", full)
    more = {} if action == "arm" else {"digest": B, "flag_key": "fields"}
    with pytest.raises(PilotError, match="No space left"):
        {"arm": arm, "offer": offer}[action](folder, reason="full", **more)
    assert reader.permission("plot 1").why is Why.LATCHED


def test_a_first_model_is_offered_for_every_entity_in_the_sandbox(folder: Path, reader: Control) -> None:
    state = offer(folder, digest=A, flag_key="fields", reason="first")
    assert state is not None
    assert (state.rev, state.stage, state.challenger, state.champion) == (
        1,
        "sandbox",
        Slot(digest=A, pct=100),
        None,
    )
    assert {reader.permission(f"plot {number}").arm for number in range(300)} == {Arm.CHALLENGER}


def test_a_new_model_replaces_the_challenger_and_leaves_the_champion(put: Put, folder: Path) -> None:
    put(challenger=Slot(digest=B, pct=5))
    state = offer(folder, digest="c" * 64, flag_key="other", reason="next")
    assert state is not None
    assert (state.rev, state.challenger, state.champion) == (
        2,
        Slot(digest="c" * 64, pct=100),
        Slot(digest=A, pct=100),
    )
    assert state.flag_key == "fields"  # or every entity would be drawn anew


def test_the_same_model_offered_again_changes_nothing(folder: Path) -> None:
    offer(folder, digest=A, flag_key="fields", reason="first")
    before = content(folder)
    offer(folder, digest=A, flag_key="fields", reason="again")
    assert content(folder) == before


@pytest.mark.parametrize("stop", ["kill", "sentinel alone", "latch alone"])
def test_a_new_model_is_no_reason_to_start_again(put: Put, folder: Path, reader: Control, stop: str) -> None:
    put(latched=stop == "latch alone")
    if stop == "kill":
        kill(folder, reason="stop")
    elif stop == "sentinel alone":
        (folder / SENTINEL).touch()
    offer(folder, digest=B, flag_key="fields", reason="new model")
    assert reader.permission("plot 1").arm is Arm.FALLBACK
    assert reader.permission("plot 1").why in (Why.KILLED, Why.LATCHED)


def test_a_first_model_under_a_kill_file_is_latched_too(folder: Path, reader: Control) -> None:
    (folder / SENTINEL).touch()
    offer(folder, digest=A, flag_key="fields", reason="first")
    (folder / SENTINEL).unlink()
    assert reader.permission("plot 1").why is Why.LATCHED


@pytest.mark.parametrize("stage", ["shadow", "early", "broad", "full"])
def test_outside_the_sandbox_a_new_model_changes_nothing(put: Put, folder: Path, stage: str) -> None:
    put(stage=stage)
    before = content(folder)
    assert offer(folder, digest=B, flag_key="fields", reason="new model") is None
    assert content(folder) == before


def test_offer_is_refused_with_a_damaged_state(folder: Path) -> None:
    (folder / STATE).write_text("{")
    with pytest.raises(PilotError, match="cannot be trusted"):
        offer(folder, digest=A, flag_key="fields", reason="new model")
    assert (folder / STATE).read_text() == "{"


def test_revisions_grow_by_one(put: Put, folder: Path) -> None:
    put()
    seen = [1]
    for number in range(5):
        for state in (
            kill(folder, reason="off").state,
            arm(folder, reason="on"),
            offer(folder, digest=f"{number:x}" * 64, flag_key="fields", reason="new"),
        ):
            assert state is not None
            seen.append(state.rev)
    assert seen == list(range(1, 17))
    assert [entry["revision"] for entry in read_audit(folder)] == seen[1:]


def test_writing_leaves_nothing_beside_the_state(put: Put, folder: Path) -> None:
    put()
    kill(folder, reason="off")
    arm(folder, reason="on")
    assert {file.name for file in folder.iterdir()} == {STATE, AUDIT, END, LOCK}


def test_a_writer_that_finds_the_lock_held_says_so(
    folder: Path, held_lock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.control.state import writing

    with pytest.raises(PilotError, match="another process"), writing(folder, wait_s=0.1):
        pytest.fail("two writers at once")


# --- the audit ---------------------------------------------------------------------------------------------


@pytest.fixture
def audited(folder: Path) -> Path:
    """Five entries."""
    for number in range(1, 6):
        audit_file.append(folder, actor="a", action="kill", reason=f"grün {number}", revision=number)
    return folder / AUDIT


def test_an_untouched_audit_is_read_whole(audited: Path, folder: Path) -> None:
    assert [entry["revision"] for entry in read_audit(folder)] == [1, 2, 3, 4, 5]


def test_without_an_audit_there_are_no_entries(folder: Path) -> None:
    assert read_audit(folder) == []


@pytest.mark.parametrize("line", [1, 2, 3, 4, 5])
def test_28_an_edited_line_is_named(audited: Path, folder: Path, line: int) -> None:
    lines = audited.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(b'"kill"', b'"arm"')
    audited.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=f"^line {line} of .*changed"):
        read_audit(folder)


def test_an_edited_line_with_a_hash_to_match_breaks_the_next(audited: Path, folder: Path) -> None:
    lines = audited.read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[1])
    entry.pop("sha256")
    entry["reason"] = "another"
    entry["sha256"] = audit_file._hash(entry)
    lines[1] = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    audited.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=r"^line 3 of .*does not follow"):
        read_audit(folder)


@pytest.mark.parametrize("line", [1, 2, 3, 4])
def test_28_a_deleted_line_is_missed_by_the_next(audited: Path, folder: Path, line: int) -> None:
    lines = audited.read_bytes().splitlines(keepends=True)
    del lines[line - 1]
    audited.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=f"^line {line} of .*does not follow"):
        read_audit(folder)


def test_an_inserted_line_is_named(audited: Path, folder: Path) -> None:
    lines = audited.read_bytes().splitlines(keepends=True)
    audited.write_bytes(b"".join([*lines[:2], lines[1], *lines[2:]]))
    with pytest.raises(ValueError, match=r"^line 3 of .*does not follow"):
        read_audit(folder)


def test_swapped_lines_are_named(audited: Path, folder: Path) -> None:
    lines = audited.read_bytes().splitlines(keepends=True)
    lines[2], lines[3] = lines[3], lines[2]
    audited.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=r"^line 3 of .*does not follow"):
        read_audit(folder)


def test_a_last_line_cut_short_is_named_wherever_it_was_cut(audited: Path, folder: Path) -> None:
    whole = audited.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for length in range(start + 1, len(whole) - 1):  # within the umlaut of a reason too
        audited.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"^line 5 of "):
            read_audit(folder)


def test_after_a_torn_line_the_audit_goes_on_in_lines_of_their_own(audited: Path, folder: Path) -> None:
    audited.write_bytes(audited.read_bytes()[:-20])
    for number in (6, 7):
        audit_file.append(folder, actor="a", action="arm", reason="after a crash", revision=number)
    lines = audited.read_bytes().splitlines()
    assert [json.loads(line)["revision"] for line in lines[5:]] == [6, 7]
    with pytest.raises(ValueError, match=r"^line 5 of "):
        read_audit(folder)


def test_a_reason_may_hold_any_line_end(folder: Path) -> None:
    reason = "a\nb\rc\u2028d\u2029e\x85f\x0bg\x0ch\x1ci"
    for number in (1, 2):
        audit_file.append(folder, actor="a", action="kill", reason=reason, revision=number)
    assert [entry["reason"] for entry in read_audit(folder)] == [reason, reason]


def test_a_state_file_out_of_reach_is_unreadable_and_not_absent(
    open_folder: Path, unprivileged: Callable[..., Any]
) -> None:
    (open_folder / STATE).write_text("{}")
    (open_folder / STATE).chmod(0o000)

    def attempt() -> str:
        try:
            read_state(open_folder)
        except StateUnreadable:
            return "unreadable"
        return "absent"

    assert unprivileged(attempt) == "unreadable"
    assert os.path.exists(open_folder / STATE)


def test_an_arm_that_fails_half_way_leaves_the_only_stop_in_place(
    put: Put, folder: Path, reader: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()
    (folder / SENTINEL).touch()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("harness.control.actions.write_state", full)
    with pytest.raises(PilotError, match="the control state cannot be changed"):
        arm(folder, reason="go")
    assert reader.permission("plot 1").arm is Arm.FALLBACK


@pytest.mark.parametrize(
    "end", ['{"lines": 1e999, "sha256": ""}', '{"lines": -5, "sha256": ""}', "[" * 100_000]
)
def test_no_damage_to_the_records_end_holds_a_stop_up(
    put: Put, folder: Path, reader: Control, end: str
) -> None:
    put()
    kill(folder, reason="first")
    arm(folder, reason="go")
    (folder / "audit.end.json").write_text(end)
    assert kill(folder, reason="again").state is not None
    assert reader.permission("plot 1").arm is Arm.FALLBACK


def test_a_folder_that_cannot_be_locked_is_stopped_all_the_same(
    put: Put, folder: Path, reader: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("harness.control.state.fcntl.flock", no_locks)
    assert kill(folder, reason="stop").missing
    assert roll_back(folder, reason="back").action == "kill"
    assert reader.permission("plot 1").arm is Arm.FALLBACK


# --- a crash, and a second person, in the middle of an arm --------------------------------------------------

STEPS = {
    "kill": ["rename", "write_state", "unlink"],
    "by hand": ["write_state", "rename", "write_state", "unlink"],
    "anew": ["rename", "rename"],
}


def watching_steps(folder: Path, stop: str, step: Callable[[str], None]) -> None:
    """Tell each step by which an arm starts or stops something; with ``anew`` somebody stops meanwhile."""

    def told(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def take(*arguments: Any, **more: Any) -> Any:
            step(name)
            return real(*arguments, **more)

        return take

    append = audit_file.append

    def anew(*arguments: Any, **more: Any) -> None:
        append(*arguments, **more)
        replace(folder / SENTINEL, b"a second stop")

    if stop == "anew":
        setattr(audit_file, "append", anew)  # noqa: B010 - a module's function
    for place, name in ((actions, "write_state"), (Path, "rename"), (Path, "unlink")):
        setattr(place, name, told(name, getattr(place, name)))


@pytest.mark.parametrize(
    ("stop", "number"), [(stop, number) for stop in STEPS for number in range(len(STEPS[stop]) + 1)]
)
def test_an_arm_that_is_killed_before_a_step_has_lost_no_stop(
    put: Put, folder: Path, reader: Control, stop: str, number: int
) -> None:
    put()
    if stop == "by hand":
        (folder / SENTINEL).touch()
    else:
        kill(folder, reason="a stop")
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        taken: list[str] = []

        def killed(name: str) -> None:
            if len(taken) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            taken.append(name)

        watching_steps(folder, stop, killed)
        with contextlib.suppress(PilotError):
            arm(folder, reason="over")
        os._exit(0 if taken == STEPS[stop] else 1)
    _, status = os.waitpid(child, 0)
    assert status == (signal.SIGKILL if number < len(STEPS[stop]) else 0)
    # Only the armed state, which is written last, starts anything.
    armed = stop != "anew" and STEPS[stop][:number].count("write_state") == STEPS[stop].count("write_state")
    assert (reader.permission("plot 1").arm is Arm.CHAMPION) is armed
    if not armed:
        arm(folder, reason="over, really")
        assert reader.permission("plot 1").arm is Arm.CHAMPION
        assert {file.name for file in folder.iterdir()} == {STATE, AUDIT, END, LOCK}


@pytest.mark.parametrize("stop", ["kill", "by hand"])
def test_at_no_moment_of_an_arm_that_fails_a_model_decides(
    put: Put, folder: Path, reader: Control, in_child: Callable[..., Any], stop: str
) -> None:
    put()
    if stop == "by hand":
        (folder / SENTINEL).touch()
    else:
        kill(folder, reason="a stop")

    def seen() -> set[str]:
        found = set()
        watching_steps(folder, "anew", lambda _: found.add(reader.permission("plot 1").arm.value))
        with pytest.raises(PilotError, match="stopped the model anew"):
            arm(folder, reason="over")
        return found | {reader.permission("plot 1").arm.value}

    assert in_child(seen) == {"fallback"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("nobody foresaw it")])
def test_whatever_the_audit_raises_a_restriction_is_in_force(
    put: Put, folder: Path, reader: Control, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    put()

    def cannot(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(audit_file, "append", cannot)
    held = hold(folder, reason="hold")
    assert (held.taken, held.state and held.state.held, len(held.missing)) == (True, True, 1)
    stop = kill(folder, reason="stop")
    assert [each.partition(" (")[0] for each in stop.missing] == ["the line in audit.jsonl"]
    assert reader.permission("plot 1").why is Why.KILLED
    (folder / SENTINEL).unlink()
    assert reader.permission("plot 1").why is Why.LATCHED


@pytest.mark.parametrize("what", ["write_state", "read_state"])
def test_whatever_a_rollback_raises_ends_in_a_stop(
    put: Put, folder: Path, reader: Control, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    put(stage="early", challenger=Slot(digest=B, pct=10))

    def cannot(*_: Any) -> None:
        raise RuntimeError("nobody foresaw it")

    monkeypatch.setattr(f"harness.control.responses.{what}", cannot)
    done = roll_back(folder, reason="errors")
    assert (done.action, done.taken) == ("kill", True)
    assert "nobody foresaw it" in done.missing[0]
    assert reader.permission("plot 1").why is Why.KILLED


@pytest.mark.parametrize("lock", [RuntimeError("nobody foresaw it"), OSError(5, "Input/output error")])
def test_whatever_the_lock_raises_a_stop_is_in_force(
    put: Put, folder: Path, reader: Control, monkeypatch: pytest.MonkeyPatch, lock: Exception
) -> None:
    put()

    def cannot(*_: Any, **__: Any) -> None:
        raise lock

    monkeypatch.setattr(actions, "writing", cannot)
    assert len(kill(folder, reason="stop").missing) == 1
    assert reader.permission("plot 1").why is Why.KILLED


# --- a state that was deleted -------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["all", "no record", "a damaged record"])
def test_a_state_that_was_deleted_as_a_stop_is_not_undone_by_the_next_model(
    folder: Path, reader: Control, left: str
) -> None:
    offer(folder, digest=A, flag_key="fields", reason="first")
    (folder / STATE).unlink()
    if left != "all":
        (folder / AUDIT).unlink()
    if left == "a damaged record":
        (folder / AUDIT).write_text("{\n")
    assert offer(folder, digest=B, flag_key="fields", reason="next") is not None
    assert reader.permission("plot 1").why is Why.LATCHED
    arm(folder, reason="checked")
    assert reader.permission("plot 1").arm is Arm.CHALLENGER


def test_a_stop_before_the_first_model_outlives_its_kill_file(folder: Path, reader: Control) -> None:
    kill(folder, reason="not yet")
    (folder / SENTINEL).unlink()
    offer(folder, digest=A, flag_key="fields", reason="first")
    assert reader.permission("plot 1").why is Why.LATCHED


def test_a_token_or_a_refusal_before_the_first_model_stops_nothing(folder: Path, reader: Control) -> None:
    issue(folder, name="caller", scopes=["decide"], lasts=timedelta(days=1))
    refuse(folder, account(), "arm: there is no control state")
    offer(folder, digest=A, flag_key="fields", reason="first")
    assert reader.permission("plot 1").arm is Arm.CHALLENGER
