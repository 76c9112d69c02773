"""Workers that are forked from a process that has imported what they need (harness.serving.preloaded).

It imports nothing itself, so that the other can begin before everything else does.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess

from harness.errors import PilotError

# The process that workers are forked from may end meanwhile, as for want of memory.
START_TRIES = 3
START_AGAIN_S = 0.5

log = logging.getLogger("harness.serving")


def begin_importing() -> None:
    """Start the process that workers are forked from, which imports while this one does; once is enough."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["harness.serving.preloaded"])
    forkserver.ensure_running()


class Forked(ForkServerProcess):
    """A worker, also where the process that it is forked from ends just then: Python starts another one."""

    def start(self) -> None:
        """Have it forked.

        Raises:
            PilotError: It could not be, however often it was tried.
        """
        for _ in range(START_TRIES - 1):
            try:
                super().start()
            except (EOFError, OSError) as error:
                log.error("no worker could be forked, and it is tried again: %s", type(error).__name__)
                time.sleep(START_AGAIN_S)
            else:
                return
        try:
            super().start()
        except (EOFError, OSError) as error:
            raise PilotError(
                f"no worker can be forked: {type(error).__name__}",
                where="pilot serve",
                mend="See what this machine has left of memory and processes; the lines above may say more.",
            ) from error
