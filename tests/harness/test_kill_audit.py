"""The record says how far it goes: lines missing at the end are noticed, whatever a crash left."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.control import SENTINEL, State, arm, kill, read_audit, read_state
from harness.control import audit as audit_file
from harness.control.audit import AUDIT, END, AuditBroken, append
from harness.control.state import LOCK, STATE
from harness.errors import PilotError

Put = Callable[..., State]
Run = Callable[..., subprocess.CompletedProcess[str]]


def write(folder: Path, *reasons: str) -> None:
    for reason in reasons:
        append(folder, actor="ann", action="kill", reason=reason, revision=1)


def cut(folder: Path, count: int) -> None:
    """Take lines away at the end."""
    lines = (folder / AUDIT).read_bytes().splitlines(keepends=True)
    (folder / AUDIT).write_bytes(b"".join(lines[: len(lines) - count]))


def broken_at(folder: Path) -> int:
    with pytest.raises(AuditBroken) as told:
        read_audit(folder)
    return told.value.line


@pytest.mark.parametrize(("count", "line"), [(1, 5), (2, 4), (5, 1)])
def test_28_lines_deleted_at_the_end_are_missed(folder: Path, count: int, line: int) -> None:
    write(folder, *"abcde")
    cut(folder, count)
    assert broken_at(folder) == line


def test_28_a_whole_record_that_is_deleted_is_missed(folder: Path) -> None:
    write(folder, *"abc")
    (folder / AUDIT).unlink()
    assert broken_at(folder) == 1


def test_28_a_line_written_after_a_deletion_does_not_hide_it(folder: Path) -> None:
    write(folder, *"abcde")
    cut(folder, 2)
    write(folder, "f", "g", "h")
    assert broken_at(folder) == 4


def test_28_a_last_line_forged_with_a_hash_to_match_is_named(folder: Path) -> None:
    write(folder, *"abc")
    lines = (folder / AUDIT).read_bytes().splitlines()
    entry = {**json.loads(lines[2]), "reason": "another"}
    del entry["sha256"]
    entry["sha256"] = audit_file._hash(entry)
    (folder / AUDIT).write_bytes(b"\n".join([*lines[:2], json.dumps(entry).encode()]) + b"\n")
    assert broken_at(folder) == 3


def test_an_end_that_was_deleted_too_is_missed_also_after_the_next_line(folder: Path) -> None:
    write(folder, *"abc")
    cut(folder, 1)
    (folder / END).unlink()
    assert broken_at(folder) == 3
    write(folder, "d")
    assert broken_at(folder) == 4


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"lines": "many"}'])
def test_an_end_that_is_damaged_is_no_end(folder: Path, damage: bytes) -> None:
    write(folder, *"abc")
    (folder / END).write_bytes(damage)
    assert broken_at(folder) == 4
    write(folder, "d")
    assert broken_at(folder) == 5


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_crash_between_a_line_and_the_end_breaks_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    write(folder, *"abc"[:at])

    class Crash(BaseException):
        pass

    written = audit_file._write_end

    def crash(where: Path, end: Any) -> None:
        if end.lines > at:
            raise Crash
        written(where, end)

    with monkeypatch.context() as patch:
        patch.setattr(audit_file, "_write_end", crash)
        with pytest.raises(Crash):
            write(folder, "x")
    assert len(read_audit(folder)) == at + 1
    write(folder, "y")
    assert [entry["reason"] for entry in read_audit(folder)] == [*"abc"[:at], "x", "y"]
    cut(folder, 1)
    assert broken_at(folder) == at + 2


def test_an_end_that_cannot_be_written_holds_no_line_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "a")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit_file, "_write_end", full)
    write(folder, "b")
    assert [entry["reason"] for entry in read_audit(folder)] == ["a", "b"]


def test_the_record_of_an_earlier_release_goes_on_and_gets_an_end(folder: Path) -> None:
    previous = audit_file.START
    for reason in "ab":
        entry = {"actor": "ann", "action": "kill", "reason": reason, "revision": 1, "previous": previous}
        canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        previous = hashlib.sha256(canonical.encode()).hexdigest()
        with (folder / AUDIT).open("a") as stream:
            stream.write(json.dumps({**entry, "sha256": previous}) + "\n")
    assert len(read_audit(folder)) == 2
    write(folder, "c")
    assert len(read_audit(folder)) == 3
    cut(folder, 1)
    assert broken_at(folder) == 3


def test_verify_names_the_first_line_and_ends_with_1(tiny: Any, pilot_command: Run) -> None:
    tiny.offered()
    kill(tiny.control, reason="stop")
    arm(tiny.control, reason="go\n\x1b[31m")
    whole = pilot_command("audit", "verify")
    assert (whole.returncode, whole.stdout.startswith("INTACT: 3 entries")) == (0, True)
    assert json.loads(pilot_command("audit", "verify", "--json").stdout) == {"intact": True, "entries": 3}
    listed = pilot_command("audit").stdout
    assert listed.count("\n") == 4, "a reason makes no line of its own"
    assert "\x1b" not in listed
    cut(tiny.control, 1)
    for verb in (("audit", "verify"), ("audit",)):
        done = pilot_command(*verb)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "line 3 of" in done.stderr
        assert "is missing" in done.stderr
    done = pilot_command("audit", "verify", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["intact"], found["line"]) == (1, False, 3)


# --- a record, or a disk, that takes nothing ---------------------------------------------------------------


def test_29_with_a_read_only_audit_kill_works_and_arm_is_refused(
    open_folder: Path, put: Put, unprivileged: Callable[..., Any], folder: Path
) -> None:
    put()
    write(open_folder, "before")
    (open_folder / STATE).write_bytes((folder / STATE).read_bytes())
    (open_folder / AUDIT).chmod(0o444)
    open_folder.chmod(0o777)
    (open_folder / LOCK).touch()
    (open_folder / LOCK).chmod(0o666)
    if os.getuid() == 0:
        os.chown(open_folder / STATE, 65534, 65534)

    def attempt() -> tuple[tuple[str, ...], str]:
        missing = kill(open_folder, reason="stop").missing
        try:
            arm(open_folder, reason="go")
        except PilotError as error:
            return missing, error.what
        return missing, "it was armed"

    missing, refused = unprivileged(attempt)
    assert missing == ("the line in audit.jsonl (Permission denied)",)
    assert refused == "the audit cannot be written, so nothing was changed: Permission denied"
    assert (open_folder / SENTINEL).exists()
    state = read_state(open_folder)
    assert state is not None
    assert state.latched


FULL = """
import resource, signal, sys
from pathlib import Path
from harness.control import Control, kill

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # files can be made, and no byte written
stop = kill(Path(sys.argv[1]), reason="disk full")
print(len(stop.missing), Control(Path(sys.argv[1])).permission("plot 1").why.value)
"""


def test_02_where_no_byte_can_be_written_the_stop_holds_and_says_what_is_missing(
    put: Put, folder: Path, python: Callable[..., subprocess.Popen[str]]
) -> None:
    put()
    output, errors = python(FULL, folder).communicate(timeout=60)
    assert output == "2 killed\n", errors
    assert (folder / SENTINEL).read_bytes() == b""
    state = read_state(folder)
    assert state is not None
    assert not state.latched, "nothing but the sentinel stops, as was said"


def test_02_where_no_file_can_be_made_either_a_second_name_of_one_that_is_there_stops(
    put: Put, folder: Path, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()
    (folder / LOCK).touch()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("harness.control.actions.replace", full)
        patch.setattr(Path, "touch", full)
        kill(folder, reason="no inode left")
    assert reader.permission("plot 1").why.value == "killed"
    arm(folder, reason="over")
    assert (folder / LOCK).exists()
    # And where not even that is possible, it says so, and the other route that it names works.
    with monkeypatch.context() as patch:
        patch.setattr("harness.control.actions.replace", full)
        patch.setattr(Path, "touch", full)
        patch.setattr("harness.control.actions.os.link", full)
        with pytest.raises(PilotError, match="THE MODEL WAS NOT STOPPED") as told:
            kill(folder, reason="nothing goes")
    assert f"delete {folder / STATE}" in told.value.mend
    (folder / STATE).unlink()
    assert reader.permission("plot 1").why.value == "no_state"
