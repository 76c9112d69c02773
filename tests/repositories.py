"""Git repositories for tests: the template as it stands in the work tree, and pilots rendered from it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rendering import ROOT, render

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    """Run git, which must succeed, and give what it says."""
    done = subprocess.run(
        ["git", *IDENTITY, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def commit(folder: Path, message: str, tag: str = "") -> None:
    """Commit everything that is there."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--no-verify", "--message", message)
    if tag:
        git(folder, "tag", tag)


def template_repository(folder: Path) -> Path:
    """A clone of this repository, with what is not committed yet in a commit of its own."""
    git(ROOT, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder))
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        here, there = ROOT / name, folder / name
        there.unlink(missing_ok=True)
        if here.is_symlink() or here.is_file():
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(here, there, follow_symlinks=False)
    if git(folder, "status", "--porcelain"):
        commit(folder, "What is not committed yet")
    return folder


def committed_pilot(template: Path, folder: Path, **answers: object) -> Path:
    """A pilot from the newest commit of a template's repository, in its own first commit."""
    render(template, folder, answers, vcs_ref="HEAD")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Start from pilot-template")
    return folder


def equip(pilot: Path) -> None:
    """Give a pilot a `.venv` that is set up: this one's commands, so that no test has to install them."""
    commands = pilot / ".venv" / "bin"
    commands.mkdir(parents=True)
    for command in sorted((ROOT / ".venv" / "bin").iterdir()):
        if not command.name.startswith(("python", "activate")):
            (commands / command.name).symlink_to(command)
    python = commands / "python"  # a link would look for its packages beside itself
    python.write_text(f'#!/bin/sh\nexec "{ROOT}/.venv/bin/python" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    wanted = next(
        line.split("'")[1]
        for line in (pilot / ".copier-answers.yml").read_text(encoding="utf-8").splitlines()
        if line.startswith("python_version")
    )
    # What the Makefile takes for a finished set-up.
    (pilot / ".venv" / ".ready").write_text(f"{pilot} {wanted}\n", encoding="utf-8")


def bare_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of somebody who has set nothing; where packages come from is the machine's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "UV_", "SSL_", "REQUESTS_", "LC_", "LANG"))
        or name.lower().endswith("_proxy")
    }
    home.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "NO_COLOR": "1",
        "PILOT_SERVING__LOG_FORMAT": "text",
        **kept,
        **more,
    }


@pytest.fixture(scope="session")
def template_at_head(made_once: Callable[..., Path]) -> Path:
    """This repository as a template: shared, change nothing."""
    return made_once("template-at-head", template_repository)


@pytest.fixture(scope="session")
def fresh_once(template_at_head: Path, made_once: Callable[..., Path]) -> Path:
    """A new pilot in a repository: shared, change nothing."""
    return made_once("fresh-pilot", lambda folder: committed_pilot(template_at_head, folder))


@pytest.fixture
def fresh(fresh_once: Path, tmp_path: Path) -> Path:
    """A new pilot in a repository of its own."""
    return Path(shutil.copytree(fresh_once, tmp_path / "fresh", symlinks=True))
