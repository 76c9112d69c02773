"""audit.jsonl: who changed what, when and why, each line chained to the one before by its hash.

How far it goes stands beside it, in audit.end.json, so that lines missing at the end are noticed as well. The
line comes first and the end after it: a crash in between leaves a line more than the end tells of, which is
no fault, and never one less. Whoever may write the folder can forge both: a copy elsewhere is what proves.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from harness.control.state import replace, share

AUDIT = "audit.jsonl"
END = "audit.end.json"
START = "0" * 64
# What is done without a state, and stops nothing.
BESIDE = ("issue", "revoke", "refuse", "propose", "flag", "erase", "prune")


class AuditBroken(ValueError):
    """The record is not as it was written.

    Attributes:
        line: The first line that is wrong or missing, counted from 1.
    """

    def __init__(self, line: int, what: str, file: Path) -> None:
        self.line = line
        super().__init__(f"line {line} of {file} {what}")


class _End(NamedTuple):
    lines: int
    sha256: str


def append(folder: Path, *, actor: str, action: str, reason: str, revision: int | None) -> None:
    """Add one line and flush it to the disk. The caller holds the lock.

    Raises:
        OSError: The line could not be written.
    """
    file = folder / AUDIT
    content = file.read_bytes() if file.exists() else b""
    lines = content.splitlines()
    end = _end_to_go_on_from(folder, lines)
    previous = _line_hash(lines[-1]) if lines else START
    if end is not None and not _reaches(lines, end):
        previous = end.sha256  # what is missing at the end stays missed by the line after it
    entry: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "actor": actor,
        "action": action,
        "reason": reason,
        "revision": revision,
        "line": len(lines) + 1,
        "previous": previous,
    }
    entry["sha256"] = _hash(entry)
    with file.open("ab") as stream:
        if content and not content.endswith(b"\n"):
            stream.write(b"\n")  # or this entry would be lost in the line that a crash cut short
        stream.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    share(file)
    if end is not None:
        with suppress(OSError):  # the line is written, and a later one brings the end up to it
            _write_end(folder, _End(len(lines) + 1, entry["sha256"]))


def of_a_state(folder: Path) -> bool:
    """Whether there was a state or a stop here before, or that cannot be ruled out.

    A record that only says who got a token, or who was refused, tells of neither.
    """
    try:
        lines = (folder / AUDIT).read_bytes().splitlines()
    except FileNotFoundError:
        end = _read_end(folder)
        return end is not None and end.lines > 0
    except OSError:
        return True
    return any(map(_of_a_state, lines))


def _of_a_state(line: bytes) -> bool:
    try:
        entry = json.loads(line)
        return entry["action"] not in BESIDE or entry["revision"] not in (None, 0)
    except (ValueError, KeyError, TypeError, RecursionError):
        return True


def read_audit(folder: Path) -> list[dict[str, Any]]:
    """Every entry, oldest first.

    Raises:
        AuditBroken: A line is wrong or missing; it names the first one.
    """
    file = folder / AUDIT
    end = _read_end(folder)  # before the lines: one may be added meanwhile
    entries: list[dict[str, Any]] = []
    hashes: list[str] = []
    # Bytes end lines at \n only; text would also end one at a U+2028 within somebody's reason.
    for number, line in enumerate(file.read_bytes().splitlines() if file.exists() else [], start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            raise AuditBroken(number, "is not JSON", file) from None
        if not isinstance(entry, dict) or entry.get("previous") != (hashes[-1] if hashes else START):
            raise AuditBroken(number, "does not follow from the line before it", file)
        stated = entry.pop("sha256", "")
        if stated != _hash(entry):
            raise AuditBroken(number, "was changed after it was written", file)
        hashes.append(stated)
        entries.append(entry)
    _check_end(file, entries, hashes, end)
    return entries


def _check_end(file: Path, entries: list[dict[str, Any]], hashes: list[str], end: _End | None) -> None:
    if end is None:
        if any("line" in entry for entry in entries):
            what = f"may have been there: {END} is missing, and with it how far the record goes"
            raise AuditBroken(len(entries) + 1, what, file)
        return  # a record of a release that kept no end
    if len(entries) < end.lines:
        raise AuditBroken(len(entries) + 1, f"is missing: there were {end.lines} lines", file)
    if end.lines and hashes[end.lines - 1] != end.sha256:
        raise AuditBroken(end.lines, "is not the one that was written", file)


def _end_to_go_on_from(folder: Path, lines: list[bytes]) -> _End | None:
    """How far the record goes; None where that was lost, which then stays to be seen."""
    end = _read_end(folder)
    if end is not None:
        return end
    if (folder / END).exists() or any(_numbered(line) for line in lines):
        return None
    # Before the first line that counts itself: wherever one is, there is an end.
    end = _End(len(lines), _line_hash(lines[-1]) if lines else START)
    _write_end(folder, end)
    return end


def _reaches(lines: list[bytes], end: _End) -> bool:
    if len(lines) < end.lines:
        return False
    return end.lines == 0 or _line_hash(lines[end.lines - 1]) == end.sha256


def _read_end(folder: Path) -> _End | None:
    try:
        found = json.loads((folder / END).read_bytes())
        end = _End(int(found["lines"]), str(found["sha256"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return end if end.lines >= 0 else None


def _write_end(folder: Path, end: _End) -> None:
    replace(folder / END, json.dumps(end._asdict()).encode() + b"\n")


def _numbered(line: bytes) -> bool:
    try:
        return "line" in json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return False


def _line_hash(line: bytes) -> str:
    try:
        return str(json.loads(line)["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        # A line cut short by a crash stays as it is; the chain goes on from its bytes and shows the break.
        return hashlib.sha256(line).hexdigest()


def _hash(entry: dict[str, Any]) -> str:
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
