"""Pilots to make mistakes in: each test gets a copy of one that was rendered, and trained, once."""

from __future__ import annotations

import compileall
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from mistakes.planted import Pilot
from rendering import copy_template, render

ROWS = "600"


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """A folder for what is made once, by the first of the processes that share the tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    found = folder / f"once-{testrun_uid}"
    found.mkdir(exist_ok=True)
    return found


@pytest.fixture(scope="session")
def rendered_once(once: Path) -> Pilot:
    root, done = once / "pilot", once / "rendered"
    with FileLock(once / "rendering.lock"):
        if not done.exists():
            pilot = Pilot(render(copy_template(once / "template"), root))
            compileall.compile_dir(root, quiet=1)  # once, and not in every copy
            pilot.git("init", "-q", "-b", "main")
            pilot.git("add", "-A")
            pilot.git("commit", "-q", "-m", "start")
            done.touch()
    return Pilot(root)


@pytest.fixture(scope="session")
def trained_once(once: Path, rendered_once: Pilot) -> Pilot:
    root, done = once / "trained", once / "ran"
    with FileLock(once / "training.lock"):
        if not done.exists():
            shutil.rmtree(root, ignore_errors=True)  # of one that failed half-way
            pilot = copied(rendered_once, root)
            pilot.works("simulate", "--rows", ROWS)
            pilot.works("run")
            done.touch()
    return Pilot(root)


@pytest.fixture
def new(rendered_once: Pilot, tmp_path: Path) -> Iterator[Pilot]:
    """A new pilot: nothing simulated, nothing trained."""
    yield copied(rendered_once, tmp_path / "new")
    shutil.rmtree(tmp_path / "new", ignore_errors=True)


@pytest.fixture(scope="session")
def shared_once(rendered_once: Pilot, tmp_path_factory: pytest.TempPathFactory) -> Pilot:
    return copied(rendered_once, tmp_path_factory.mktemp("shared") / "pilot")


@pytest.fixture
def shared(shared_once: Pilot) -> Iterator[Pilot]:
    """A new pilot that tests get one after the other, as git has it: a copy takes longer than most."""
    yield shared_once
    shared_once.git("checkout", "-q", "-f", "--", ".")
    shared_once.git("clean", "-q", "-f", "-d", "-x", "-e", "__pycache__")


@pytest.fixture
def trained(trained_once: Pilot, tmp_path: Path) -> Iterator[Pilot]:
    """A pilot with simulated sources and a packaged model."""
    yield copied(trained_once, tmp_path / "pilot")
    shutil.rmtree(tmp_path / "pilot", ignore_errors=True)


@pytest.fixture
def modelled(trained_once: Pilot, tmp_path: Path) -> Iterator[Pilot]:
    """The same without the database that it was trained from, which is nearly all that there is to copy."""
    left_out = {str(trained_once.root / "var" / "sources"), str(trained_once.root / ".dvc" / "cache")}

    def without(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if str(Path(folder, name)) in left_out}

    shutil.copytree(trained_once.root, tmp_path / "modelled", symlinks=True, ignore=without)
    yield Pilot(tmp_path / "modelled")
    shutil.rmtree(tmp_path / "modelled", ignore_errors=True)


def copied(pilot: Pilot, folder: Path) -> Pilot:
    """A copy that keeps owners, which PostgreSQL looks at."""
    subprocess.run(["cp", "-a", str(pilot.root), str(folder)], check=True)
    tracked = folder / "var" / "mlflow" / "mlflow.db"
    if tracked.exists():
        with sqlite3.connect(tracked) as connection:
            location = (tracked.parent / "artifacts").as_uri()
            connection.execute("update experiments set artifact_location = ?", [location])
        connection.close()
    return Pilot(folder)
