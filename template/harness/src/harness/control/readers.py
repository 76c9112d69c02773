"""Which processes of this pilot serve on this host, and which control folder each of them reads.

A stop that is written where no service looks is no stop. Settings can differ between the shell that serves
and the shell that stops, so each process that serves leaves a note below the pilot's var/ folder, at a place
that no setting moves: where it looks, and an address of its own at which it says what it sees.

A note is taken away only when its process has surely ended. One of which that cannot be said stays, and
counts as a process that was not heard.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.control import births
from harness.control.births import Birth
from harness.control.state import replace as write

NOTES = Path("var", "run", "services")
HIGHEST_PID = 2**31 - 1

log = logging.getLogger("harness.control")


@dataclass(frozen=True)
class Reader:
    """A process that reads a control folder and decides by it.

    Attributes:
        pid: The process; 0 when its note does not say.
        started: When it began, seconds since 1970; the clock may have been set since.
        folder: The control folder that it reads, absolute; empty when its note does not say.
        url: Where its service answers; empty where another server than ours listens.
        address: Where just this process says what it sees, ``host:port``; empty where it could open none.
        host: The host on which it left its note.
        boot: The number of that host's boot.
        space: In which space of process numbers its own one counts.
        ticks: When it began, in clock ticks since the boot.
        doubt: Why it cannot be said whether it lives; empty when it does.
        elsewhere: Whether another host or container has left the note: its address is none of this one.
        note: The note's file.
    """

    pid: int
    started: float
    folder: str
    url: str
    address: str = ""
    host: str = ""
    boot: str = ""
    space: str = ""
    ticks: int = 0
    doubt: str = ""
    elsewhere: bool = False
    note: str = ""

    @property
    def born(self) -> Birth:
        """What tells it from a later process of the same number."""
        return Birth(self.host, self.boot, self.space, self.ticks, self.started)


KINDS: dict[str, type | tuple[type, ...]] = {
    "pid": int,
    "started": (int, float),
    "ticks": int,
    **dict.fromkeys(("folder", "url", "address", "host", "boot", "space"), str),
}


@contextmanager
def noted(root: Path, folder: Path, url: str, address: str = "") -> Iterator[Callable[[], None]]:
    """Leave a note of this process while it serves; a folder that takes none keeps no service down.

    It gives what leaves the note again where it is missing, for a service to call from time to time.
    """
    reader = Reader(
        os.getpid(), folder=str(folder.resolve()), url=url, address=address, **asdict(births.own_birth())
    )
    file = _file_for(root / NOTES, reader)

    def again() -> None:
        if not os.path.lexists(file) and not _left(file, reader):
            log.warning("the note of this service was missing, and is there again: %s", file)

    problem = _left(file, reader)
    if problem:
        log.warning("no note of this service: %s; `pilot kill` cannot ask it whether it stopped", problem)
    try:
        yield again
    finally:
        with suppress(OSError):  # a note that stays is taken away by whoever reads it next
            file.unlink(missing_ok=True)


def live(root: Path) -> list[Reader]:
    """The processes that serve, or may; notes of those that have surely ended are taken away."""
    folder = root / NOTES
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    except FileNotFoundError:
        return []
    except OSError as error:
        return [_unknown(folder, f"the notes of services cannot be looked at ({error.strerror})")]
    return [found for found in (_judged(folder / name) for name in names) if found is not None]


def _judged(file: Path) -> Reader | None:
    """Whose note it is, with the doubt about it; None when that process has surely ended."""
    try:
        reader = _read(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _unknown(file, f"its note cannot be read ({error.strerror})")
    except (ValueError, TypeError, KeyError, RecursionError):
        return _unknown(file, "its note is damaged")
    doubt = births.doubt(reader.pid, reader.born)
    if doubt is None:
        _take_away(file, reader)
        return None
    return replace(reader, doubt=doubt, elsewhere=births.elsewhere(reader.born) != "", note=str(file))


def _take_away(file: Path, reader: Reader) -> None:
    # A process that has just begun may have got the number, and with it the file.
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        if _read(file) == reader:
            file.unlink(missing_ok=True)


def _read(file: Path) -> Reader:
    said: dict[str, Any] = json.loads(file.read_bytes())
    # A later release may say more.
    known = {
        each.name: said[each.name] for each in fields(Reader) if each.name in KINDS and each.name in said
    }
    reader = Reader(**known)
    if any(type(value) is bool or not isinstance(value, KINDS[name]) for name, value in known.items()):
        raise ValueError("not a note")
    if not 0 < reader.pid <= HIGHEST_PID or not os.path.isabs(reader.folder):
        raise ValueError("not a note")
    return reader


def _unknown(file: Path, doubt: str) -> Reader:
    return Reader(0, 0.0, "", "", doubt=doubt, note=str(file))


def _file_for(folder: Path, reader: Reader) -> Path:
    file = folder / f"{reader.pid}.json"
    found = _judged(file)
    # A process of another container may have the same number, and its note is all that tells of it.
    return file if found is None or not found.doubt else folder / f"{reader.pid}-{reader.host}.json"


def _left(file: Path, reader: Reader) -> OSError | None:
    """Write the note; why that could not be done."""
    said = {name: value for name, value in asdict(reader).items() if name in KINDS}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, json.dumps(said).encode())
    except OSError as error:
        return error
    return None
