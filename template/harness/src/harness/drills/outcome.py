"""What a drill is, and what comes of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from harness.drills.scratch import ScratchPilot
from harness.progress import Report

Figure = int | float | str | None


class Verdict(StrEnum):
    """How a check, or a whole drill, came out."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Check:
    """One thing that had to hold.

    Attributes:
        name: Its name, which never changes.
        verdict: How it came out.
        detail: What was seen, in one sentence.
    """

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Outcome:
    """What a drill found.

    Attributes:
        checks: Everything that had to hold, in the order in which it was looked at.
        figures: What was measured, each under a name that ends in its unit.
    """

    checks: tuple[Check, ...]
    figures: dict[str, Figure]

    @property
    def verdict(self) -> Verdict:
        """Failed when one check did, else inconclusive when one was or there is none, else passed."""
        found = {check.verdict for check in self.checks}
        if Verdict.FAILED in found:
            return Verdict.FAILED
        return Verdict.PASSED if found == {Verdict.PASSED} else Verdict.INCONCLUSIVE


@dataclass
class Checks:
    """Collects checks and figures while a drill goes on."""

    made: list[Check] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)

    def that(self, name: str, holds: bool, detail: str) -> None:
        """Note whether something held."""
        self.made.append(Check(name, Verdict.PASSED if holds else Verdict.FAILED, detail))

    def unknown(self, name: str, detail: str) -> None:
        """Note that there was nothing to see, which is never taken for a pass."""
        self.made.append(Check(name, Verdict.INCONCLUSIVE, detail))

    def outcome(self) -> Outcome:
        """All of it."""
        return Outcome(tuple(self.made), dict(self.figures))


@dataclass(frozen=True)
class Scene:
    """Where a drill plays.

    Attributes:
        pilot: The scratch copy, with the packaged model offered in its sandbox.
        report: Takes what is being done, and how much of the whole is done, 0 to 1.
    """

    pilot: ScratchPilot
    report: Report


class Drill(Protocol):
    """One drill.

    Attributes:
        name: What it is called on the command line and in ``evidence/drills/``.
        shows: What it shows, in one sentence.
    """

    name: str
    shows: str

    def run(self, scene: Scene) -> Outcome:
        """Go through it, and say what was found; whatever it starts has ended when this returns."""
        ...
