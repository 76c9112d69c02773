"""Mistakes that a person can mend: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import traceback
from pathlib import Path

HARNESS = Path(__file__).resolve().parent


class PilotError(Exception):
    """A mistake of use or of configuration; the command ends with exit code 2.

    Args:
        what: What is wrong, in one clause.
        where: The file, field, address or table concerned.
        mend: What the reader does about it, as an instruction.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str, mend: str) -> None:
        self.what = what
        self.where = where
        self.mend = mend
        super().__init__(f"{where}: {what}. {mend}")


class CheckFailed(PilotError):
    """A check ran and said no; the command ends with exit code 1."""

    exit_code = 1


class Inconclusive(PilotError):
    """There was too little to say yes or no; never to be read as a pass. Exit code 3."""

    exit_code = 3


def unforeseen(error: Exception, root: Path) -> PilotError:
    """An exception that nobody foresaw, told in one line: most often the team's code, by file and line.

    Args:
        error: The exception.
        root: The pilot's folder; what runs below its src/ is the team's.
    """
    said = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    for file, line in reversed(frames):
        if file.is_relative_to(root / "src"):
            mend = "Correct it; `pilot --debug` before the verb shows the traceback."
            return PilotError(said, where=f"{file.name} line {line}", mend=mend)
    inside = [f"{file.name} line {line}" for file, line in frames if file.is_relative_to(HARNESS)]
    return PilotError(
        said,
        where=f"harness, {inside[-1] if inside else 'unknown place'}",
        mend="A defect of the standard: please report it with what `pilot --debug` before the verb shows.",
    )
