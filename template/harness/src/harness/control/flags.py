"""flags.json: for which share of entities each of the team's own flags is on.

What a flag is, and its two values, stands in pilot.toml; what changes while a service runs stands here,
beside the state and by its rules: one writer that holds a lock, a checksum, a revision, and a line in the
audit before anything changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.control import actions
from harness.control.identity import actor
from harness.control.sealed import Damaged, seal, unseal
from harness.control.state import replace, writing
from harness.control.watched import Watched
from harness.errors import PilotError

FLAGS = "flags.json"


class Setting(BaseModel):
    """For whom a flag is on.

    Attributes:
        pct: The share of entities, 0 to 100.
        actor: Who set it.
        reason: Why.
        changed_at: When, ISO 8601, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    pct: int = Field(ge=0, le=100)
    actor: str
    reason: str
    changed_at: str


class FlagSettings(BaseModel):
    """All flags that were ever set.

    Attributes:
        schema_version: The layout of this file; a reader refuses one that it does not know.
        rev: Grows by one with every change; 0 before the first.
        flags: What each was set to; one that is not here is on for nobody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    rev: int = Field(default=0, ge=0)
    flags: dict[str, Setting] = {}


@dataclass(frozen=True)
class FlagsUnreadable:
    """flags.json is damaged or cannot be read; never a reason to switch anything on.

    Attributes:
        why: What is wrong with it, with its path.
    """

    why: str


class Flags:
    """The flags in force, read anew on every question."""

    def __init__(self, folder: Path) -> None:
        file = folder / FLAGS
        self._watched: Watched[FlagSettings | FlagsUnreadable] = Watched(
            file,
            lambda text: parse_flags(text, where=str(file)),
            lambda error: FlagsUnreadable(f"{file}: {error.strerror}"),
        )

    def read(self) -> FlagSettings | FlagsUnreadable:
        """What is set. Never raises."""
        found = self._watched.read()
        return FlagSettings() if found is None else found


def parse_flags(text: bytes, *, where: str) -> FlagSettings | FlagsUnreadable:
    """Read the flags from the file's bytes. Never raises."""
    try:
        return unseal(text, FlagSettings, where=where)
    except Damaged as error:
        return FlagsUnreadable(str(error))


def set_flag(folder: Path, *, name: str, percent: int, known: Iterable[str], reason: str) -> FlagSettings:
    """Set for which share of entities a flag is on, from the next question on.

    Args:
        folder: The control folder.
        name: The flag.
        percent: The share, 0 to 100.
        known: The flags that pilot.toml declares.
        reason: Why.

    Raises:
        PilotError: It is not declared, or the file or the audit cannot be read or written.
    """
    names = sorted(known)
    if name not in names:
        raise PilotError(
            f"there is no flag '{name}'",
            where="pilot.toml [flags]",
            mend=f"Use one of {', '.join(names)}."
            if names
            else f"Declare it: [flags.{name}] description, on, off.",
        )
    who, reason = actor(), actions.printable(reason)
    with writing(folder):
        before = Flags(folder).read()
        if isinstance(before, FlagsUnreadable):
            raise PilotError(
                f"the flags cannot be trusted: {before.why}",
                where=str(folder / FLAGS),
                mend="Callers get their own defaults meanwhile. Restore it from a backup, or delete it.",
            )
        was = before.flags[name].pct if name in before.flags else 0
        setting = Setting(pct=percent, actor=who, reason=reason, changed_at=actions.now())
        after = FlagSettings(rev=before.rev + 1, flags={**before.flags, name: setting})
        told = f"{name} {was}% → {percent}% (flags revision {after.rev}): {reason}"
        # The audit's revision is the state's, which this does not change.
        actions.record(folder, who, "flag", told, None)
        with actions.telling(folder):
            replace(folder / FLAGS, seal(after.model_dump(mode="json")))
    return after
