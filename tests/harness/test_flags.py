"""The team's own flags: declared in pilot.toml, set in flags.json, and on record."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.control import read_audit
from harness.control.flags import FLAGS, Flags, FlagSettings, FlagsUnreadable, set_flag
from harness.control.sealed import checksum
from harness.errors import PilotError

Run = Callable[..., subprocess.CompletedProcess[str]]
TABLE = """
[flags.short_letter]
description = "Whether the letter is the short one"

[flags.tone]
description = "How it speaks"
on = "warm"
off = "plain"
"""


def test_a_flag_is_set_with_a_revision_and_a_line_in_the_audit(folder: Path) -> None:
    assert Flags(folder).read() == FlagSettings()
    set_flag(folder, name="tone", percent=10, known=["tone"], reason="a test")
    found = set_flag(folder, name="tone", percent=20, known=["tone"], reason="more")
    assert (found.rev, found.flags["tone"].pct, found.flags["tone"].reason) == (2, 20, "more")
    assert Flags(folder).read() == found
    last = read_audit(folder)[-1]
    assert (last["action"], last["revision"]) == ("flag", None)  # the revision there is the state's
    assert last["reason"] == "tone 10% → 20% (flags revision 2): more"
    assert not (folder / "state.json").exists()


def test_what_cannot_be_audited_is_not_done(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_flag(folder, name="tone", percent=10, known=["tone"], reason="a test")
    before = (folder / FLAGS).read_bytes()
    (folder / "audit.jsonl").unlink()
    (folder / "audit.jsonl").mkdir()
    with pytest.raises(PilotError, match="the audit cannot be written, so nothing was changed"):
        set_flag(folder, name="tone", percent=20, known=["tone"], reason="more")
    assert (folder / FLAGS).read_bytes() == before


def test_a_reader_sees_each_change_and_a_restored_file(folder: Path) -> None:
    reader = Flags(folder)
    set_flag(folder, name="tone", percent=10, known=["tone"], reason="a test")
    ten = (folder / FLAGS).read_bytes()
    set_flag(folder, name="tone", percent=90, known=["tone"], reason="a test")
    assert reader.read().flags["tone"].pct == 90  # type: ignore[union-attr]
    (folder / FLAGS).write_bytes(ten)
    assert reader.read().flags["tone"].pct == 10  # type: ignore[union-attr]
    (folder / FLAGS).unlink()
    assert reader.read() == FlagSettings()


def test_flags_cut_off_at_any_byte_are_unreadable_and_not_overwritten(folder: Path) -> None:
    set_flag(folder, name="tone", percent=10, known=["tone"], reason="a test")
    content = (folder / FLAGS).read_bytes().rstrip()
    for length in range(len(content)):
        (folder / FLAGS).write_bytes(content[:length])
        assert isinstance(Flags(folder).read(), FlagsUnreadable), length
    with pytest.raises(PilotError, match="cannot be trusted"):
        set_flag(folder, name="tone", percent=20, known=["tone"], reason="more")


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 2},
        {"schema_version": True},
        {"rev": -1},
        {"flags": {"tone": {"pct": 101, "actor": "a", "reason": "b", "changed_at": "c"}}},
        {"flags": {"tone": {"pct": True, "actor": "a", "reason": "b", "changed_at": "c"}}},
        {"flags": []},
        {"further": 1},
    ],
    ids=str,
)
def test_flags_that_say_what_cannot_be_are_unreadable(folder: Path, changes: dict[str, Any]) -> None:
    document = FlagSettings(rev=1).model_dump(mode="json") | changes
    (folder / FLAGS).write_text(json.dumps({**document, "sha256": checksum(document)}))
    assert isinstance(Flags(folder).read(), FlagsUnreadable)


def test_flags_raised_by_hand_without_their_checksum_are_unreadable(folder: Path) -> None:
    set_flag(folder, name="tone", percent=10, known=["tone"], reason="a test")
    document = json.loads((folder / FLAGS).read_bytes())
    document["flags"]["tone"]["pct"] = 100
    (folder / FLAGS).write_text(json.dumps(document))
    assert isinstance(Flags(folder).read(), FlagsUnreadable)


def test_the_verbs_list_and_set(tiny: Any, pilot_here: Run) -> None:
    tiny.toml.write_text(tiny.toml.read_text() + TABLE)
    done = pilot_here("flag", "set", "tone", "--percent", "30", "--reason", "try it")
    assert (done.returncode, done.stdout) == (0, "SET tone to 30% (flags revision 1).\n")
    done = pilot_here("flag", "list")
    assert "tone: 'warm' for 30%, else 'plain'" in done.stdout
    assert "short_letter: True for 0%, else False" in done.stdout
    told = json.loads(pilot_here("flag", "list", "--json").stdout)
    assert [(each["name"], each["percent"]) for each in told["flags"]] == [("short_letter", 0), ("tone", 30)]
    assert "flag    rev -" in pilot_here("audit").stdout


def test_mistakes_are_one_line_with_the_mend(tiny: Any, pilot_here: Run) -> None:
    tiny.toml.write_text(tiny.toml.read_text() + TABLE)
    for arguments, code, told in (
        (("flag", "set", "ton", "--percent", "1", "--reason", "x"), 2, "Use one of short_letter, tone"),
        (("flag", "set", "tone", "--percent", "101", "--reason", "x"), 2, "less than or equal to 100"),
        (("flag", "set", "tone", "--percent", "1", "--reason", " "), 2, "a reason is needed"),
        (("flag", "set", "tone", "--percent", "1"), 2, "--reason"),
    ):
        done = pilot_here(*arguments)
        assert done.returncode == code
        assert told in done.stderr
    assert not (tiny.control / FLAGS).exists()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('[flags.tone]\non = "a"\noff = "b"', "'description' is missing"),
        ('[flags.tone]\ndescription = "x"\non = "a"\noff = false', "of another type than on (bool, not str)"),
        ('[flags.tone]\ndescription = "x"\non = true\noff = 0', "of another type than on (int, not bool)"),
        ('[flags.tone]\ndescription = "x"\non = 2026-01-01\noff = 2026-01-02', "true or false, a text"),
        ('[flags.tone]\ndescription = "x"\npercent = 10', "unknown key 'percent'"),
        ('[flags.model_enabled]\ndescription = "x"', "is the harness's own flag"),
        ('[flags."A b"]\ndescription = "x"', "'A b' is no name"),
    ],
)
def test_a_mistake_in_a_declaration_is_one_line(tiny: Any, pilot_here: Run, table: str, told: str) -> None:
    tiny.toml.write_text(f"{tiny.toml.read_text()}\n{table}\n")
    done = pilot_here("flag", "list")
    assert done.returncode == 2
    assert told in done.stderr
    assert "flags" in done.stderr
    assert done.stderr.count("\n") == 1
