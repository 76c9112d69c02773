"""What becomes of each path, from three sides: what was given, what is there, what is given now.

One rule decides who has to step aside: a path that was the standard's gets the standard's, and a path that
was the team's stays the team's; the other lies beside it, with `.yours` or `.standard` behind its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pilot_template.update.ownership import Ownership


class Kind(StrEnum):
    """What becomes of a path of the standard's, or of one that is new and the team's."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"
    # A new file of the team's, which was missing.
    SEEDED = "seeded"
    # The team edited a file of the standard's ...
    KEPT = "kept"  # ... that has not changed meanwhile
    MERGE = "merge"  # ... that has changed too: merged where git can, else both are kept
    DROPPED = "dropped"  # ... that the standard has no more
    DELETED = "deleted"  # ... or deleted it, and it stays so
    COLLISION = "collision"  # The team has a file of its own where the standard has a new one.
    RETIRED = "retired"  # The standard gave the path up and leaves it lying.


@dataclass(frozen=True)
class Change:
    """What becomes of one path, from the pilot's folder on."""

    name: str
    kind: Kind


def decide(
    given: dict[str, str],
    there: dict[str, str],
    gives: dict[str, str],
    owner: Ownership,
) -> Iterator[Change]:
    """Every path with which something is to be done, or of which somebody has to know.

    Args:
        given: Path and content's name of what the pilot's version gave.
        there: The same of what the pilot has.
        gives: The same of what the new version gives.
        owner: Whose a path is.
    """
    for name in sorted({*given, *gives}):
        before, now, after = given.get(name), there.get(name), gives.get(name)
        if name in owner.retired:
            if now is not None and after is None:
                yield Change(name, Kind.RETIRED)
        elif name in owner.seed:
            if before is None and now is None and after is not None:
                yield Change(name, Kind.SEEDED)
        elif now == after:
            continue
        else:
            kind = _of_the_standards(before, now, after)
            if kind is not None:
                yield Change(name, kind)


def _of_the_standards(before: str | None, now: str | None, after: str | None) -> Kind | None:
    """Of a path of which the pilot has not what the new version gives."""
    if before is None:
        return Kind.ADDED if now is None else Kind.COLLISION
    if now is None:
        return Kind.DELETED
    if now == before:
        return Kind.REMOVED if after is None else Kind.CHANGED
    if after is None:
        return Kind.DROPPED
    return Kind.KEPT if after == before else Kind.MERGE
