"""remote.json: what a flag service said last, and how long that holds.

``pilot sync`` is its only writer, and it writes each time that the service has proven that its answer is the
present one. Here the file is read on every decision and nothing is asked over a network. It only restricts:
a share is the smaller one of the local and the remote one, and a stop in either stops.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from harness.control.sealed import Damaged, seal, unseal
from harness.control.state import replace
from harness.control.watched import Watched

REMOTE = "remote.json"
MAX_STALE_S = 300.0
# By so much the clock of whoever wrote it may be ahead. More means that a clock was set, so no age is known.
AHEAD_S = 60.0


class RemoteRefusal(StrEnum):
    """Why a remote control lets no model decide; the values are those of ``Why``."""

    KILLED = "remote_killed"
    STALE = "remote_stale"
    UNREADABLE = "remote_unreadable"
    MISSING = "no_remote"


@dataclass(frozen=True)
class RemoteRule:
    """What pilot.toml asks of a remote control.

    Attributes:
        max_stale_s: For how many seconds the last answer holds when no newer one comes.
    """

    max_stale_s: float = MAX_STALE_S


class Remote(BaseModel):
    """What the flag service said last.

    Attributes:
        schema_version: The layout of this file; a reader refuses one that it does not know.
        source: Which service said it: its kind and its address, without a password.
        flag: The flag's name there.
        group: The group that its share is drawn from; it is the state's ``flag_key``.
        fetched_at: When it was asked, UTC: at that moment at the latest it was true.
        pct: The share of entities, 0 to 100, for which a model may decide.
        killed: Whether no model may.
        proof: What shows that the answer was the present one: an entity tag, or a row's version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    source: str = Field(min_length=1)
    flag: str = Field(min_length=1)
    group: str = Field(min_length=1)
    fetched_at: AwareDatetime
    pct: int = Field(ge=0, le=100)
    killed: bool
    proof: str = Field(min_length=1)

    def age_s(self) -> float:
        """How many seconds ago it was true; below zero when a clock was set back since."""
        return time.time() - self.fetched_at.timestamp()


@dataclass(frozen=True)
class RemoteUnreadable:
    """remote.json is damaged or says something that cannot be; never a reason to run the model.

    Attributes:
        why: What is wrong with it, with its path.
    """

    why: str


class RemoteReader:
    """The remote control in force, read anew on every question.

    Args:
        folder: The control folder.
        rule: What pilot.toml asks of it; None where it names no remote control. A file that is there counts
            all the same.
    """

    def __init__(self, folder: Path, rule: RemoteRule | None) -> None:
        self.required = rule is not None
        self.max_stale_s = (rule or RemoteRule()).max_stale_s
        file = folder / REMOTE
        self._watched: Watched[Remote | RemoteUnreadable] = Watched(
            file,
            lambda text: parse_remote(text, where=str(file)),
            lambda error: RemoteUnreadable(f"{file}: {error.strerror}"),
        )
        self._first_seen: tuple[datetime, float] | None = None

    def read(self) -> Remote | RemoteUnreadable | None:
        """What the file says; None when there is none. Never raises."""
        return self._watched.read()

    def share(self, group: str) -> int | RemoteRefusal:
        """For which share of the entities of ``group`` a model may decide, or why for none."""
        found = self.read()
        if found is None:
            return RemoteRefusal.MISSING if self.required else 100
        if isinstance(found, RemoteUnreadable) or found.group != group:
            return RemoteRefusal.UNREADABLE
        if found.killed:
            return RemoteRefusal.KILLED
        if not self.fresh(found):
            return RemoteRefusal.STALE
        return found.pct

    def fresh(self, remote: Remote) -> bool:
        """Whether what it says still holds."""
        if not -AHEAD_S <= remote.age_s() <= self.max_stale_s:
            return False
        # A clock that is set back again and again would keep an old answer young: this one cannot be set.
        now, seen = time.monotonic(), self._first_seen
        if seen is None or seen[0] != remote.fetched_at:
            self._first_seen = seen = (remote.fetched_at, now)
        return now - seen[1] <= self.max_stale_s


def parse_remote(text: bytes, *, where: str) -> Remote | RemoteUnreadable:
    """Read what the flag service said from the file's bytes. Never raises."""
    try:
        return unseal(text, Remote, where=where)
    except Damaged as error:
        return RemoteUnreadable(str(error))


def write_remote(folder: Path, remote: Remote) -> None:
    """Put in force what the flag service said. Only ``pilot sync`` calls it.

    Raises:
        OSError: It could not be written; what was in force before stays so, until it is too old.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = remote.model_dump(mode="json")
    document["fetched_at"] = remote.fetched_at.astimezone(UTC).isoformat(timespec="microseconds")
    replace(folder / REMOTE, seal(document))
