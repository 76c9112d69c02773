"""evidence/drills/NAME.json: what a drill found, when, and with which code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError, model_validator

from harness.errors import PilotError
from harness.pipeline import layout

FOLDER = Path("evidence", "drills")
Outcome = Literal["passed", "failed", "inconclusive"]


class Checked(BaseModel):
    """One check of a drill.

    Attributes:
        name: Its name.
        outcome: How it came out.
        detail: What was seen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    outcome: Outcome
    detail: str


class Drilled(BaseModel):
    """The record.

    Attributes:
        schema_version: The layout of this file.
        drill: The drill's name.
        passed: Whether every check passed.
        verdict: Failed when a check did, inconclusive when there was too little to see.
        produced_at: When the drill ended.
        produced_by: The account that ran it.
        harness: The harness's version.
        cores: How many cores the machine has.
        trees: The git tree hashes of the folders that decide, as they were when it was drilled.
        model: The digest of the packaged model that decided.
        figures: What was measured, each under a name that ends in its unit.
        checks: Everything that had to hold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    drill: str
    passed: bool
    verdict: Outcome
    produced_at: AwareDatetime
    produced_by: str
    harness: str
    cores: int
    trees: dict[str, str]
    model: str
    figures: dict[str, int | float | str | None]
    checks: tuple[Checked, ...]

    @model_validator(mode="after")
    def _says_one_thing(self) -> Drilled:
        # A file that claims a pass beside a check that failed is nobody's evidence.
        every = bool(self.checks) and all(check.outcome == "passed" for check in self.checks)
        if self.passed != every or self.passed != (self.verdict == "passed"):
            raise ValueError("passed contradicts the checks")
        return self


def path(name: str) -> Path:
    """Where a drill's record lies, below the pilot's root."""
    return FOLDER / f"{name}.json"


def write(root: Path, found: Drilled) -> None:
    """Keep the record, in place of the one before."""
    layout.write_json(root / path(found.drill), found.model_dump(mode="json"))


def read(root: Path, name: str) -> Drilled:
    """The record of the last drill of that name.

    Raises:
        PilotError: It is missing, or no record of this layout.
    """
    where, mend = path(name).as_posix(), f"`pilot drill {name}`, and commit what it wrote."
    try:
        found = Drilled.model_validate_json((root / where).read_bytes())
    except OSError as error:
        raise PilotError("the record of a drill is missing", where=where, mend=mend) from error
    except ValidationError as error:
        told = error.errors()[0]["msg"]
        raise PilotError(f"not the record of a drill: {told}", where=where, mend=mend) from error
    if found.drill != name:
        raise PilotError(f"it is the record of another drill, '{found.drill}'", where=where, mend=mend)
    return found
