"""MLflow's alias ``champion``, which follows the last promotion. What decides is the control state.

A tracking server that is down does not hold a promotion back. What is owed to it is noted below var/run, and
the next `pilot control once`, or the next look of `pilot control run`, makes up for it.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from harness.errors import PilotError
from harness.files import whole_file
from harness.settings import Settings

OWED = Path("var", "run", "champion.json")


def owe(settings: Settings, digest: str) -> str:
    """Name the champion in MLflow, now or later; gives what keeps it from that now, in one line."""
    file = settings.path(OWED)
    try:
        with whole_file(file) as beside:
            beside.write_text(json.dumps({"digest": digest}) + "\n", encoding="utf-8")
    except OSError as error:
        return f"{file}: that MLflow is to name the champion cannot be noted: {error.strerror}"
    return pay(settings)


def pay(settings: Settings) -> str:
    """Name the champion that is owed, if one is; gives what keeps it from that, in one line."""
    file = settings.path(OWED)
    try:
        digest = str(json.loads(file.read_text(encoding="utf-8"))["digest"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, LookupError, TypeError) as error:
        return (
            f"{file}: which champion MLflow has to name cannot be read ({type(error).__name__}). Delete it."
        )
    from harness import tracking

    try:
        tracking.crown(settings, digest)
    except PilotError as error:
        return f"{error} The stage is in force; `pilot control once` names the champion later."
    except Exception as error:  # whatever a tracking server does, the stage is in force
        told = "MLflow does not name the champion yet"
        return f"{told} ({type(error).__name__}). The stage is in force; `pilot control once` tries again."
    with contextlib.suppress(OSError):
        file.unlink()
    return ""
