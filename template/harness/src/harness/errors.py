"""Mistakes that a person can mend: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import errno
import os
import sysconfig
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


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
# Libraries wrap the operating system's word, or only quote it.
SAID_WHEN_FULL = (*map(os.strerror, FULL), "database or disk is full")
SAID_WHEN_FORBIDDEN = (os.strerror(errno.EACCES), os.strerror(errno.EROFS), "readonly database")


def full(error: BaseException) -> bool:
    """Whether a disk had no room left."""
    return _telling(error, FULL, SAID_WHEN_FULL) is not None


def _telling(error: BaseException, numbers: set[int], texts: tuple[str, ...]) -> tuple[str, str] | None:
    """What was said, and the file concerned, where the error or one behind it is of that kind."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in numbers:
            return seen.strerror or str(seen), str(seen.filename or "")
        line = next((line for line in str(seen).splitlines() for text in texts if text in line), None)
        if line is not None:
            return line.strip(), ""
        seen = seen.__cause__ or seen.__context__
    return None


def _of_the_machine(error: Exception, root: Path) -> PilotError | None:
    """A full disk or a missing right: nobody's code is wrong."""
    told = _telling(error, FULL, SAID_WHEN_FULL)
    if told is not None:
        what, mend = f"the disk has no room left ({told[0]})", "Free some, and run again."
        return PilotError(what, where=told[1] or str(root), mend=mend)
    told = _telling(error, FORBIDDEN, SAID_WHEN_FORBIDDEN)
    if told is not None:
        mend = "Give it the right, or run as the account that this folder belongs to."
        what = f"this account may not read or write there ({told[0]})"
        return PilotError(what, where=told[1] or str(root), mend=mend)
    return None


def place(error: BaseException) -> str:
    """Where an exception arose, by file and line, and without its text, which may quote somebody's data.

    It names the team's code where that took part, else the standard's, else whatever raised it.
    """
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    installed = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    own = [each for each in frames if not str(each[0]).startswith(("<", *installed))]
    theirs = [each for each in own if not each[0].is_relative_to(HARNESS)]
    file, line = (theirs or own or frames or [(Path("unknown"), 0)])[-1]
    return f"{file.name} line {line}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def told(error: BaseException, root: Path, file: str) -> PilotError:
    """Whatever an optional file of the team's raised, told in one line.

    Args:
        error: What was raised.
        root: The pilot's folder.
        file: The file that was loaded or called.
    """
    if isinstance(error, PilotError):
        return error
    if isinstance(error, Exception):
        return unforeseen(error, root)
    return PilotError(f"it ended the process ({type(error).__name__})", where=file, mend="Correct it.")


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
