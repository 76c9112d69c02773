"""``python -m harness.pipeline STAGE``: one stage, as dvc.yaml calls it.

DVC does not pass a stage's exit code on, so each stage also notes it for `pilot run`, in the file named by
PILOT_STAGE_PROTOCOL.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from harness.errors import PilotError, unforeseen
from harness.pipeline import stages
from harness.progress import console, working
from harness.settings import load_settings


def main(arguments: list[str]) -> int:
    """Run the named stage; exit 1 when a check says no, 2 for what a person has to mend."""
    if len(arguments) != 1 or arguments[0] not in stages.NAMES:
        console.print(f"usage: python -m harness.pipeline {{{'|'.join(stages.NAMES)}}}")
        return 2
    name = arguments[0]
    code = _run(name)
    protocol = os.environ.get("PILOT_STAGE_PROTOCOL")
    if protocol:
        with Path(protocol).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"stage": name, "exit_code": code}) + "\n")
    return code


def _run(name: str) -> int:
    try:
        settings = load_settings(Path.cwd())
        with working(name) as report:
            said = stages.load(name).run(settings, report)
    except PilotError as error:
        console.print(f"pilot: {name}: {error}", markup=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted(name)
    except Exception as error:
        # DuckDB turns Ctrl-C inside a query into an exception of its own.
        if "interrupted" in str(error).lower():
            return _interrupted(name)
        if os.environ.get("PILOT_DEBUG"):
            traceback.print_exc()
        told = unforeseen(error, Path.cwd())
        console.print(f"pilot: {name}: {told}", markup=False, soft_wrap=True)
        return told.exit_code
    console.print(f"    {said}", markup=False, soft_wrap=True)
    return 0


def _interrupted(name: str) -> int:
    console.print(f"pilot: {name}: interrupted; nothing of this stage was kept.")
    return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
