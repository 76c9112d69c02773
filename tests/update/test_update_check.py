"""`make update-check`: only a template that was asked and has nothing newer is a pass."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from repositories import bare_environment, commit, committed_pilot, equip, git

Make = Callable[[], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def released_once(template_at_head: Path, made_once: Callable[..., Path]) -> Path:
    """A template with a release, and a pilot of it. Shared: change nothing."""

    def make(folder: Path) -> None:
        folder.mkdir()
        git(folder, "clone", "--quiet", "--no-hardlinks", str(template_at_head), "template")
        commit(folder / "template", "Release", "v1.0.0")
        committed_pilot(folder / "template", folder / "pilot")

    return made_once("update-check", make)


@pytest.fixture
def template(released_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released_once / "template", tmp_path / "template", symlinks=True))


@pytest.fixture
def pilot(released_once: Path, template: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(released_once / "pilot", tmp_path / "pilot", symlinks=True))
    answers = folder / ".copier-answers.yml"
    text = answers.read_text(encoding="utf-8")
    assert str(released_once / "template") in text
    answers.write_text(text.replace(str(released_once / "template"), str(template)), encoding="utf-8")
    commit(folder, "The template is over there")
    equip(folder)
    return folder


@pytest.fixture
def make(pilot: Path, tmp_path: Path) -> Make:
    def make() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "update-check"],
            cwd=pilot,
            env=bare_environment(tmp_path / "home"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return make


def test_the_newest_is_a_pass(make: Make) -> None:
    done = make()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The template has no newer version.\n"


def test_a_newer_release_fails_and_is_named(template: Path, make: Make) -> None:
    commit(template, "More", "v1.1.0")
    done = make()
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "The template has a newer version. Current version is 1.0.0, latest version is 1.1.0. "
        "Run: make update"
    )
    assert "Error 1" in done.stderr


def test_the_command_that_it_names_is_there(template: Path, pilot: Path, make: Make, tmp_path: Path) -> None:
    """What it does is shown in test_launcher.py."""
    commit(template, "More", "v1.1.0")
    command = make().stderr.splitlines()[0].partition("Run: ")[2].split()
    done = subprocess.run(
        [*command, "--dry-run"],
        cwd=pilot,
        env=bare_environment(tmp_path / "home"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ".venv/bin/pilot update" in done.stdout


def gone(template: Path, pilot: Path) -> None:
    shutil.rmtree(template)


def without_answers(template: Path, pilot: Path) -> None:
    (pilot / ".copier-answers.yml").unlink()


def without_a_version(template: Path, pilot: Path) -> None:
    file = pilot / ".copier-answers.yml"
    file.write_text(file.read_text().replace("_commit:", "commit:"))


def outside_git(template: Path, pilot: Path) -> None:
    shutil.rmtree(template / ".git")


@pytest.mark.parametrize("how", [gone, without_answers, without_a_version, outside_git])
def test_no_answer_is_no_pass(
    template: Path, pilot: Path, make: Make, how: Callable[[Path, Path], None]
) -> None:
    if how is without_answers:
        # The Makefile would set the pilot up anew: the version of Python is in the answers.
        (pilot / ".venv" / ".ready").write_text(f"{pilot}\n")
    how(template, pilot)
    done = make()
    assert done.returncode == 2
    assert "the template could not be asked, so nobody knows" in done.stderr
    assert "Error 3" in done.stderr
    assert done.stdout == ""
