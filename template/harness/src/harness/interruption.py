"""Ctrl-C, `kill` and a closed terminal end a command alike: once, after it has cleaned up behind itself."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from types import FrameType, TracebackType
from typing import Any

EXIT_CODE = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
END_WITHIN_S = 60.0

_asked = False


def end_cleanly() -> None:
    """Turn the first of the signals into KeyboardInterrupt, and let no further one disturb the cleaning up.

    A terminal sends Ctrl-C to every process of a command, and `pilot run` passes it on to its stages as well:
    the second one must not interrupt what the first one started. What is ignored, as under nohup, stays so.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _once)


def asked_to_end() -> bool:
    """Whether one of the signals has come: an error after it may be what a library made of it."""
    return _asked


def no_traceback() -> None:
    """Keep an interruption while libraries are still being imported from printing one."""
    sys.excepthook = _quiet


def run(command: list[str], **options: Any) -> int:
    """Run a command to its end, as `subprocess.call` does, and never leave it behind.

    The standard library kills it a quarter of a second after Ctrl-C, and with it the one that would have
    stopped a database and released a lock.

    Returns:
        Its exit code.

    Raises:
        KeyboardInterrupt: This process was interrupted; the command and all that it started have ended.
    """
    process = subprocess.Popen(command, **options)
    try:
        return process.wait()
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    import psutil

    try:
        started = [psutil.Process(process.pid)]
        started += started[0].children(recursive=True)
    except psutil.Error:
        return
    for each in started:
        with contextlib.suppress(psutil.Error):
            each.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs(started, timeout=END_WITHIN_S)
    for each in left:
        with contextlib.suppress(psutil.Error):
            each.kill()
    process.wait()


def _once(_number: int, _frame: FrameType | None) -> None:
    global _asked
    _asked = True
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _quiet(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("pilot: interrupted\n")
    else:
        sys.__excepthook__(kind, error, trace)
