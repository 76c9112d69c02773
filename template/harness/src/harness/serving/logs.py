"""What the service logs: never a value of a record, and of an exception only its type and place.

What an exception says often quotes the value that it stumbled over, and that is somebody's data. With
``pilot --debug serve`` the whole traceback is logged.

On a terminal a line is text. Elsewhere it is a JSON object, unless ``[serving] log_format`` says otherwise.
Python's own ``logging`` does it, with a formatter: the server, libraries and the team's code use it already,
and a line costs a third of what structlog's formatter takes (decision 33).
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from select import PIPE_BUF
from types import TracebackType
from typing import Any, Literal, TextIO, TypeAlias

from harness.encoding import Encoder
from harness.errors import place
from harness.serving.followed import followed

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
# Fields of a line besides its text; by this name among what ``logging`` calls extra.
FIELDS = "fields"

MOST_OF_A_LINE = 2_000
SAID_EVERY_S = 60.0
PRINTED = "the model's process printed something, which `pilot --debug serve` shows: it may quote a record"

LogFormat = Literal["auto", "json", "text"]

log = logging.getLogger("harness.serving")
model_log = logging.getLogger("harness.model")
_debug = False

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


class Lines(Reticent):
    """One line of text each; in a request with the name under which it can be followed, at its end."""

    def __init__(self, *, debug: bool = False) -> None:
        super().__init__(FORMAT)
        self._debug = debug

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself, before what is told of an exception."""
        request = followed().request_id
        return super().formatMessage(record) + (f" [{request}]" if request else "")

    def formatException(self, ei: _Raised) -> str:
        """One line in place of the traceback, unless that is wanted."""
        return _traceback(ei) if self._debug else super().formatException(ei)


class Objects(Lines):
    """One JSON object a line."""

    _second = 0
    _moment = ""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; what it is about stands beside its text, in fields of its own."""
        by = followed()
        told: dict[str, Any] = {
            "timestamp": self._at(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if by.request_id:
            told["request_id"] = by.request_id
        if by.traceparent:
            told["trace_id"] = by.trace_id
        told.update(getattr(record, FIELDS, {}))
        told["pid"] = record.process
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info).strip()
        return _encode(told)

    def _at(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._moment}.{int(record.msecs):03d}Z"


# As text: the stream writes what has no UTF-8 with backslashes.
_encode = Encoder(json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)).text


class Lined(logging.StreamHandler[TextIO]):
    """Writes each line as it comes, or those of a block with few writes.

    Several processes may write to one pipe, which keeps PIPE_BUF bytes of a write together and no more.
    """

    def __init__(self) -> None:
        super().__init__()
        self._here = threading.local()

    @contextmanager
    def block(self) -> Iterator[None]:
        """What this thread logs meanwhile is written whenever a pipe keeps no more, and at the end."""
        if self._kept() is not None:
            yield
            return
        self._here.kept, self._here.size = [], 0
        try:
            yield
        finally:
            kept, self._here.kept = self._here.kept, None
            if kept:
                self._write(kept)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or keep it for later."""
        kept = self._kept()
        if kept is None:
            super().emit(record)
            return
        try:
            line = self.format(record) + self.terminator
            size = len(line.encode(getattr(self.stream, "encoding", None) or "utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)
            return
        if kept and self._here.size + size > PIPE_BUF:
            self._write(kept)
            kept.clear()
            self._here.size = 0
        kept.append((line, record))
        self._here.size += size

    def _kept(self) -> list[tuple[str, logging.LogRecord]] | None:
        return getattr(self._here, "kept", None)

    def _write(self, kept: Sequence[tuple[str, logging.LogRecord]]) -> None:
        try:
            self._put("".join(line for line, _ in kept))
        except UnicodeError:  # of one of them, and nothing was written
            for line, record in kept:
                try:
                    self._put(line)
                except Exception:
                    self.handleError(record)
        except Exception:
            self.handleError(kept[0][1])

    def _put(self, lines: str) -> None:
        self.acquire()
        try:
            self.stream.write(lines)
            self.flush()
        finally:
            self.release()


def _traceback(ei: _Raised) -> str:
    return logging.Formatter().formatException(ei)


@contextmanager
def together() -> Iterator[None]:
    """What this thread logs meanwhile is written with few writes; not by others' handlers.

    Whoever is killed within it may take some lines along, of no more bytes than a pipe keeps together.
    """
    with ExitStack() as blocks:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, Lined):
                blocks.enter_context(handler.block())
        yield


def set_up(*, debug: bool, form: LogFormat = "auto") -> None:
    """Log to standard error; another call changes only how.

    Args:
        debug: Whether whole tracebacks are wanted, with the values that may be in them.
        form: Text or JSON; ``auto`` is text on a terminal and JSON elsewhere.
    """
    global _debug
    _debug = debug
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    formatter = Lines(debug=debug) if text else Objects(debug=debug)
    root = logging.getLogger()
    own = [handler for handler in root.handlers if isinstance(handler.formatter, Lines)]
    if not root.handlers:
        own = [Lined()]
        root.addHandler(own[0])
        root.setLevel(logging.INFO)
    for handler in own:
        handler.setFormatter(formatter)
    # It tells of every request that it makes, with its address.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


def log_output(descriptor: int) -> None:
    """Log what a model's process prints, line by line, until nobody can write any more.

    It may quote the record that the model was asked about, so without ``--debug`` it is only said, now and
    then, that there was something.

    Args:
        descriptor: Where to read it; closed at the end.
    """
    said = -math.inf
    with open(descriptor, "rb") as stream:
        while line := stream.readline(MOST_OF_A_LINE):
            if _debug:
                model_log.info("%s", line.decode(errors="replace").rstrip())
            elif time.monotonic() - said > SAID_EVERY_S:
                said = time.monotonic()
                model_log.warning("%s", PRINTED)


def tell(logger: logging.Logger, text: str, *values: object, **fields: object) -> None:
    """Log at INFO what is told of every decision, without looking for the place in the code that says it.

    No line shows that, and finding it takes a quarter of what a line does.

    Args:
        logger: Who says it.
        text: What, with places for values.
        values: The values.
        fields: What stands beside the text, in fields of its own.
    """
    if logger.isEnabledFor(logging.INFO):
        record = logging.getLogRecordFactory()(
            logger.name, logging.INFO, __file__, 0, text, values, None, "tell"
        )
        setattr(record, FIELDS, fields)
        logger.handle(record)


def failed(what: str, error: BaseException) -> None:
    """Log that something of the team's raised."""
    log.error("%s", what, exc_info=error)
