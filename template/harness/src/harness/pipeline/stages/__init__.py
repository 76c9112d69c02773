"""What each stage does, one file a stage. A stage reads what earlier ones left and writes its own results.

No stage before ``publish`` knows of MLflow: DVC may restore a stage's results from its cache, and a run id
restored from there would name a run that is long gone. ``publish`` runs every time and alone logs.

A stage's module is imported when it runs: the libraries of all of them together take longer to load than most
stages take.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from harness.progress import Report
from harness.settings import Settings

NAMES = ("ingest", "profile", "validate", "features", "train", "evaluate", "package", "publish")


class Stage(Protocol):
    """A stage's module."""

    def run(self, settings: Settings, report: Report) -> str:
        """Do the stage's work.

        Returns:
            What was done, in one line for a person.

        Raises:
            PilotError: It could not be done.
            CheckFailed: It was done, and the answer is no.
        """
        ...


def load(name: str) -> Stage:
    """The stage of that name, one of NAMES."""
    return cast(Stage, import_module(f"{__name__}.{name}"))
