"""What Linux's Landlock takes from a process for good: the service, and the right to change files.

A model's process has the account of the service. Without this it may read the service's environment and
memory in /proc, end it with a signal, and delete its files. Who loses what, and since which kernel, is in
decision 20. It needs no root. The numbers are Linux's own, the same on every architecture.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
from typing import Any

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION = 1
PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38

WRITE_FILE = 1 << 1
# Delete, and make whatever can be made: folders, files, links, sockets, pipes, devices.
REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
# A rename or a link into another folder is denied by whatever handles files at all, unless a rule allows it.
REFER, REFER_SINCE = 1 << 13, 2
TRUNCATE, TRUNCATE_SINCE = 1 << 14, 3
SIGNALS, SIGNALS_SINCE = 1 << 1, 6


@functools.cache
def level() -> int:
    """The version of Landlock that this system offers; 0 for none."""
    if sys.platform != "linux":
        return 0
    try:
        return max(0, _call(CREATE_RULESET, None, 0, ASK_VERSION))
    except OSError:  # an old kernel, one that was started without it, or a container that forbids to ask
        return 0


def lacking() -> str:
    """What a process that may not write can do to files all the same; empty where that is nothing known."""
    if level() >= TRUNCATE_SINCE:
        return ""
    can = "shorten" if level() else "shorten and delete"
    return f"this kernel does not keep the model in shadow from files: it could {can} what is this account's"


def confine(*, may_write: bool) -> None:
    """Confine this process, which has one thread, and what it starts; nothing where nothing is offered.

    Args:
        may_write: Whether files may be changed as before. Where not, /dev/null still takes what is written.

    Raises:
        OSError: The system offers it and refuses it.
    """
    offered = level()
    if offered < (REFER_SINCE if may_write else 1):
        return
    if may_write:
        changing, where, allowed = REFER, "/", REFER
    else:
        truncate = TRUNCATE if offered >= TRUNCATE_SINCE else 0
        changing, where, allowed = WRITE_FILE | REMOVE_AND_MAKE | truncate, os.devnull, WRITE_FILE | truncate
    wanted = struct.pack("=QQQ", changing, 0, SIGNALS if offered >= SIGNALS_SINCE else 0)
    rules = _call(CREATE_RULESET, wanted, len(wanted), 0)
    try:
        beneath = os.open(where, os.O_PATH | os.O_CLOEXEC)
        try:
            _call(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", allowed, beneath), 0)
        finally:
            os.close(beneath)
        if _libc().prctl(PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))):
            raise _refused()
        _call(RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _call(number: int, *arguments: int | bytes | None) -> int:
    # Each takes the place of a register; ctypes would pass a bare int as half of one.
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    answer: int = _libc().syscall(ctypes.c_long(number), *given)
    if answer < 0:
        raise _refused()
    return answer


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _refused() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"Landlock: {os.strerror(number)}")
