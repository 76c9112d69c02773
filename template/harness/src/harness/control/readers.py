"""Which services of this pilot run on this host, and which control folder each of them reads.

A stop that is written where no service looks is no stop. Settings can differ between the shell that serves
and the shell that stops, so each service leaves a note below the pilot's var/ folder, at a place that no
setting moves.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from harness.control.state import replace

NOTES = Path("var", "run", "services")

log = logging.getLogger("harness.control")


@dataclass(frozen=True)
class Reader:
    """A service that reads a control folder.

    Attributes:
        pid: Its process.
        started: When the process began, seconds since 1970, which tells it from a later one of the same pid.
        folder: The control folder that it reads, absolute.
        url: Where it answers.
    """

    pid: int
    started: float
    folder: str
    url: str


@contextmanager
def noted(root: Path, folder: Path, url: str) -> Iterator[None]:
    """Leave a note of this process while it serves; a folder that takes none keeps no service down."""
    reader = Reader(os.getpid(), psutil.Process().create_time(), str(folder.resolve()), url)
    file = root / NOTES / f"{reader.pid}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace(file, json.dumps(asdict(reader)).encode())
    except OSError as error:
        log.warning("no note of this service: %s; `pilot kill` cannot ask it whether it stopped", error)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def live(root: Path) -> list[Reader]:
    """The services that run now; notes of processes that have ended are taken away."""
    found = []
    for file in sorted((root / NOTES).glob("*.json")):
        try:
            reader = Reader(**json.loads(file.read_bytes()))
            alive = psutil.Process(reader.pid).create_time() == reader.started
        except (OSError, ValueError, TypeError, psutil.Error):
            alive = False
        if alive:
            found.append(reader)
        else:
            with suppress(OSError):
                file.unlink(missing_ok=True)
    return found
