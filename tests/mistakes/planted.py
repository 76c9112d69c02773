"""A pilot to make mistakes in, and what a mistake is."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from harness.cli import context, main

PACKAGE = "late_payment"
IDENTITY = ["-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def limited() -> None:
    """In a child of root: give up the right to pass over permissions, and keep the account."""
    if os.getuid() == 0:
        library = ctypes.CDLL(None)
        for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            library.prctl(PR_CAPBSET_DROP, right, 0, 0, 0)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def line(self) -> str:
        """The one line in which the command said what was wrong."""
        assert "Traceback" not in self.stdout + self.stderr, self.stderr
        (found,) = [line for line in self.stderr.splitlines() if line.startswith("pilot: ")]
        return found


@dataclass
class Pilot:
    """A pilot in a folder of its own, which runs on the harness that it carries."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PILOT_", "MLFLOW_", "PYTEST_"))
        }
        paths = [str(self.root / "src"), str(self.root / "harness" / "src")]
        self.environment = {
            **kept,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "500",
            "PILOT_SERVING__LOG_FORMAT": "text",
            # The copy lies below /tmp: no repository above it is to be taken for its own.
            "GIT_CEILING_DIRECTORIES": str(self.root.parent),
        }

    def command(self, *arguments: str) -> list[str]:
        """`pilot …` in this pilot; `stage NAME` is a stage as DVC calls it."""
        if arguments[:1] == ("stage",):
            return [sys.executable, "-m", "harness.pipeline", *arguments[1:]]
        return [sys.executable, "-m", "harness.cli", "--root", str(self.root), *arguments]

    def options(self, more: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What every process of this pilot gets."""
        return {"cwd": self.root, "env": {**self.environment, **(more or {})}}

    def run(
        self,
        *arguments: str,
        more: Mapping[str, str] | None = None,
        nobody: bool = False,
        limit: Callable[[], None] | None = None,
        said: str = "",
    ) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            self.command(*arguments),
            **self.options(more),
            preexec_fn=limited if nobody else limit,
            input=said,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def here(self, *arguments: str, more: Mapping[str, str] | None = None) -> Ended:
        """Run a command to its end in this process, where libraries are imported once."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(patch.dict(os.environ, {**self.environment, **(more or {})}, clear=True))
            stack.enter_context(patch.object(sys, "path", [str(self.root / "src"), *sys.path]))
            # Signals and the log are the test run's own business.
            stack.enter_context(patch("harness.interruption.end_cleanly", lambda: None))
            stack.enter_context(patch("harness.serving.logs.set_up", lambda **_: None))
            stack.enter_context(contextlib.chdir(self.root))
            stack.enter_context(contextlib.redirect_stdout(stdout))
            stack.enter_context(contextlib.redirect_stderr(stderr))
            stack.callback(context.choose, root=None, debug=False)
            stack.callback(_forget)
            _forget()
            importlib.invalidate_caches()
            with pytest.raises(SystemExit) as ended:
                main(["--root", str(self.root), *arguments])
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, stdout.getvalue(), stderr.getvalue())

    def read(self, name: str) -> Any:
        """A JSON file that a run has written."""
        return json.loads((self.root / name).read_text(encoding="utf-8"))

    def works(self, *arguments: str, more: Mapping[str, str] | None = None) -> Ended:
        """Run a command that must succeed."""
        ended = self.run(*arguments, more=more)
        assert ended.code == 0, f"{arguments}\n{ended.stdout}{ended.stderr}"
        return ended

    def git(self, *arguments: str) -> str:
        """Run git, which must succeed."""
        command = ["git", *IDENTITY, *arguments]
        done = subprocess.run(command, **self.options(), capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def file(self, name: str) -> Path:
        """A file of the pilot, or of its package."""
        inside = self.root / "src" / PACKAGE / name
        return inside if inside.exists() else self.root / name

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text, which must be there."""
        file = self.file(name)
        text = file.read_text(encoding="utf-8")
        assert old in text, f"{name} has no {old!r}"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def written(self) -> dict[str, tuple[int, int]]:
        """What runs have written: size and time of each file that a half-done command could spoil."""
        found = {}
        for place in (
            "data/features",
            "data/model",
            "data/package",
            "evidence",
            "var/control",
            "var/models",
            "var/sources",
            "dvc.lock",
        ):
            folder = self.root / place
            for path in [folder, *folder.rglob("*")]:
                if path.is_file() and "-postgres" not in str(path) and path.name != "lock":
                    found[str(path)] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found

    def parts(self) -> list[str]:
        """What was begun and not finished."""
        places = [self.root / place for place in ("data", "evidence", "var")]
        return [
            str(path)
            for place in places
            for path in place.rglob("*")
            if path.name.endswith(".part") or path.name == ".writing"
        ]


def _forget() -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def edited(name: str, old: str, new: str) -> Callable[[Pilot], None]:
    """A mistake in a file that stands there."""
    return lambda pilot: pilot.edit(name, old, new)


def appended(name: str, text: str) -> Callable[[Pilot], None]:
    """A mistake at a file's end."""

    def make(pilot: Pilot) -> None:
        file = pilot.file(name)
        file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")

    return make


def removed(name: str) -> Callable[[Pilot], None]:
    """A file that is not there."""
    return lambda pilot: pilot.file(name).unlink()


def nothing(_: Pilot) -> None:
    """The mistake is in the command."""


@dataclass(frozen=True)
class Mistake:
    """A mistake and what is to be said to it.

    Attributes:
        title: What somebody did, as the reference page tells it.
        make: Makes it.
        command: What is run then.
        says: What the one line holds, in this order.
        code: The exit code.
        more: Environment variables that are the mistake.
        trained: Whether it takes a pilot with data and a model; else a new one will do.
        again: What is run when the files are restored, and must work; by default it is enough that nothing
            was written.
        nobody: Whether it takes an account without rights.
        here: Whether the command ends before it starts anything, and so can run in the tests' own process.
        rare: Whether another one is found in the same way: then `make test-full` alone makes it.
    """

    title: str
    command: tuple[str, ...]
    says: tuple[str, ...]
    make: Callable[[Pilot], None] = nothing
    code: int = 2
    more: Mapping[str, str] = field(default_factory=dict)
    trained: bool = False
    again: tuple[str, ...] = ()
    nobody: bool = False
    here: bool = False
    rare: bool = False

    def param(self) -> Any:
        """The mistake as a parameter of a test."""
        marks = [pytest.mark.mistake(self.title), *([pytest.mark.slow] if self.rare else [])]
        return pytest.param(self, id=self.title.replace(" ", "-"), marks=marks)


def holds(line: str, parts: tuple[str, ...]) -> bool:
    """Whether the parts are in the line, in their order."""
    at = 0
    for part in parts:
        at = line.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True
