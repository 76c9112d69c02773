"""Mistakes that a person can mend: each says what is wrong, where, and what to do about it."""

from __future__ import annotations


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
