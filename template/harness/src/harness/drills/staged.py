"""Stages of the copy's pipeline, run by the copy's code: ``python -m harness.drills.staged`` in its folder.

One process for all of them, because the libraries take longer to load than a stage takes on a few records. It
takes a JSON document a line, ``{"stage": ..., "variables": {...}}``, and answers each with how it ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from harness.errors import PilotError, unforeseen
from harness.pipeline import stages
from harness.settings import load_settings
from harness.testing import PilotCopy

END_WITHIN_S = 20.0


@dataclass(frozen=True)
class Staged:
    """How a stage ended.

    Attributes:
        code: The exit code that it has as a command: 1 when a check says no, 2 for what is to be mended.
        said: What it said, in one line.
    """

    code: int
    said: str


class Stages:
    """The process; with the block it ends."""

    def __init__(self, copy: PilotCopy) -> None:
        self._log = (copy.root / "var" / "stages.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=copy.root,
            env=copy.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=END_WITHIN_S if kind is None else 0.1)
        self._process.kill()
        self._process.wait()
        self._log.close()

    def run(self, name: str, **variables: str) -> Staged:
        """Run a stage to its end.

        Args:
            name: The stage's name.
            variables: Environment variables beside the copy's own.

        Raises:
            PilotError: The process has ended, so that nothing can be told of the stage.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"stage": name, "variables": variables}) + "\n")
            self._process.stdin.flush()
            return Staged(**json.loads(self._process.stdout.readline()))
        except (OSError, ValueError) as error:
            raise PilotError(
                f"the stage {name} ended without an answer in the scratch copy",
                where="pilot drill",
                mend=f"`python -m harness.pipeline {name}` says why.",
            ) from error


def main(asked: IO[str], answers: IO[str]) -> None:
    """Run what is asked for, until nobody asks any more."""
    for line in asked:
        answers.write(json.dumps(_ended(**json.loads(line))) + "\n")
        answers.flush()


def _ended(stage: str, variables: dict[str, str]) -> dict[str, Any]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        said = stages.load(stage).run(load_settings(Path.cwd()), _silent)
    except Exception as error:
        found = error if isinstance(error, PilotError) else unforeseen(error, Path.cwd())
        return {"code": found.exit_code, "said": str(found)}
    finally:
        os.environ.clear()
        os.environ.update(before)
    return {"code": 0, "said": said}


def _silent(what: str, done: float) -> None:
    """Nobody watches it."""


if __name__ == "__main__":
    kept, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    main(sys.stdin, kept)
