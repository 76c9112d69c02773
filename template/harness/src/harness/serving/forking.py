"""Workers that are forked from a process that has imported what they need (harness.serving.preloaded).

It imports nothing itself, so that the other can begin before everything else does.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess

from harness.errors import PilotError

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PRELOADED = ["harness.serving.preloaded"]
# The process that workers are forked from may end meanwhile, as for want of memory.
START_TRIES = 3
START_AGAIN_S = 0.5

log = logging.getLogger("harness.serving")


def begin_importing() -> None:
    """Start the process that workers are forked from, which imports while this one does; once is enough."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    # Ctrl-C must find it ignoring the signal already, not on the way to it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Forked(ForkServerProcess):
    """A worker, also where the process that it is forked from ends just then: Python starts another one."""

    def start(self) -> None:
        """Have it forked.

        Raises:
            PilotError: It could not be, however often it was tried.
        """
        for _ in range(START_TRIES - 1):
            try:
                self._start()
            except (EOFError, OSError) as error:
                log.error("no worker could be forked, and it is tried again: %s", type(error).__name__)
                time.sleep(START_AGAIN_S)
            else:
                return
        try:
            self._start()
        except (EOFError, OSError) as error:
            raise PilotError(
                f"no worker can be forked: {type(error).__name__}",
                where="pilot serve",
                mend="See what this machine has left of memory and processes; the lines above may say more.",
            ) from error

    def _start(self) -> None:
        with _without_main():
            super().start()


@contextmanager
def _without_main() -> Iterator[None]:
    """Meanwhile Python finds no main module that a worker would import; it needs nothing of `pilot`."""
    main = sys.modules["__main__"].__dict__
    kept: dict[str, object] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.update(dict.fromkeys(kept))
    try:
        yield
    finally:
        main.update(kept)
