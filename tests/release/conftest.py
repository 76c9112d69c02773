"""Scratch clones of this repository, and the template of its releases."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from release import record, snapshot
from release.snapshot import Snapshot
from rendering import ROOT
from repositories import git

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def whole_history() -> None:
    if missing := record.missing_commits(ROOT):
        pytest.skip(f"this clone is shallow and has no {missing[0]}: git fetch --unshallow")


@pytest.fixture
def clone(whole_history: None, template_at_head: Path, tmp_path: Path) -> Path:
    """A clone with everything that is here, on main, in which a release may be made."""
    folder = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--no-hardlinks", str(template_at_head), str(folder))
    git(folder, "switch", "--quiet", "--force-create", "main")
    for setting in (
        "user.name=Test",
        "user.email=test@example.org",
        "commit.gpgsign=false",
        "tag.gpgsign=false",
    ):
        git(folder, "config", *setting.split("="))
    return folder


@pytest.fixture
def make(clone: Path) -> Run:
    """Run the release command in the clone."""

    def make(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "release", *arguments]
        return subprocess.run(command, cwd=clone, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    return make


@pytest.fixture(scope="session")
def first(whole_history: None, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The first release."""
    commit = record.recorded(ROOT)["0.1.0"]
    return snapshot.at_commit(ROOT, commit, "0.1.0", tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="session")
def latest(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """What is here, as if it were released: what a change to it is compared with."""
    return snapshot.in_work_tree(ROOT, tmp_path_factory.mktemp("latest"), "7.0.0")


@pytest.fixture
def now(latest: Snapshot, tmp_path: Path) -> Snapshot:
    """What is here, in a folder of its own: change it."""
    return Snapshot("this version", Path(shutil.copytree(latest.folder, tmp_path / "now")))
