"""Since when the stage in force is in force, by the audit, and how far clocks are believed.

A stage that has to last for days must not be shortened by a clock that was set. The audit's times have to
grow, an hour of every stage is not counted, and the decisions' own times, which other processes wrote, have
to lie on most of its days too. Days on which the model was stopped are none of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from harness.control import State

SLACK = timedelta(hours=1)
"""By so much a clock may have been off, at the stage's beginning or now."""

SPANNED = 0.8
"""The share of a stage's days on which the model has to have decided. Holidays may be without any; where
weekends are, the stage lasts longer."""

EVER = datetime(1, 1, 2, tzinfo=UTC)
"""Before every decision, with room for the slack."""

_MOVED = re.compile(r"\w+ → (\w+),")


class Unclear(Exception):
    """Something that has to be known is not; never to be read as a pass.

    Args:
        what: What is not known, in one clause.
        mend: What to do about it.
    """

    def __init__(self, what: str, mend: str) -> None:
        self.what, self.mend = what, mend
        super().__init__(f"{what}. {mend}")


@dataclass(frozen=True)
class Standing:
    """Where the rollout stands.

    Attributes:
        stage: The stage in force.
        entered_at: When it was entered, UTC.
        revision: The state's revision with which it was entered.
        judged: The revision with which a person last armed since; what was before it, that person has
            judged. The stage's own where nobody did.
        judged_at: When that was.
    """

    stage: str
    entered_at: datetime
    revision: int
    judged: int
    judged_at: datetime

    def lasted(self, now: datetime) -> timedelta:
        """How long the stage lasted at least since a person last judged, whatever the clocks at either end.

        What was before is no time of this stage: the model may have been stopped for most of it.
        """
        return now - self.judged_at - SLACK


def standing(state: State, entries: Sequence[dict[str, Any]], now: datetime) -> Standing:
    """Where the rollout stands, by the audit's lines.

    Raises:
        Unclear: The audit does not say since when, or its times cannot all be true.
    """
    lines = [
        each for each in entries if isinstance(each.get("revision"), int) and each["revision"] <= state.rev
    ]
    place = next(
        (
            number
            for number in reversed(range(len(lines)))
            if lines[number]["action"] in ("approve", "rollback")
        ),
        None,
    )
    if place is None:
        raise Unclear(
            f"since when the stage '{state.stage}' is in force: no line of the audit says it", _BACKUP
        )
    if _entered(lines[place]) != state.stage:
        # A rollback that could not be written down. It was before the last line, so that one is late enough.
        if lines[-1]["revision"] != state.rev or place == len(lines) - 1:
            raise Unclear(
                f"since when the stage '{state.stage}' is in force: the audit speaks of another", _BACKUP
            )
        place = len(lines) - 1
    moments = [_moment(each) for each in lines[max(place - 1, 0) :]]
    if any(later < earlier for earlier, later in pairwise(moments)) or moments[-1] > now + SLACK:
        raise Unclear(
            "how long the stage has lasted: the audit's times do not grow up to now", "Set this host's clock."
        )
    entry = lines[place]
    judged = next((each for each in reversed(lines[place:]) if each["action"] == "arm"), entry)
    return Standing(state.stage, _moment(entry), entry["revision"], judged["revision"], _moment(judged))


def unrecorded(state: State) -> Standing:
    """Where the rollout stands by the state alone: everything that the stage ever saw counts.

    For the controller, which an unreadable audit must not blind. It shortens nothing: a gate never asks it.
    """
    return Standing(state.stage, EVER, 0, 0, EVER)


def written(moment: datetime) -> str:
    """A moment as the store writes it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


_BACKUP = "Compare audit.jsonl with a backup."


def _entered(entry: dict[str, Any]) -> str:
    if entry["action"] == "rollback":
        return "shadow"
    found = _MOVED.match(str(entry.get("reason")))
    return found[1] if found else ""


def _moment(entry: dict[str, Any]) -> datetime:
    try:
        found = datetime.fromisoformat(str(entry["at"]))
    except (ValueError, LookupError) as error:
        raise Unclear("how long the stage has lasted: a line of the audit has no time", _BACKUP) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
