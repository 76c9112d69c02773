"""Pilots to make mistakes in: each test gets a copy of one that was rendered, and trained, once."""

from __future__ import annotations

import compileall
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mistakes.planted import Pilot
from rendering import render

ROWS = "600"


@pytest.fixture(scope="session")
def rendered_once(whole_template: Path, made_once: Callable[..., Path]) -> Pilot:
    def make(root: Path) -> None:
        pilot = Pilot(render(whole_template, root))
        compileall.compile_dir(root, quiet=1)  # once, and not in every copy
        pilot.git("init", "-q", "-b", "main")
        pilot.git("add", "-A")
        pilot.git("commit", "-q", "-m", "start")

    return Pilot(made_once("new", make))


@pytest.fixture(scope="session")
def trained_once(rendered_once: Pilot, made_once: Callable[..., Path]) -> Pilot:
    def make(root: Path) -> None:
        pilot = copied(rendered_once, root)
        pilot.works("simulate", "--rows", ROWS)
        pilot.works("run")

    return Pilot(made_once("trained", make))


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
