"""Files and folders that are whole or not there: a failure or an interruption leaves what was before."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part"


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``file`` when everything is in it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.name}{PART}")
    try:
        yield beside
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """See, before it matters, that a folder takes files or can be made; nothing is left behind.

    Raises:
        OSError: They cannot.
    """
    whole = folder.absolute()
    there = next(each for each in (whole, *whole.parents) if each.exists())
    with tempfile.TemporaryFile(dir=there):  # without a name, where the system can: somebody may be looking
        pass


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of ``folder`` when everything is in it."""
    beside = folder.with_name(f"{folder.name}{PART}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_durably(file: Path, content: bytes | memoryview) -> None:
    """Write a file that is whole under its name, and on the disk, when this returns.

    Raises:
        OSError: It is not; what was there before still is.
    """
    beside = file.with_name(f"{file.name}{PART}")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the name could be lost, with what is under it
    finally:
        os.close(folder)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
