"""Whether a process that left a note still lives. Only what is sure counts as its end.

When a process began, in seconds since 1970, is reckoned from the clock, and a clock that is set moves it.
Linux also says it in ticks since the boot, and numbers the boot: nothing moves these. Elsewhere a start that
differs is a doubt, and only a process that is not there any more has surely ended.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PROC = Path("/proc")
BOOT = PROC / "sys" / "kernel" / "random" / "boot_id"
# Ended, and not yet collected by its parent: it decides nothing any more.
OVER = ("Z", "X")
SAME_WITHIN_S = 1.0


@dataclass(frozen=True)
class Birth:
    """What tells a process from a later one of the same number.

    Attributes:
        host: The host's name.
        boot: The boot's own number; empty where the system has none.
        space: In which space of process numbers: a container has one of its own; empty where there are none.
        ticks: When it began, in clock ticks since the boot; 0 where the system does not say.
        started: When it began, seconds since 1970, as far as the clock was right.
    """

    host: str
    boot: str
    space: str
    ticks: int
    started: float


def own_birth() -> Birth:
    """This process's."""
    found = _stat(os.getpid())
    ticks = 0 if found is None else found[1]
    return Birth(os.uname().nodename, _boot(), _space(), ticks, psutil.Process().create_time())


def elsewhere(born: Birth) -> str:
    """Where the process is, if not here: its number says nothing then. Empty when it is, or was, here."""
    boot, host = _boot(), os.uname().nodename
    if born.boot and born.boot == boot:  # a host may get another name while it runs
        return "in another container" if born.space != _space() else ""
    return f"on the host {born.host}" if born.host not in ("", host) else ""


def doubt(pid: int, born: Birth) -> str | None:
    """Why it cannot be said whether that process lives; empty when it does, None when it has surely ended."""
    away = elsewhere(born)
    if away:
        return f"it was noted {away}, and its processes are not seen from here"
    if born.boot and born.boot != _boot():
        return None if _boot() else "this system does not say which boot it is"
    if not _there(pid):
        return None
    if not born.ticks:  # no Linux, or a note of an earlier release
        return _by_the_clock(pid, born.started)
    found = _stat(pid)
    if found is None:  # it has just ended, or this account is not shown others' processes
        return "this account may not look at it" if _there(pid) else None
    state, ticks = found
    return None if ticks != born.ticks or state in OVER else ""


def _by_the_clock(pid: int, started: float) -> str | None:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        same = abs(process.create_time() - started) < SAME_WITHIN_S
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return "this account may not look at it"
    return "" if same else "a process of that number began at another time, or the clock was set since"


def _there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another account's
        return True
    return True


def _stat(pid: int) -> tuple[str, int] | None:
    """The process's state and when it began, in ticks since the boot; None where that cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        # Its name comes before, in brackets, and may hold anything, brackets and blanks too.
        fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[19])
    return None


def _boot() -> str:
    with suppress(OSError):
        return BOOT.read_text().strip()
    return ""


def _space() -> str:
    with suppress(OSError):
        return os.readlink(PROC / "self" / "ns" / "pid")
    return ""
