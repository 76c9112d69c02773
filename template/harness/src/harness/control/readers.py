"""Which processes of this pilot serve on this host, and which control folder each of them reads.

A stop that is written where no service looks is no stop. Settings can differ between the shell that serves
and the shell that stops, so each process that serves leaves a note below the pilot's var/ folder, at a place
that no setting moves: where it looks, and an address of its own at which it says what it sees.
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
    """A process that reads a control folder and decides by it.

    Attributes:
        pid: The process.
        started: When it began, seconds since 1970, which tells it from a later one of the same pid.
        folder: The control folder that it reads, absolute.
        url: Where its service answers; empty where another server than ours listens.
        address: Where just this process says what it sees, ``host:port``; empty where it could open none.
    """

    pid: int
    started: float
    folder: str
    url: str
    address: str = ""


@contextmanager
def noted(root: Path, folder: Path, url: str, address: str = "") -> Iterator[None]:
    """Leave a note of this process while it serves; a folder that takes none keeps no service down."""
    reader = Reader(os.getpid(), psutil.Process().create_time(), str(folder.resolve()), url, address)
    file = root / NOTES / f"{reader.pid}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace(file, json.dumps(asdict(reader)).encode())
    except OSError as error:
        log.warning("no note of this service: %s; `pilot kill` cannot ask it whether it stopped", error)
    try:
        yield
    finally:
        with suppress(OSError):  # a note that stays is taken away by whoever reads it next
            file.unlink(missing_ok=True)


def live(root: Path) -> list[Reader]:
    """The processes that serve now; notes of those that have ended are taken away."""
    found = []
    for file in sorted((root / NOTES).glob("*.json")):
        try:
            reader = Reader(**json.loads(file.read_bytes()))
            process = psutil.Process(reader.pid)
            # What is dead and not yet collected by its parent decides nothing any more.
            alive = process.create_time() == reader.started and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, TypeError, psutil.Error):
            alive = False
        if alive:
            found.append(reader)
        else:
            with suppress(OSError):
                file.unlink(missing_ok=True)
    return found
