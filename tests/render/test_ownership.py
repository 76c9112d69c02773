"""Whose each path is: the standard's, the team's or nobody's any more, and never two of them."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from pilot_template.update import ownership
from pilot_template.update.ownership import Ownership
from rendering import ROOT, files, render

# Three choices each of ci and Python, two of the use: every pair is there.
CI, PYTHON, USE = ("github", "gitlab", "none"), ("3.11", "3.12", "3.13"), ("classification", "regression")
COMBINATIONS = [
    (ci, python, USE[number % 2]) for number, (ci, python) in enumerate(itertools.product(CI, PYTHON))
]


@pytest.fixture(scope="module")
def paths(whole_template: Path, pilot: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What any answers give."""
    folder = tmp_path_factory.mktemp("any-answers")
    harness = {f"harness/{name}" for name in files(whole_template / "template" / "harness")}
    # No answer decides what of the harness there is, so it is rendered once: it takes most of the time.
    assert not [name for name in harness if "{" in name]
    assert harness == {name for name in files(pilot) if name.startswith("harness/")}
    return harness | rendered_by_any(without_harness(whole_template, folder), folder / "pilots")


def without_harness(template: Path, folder: Path) -> Path:
    found = Path(shutil.copytree(template, folder / "template"))
    shutil.rmtree(found / "template" / "harness")
    return found


def rendered_by_any(template: Path, folder: Path) -> set[str]:
    found: set[str] = set()
    for ci, python, use in COMBINATIONS:
        answers = {"ci": ci, "python_version": python, "use_case": use}
        found |= files(render(template, folder / f"{ci}-{python}-{use}", answers))
    return found


def undeclared(paths: set[str], owned: Ownership) -> dict[str, list[str]]:
    """Each path that is not in exactly one of the two classes of what is rendered."""
    classes = {path: owned.classes(path) for path in paths}
    return {path: found for path, found in classes.items() if found not in (["standard"], ["seed"])}


def useless(paths: set[str], owned: Ownership) -> list[str]:
    """Each line that matches nothing and does not say why, or says why and matches."""
    found = []
    for declared in (owned.standard, owned.seed):
        for line in declared.lines:
            matches = bool(ownership.PathList((line,)).matched(paths))
            if matches == (line in declared.unrendered):
                found.append(line)
    return found


def test_every_pair_of_answers_is_rendered() -> None:
    for one, other in itertools.combinations(range(3), 2):
        pairs = {(each[one], each[other]) for each in COMBINATIONS}
        assert len(pairs) == len({each[one] for each in COMBINATIONS}) * len(
            {each[other] for each in COMBINATIONS}
        )


def test_each_path_is_in_one_class_and_each_line_matches_one(paths: set[str]) -> None:
    assert len(paths) > 150
    owned = ownership.in_folder(ROOT)
    assert undeclared(paths, owned) == {}
    assert useless(paths, owned) == []


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("new.cfg", None, {"new.cfg": []}),
        (None, "/docs/runbook.md", {"docs/runbook.md": ["standard", "seed"]}),
        ("{% if ci == 'gitlab' and python_version == '3.12' %}rare.cfg{% endif %}", None, {"rare.cfg": []}),
    ],
)
def test_a_path_in_none_or_two_classes_is_found(
    whole_template: Path, tmp_path: Path, file: str | None, line: str | None, found: dict[str, list[str]]
) -> None:
    template = without_harness(whole_template, tmp_path)
    if file:
        (template / "template" / file).write_text("x\n", encoding="utf-8")
    if line:
        with (template / ownership.STANDARD).open("a", encoding="utf-8") as standard:
            standard.write(f"{line}\n")
    paths = rendered_by_any(template, tmp_path / "pilots")
    assert undeclared(paths, ownership.in_folder(template)) == found


def test_what_is_retired_is_not_rendered(paths: set[str]) -> None:
    owned = Ownership(
        ownership.PathList(("/harness/",)), ownership.PathList(("/src/",)), ownership.PathList(("/Makefile",))
    )
    assert undeclared({"Makefile"}, owned) == {"Makefile": ["retired"]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/harness/\n/gone.cfg\n", ["/gone.cfg"]),
        ("/harness/\n# Never rendered: the team's.\n/local.mk\n", []),
        ("# Never rendered: the team's.\n/harness/\n", ["/harness/"]),
        ("# Never rendered: one.\n/local.mk\n# Rendered:\n/gone.cfg\n", ["/gone.cfg"]),
    ],
)
def test_a_line_that_matches_nothing_is_found_unless_it_says_why(text: str, found: list[str]) -> None:
    nothing = ownership.PathList()
    assert useless({"harness/uv.txt"}, Ownership(ownership.parse(text), nothing, nothing)) == found


def test_the_lists_are_read_as_gitignore_is() -> None:
    listed = ownership.parse("/docs/\n!/docs/standard.md\n/*.cfg\n")
    tried = {"docs/a.md", "docs/b/c.md", "a.cfg", "b/a.cfg", "b/docs/a.md"}
    assert listed.matched(tried) == {"docs/a.md", "docs/b/c.md", "a.cfg"}


def test_an_earlier_version_without_a_list_of_the_standards_is_read_too() -> None:
    texts = {ownership.SEED: (ROOT / ownership.SEED).read_text(encoding="utf-8")}
    owned = ownership.read(texts.get)
    assert (owned.standard.lines, owned.is_teams("src/a/model.py"), owned.is_teams("Makefile")) == (
        (),
        True,
        False,
    )
