"""``python -m harness.pipeline STAGE``: one stage, as dvc.yaml calls it.

DVC does not pass a stage's exit code on, so each stage also notes it for `pilot run`, which then tells it. By
hand, or from `dvc repro`, the stage tells it itself.
"""

from __future__ import annotations

from harness import interruption, startup

interruption.no_traceback()
startup.collect_rarely()

import os  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from harness.errors import PilotError, unforeseen  # noqa: E402
from harness.pipeline import stages  # noqa: E402
from harness.pipeline.reproduce import VARIABLE, note  # noqa: E402
from harness.progress import console, working  # noqa: E402
from harness.settings import load_settings  # noqa: E402


def main(arguments: list[str]) -> int:
    """Run the named stage; exit 1 when a check says no, 2 for what a person has to mend."""
    if len(arguments) != 1 or arguments[0] not in stages.NAMES:
        console.print(f"usage: python -m harness.pipeline {{{'|'.join(stages.NAMES)}}}", markup=False)
        return 2
    name = arguments[0]
    entry = {"stage": name, **_run(name)}
    note(entry)
    if entry["exit_code"] and VARIABLE not in os.environ:
        console.print(f"pilot: {entry['line']}", markup=False, soft_wrap=True)
    return int(entry["exit_code"])


def _run(name: str) -> dict[str, Any]:
    try:
        interruption.end_cleanly()
        settings = load_settings(Path.cwd())
        with working(name) as report:
            said = stages.load(name).run(settings, report)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        # DuckDB turns Ctrl-C inside a query into an exception of its own.
        if "interrupted" in str(error).lower() and not isinstance(error, PilotError):
            return _interrupted()
        if os.environ.get("PILOT_DEBUG"):
            traceback.print_exc()
        return _told(name, error if isinstance(error, PilotError) else unforeseen(error, Path.cwd()))
    console.print(f"    {said}", markup=False, soft_wrap=True)
    return {"exit_code": 0}


def _told(name: str, error: PilotError) -> dict[str, Any]:
    what = f"{error.what} (stage {name})"
    return {
        "exit_code": error.exit_code,
        "what": what,
        "where": error.where,
        "mend": error.mend,
        "line": str(PilotError(what, where=error.where, mend=error.mend)),
    }


def _interrupted() -> dict[str, Any]:
    return {"exit_code": interruption.EXIT_CODE, "line": "interrupted; nothing of this stage was kept."}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
