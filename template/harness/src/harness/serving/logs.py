"""What the service logs: never a value of a record, and of an exception only its type and place.

What an exception says often quotes the value that it stumbled over, and that is somebody's data. With
``pilot --debug serve`` the whole traceback is logged.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TypeAlias

from harness.errors import place

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"

log = logging.getLogger("harness.serving")

_Raised: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Elsewhere(Exception):
    """What another process told of an exception.

    Args:
        told: Its type and place, which may be logged.
        trace: Its traceback, which may hold somebody's data; logged with ``--debug`` alone.
    """

    def __init__(self, told: str, trace: str = "") -> None:
        super().__init__(told)
        if trace:
            self.add_note(trace)


class Reticent(logging.Formatter):
    """Tells of an exception its type and place, whoever logs it: a server and libraries do so too."""

    def formatException(self, ei: _Raised) -> str:
        """One line in place of the traceback."""
        if isinstance(ei[1], Elsewhere):
            return f"  {ei[1]}"
        return "" if ei[1] is None else f"  {type(ei[1]).__name__} at {place(ei[1])}"


def set_up(*, debug: bool) -> None:
    """Log to standard error.

    Args:
        debug: Whether whole tracebacks are wanted, with the values that may be in them.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT) if debug else Reticent(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # It tells of every request that it makes, with its address.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


def failed(what: str, error: BaseException) -> None:
    """Log that something of the team's raised."""
    log.error("%s", what, exc_info=error)
