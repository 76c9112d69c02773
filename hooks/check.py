"""What a check is, and how one is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from pilot_template.hooks.result import Finding, Outcome, Skipped, Status, Unknown
from pilot_template.hooks.tree import Tree

Look = Callable[[Tree], Iterator[Finding]]


class Severity(StrEnum):
    """What a failed check means."""

    ERROR = "error"  # the exit code is 1
    WARNING = "warning"  # it is told, and the exit code stays 0


@dataclass(frozen=True)
class Check:
    """One convention.

    Attributes:
        id: Its name for programs, waivers and reports: PT and three digits, never changed and never reused.
        name: Its name for people, and of its hook.
        severity: What it means when it fails.
        looks_at: The files that it reads.
        look: Yields what is wrong. Its docstring's first line is what holds when nothing is.
    """

    id: str
    name: str
    severity: Severity
    looks_at: str
    look: Look

    @property
    def says(self) -> str:
        """What holds where the check passes, in one line."""
        return self._paragraphs()[0]

    @property
    def why(self) -> str:
        """What the rest of the docstring tells, as one paragraph."""
        return " ".join(self._paragraphs()[1:])

    def _paragraphs(self) -> list[str]:
        return [" ".join(part.split()) for part in (self.look.__doc__ or "").split("\n\n") if part.strip()]


def run(check: Check, tree: Tree) -> Outcome:
    """Let a check look at a pilot."""
    try:
        findings = tuple(sorted(set(check.look(tree))))
    except Skipped as reason:
        return Outcome(check.id, Status.SKIPPED, reason=str(reason))
    except (Unknown, OSError) as reason:
        return Outcome(check.id, Status.UNKNOWN, reason=str(reason))
    return Outcome(check.id, Status.FAILED if findings else Status.PASSED, findings)
