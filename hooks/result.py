"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  # there is nothing yet that it could look at
    UNKNOWN = "unknown"  # it could not look: never to be read as a pass


class Skipped(Exception):
    """Raised by a check for which there is nothing to look at; its text is the reason."""


class Unknown(Exception):
    """Raised by a check that could not look; its text says why and what to do."""


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        file: The file, from the pilot's folder on.
        what: What is wrong, in one clause.
        mend: What the reader does about it, as an instruction.
        line: The line of the file, where there is one; 0 where there is none.
    """

    file: str
    what: str
    mend: str
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file} line {self.line}" if self.line else self.file
        return f"{place}: {self.what}. {self.mend}"


@dataclass(frozen=True)
class Outcome:
    """How one check ended on one pilot.

    Attributes:
        check: The check's id.
        status: How it ended.
        findings: What is wrong; only where the status is failed.
        reason: Why it was skipped, or could not look.
    """

    check: str
    status: Status
    findings: tuple[Finding, ...] = field(default=())
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The outcome for a program."""
        return {
            "check": self.check,
            "status": str(self.status),
            "reason": self.reason,
            "findings": [
                {"file": each.file, "line": each.line or None, "what": each.what, "mend": each.mend}
                for each in self.findings
            ],
        }
