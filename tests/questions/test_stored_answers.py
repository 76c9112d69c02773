"""A stored answer outlives what later releases refuse; `tests/release/` holds the lint that keeps it so."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import yaml
from copier import run_recopy, run_update

from rendering import copy_template, render
from repositories import commit, git

TAKEN = "identify"


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A template whose first release takes fewer names than the second."""
    folder = copy_template(tmp_path / "template", lean=True)
    list_of_names = folder / "questions" / "taken.txt"
    text = list_of_names.read_text(encoding="utf-8")
    assert f"\n{TAKEN}\n" in text
    list_of_names.write_text(text.replace(f"\n{TAKEN}\n", "\n"), encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "First", "v1.0.0")
    return folder


@pytest.fixture
def pilot(template: Path, tmp_path: Path) -> Path:
    folder = render(template, tmp_path / "pilot", {"package_name": TAKEN})
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Start from pilot-template")
    with (template / "questions" / "taken.txt").open("a", encoding="utf-8") as names:
        names.write(f"{TAKEN}\n")
    commit(template, "Second", "v2.0.0")
    return folder


def stored(pilot: Path) -> dict[str, str]:
    read: dict[str, str] = yaml.safe_load((pilot / ".copier-answers.yml").read_text(encoding="utf-8"))
    return read


def test_a_name_that_a_later_release_takes_is_kept_by_an_update(pilot: Path) -> None:
    run_update(pilot, defaults=True, overwrite=True, quiet=True, unsafe=False)
    assert (stored(pilot)["_commit"], stored(pilot)["package_name"]) == ("v2.0.0", TAKEN)


@pytest.mark.parametrize("overwrite", [False, True])
def test_and_by_the_command_that_brings_new_files(pilot: Path, overwrite: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"defaults": True, "skip_answered": True, "skip_if_exists": ["*"], "quiet": True}
        run_recopy(pilot, vcs_ref="HEAD", unsafe=False, overwrite=overwrite, **settings)
    assert stored(pilot)["package_name"] == TAKEN


def test_and_is_refused_in_a_new_pilot(pilot: Path, template: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has that name already"):
        render(template, tmp_path / "new", {"package_name": TAKEN})
