"""`copier update`: what is the team's stays, what is the standard's is replaced, and nothing conflicts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from copier import run_update

from rendering import copy_template, render

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
HARNESS = ("harness/pyproject.toml", "harness/src/harness/data/engine.py", "harness/tests/test_engine.py")
SEEDS = (
    "README.md",
    "pilot.toml",
    "pyproject.toml",
    "overrides.txt",
    "src/late_payment/model.py",
    "docs/runbook.md",
)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *IDENTITY, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def commit(folder: Path, message: str, tag: str | None = None) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    if tag:
        git(folder, "tag", tag)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A template repository with one release, and a few files that stand for those of a later day."""
    folder = copy_template(tmp_path / "template", lean=True)
    for name in (*HARNESS, "Makefile", "src/{{ package_name }}/model.py", "docs/runbook.md", "overrides.txt"):
        path = folder / "template" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first\n", encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "First", "v1.0.0")
    return folder


@pytest.fixture
def pilot(template: Path, tmp_path: Path) -> Path:
    folder = render(template, tmp_path / "pilot", {"team": "Credit control"})
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Start from pilot-template")
    return folder


def release(template: Path) -> None:
    """The second release changes every file."""
    for path in (template / "template").rglob("*"):
        if path.is_file() and not path.name.endswith(".jinja"):
            path.write_text("second\n", encoding="utf-8")
    for name in ("README.md.jinja", "pilot.toml.jinja", "pyproject.toml.jinja"):
        path = template / "template" / name
        path.write_text(path.read_text(encoding="utf-8") + "\n# second\n", encoding="utf-8")
    (template / "template" / "docs" / "new.md").write_text("second\n", encoding="utf-8")
    commit(template, "Second", "v2.0.0")


def update(pilot: Path) -> None:
    run_update(pilot, defaults=True, overwrite=True, quiet=True, unsafe=False)


def test_an_update_leaves_the_teams_files_and_replaces_the_standards(template: Path, pilot: Path) -> None:
    (pilot / "src/late_payment/model.py").write_text("ours\n", encoding="utf-8")
    (pilot / "docs/runbook.md").unlink()
    commit(pilot, "Ours")
    before = {name: (pilot / name).read_bytes() for name in SEEDS if (pilot / name).is_file()}
    release(template)
    update(pilot)
    after = {name: (pilot / name).read_bytes() for name in SEEDS if (pilot / name).is_file()}
    assert after == before
    assert not (pilot / "docs/new.md").exists()
    assert {(pilot / name).read_text(encoding="utf-8") for name in (*HARNESS, "Makefile")} == {"second\n"}
    assert git(pilot, "diff", "--name-only", "--diff-filter=U") == ""


def test_a_seed_that_the_template_drops_stays_with_the_team(template: Path, pilot: Path) -> None:
    (pilot / "src/late_payment/model.py").write_text("ours\n", encoding="utf-8")
    commit(pilot, "Ours")
    (template / "template/src/{{ package_name }}/model.py").unlink()
    commit(template, "Drop it", "v2.0.0")
    update(pilot)
    assert (pilot / "src/late_payment/model.py").read_text(encoding="utf-8") == "ours\n"


@pytest.mark.parametrize("list_of_paths", ["seed.yml", "retired.yml"])
@pytest.mark.parametrize("dropped", [True, False])
def test_a_path_that_is_given_up_keeps_the_teams_edits(
    template: Path, pilot: Path, list_of_paths: str, dropped: bool
) -> None:
    (pilot / "Makefile").write_text("ours\n", encoding="utf-8")
    commit(pilot, "Ours")
    ownership = template / "ownership" / list_of_paths
    before, after = ownership.read_text(encoding="utf-8").rsplit("        {% endif %}", 1)
    ownership.write_text(f"{before}        /Makefile\n        {{% endif %}}{after}", encoding="utf-8")
    if dropped:
        (template / "template/Makefile").unlink()
    commit(template, "Give it up", "v2.0.0")
    update(pilot)
    assert (pilot / "Makefile").read_text(encoding="utf-8") == "ours\n"


def test_answers_are_kept(template: Path, pilot: Path) -> None:
    release(template)
    update(pilot)
    answers = (pilot / ".copier-answers.yml").read_text(encoding="utf-8")
    assert "team: Credit control" in answers
    assert "_commit: v2.0.0" in answers
