"""One question to the flag service, and its answer written down where decisions read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from harness.control import StateUnreadable, read_state
from harness.control.remote import Remote, write_remote
from harness.control.state import writing
from harness.errors import PilotError
from harness.settings import Settings
from harness.sync.answers import ASK_WITHIN_S, Answer, Source
from harness.sync.postgres import ControlTable
from harness.sync.unleash import Unleash

LOCK = "remote.lock"


@dataclass(frozen=True)
class Synced:
    """What was brought.

    Attributes:
        source: Which service said it.
        flag: The flag's name there.
        answer: What it said.
        fetched_at: When it was asked.
    """

    source: str
    flag: str
    answer: Answer
    fetched_at: datetime

    @property
    def refused(self) -> bool:
        """Whether the service knows no such flag."""
        return bool(self.answer.note)

    def told(self) -> dict[str, Any]:
        """It as plain data."""
        at = self.fetched_at.isoformat(timespec="milliseconds")
        return {"source": self.source, "flag": self.flag, "fetched_at": at, **asdict(self.answer)}

    def line(self) -> str:
        """It in a line for people."""
        said = (
            "KILLED, no model decides" if self.answer.killed else f"a model may decide for {self.answer.pct}%"
        )
        return f"{self.source}, flag {self.flag}: {said} ({self.answer.proof})"


def source_of(settings: Settings, within_s: float = ASK_WITHIN_S) -> Source:
    """The flag service that pilot.toml names.

    Raises:
        PilotError: It names none.
    """
    if settings.remote is None:
        raise PilotError(
            "no flag service is named",
            where="pilot.toml [remote]",
            mend='Write the table [remote] with source = "unleash" or "postgres", and its url.',
        )
    if settings.remote.source == "unleash":
        return Unleash(settings, within_s)
    return ControlTable(settings, within_s)


def sync_once(settings: Settings, source: Source) -> Synced:
    """Ask, and put the answer in force. An error leaves in force what was, until it is too old.

    Raises:
        Refused: The service said no.
        Unreachable: It did not answer.
        PilotError: The answer cannot be written.
    """
    folder = settings.path(settings.control.folder)
    # One at a time, so that an answer never takes the place of one that was asked for later.
    with writing(folder, wait_s=2 * ASK_WITHIN_S, lock=LOCK):
        # Before it is asked: what it says was true then at the latest.
        asked_at = datetime.now(UTC)
        group = group_of(settings)
        answer = source.ask(group)
        remote = Remote(
            source=source.named,
            flag=source.flag,
            group=group,
            fetched_at=asked_at,
            pct=answer.pct,
            killed=answer.killed,
            proof=answer.proof,
        )
        try:
            write_remote(folder, remote)
        except OSError as error:
            raise PilotError(
                f"what the flag service said cannot be written: {error.strerror}",
                where=str(folder),
                mend="Free the disk or make the folder writable; what was there holds until it is too old.",
            ) from error
    return Synced(source.named, source.flag, answer, asked_at)


def group_of(settings: Settings) -> str:
    """The group that this pilot draws its buckets from; without a state it will be the package's name."""
    try:
        state = read_state(settings.path(settings.control.folder))
    except StateUnreadable:
        state = None  # the fallback decides, whatever the flag service says
    return settings.pilot.package if state is None else state.flag_key
