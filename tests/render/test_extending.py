"""Every standard file names in its first line where to extend it instead, and that place is on the list."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rendering import ROOT, copy_template, files, render

PAGE = ROOT / "docs" / "reference" / "extending.md"
RENOVATE = ROOT / "docs" / "reference" / "renovate.json"
SAYS = "This file is the standard's: `copier update` replaces it."
# The team's, whole: ownership/seed.yml.
TEAMS = (
    "README.md",
    "pilot.toml",
    "pyproject.toml",
    "params.yaml",
    "simulation.yaml",
    "overrides.txt",
    ".dvc/",
)
TEAMS_FOLDERS = ("src/", "tests/", "governance/", "docs/")
# What programs write has no room for a word to people, or none that would stay.
WRITTEN_BY_PROGRAMS = {
    ".copier-answers.yml",
    "harness/MANIFEST.sha256",
    "harness/build-constraints.txt",
    "harness/constraints.txt",
    "harness/pilot.svg",
    "harness/uv.txt",
}
# How a first line names a place, where it is no path.
IN_WORDS = {
    "in a workflow file beside": "workflow file beside",
    "in a folder of yours": "in a folder of yours",
    "of a folder of yours": "in a folder of yours",
}


@pytest.fixture(scope="module")
def places() -> list[str]:
    table = PAGE.read_text(encoding="utf-8").partition("| you want |")[2].partition("\n\n")[0]
    return [row.split("|")[2] for row in table.splitlines()[2:]]


def standards(pilot: Path) -> list[str]:
    left_out = (*TEAMS, *TEAMS_FOLDERS, "harness/src/", "harness/schemas/")
    return sorted(name for name in files(pilot) if not name.startswith(left_out))


def first_line(file: Path) -> str:
    """The line that says whose it is, with the one that goes on; in a test it stands below the docstring."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if file.suffix == ".py":
        lines = lines[next(n for n, line in enumerate(lines) if line.startswith("#")) :]
    return "\n".join(line for line in lines[:2] if line.startswith("#"))


def named(line: str, places: list[str]) -> bool:
    """Whether a first line names a place of the list."""
    said = re.sub(r"^.*?replaces it\.", "", line, flags=re.S)
    known = {each for place in places for each in re.findall(r"`([^`]+)`", place)}
    ways = {way for way, wanted in IN_WORDS.items() if any(wanted in place for place in places)}
    return any(each in said for each in known) or any(way in said for way in ways)


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_the_first_line_of_each_standard_file_names_a_place_of_the_list(
    pilot_on: Callable[[str], Path], places: list[str], ci: str
) -> None:
    pilot = pilot_on(ci)
    found = standards(pilot)
    assert set(found) >= WRITTEN_BY_PROGRAMS | {"Makefile", "dvc.yaml"}
    for name in sorted(set(found) - WRITTEN_BY_PROGRAMS):
        line = first_line(pilot / name)
        assert line.startswith(f"# {SAYS}"), name
        assert named(line, places), f"{name} names no place that is in {PAGE.name}: {line}"


@pytest.mark.parametrize(
    "line",
    [
        f"# {SAYS}",
        f"# {SAYS} Put targets of your own in team.mk.",
        f"# {SAYS} Ask for help.\n# in a word",
    ],
)
def test_a_first_line_that_names_no_place_is_found(places: list[str], line: str) -> None:
    assert not named(line, places)


def test_the_answers_say_how_they_are_changed(pilot: Path) -> None:
    line = (pilot / ".copier-answers.yml").read_text(encoding="utf-8").splitlines()[0]
    assert "copier update --vcs-ref=:current: --data" in line


def test_every_place_of_the_list_is_the_teams_in_an_update(places: list[str]) -> None:
    seeds = (ROOT / "ownership" / "seed.yml").read_text(encoding="utf-8")
    for place in re.findall(r"`([^`]+)`", " ".join(places)):
        if place in ("dvc.yaml", ".gitignore", ".gitattributes", ".dvcignore", ".git/info/exclude"):
            continue  # in a folder of the team's, or in no commit
        if place in ("reports/dvc.yaml", ".github/workflows/"):
            continue  # not rendered, so not touched
        top = place.split("/")[0] + ("/" if "/" in place else "")
        assert f"        /{top}\n" in seeds, place


def test_each_test_that_the_list_names_is_there(places: list[str]) -> None:
    names = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert len(names) > 4
    assert {f"{name}.py" for name in names} <= {path.name for path in (ROOT / "tests").rglob("*.py")}


def valid(file: Path) -> bool:
    command = [str(Path(sys.executable).parent / "check-jsonschema"), "--builtin-schema", "vendor.renovate"]
    return subprocess.run([*command, str(file)], capture_output=True).returncode == 0


def test_renovate_takes_the_configuration(tmp_path: Path) -> None:
    assert valid(RENOVATE)
    broken = tmp_path / "renovate.json"
    broken.write_text(RENOVATE.read_text(encoding="utf-8").replace('"automerge": false', '"automerge": "no"'))
    assert not valid(broken)


def test_renovate_looks_after_the_template_and_leaves_the_pins_of_the_standard_alone(
    rendered: Callable[..., Path],
) -> None:
    told = json.loads(RENOVATE.read_text(encoding="utf-8"))
    assert told["copier"]["enabled"] is True
    assert told["copier"]["automerge"] is False
    ignored = set(told["ignorePaths"])
    assert "harness/**" in ignored
    for ci in ("github", "gitlab"):
        pilot = rendered(ci=ci)
        held = {
            name
            for name in files(pilot)
            if name.startswith((".github/", ".gitlab-ci")) or name == ".pre-commit-config.yaml"
        }
        assert held <= ignored
    assert ".copier-answers.yml" not in ignored


def test_no_pilot_gets_a_configuration_that_would_switch_renovate_on(tmp_path: Path) -> None:
    pilot = render(copy_template(tmp_path / "template"), tmp_path / "pilot")
    assert [name for name in files(pilot) if "renovate" in name] == []
