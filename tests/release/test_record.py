"""The list of releases and the notes: each fault is planted in a scratch clone."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from release import record
from release.errors import ReleaseError
from release.snapshot import Snapshot
from rendering import ROOT
from repositories import commit, git

Run = Callable[..., subprocess.CompletedProcess[str]]


def append(clone: Path, line: str) -> None:
    with (clone / record.RELEASES).open("a", encoding="utf-8") as releases:
        releases.write(f"{line}\n")


def the_commit_before(clone: Path) -> str:
    append(clone, f'"5.0.0" = "{git(clone, "rev-parse", "HEAD").strip()}"')
    stated = re.escape(record.current_version(clone))
    return f"5.0.0: the commit [0-9a-f]{{12}} states the version {stated}. Name the commit that was released."


def no_commit(clone: Path) -> str:
    append(clone, f'"5.0.0" = "{"ab" * 20}"')
    return "5.0.0: there is no commit abababababab. Correct it, or fetch it: git fetch --unshallow."


def a_short_one(clone: Path) -> str:
    append(clone, '"5.0.0" = "abc"')
    return "5.0.0: abc is no full commit. Write its 40 characters: git rev-parse."


def out_of_order(clone: Path) -> str:
    append(clone, f'"0.0.1" = "{"ab" * 20}"')
    return "the versions are not in order. Append a release, and change no line."


def not_toml(clone: Path) -> str:
    append(clone, "5.0.0")
    return r"it cannot be read \(.*\). Write one line a release below \[releases\]."


def of_another_history(clone: Path) -> str:
    first = record.recorded(clone)["0.1.0"]
    git(clone, "checkout", "--quiet", "--orphan", "other", first)
    commit(clone, "Another history")
    other = git(clone, "rev-parse", "HEAD").strip()
    git(clone, "checkout", "--quiet", "main")
    file = clone / record.RELEASES
    file.write_text(file.read_text(encoding="utf-8").replace(first, other), encoding="utf-8")
    return "0.1.0: the commit [0-9a-f]{12} is in no history of this one. Name the commit that was released."


def a_tag_elsewhere(clone: Path) -> str:
    git(clone, "tag", "--force", "--annotate", "v0.1.0", "--message", "x", "HEAD")
    return "0.1.0: the tag v0.1.0 is on another commit. Name the commit that was released."


FAULTS = [
    the_commit_before,
    no_commit,
    a_short_one,
    out_of_order,
    not_toml,
    of_another_history,
    a_tag_elsewhere,
]


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_fault_in_the_list_is_found(clone: Path, plant: Callable[[Path], str]) -> None:
    message = plant(clone)
    try:
        found = record.all_findings(clone)
    except ReleaseError as error:
        found = list(error.args)
    assert [line for line in found if re.fullmatch(f"{record.RELEASES}: {message}", line)], found


@pytest.mark.parametrize("kind", ["--annotate", "--no-sign"])
def test_a_tag_on_the_recorded_commit_is_right(clone: Path, kind: str) -> None:
    more = ("--message", "x") if kind == "--annotate" else ()
    git(clone, "tag", "--force", kind, *more, "v0.1.0", record.recorded(clone)["0.1.0"])
    assert record.record_findings(clone) == []


def test_a_plan_of_another_form_is_one_line(clone: Path, make: Run) -> None:
    (clone / "questions/plans.yaml").write_text("- question: ci\n", encoding="utf-8")
    done = make("--check")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("release: questions/plans.yaml: Field required. Write each plan as")


def of(clone: Path, *releases: Snapshot) -> list[str]:
    return record.notes_findings(clone, [*releases], Snapshot("this version", clone))


@pytest.fixture
def lean(monkeypatch: pytest.MonkeyPatch, clone: Path, first: Snapshot) -> Path:
    """A clone of which only the paths are told: those of the first release, and one file more."""
    paths = first.paths

    def known(self: Snapshot) -> frozenset[str]:
        return paths if self.name == "0.1.0" else paths | {"docs/new.md"}

    monkeypatch.setattr(Snapshot, "paths", property(known))
    for file in (clone / "update/notes").glob("*.yaml"):
        file.unlink()
    (clone / "update/notes/0.1.0.yaml").write_text("version: 0.1.0\nsummary: First.\n", encoding="utf-8")
    (clone / "update/notes/next.yaml").write_text("summary: Next.\nseeds: [docs/new.md]\n", encoding="utf-8")
    version = clone / record.VERSION_FILE
    version.write_text(
        record.VERSION_LINE.sub('__version__ = "0.1.0"', version.read_text()), encoding="utf-8"
    )
    return clone


def test_notes_that_name_what_is_new_are_fine(lean: Path, first: Snapshot) -> None:
    assert of(lean, first) == []


def test_a_new_file_that_the_notes_do_not_name_is_found(lean: Path, first: Snapshot) -> None:
    line = "update/notes/next.yaml: seeds: docs/new.md is new since 0.1.0, and is not named. Add it."
    (lean / "update/notes/next.yaml").write_text("summary: Next.\n", encoding="utf-8")
    assert of(lean, first) == [line]
    (lean / "update/notes/next.yaml").unlink()
    assert of(lean, first) == [line]


def test_a_retired_path_that_the_notes_do_not_name_is_found(lean: Path, first: Snapshot) -> None:
    retired = lean / "ownership/retired.yml"
    end = "        {% endif %}"
    retired.write_text(retired.read_text().replace(end, f"        /Makefile\n{end}"), encoding="utf-8")
    assert of(lean, first) == [
        "update/notes/next.yaml: retired: Makefile is new since 0.1.0, and is not named. Add it."
    ]


def test_a_release_without_notes_and_notes_without_a_release_are_found(lean: Path, first: Snapshot) -> None:
    (lean / "update/notes/0.1.0.yaml").rename(lean / "update/notes/0.1.1.yaml")
    file = lean / "update/notes/0.1.1.yaml"
    file.write_text(file.read_text().replace("0.1.0", "0.1.1"), encoding="utf-8")
    assert of(lean, first) == [
        "update/notes/0.1.0.yaml: there is none, and 0.1.0 was released. Write it.",
        "update/notes/0.1.1.yaml: 0.1.1 was not released. Call it next.yaml, without a version.",
    ]


def test_the_version_stands_in_one_place() -> None:
    version = record.current_version(ROOT)
    names = git(
        ROOT,
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        "*.toml",
        "*.py",
        "*.cfg",
        "*.json",
        "*.yml",
        "*.jinja",
        "*Makefile",
    ).splitlines()
    naming = {
        name
        for name in names
        if (ROOT / name).is_file()
        and re.search(
            rf"(?<![\d.=~<>]){re.escape(version)}(?![\d.])", (ROOT / name).read_text(encoding="utf-8")
        )
    }
    # Tests plant and read the first release's; a pilot has a version of its own.
    assert {name for name in naming if not name.startswith("tests/")} - {"template/pyproject.toml.jinja"} == {
        record.VERSION_FILE
    }
    for name in ("pyproject.toml", "template/harness/pyproject.toml"):
        assert not re.search(r"^version\b", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)


def test_a_file_without_a_version_is_told(clone: Path) -> None:
    (clone / record.VERSION_FILE).write_text("", encoding="utf-8")
    with pytest.raises(ReleaseError, match="no line __version__"):
        record.current_version(clone)
