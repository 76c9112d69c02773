"""A copy of the pilot in a scratch folder, and the command ``pilot`` in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import pilot
from harness.pilot import Contract
from harness.pipeline import layout
from harness.settings import Settings, load_settings

if TYPE_CHECKING:
    from harness.store import DecisionStore

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false")
ENDS_WITHIN_S = 240


class NoRepository(Exception):
    """The pilot is in no git repository, so that nobody knows which of its files are its own."""


def scratch_copy(root: Path, target: Path) -> PilotCopy:
    """Copy what git knows of a pilot, and what it would know, into a repository of its own.

    Args:
        root: The pilot.
        target: The folder to make.

    Raises:
        NoRepository: ``root`` is in none.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        raise NoRepository(
            'this pilot is in no git repository yet: git init -b main && git add -A && git commit -m "Start"'
        )
    for name in filter(None, listed.stdout.split("\0")):
        source = root / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    for command in (["init", "-q"], ["add", "-A"], [*IDENTITY, "commit", "-q", "--no-verify", "-m", "copy"]):
        subprocess.run(["git", *command], cwd=target, check=True, capture_output=True)
    return PilotCopy(target)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code.
        stdout: What it printed.
        stderr: What it said beside.
    """

    code: int
    stdout: str
    stderr: str

    @property
    def line(self) -> str:
        """The one line in which the command said what was wrong; an AssertionError when it is not one."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("pilot: ")]
        assert len(lines) == 1, f"not one line of complaint:\n{self.stdout}{self.stderr}"
        return lines[0]


class PilotCopy:
    """A pilot in a folder of its own.

    Whatever leads to the pilot in use, by environment or by pilot.toml, leads into the copy here.

    Attributes:
        root: The copy's folder.
        environment: What its processes get.
        settings: Its settings, as its processes see them but for ``environment``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
        self.environment = inherited | {
            "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root / "harness" / "src")]),
            "PYTHONUNBUFFERED": "1",
            "PILOT_CONTROL__FOLDER": str(root / "var" / "control"),
            "PILOT_STORE__URL": f"sqlite:///{root}/var/decisions.db",
            "PILOT_TRACKING__URI": f"sqlite:///{root}/var/mlflow/mlflow.db",
            "PILOT_SERVING__MODELS": str(root / "var" / "models"),
            "PILOT_SERVING__HOST": "127.0.0.1",
            "PILOT_SERVING__OPEN_IN_SANDBOX": "true",
            "PILOT_DOWNSTREAM__URL": "",
            "PILOT_ALERTS__TARGET": "log",
        }
        self.settings: Settings = load_settings(root)

    @property
    def control(self) -> Path:
        """The control folder."""
        return self.root / "var" / "control"

    @property
    def contract(self) -> Contract:
        """The pilot's contract."""
        return pilot.load_contract(self.settings.pilot.package)

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``pilot`` with these arguments."""
        return [sys.executable, "-m", "harness.cli", "--root", str(self.root), *arguments]

    def run(self, *arguments: str, **variables: str) -> Ended:
        """Run ``pilot`` to its end, however it ends.

        Args:
            arguments: What follows ``pilot``.
            variables: Environment variables beside the copy's own.
        """
        return self._ended(self.command(*arguments), variables)

    def pilot(self, *arguments: str, **variables: str) -> str:
        """Run ``pilot``, which has to succeed; gives what it printed."""
        done = self.run(*arguments, **variables)
        assert done.code == 0, f"pilot {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def stage(self, name: str, **variables: str) -> Ended:
        """Run one stage of the pipeline by hand, as ``python -m harness.pipeline NAME``."""
        return self._ended([sys.executable, "-m", "harness.pipeline", name], variables)

    def token(self, name: str, *scopes: str) -> str:
        """Issue a token; ``decide`` when no scope is given."""
        options = [part for scope in scopes for part in ("--scope", scope)]
        made: dict[str, Any] = json.loads(self.pilot("token", "issue", name, *options, "--json"))
        return str(made["token"])

    def status(self, **variables: str) -> dict[str, Any]:
        """What ``pilot status --json`` says."""
        found: dict[str, Any] = json.loads(self.pilot("status", "--json", **variables))
        return found

    def held_back(self, count: int) -> list[dict[str, Any]]:
        """The first records that the pipeline held back from training, as a caller would send them."""
        import polars as pl

        names = [field.name for field in self.contract.fields]
        file = self.root / layout.TEST_RECORDS
        rows = pl.read_parquet(file).sort(self.contract.key).select(names).head(count).to_dicts()
        found: list[dict[str, Any]] = json.loads(json.dumps(rows, default=str))
        return found

    def store(self, url: str = "") -> DecisionStore:
        """The decisions on record; the caller closes it."""
        from harness.store import DecisionStore

        return DecisionStore(url or self.environment["PILOT_STORE__URL"])

    def _ended(self, command: list[str], variables: Mapping[str, str]) -> Ended:
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ENDS_WITHIN_S,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)
