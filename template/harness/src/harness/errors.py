"""Mistakes that a person can mend: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator
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


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def full(error: BaseException) -> bool:
    """Whether a disk had no room left; libraries wrap the operating system's word or only quote it."""
    return any(
        (isinstance(each, OSError) and each.errno in FULL)
        or any(text in str(each) for text in (*map(os.strerror, FULL), "database or disk is full"))
        for each in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _of_the_machine(error: Exception, root: Path) -> PilotError | None:
    """A full disk or a missing right: nobody's code is wrong."""
    for each in _chain(error):
        forbidden = isinstance(each, OSError) and each.errno in FORBIDDEN
        if forbidden or any(text in str(each) for text in ("Permission denied", "readonly database")):
            file = getattr(each, "filename", None)
            return PilotError(
                f"this account may not read or write there ({_first_line(each)})",
                where=str(file or root),
                mend="Give it the right, or run as the account that this folder belongs to.",
            )
    if full(error):
        names = [getattr(each, "filename", None) for each in _chain(error)]
        return PilotError(
            f"the disk has no room left ({_first_line(error)})",
            where=str(next(filter(None, names), root)),
            mend="Free some, and run again.",
        )
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unforeseen(error: Exception, root: Path) -> PilotError:
    """An exception that nobody foresaw, told in one line: most often the team's code, by file and line.

    Args:
        error: The exception.
        root: The pilot's folder; what runs below its src/ is the team's.
    """
    outside = _of_the_machine(error, root)
    if outside is not None:
        return outside
    said = f"{type(error).__name__}: {_first_line(error)}"
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
