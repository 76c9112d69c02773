"""What a gate looks at: documents, evidence and control, each read once, when it is first asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from harness.control import STAGES, Stage, State, StateUnreadable, read_state
from harness.errors import PilotError
from harness.governance.documents import Documents, read_all
from harness.governance.explain import Finding
from harness.governance.rules import Gate, Problem
from harness.pipeline import layout, lineage, record
from harness.readiness import lock
from harness.rollout.standing import Unclear
from harness.rollout.trial import Trial, on_trial
from harness.settings import Settings


class Unknown(Unclear):
    """A gate's check could not establish what it needs; never to be read as a pass."""


@dataclass(frozen=True)
class Requirement:
    """One check of a gate, beside the rules of the documents.

    Attributes:
        id: Its name, which never changes.
        gate: The first gate at which it is asked; every later one asks it too.
        role: The role that has to mend it.
        mend: What to do where it finds something.
        ask: Finds the problems, none when all is well; raises `Unknown` where it cannot tell.
    """

    id: str
    gate: Gate
    role: str
    mend: str
    ask: Callable[[Case], Iterable[Problem]]


@dataclass
class Case:
    """One pilot at one moment, asked for one gate."""

    settings: Settings
    gate: Gate
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def root(self) -> Path:
        """The pilot's folder."""
        return self.settings.root

    @property
    def folder(self) -> Path:
        """The control folder."""
        return self.settings.path(self.settings.control.folder)

    @cached_property
    def _read(self) -> tuple[Documents, list[Finding]]:
        return read_all(self.root, self.now.date())

    @property
    def documents(self) -> Documents:
        """The governance documents that could be read."""
        return self._read[0]

    @property
    def findings(self) -> list[Finding]:
        """What is wrong with the others."""
        return self._read[1]

    @cached_property
    def state(self) -> State | None:
        """The control state; None before the first.

        Raises:
            Unknown: It cannot be read.
        """
        try:
            return read_state(self.folder)
        except StateUnreadable as error:
            mend = "Restore state.json from a backup; the fallback decides meanwhile."
            raise Unknown(f"the stage: {error}", mend) from error

    @property
    def stage(self) -> Stage:
        """The stage in force."""
        return STAGES[0] if self.state is None else self.state.stage

    @cached_property
    def trial(self) -> Trial:
        """The model on trial in the stage in force, with the store that its decisions are in.

        Raises:
            Unknown: It cannot be established.
            PilotError: The store cannot be opened.
        """
        try:
            return on_trial(self.settings, self.documents.rollout, self.state, self.now)
        except Unclear as error:
            raise Unknown(error.what, error.mend) from error

    def close(self) -> None:
        """Close what was opened."""
        if "trial" in self.__dict__:
            self.trial.close()

    @cached_property
    def run(self) -> record.Run:
        """The record of the last run."""
        return record.read(self.root)

    @cached_property
    def lock(self) -> tuple[lock.Lock, str]:
        """The evidence lock, and its digest."""
        return lock.read(self.root)

    def evidence(self, path: Path) -> dict[str, Any]:
        """A file of evidence.

        Raises:
            PilotError: It is missing or no JSON object.
        """
        try:
            if not (self.root / path).is_file():
                raise FileNotFoundError
            found = json.loads((self.root / path).read_bytes())
            if not isinstance(found, dict):
                raise ValueError
        except OSError as error:
            raise PilotError("it is missing", where=str(path), mend="`pilot run`, and commit it.") from error
        except ValueError as error:
            raise PilotError("it is no JSON object", where=str(path), mend="`pilot run` again.") from error
        return found

    @cached_property
    def locked(self) -> dict[str, str]:
        """The MD5 of everything that the stages made, by path, as dvc.lock holds it.

        Raises:
            PilotError: dvc.lock is missing or damaged.
        """
        try:
            said = yaml.safe_load((self.root / layout.LOCK).read_text(encoding="utf-8"))
            outs = [out for stage in said["stages"].values() for out in stage.get("outs", [])]
            return {str(out["path"]): str(out["md5"]) for out in outs}
        except OSError as error:
            raise PilotError(
                "it is missing", where=str(layout.LOCK), mend="`pilot run`, and commit it."
            ) from error
        except (yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise PilotError("it is damaged", where=str(layout.LOCK), mend="`pilot run` again.") from error

    @property
    def last_trainer(self) -> str:
        """Who last committed dvc.lock; empty in a shallow clone, where its tip made everything."""
        return "" if lineage.shallow(self.root) else lineage.last_author(self.root, layout.LOCK.as_posix())

    def committed_tree(self, folder: str) -> str:
        """The git tree hash of a folder.

        Raises:
            Unknown: git does not say.
        """
        if shutil.which("git") is None:
            raise Unknown("what was committed: git is not installed", "Install git.")
        found = lineage.committed_tree(self.root, folder)
        if found == "none" and lineage.committed_tree(self.root, "") == "none":
            raise Unknown("what was committed: git does not say", NO_GIT)
        return found

    def uncommitted(self, *paths: str) -> list[str]:
        """Files that differ from what was committed.

        Raises:
            Unknown: git does not say.
        """
        self.committed_tree("")
        found = lineage.uncommitted(self.root, *paths)
        if found is None:
            raise Unknown("what differs from what was committed: git does not say", "Look at `git status`.")
        return found

    def ignored(self, *paths: str) -> list[str]:
        """Code that git ignores.

        Raises:
            Unknown: git does not say.
        """
        self.committed_tree("")
        found = lineage.ignored_code(self.root, *paths)
        if found is None:
            raise Unknown("which code git ignores: git does not say", "Look at `git status --ignored`.")
        return found

    def overlooked(self, *paths: str) -> list[str]:
        """Files whose changes git was told not to look for.

        Raises:
            Unknown: git does not say.
        """
        self.committed_tree("")
        found = lineage.overlooked(self.root, *paths)
        if found is None:
            raise Unknown("which files git looks at: git does not say", "Look at `git status`.")
        return found


NO_GIT = (
    "Make it a repository, and commit; where another account owns it: "
    "git config --global --add safe.directory FOLDER."
)
