"""What `pilot serve` with several workers begins before it knows for certain that it is that.

A start is nearly all imports, there are cores for more than one process, and this one needs a while to read
options and settings. A wrong guess costs a process that is not used, or one that begins later.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from harness import interruption


def import_ahead(arguments: Sequence[str]) -> None:
    """Start the process that workers are forked from, where several seem to be wanted.

    Args:
        arguments: Those of `pilot`.
    """
    if arguments[:1] == ["serve"] and several(arguments):
        from harness.serving.forking import begin_importing

        interruption.end_cleanly()  # Python leaves a folder behind else
        begin_importing()


def several(arguments: Sequence[str]) -> bool:
    """Whether more than one worker seems to be wanted, by option, environment or pilot.toml in that order."""
    try:
        return int(_option(arguments) or os.environ.get("PILOT_SERVING__WORKERS") or _settled()) > 1
    except (
        ValueError,
        TypeError,
        AttributeError,
        OSError,
        StopIteration,
    ):  # for whoever reads it properly to say
        return False


def _option(arguments: Sequence[str]) -> str:
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--workers":
            return value or "".join(arguments[place + 1 : place + 2])
    return ""


def _settled() -> int:
    import tomllib

    here = Path.cwd()
    file = next(found for folder in (here, *here.parents) if (found := folder / "pilot.toml").is_file())
    return int(tomllib.loads(file.read_text(encoding="utf-8")).get("serving", {}).get("workers", 1))
