"""From every release to what is here: an untouched pilot becomes a fresh copy, and a team loses nothing."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from copier import run_update

from pilot_template.update.decide import Kind
from repositories import commit, git
from updating import PACKAGE, TARGET, Held, committed, contents, edit, is_teams, state, updated, write

pytestmark = pytest.mark.timeout(300)


def typical(pilot: Path) -> None:
    """What every team does, and what it may."""
    for name in ("sources", "contract", "features", "model", "fallback"):
        file = pilot / PACKAGE / f"{name}.py"
        file.write_text(f"# Ours.\n{file.read_text(encoding='utf-8')}\n# The end.\n", encoding="utf-8")
    edit(pilot, "pilot.toml", "port = 8080", "port = 8443")
    edit(pilot, "params.yaml", "rounds: 50", "rounds: 40")
    edit(pilot, "pyproject.toml", '"pilot-template-harness",', '"pilot-template-harness",\n    "holidays",')
    edit(pilot, "README.md", "# ", "# Ours: ")
    write(pilot, "tests/test_ours.py", "def test_ours() -> None:\n    assert True\n")
    write(pilot, f"{PACKAGE}/calendar.py", "DAYS = 5\n")
    write(pilot, ".github/workflows/ours.yml", "on: push\njobs: {}\n")
    write(pilot, "local.mk", "ours: ## ours\n\t@echo ours\n")
    write(pilot, "docs/notes.md", "Ours.\n")
    write(pilot, "evidence/ours.json", "{}\n")
    (pilot / "tests/test_example.py").unlink()
    (pilot / "simulation.yaml").unlink()


def test_an_untouched_pilot_becomes_a_fresh_copy(
    old: Path, released: Path, fresh_copy: dict[str, bytes]
) -> None:
    held = Held(old, committed(old, "HEAD"))
    report = updated(old, released)
    after = held.holds(report)
    assert {name: text for name, text in after.items() if not is_teams(name)} == {
        name: text for name, text in fresh_copy.items() if not is_teams(name)
    }
    seeds = {name: text for name, text in fresh_copy.items() if is_teams(name) and name not in held.given}
    assert {name: text for name, text in after.items() if is_teams(name)} == seeds | {
        name: text for name, text in held.before.items() if is_teams(name)
    }
    assert report.exit_code == 0, report.needs_somebody
    assert {each.name for each in report.of(Kind.SEEDED)} == set(seeds)


def test_a_pilot_with_typical_edits_keeps_every_byte_of_them(
    old: Path, released: Path, fresh_copy: dict[str, bytes]
) -> None:
    given = committed(old, "HEAD")
    typical(old)
    commit(old, "Ours")
    held = Held(old, given)
    report = updated(old, released)
    after = held.holds(report)
    ours = {name: text for name, text in held.before.items() if is_teams(name) or name not in given}
    assert {name: after[name] for name in ours} == ours
    assert "tests/test_example.py" not in after, "what the team deleted stays deleted"
    assert "simulation.yaml" not in after
    rest = {name for name in after if name not in ours and not is_teams(name)}
    assert {name: after[name] for name in rest} == {
        name: text for name, text in fresh_copy.items() if not is_teams(name)
    }
    assert report.exit_code == 0, report.needs_somebody


@pytest.mark.parametrize(
    "edits",
    [pytest.param(None, id="untouched", marks=pytest.mark.slow), pytest.param(typical, id="typical")],
)
def test_copier_alone_gives_the_same_tree(
    old: Path, released: Path, tmp_path: Path, edits: Callable[[Path], None] | None
) -> None:
    """But for new files of the team's, which Copier's update cannot bring: its message says how."""
    if edits:
        edits(old)
        commit(old, "Ours")
    plain = Path(shutil.copytree(old, tmp_path / "plain", symlinks=True))
    report = updated(old, released)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_update(plain, vcs_ref=f"v{TARGET}", defaults=True, overwrite=True, quiet=True, unsafe=False)
    ours, theirs = committed(old, report.branch), contents(plain)
    seeds = {each.name for each in report.of(Kind.SEEDED)}
    assert {name: text for name, text in ours.items() if name not in seeds} == theirs


@pytest.mark.usefixtures("rendered_once")
def test_applied_it_is_the_checkout(old: Path, released: Path) -> None:
    write(old, "tests/test_new.py", "not committed\n")
    report = updated(old, released, apply=True)
    assert report.applied
    assert git(old, "rev-parse", "HEAD") == git(old, "rev-parse", report.branch)
    assert git(old, "status", "--porcelain") == "?? tests/test_new.py\n"
    again = updated(old, released)
    assert again.current
    assert again.exit_code == 0
    assert git(old, "worktree", "list").count("\n") == 1


@pytest.mark.usefixtures("rendered_once")
def test_looking_only_leaves_nothing_behind(old: Path, released: Path) -> None:
    held = Held(old, committed(old, "HEAD"))
    names = git(old, "for-each-ref")
    report = updated(old, released, dry=True, apply=True, tests=True)
    assert report.branch == ""
    assert report.of(Kind.CHANGED)
    assert state(old) == held.seen
    assert git(old, "for-each-ref") == names
    assert git(old, "worktree", "list").count("\n") == 1


@pytest.mark.usefixtures("rendered_once")
def test_every_file_of_the_new_version_can_be_had(old: Path, released: Path) -> None:
    """By the name that the report gives: also one that the team had deleted."""
    (old / "harness/uv.txt").unlink()
    commit(old, "Who needs it")
    report = updated(old, released, apply=False)
    assert report.exit_code == 1
    (line,) = report.needs_somebody
    assert line.startswith("harness/uv.txt: you had deleted it")
    git(old, "merge", "--quiet", report.branch)
    command = line.partition("To have it again: git ")[2].split()
    git(old, *command)
    assert (old / "harness/uv.txt").read_bytes() == (released / "template/harness/uv.txt").read_bytes()
    assert os.access(old / "harness/uv.txt", os.R_OK)
