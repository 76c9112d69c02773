"""Whatever teams do, in whatever order, over however many versions: nothing is lost or conflicts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pilot_template.update import ownership
from rendering import copy_template, render
from repositories import commit, git
from updating import Held, committed, contents, is_teams, plain, updated

pytestmark = pytest.mark.timeout(1800)
LINES = 12
VERSIONS = ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0")
GIVEN_UP = "deploy.yml"
STANDARD = ("Makefile", "dvc.yaml", GIVEN_UP, *(f"harness/{name}.txt" for name in "abcdef"))
TEAMS = ("src/late_payment/model.py", "docs/runbook.md", "params.yaml", "pilot.toml", "README.md")
# What later versions bring: a team may have been there before.
LATER = ("harness/new-1.txt", "harness/new-2.txt", "harness/new-3.txt", ".dvcignore", "docs/new-2.md")


def text(name: str, version: int) -> str:
    """A file of the standard's: each version changes some of its lines."""
    rows = [
        f"{name} line {row} of version {max(v for v in range(version + 1) if v == 0 or (row + v) % 4 == 0)}"
        for row in range(LINES)
    ]
    return "\n".join(rows) + "\n"


@dataclass(frozen=True)
class Lean:
    """A template of few files and many versions, and what each of these gives."""

    template: Path
    made: dict[str, Path]
    gives: dict[str, dict[str, bytes]]
    retired: dict[str, list[str]]


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Lean:
    folder = tmp_path_factory.mktemp("lean")
    template = copy_template(folder / "template", lean=True)
    git(template, "init", "--quiet", "--initial-branch=main")
    package = template / "template" / "src" / "{{ package_name }}"
    places, gives, retired = {}, {}, {}
    for number, version in enumerate(VERSIONS):
        for name in STANDARD:
            file = template / "template" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text(name, number), encoding="utf-8")
        for name, content in {
            f"docs/new-{number}.md": "A new file of the team's.\n",
            "docs/runbook.md": f"The runbook of version {number}.\n",
            "params.yaml": f"rounds: {number}\n",
        }.items():
            (template / "template" / name).parent.mkdir(parents=True, exist_ok=True)
            (template / "template" / name).write_text(content, encoding="utf-8")
        package.mkdir(parents=True, exist_ok=True)
        (package / "model.py").write_text(f"VERSION = {number}\n", encoding="utf-8")
        if number:
            added = template / "template" / "harness" / f"new-{number}.txt"
            added.write_text(text(added.name, number), encoding="utf-8")
        if number >= 2:
            (template / "template" / "harness" / "f.txt").unlink()
            (template / "template" / ".dvcignore").write_text("/var/\n", encoding="utf-8")
        if number >= 3:
            (template / "template" / GIVEN_UP).unlink()
            file = template / "ownership" / "retired.yml"
            before, _, after = file.read_text(encoding="utf-8").rpartition("        {% endif %}")
            if GIVEN_UP not in before:
                file.write_text(
                    f"{before}        /{GIVEN_UP}\n        {{% endif %}}{after}", encoding="utf-8"
                )
        commit(template, f"Version {version}", f"v{version}")
        made = render(template, folder / version, {"team": "Credit"}, vcs_ref=f"v{version}")
        places[version], gives[version] = made, contents(made)
        retired[version] = list(ownership.in_folder(template).retired.lines)
    return Lean(template, places, gives, retired)


# ---------------------------------------------------------------- what a team does

Edit = Callable[[Path], None]
names = st.sampled_from([*STANDARD, *TEAMS, *LATER])
fresh_names = st.sampled_from(
    ["src/late_payment/ours.py", "docs/ours.md", "harness/ours.txt", "deploy/ours", "o u r s"]
)


def _written(name: str, content: bytes) -> Edit:
    def edit(pilot: Path) -> None:
        path = pilot / name
        if path.is_dir() or any(parent.is_file() for parent in path.parents if parent != pilot):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return edit


def _line(name: str, row: int, word: str) -> Edit:
    def edit(pilot: Path) -> None:
        path = pilot / name
        if path.is_file():
            rows = path.read_bytes().splitlines(keepends=True)
            if rows:
                rows[row % len(rows)] = f"ours: {word}\n".encode()
                path.write_bytes(b"".join(rows))

    return edit


def _gone(name: str) -> Edit:
    return lambda pilot: (pilot / name).unlink(missing_ok=True)


def _renamed(name: str, new: str) -> Edit:
    def edit(pilot: Path) -> None:
        if (pilot / name).is_file() and not (pilot / new).exists():
            (pilot / new).parent.mkdir(parents=True, exist_ok=True)
            (pilot / name).rename(pilot / new)

    return edit


def _ends(name: str) -> Edit:
    def edit(pilot: Path) -> None:
        if (pilot / name).is_file():
            (pilot / name).write_bytes(plain((pilot / name).read_bytes()).replace(b"\n", b"\r\n"))

    return edit


edits = st.one_of(
    st.builds(_line, names, st.integers(0, LINES), st.text("abc", max_size=3)),
    st.builds(_line, names, st.integers(0, LINES), st.text("abc", max_size=3)),
    st.builds(_written, st.one_of(names, fresh_names), st.binary(max_size=40)),
    st.builds(_gone, names),
    st.builds(_renamed, names, fresh_names),
    st.builds(_ends, names),
)
steps = st.lists(st.lists(edits, max_size=4), min_size=1, max_size=3)


def live(lean: Lean, way: list[str], lives: list[list[Edit]], folder: Path) -> None:
    """A pilot from its first version over the others, with what the team does before each update."""
    pilot = Path(shutil.copytree(lean.made[way[0]], folder / "pilot"))
    git(pilot, "init", "--quiet", "--initial-branch=main")
    commit(pilot, "Start")
    for version, following, team in zip(way, way[1:], lives, strict=False):
        for edit in team:
            edit(pilot)
        commit(pilot, "Ours")
        before = lean.gives[version]
        held = Held(pilot, before)
        report = updated(pilot, lean.template, to=following)
        retired = lean.retired[following]
        after = held.holds(report, lambda name, retired=retired: is_teams(name) or f"/{name}" in retired)
        fresh = lean.gives[following]
        for name in {*before, *fresh}:
            untouched = plain(held.before.get(name, b"")) == plain(before.get(name, b""))
            same = untouched and (name in held.before) == (name in before)
            if same and not is_teams(name) and f"/{name}" not in retired:
                assert plain(after.get(name, b"")) == plain(fresh.get(name, b"")), name
                assert (name in after) == (name in fresh), name
        git(pilot, "merge", "--quiet", "--ff-only", report.branch)
        assert committed(pilot, "HEAD")[".copier-answers.yml"] == fresh[".copier-answers.yml"]


def ways() -> st.SearchStrategy[list[str]]:
    """Some of the versions, in their order."""
    return st.sets(st.sampled_from(VERSIONS), min_size=2, max_size=3).map(sorted)


def explore(lean: Lean, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        # A life is short enough to read, and a smaller one would take minutes to find.
        phases=[Phase.generate],
    )
    @given(ways(), steps)
    def explored(way: list[str], lives: list[list[Edit]]) -> None:
        folder = Path(tempfile.mkdtemp())
        try:
            live(lean, way, lives, folder)
        finally:
            shutil.rmtree(folder)

    explored()


@pytest.mark.usefixtures("rendered_once")
def test_twenty_lives(lean: Lean) -> None:
    explore(lean, 20)


@pytest.mark.slow
@pytest.mark.usefixtures("rendered_once")
def test_two_hundred_lives(lean: Lean) -> None:
    explore(lean, 200)
