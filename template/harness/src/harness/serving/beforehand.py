"""What keeps a service from starting is found before the first worker, and told once.

By a process like a worker, and not by the one that starts them: that has no use for what it takes to look.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TypeAlias

from harness.errors import CheckFailed, Inconclusive, PilotError, unforeseen
from harness.serving import logs
from harness.serving.forking import Forked
from harness.settings import Settings

# Once it has said what it found; what the team's code has started may hold it up for ever.
ENDS_WITHIN_S = 1.0
# Exit code, what, where and mend of an error.
Found: TypeAlias = tuple[int, str, str, str] | None


def look(settings: Settings, host: str, *, debug: bool) -> None:
    """Build what a worker would, and hold it to what must hold before it may serve.

    Args:
        settings: The pilot's settings.
        host: The address that the service will listen on.
        debug: Whether whole tracebacks are wanted.

    Raises:
        PilotError: What keeps it from starting.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = Forked(target=_look, args=(theirs, settings, host, debug))
    process.start()
    theirs.close()
    try:
        with ours:
            found = _heard(ours)
        process.join(ENDS_WITHIN_S)
    finally:
        process.kill()
        process.join()
    if found is not None:
        raise error(found)


def error(found: tuple[int, str, str, str]) -> PilotError:
    """What was found, as the error that it was."""
    code, what, where, mend = found
    kind = {each.exit_code: each for each in (CheckFailed, Inconclusive)}.get(code, PilotError)
    return kind(what, where=where, mend=mend)


def _heard(connection: Connection) -> Found:
    try:
        found: Found = connection.recv()
    except (EOFError, OSError):
        what = "the process that looks whether a service can start has ended without a word"
        return 2, what, "pilot serve", "See the lines above, and what this machine has left of memory."
    return found


def _look(telling: Connection, settings: Settings, host: str, debug: bool) -> None:
    # Ctrl-C reaches it too, and whoever started it ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_who_asked, name="asked", daemon=True).start()
    logs.set_up(debug=debug, form=settings.serving.log_format)
    from harness.serving.server import prepare

    found: Found = None
    try:
        prepare(settings, host).service.close()
    except Exception as raised:
        if debug:
            traceback.print_exception(raised)
        known = raised if isinstance(raised, PilotError) else unforeseen(raised, settings.root)
        found = known.exit_code, known.what, known.where, known.mend
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with suppress(OSError):  # nobody wants to know any more
        telling.send(found)


def _end_with_who_asked() -> None:
    asked = multiprocessing.parent_process()
    if asked is not None:
        asked.join()
        os._exit(1)
