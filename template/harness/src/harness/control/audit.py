"""audit.jsonl: who changed what, when and why, each line chained to the one before by its hash."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

AUDIT = "audit.jsonl"
START = "0" * 64


def append(folder: Path, *, actor: str, action: str, reason: str, revision: int | None) -> None:
    """Add one line and flush it to the disk. The caller holds the lock.

    Raises:
        OSError: The line could not be written.
    """
    file = folder / AUDIT
    content = file.read_bytes() if file.exists() else b""
    entry: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "actor": actor,
        "action": action,
        "reason": reason,
        "revision": revision,
        "previous": _last_hash(content),
    }
    entry["sha256"] = _hash(entry)
    with file.open("ab") as stream:
        if content and not content.endswith(b"\n"):
            stream.write(b"\n")  # or this entry would be lost in the line that a crash cut short
        stream.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_audit(folder: Path) -> list[dict[str, Any]]:
    """Every entry, oldest first.

    Raises:
        ValueError: A line does not follow from the one before it; the message names its number.
    """
    file = folder / AUDIT
    if not file.exists():
        return []
    entries: list[dict[str, Any]] = []
    previous = START
    # Bytes end lines at \n only; text would also end one at a U+2028 within somebody's reason.
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            raise ValueError(f"line {number} of {file} is not JSON") from None
        if not isinstance(entry, dict) or entry.get("previous") != previous:
            raise ValueError(f"line {number} of {file} does not follow from the line before it")
        previous = entry.pop("sha256", "")
        if previous != _hash(entry):
            raise ValueError(f"line {number} of {file} was changed after it was written")
        entries.append(entry)
    return entries


def _last_hash(content: bytes) -> str:
    lines = content.splitlines()
    if not lines:
        return START
    try:
        return str(json.loads(lines[-1])["sha256"])
    except (ValueError, KeyError, TypeError):
        # A line cut short by a crash stays as it is; the chain goes on from its bytes and shows the break.
        return hashlib.sha256(lines[-1]).hexdigest()


def _hash(entry: dict[str, Any]) -> str:
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
