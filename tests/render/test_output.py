"""What the default answers give: which files, that they parse, and that nothing of the template shows."""

from __future__ import annotations

import filecmp
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jinja2 import UndefinedError

from pilot_template.update import ownership
from rendering import ROOT, copy_template, documents, files, render

# Everything outside these, which have lists of their own.
LISTED_ELSEWHERE = ("harness/", "src/", "tests/", "governance/", "docs/")
EXPECTED = {
    ".copier-answers.yml",
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
    ".gitattributes",
    ".github/workflows/pilot-audit.yml",
    ".github/workflows/pilot-scheduled.yml",
    ".github/workflows/pilot.yml",
    ".gitignore",
    ".pre-commit-config.yaml",
    "Makefile",
    "README.md",
    "dvc.yaml",
    "overrides.txt",
    "params.yaml",
    "pilot.toml",
    "pyproject.toml",
    "simulation.yaml",
}
ASKED_FOR = {
    "name": "Late payment",
    "package": "late_payment",
    "purpose": "Tell collectors which open invoices will be paid late, early enough to act.",
    "use_case": "classification",
    "team": "TODO",
    "owner": "TODO",
    "on_call": "TODO",
    "risk_tier": "limited",
    "data_classification": "internal",
}


def test_default_answers_give_exactly_these_files(pilot: Path) -> None:
    assert {name for name in files(pilot) if not name.startswith(LISTED_ELSEWHERE)} == EXPECTED


def test_a_pilot_stays_small(pilot: Path) -> None:
    # The harness is many small modules, which nobody has to open; what a team meets is the rest.
    assert len(files(pilot)) <= 400
    standards = {name for name in files(pilot) if not name.startswith(("harness/src/", "harness/schemas/"))}
    assert len(standards) <= 60


def test_what_installs_the_harness_is_there(pilot: Path) -> None:
    needed = {"pyproject.toml", "constraints.txt", "build-constraints.txt", "uv.txt"}
    assert needed <= files(pilot / "harness")


def test_every_document_parses_and_holds_the_answers(pilot: Path) -> None:
    read = documents(pilot)
    assert read["pilot.toml"]["pilot"] == ASKED_FOR
    assert read["pilot.toml"]["alerts"] == {"target": "log"}
    assert read["pyproject.toml"]["project"]["name"] == "late_payment"
    assert read["pyproject.toml"]["project"]["description"] == ASKED_FOR["purpose"]
    assert read[".copier-answers.yml"]["python_version"] == "3.11"
    assert read[".github/workflows/pilot.yml"]["permissions"] == {"contents": "read"}


def test_the_sections_of_the_settings_are_in_order(pilot: Path) -> None:
    settings = tomllib.loads((pilot / "pilot.toml").read_text(encoding="utf-8"))
    order = ["pilot", "data", "sources", "sandbox", "serving", "slo", "store", "downstream", "tracking"]
    order += ["control", "alerts"]
    assert list(settings) == order
    assert list(settings["pilot"]) == list(ASKED_FOR)


def test_every_setting_has_a_comment(pilot: Path) -> None:
    lines = (pilot / "pilot.toml").read_text(encoding="utf-8").splitlines()
    bare = [line for above, line in itertools.pairwise(lines) if "=" in line and above[:1] != "#" != line[:1]]
    assert bare == []


def test_nothing_of_the_template_is_left_in_the_output(pilot: Path) -> None:
    for name in files(pilot):
        if not name.startswith("harness/src/"):
            # GitHub's own expressions look alike.
            text = re.sub(r"\$\{\{ [\w.]+(\([^)]*\))? \}\}", "", (pilot / name).read_text(encoding="utf-8"))
            assert not re.search(r"\{\{|\{%|%\}|\{#", text), name


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_a_fresh_pilot_passes_its_own_lint(pilot: Path, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", "."], cwd=pilot, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_path_is_impossible_on_windows(whole_template: Path, pilot: Path) -> None:
    assert [name for name in files(whole_template) if '"' in name] == []
    assert [name for name in files(pilot) if re.search(r'["<>:|?*\\]', name)] == []


# Formats without comments, and the file that Copier writes.
CANNOT_SAY_SO = (".json", ".sha256", ".copier-answers.yml")


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_each_file_of_the_standard_says_so_and_where_to_extend(
    pilot_on: Callable[[str], Path], ci: str
) -> None:
    """In its first line, or below a Python file's docstring. The harness's own source is not extended."""
    pilot = pilot_on(ci)
    owned = ownership.in_folder(ROOT)
    standards = {
        name for name in files(pilot) if not owned.is_teams(name) and not name.startswith("harness/src/")
    }
    said = {name for name in standards if not name.endswith(CANNOT_SAY_SO)}
    assert len(said) >= 18
    for name in said:
        text = (pilot / name).read_text(encoding="utf-8")
        if name.endswith(".py"):
            text = text[text.index('"""', 3) + 3 :].lstrip()
        first = " ".join(text.splitlines()[:2])
        assert "This file is the standard's: `copier update` replaces it." in text.splitlines()[0], name
        assert re.search(r"(?i)\b(extend|put|add|write|relax|tune)\b", first), name


def test_rendering_twice_gives_the_same_bytes(lean_template: Path, tmp_path: Path) -> None:
    first, second = (render(lean_template, tmp_path / name) for name in ("first", "second"))
    render(lean_template, second, overwrite=True)
    assert files(first) == files(second)
    assert filecmp.cmpfiles(first, second, files(first), shallow=False)[1:] == ([], [])


def test_a_misspelt_variable_stops_the_rendering(tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template", lean=True)
    (template / "template" / "note.md.jinja").write_text("{{ pilot_nam }}", encoding="utf-8")
    with pytest.raises(UndefinedError, match="pilot_nam"):
        render(template, tmp_path / "pilot")


def test_litter_is_not_copied(tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template", lean=True)
    for litter in (
        "__pycache__/a.pyc",
        "b.pyc",
        "x.egg-info/PKG-INFO",
        ".venv/c",
        ".ruff_cache/d",
        ".DS_Store",
        "~e",
    ):
        path = template / "template" / litter
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    written = files(render(template, tmp_path / "pilot"))
    assert {name for name in written if not name.startswith(("governance/", "docs/"))} <= EXPECTED


def test_the_next_commands_are_named_git_first(
    lean_template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    render(lean_template, tmp_path / "pilot", quiet=False)
    said = capsys.readouterr().err
    commands = ["cd ", "git init -b main && git add -A && git commit -m", "make setup", "make demo"]
    assert sorted(commands, key=said.index) == commands
    assert "need a repository" in said


@pytest.mark.parametrize(
    ("ci", "written"),
    [
        ("github", {f".github/workflows/{name}.yml" for name in ("pilot", "pilot-audit", "pilot-scheduled")}),
        ("gitlab", {".gitlab-ci.yml"}),
        ("none", set()),
    ],
)
def test_only_the_chosen_ci_is_written(rendered: Callable[..., Path], ci: str, written: set[str]) -> None:
    pilot = rendered(ci=ci, python_version="3.13")
    assert {name for name in files(pilot) if name.startswith((".github", ".gitlab"))} == written
    for name in written:
        assert "3.13" in str(yaml.safe_load((pilot / name).read_text(encoding="utf-8")))


def test_a_regression_is_told_that_the_example_is_none(rendered: Callable[..., Path]) -> None:
    intended = rendered(use_case="regression")
    assert (
        tomllib.loads((intended / "pilot.toml").read_text(encoding="utf-8"))["pilot"]["use_case"]
        == "regression"
    )
    assert "It is a classification" in (intended / "README.md").read_text(encoding="utf-8")
    assert "It is a classification" not in (rendered() / "README.md").read_text(encoding="utf-8")
