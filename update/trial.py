"""The pilot's own fast tests, on the update, in an environment of the update's own."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from pilot_template.update.report import Trial

TARGET = "test-fast"
COMMAND = f"make setup {TARGET}"
TAIL = 25  # lines
LONGEST = 3600  # seconds
# What makes this process another pilot's, or an environment's, would make the tests so too.
NOT_OURS = ("PILOT_", "PYTEST_", "UV_PROJECT", "VIRTUAL_ENV", "PYTHON", "MAKE", "GIT_")


def try_out(root: Path, log: Path) -> Trial:
    """Set the pilot up in its work tree and run its fast tests.

    Args:
        root: The pilot's folder in the work tree of the update.
        log: Where all that is said is kept meanwhile.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    with log.open("wb") as stream:
        try:
            process = subprocess.Popen(
                ["make", "setup", TARGET],
                cwd=root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # all that it starts can be ended with it
            )
        except FileNotFoundError:
            return Trial(False, COMMAND, ("make is not installed: the tests could not be run.",))
        try:
            code = process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            return Trial(False, COMMAND, (f"They had not ended after {LONGEST // 60} minutes.",))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == 0:
        return Trial(True, COMMAND)
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return Trial(False, COMMAND, tuple(said[-TAIL:]))
