"""One process that imports a model's libraries for all workers of `pilot serve`, and while those are started.

Each worker's process server is forked from it, so that a start does not wait for as many imports of the same,
and the workers share the memory. It is no part of deciding: what it forked goes on without it, and a worker
that finds it gone, or that needs other libraries by now, has a server of its own start.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace

from harness.control import StateUnreadable, settings_control
from harness.errors import PilotError
from harness.pipeline.manifest import named
from harness.serving.packaged import surroundings
from harness.serving.servers import ProcessServer, Zygote
from harness.settings import Settings

_begun: ProcessServer | None = None
_told = False


def begin(settings: Settings) -> Zygote | None:
    """Start it with what the model that decides needs; once is enough.

    Args:
        settings: The pilot's settings.

    Returns:
        What workers are given; None where no model decides, or its package or the state cannot be read, which
        is for the workers to say, or where the system cannot name a process for good (Linux can, since 5.3).
    """
    global _begun
    if _begun is None:
        try:
            _check_system()
            state = settings_control(settings).state()
            slot = None if state is None else state.champion or state.challenger
            if slot is None:
                return None
            folder = settings.path(settings.serving.models) / slot.digest
            wanted = surroundings(folder, named(folder, slot.digest))
            variables = tuple(sorted(set(settings.serving.model_environment)))
            _begun = ProcessServer(replace(wanted, variables=variables))
        except (AttributeError, OSError, StateUnreadable, PilotError):
            return None
    return _begun.zygote


def _check_system() -> None:
    """Try what naming a process takes; a container may forbid either."""
    itself = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(itself, 0)
    finally:
        os.close(itself)


def lost() -> bool:
    """Whether it has ended by itself; said once."""
    global _told
    if _begun is None or _told or _begun.alive:
        return False
    _told = True
    return True


def end() -> None:
    """End it; what it forked has an end of its own."""
    global _begun
    if _begun is not None:
        _begun.end()
        _begun = None
