"""What holds for every committed file: no address of a machine, no registry, no leftovers of a build."""

from __future__ import annotations

import fnmatch
import re
import subprocess
from pathlib import Path

import pytest

from rendering import ROOT

# Put together here, so that this file does not hold what it looks for.
ADDRESSES = [
    "pypi" + r"\.org",
    "pythonhosted" + r"\.org",
    "file:" + "///",
    r"(?<![\w.~}/])/(?:root|home/\w+|Users/\w+)/",
    "--find" + "-links [^\\\\\\s]*/",
    "--(?:extra-)?index" + "-url",
]


@pytest.fixture(scope="module")
def committed() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_file_holds_the_path_of_a_machine_or_a_registry(committed: list[str]) -> None:
    here = {str(ROOT)} | ({str(Path.home())} - {"/"})
    pattern = re.compile("|".join([*ADDRESSES, *(re.escape(path + "/") for path in here)]))
    found = []
    for name in committed:
        text = (ROOT / name).read_bytes().decode("utf-8", errors="replace")
        found += [f"{name}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []


@pytest.mark.parametrize("name", ["constraints.txt", "template/harness/constraints.txt"])
def test_pins_are_names_versions_hashes_and_markers(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    if name.startswith("template/"):
        assert "the standard's" in lines.pop(0)
    good = re.compile(
        r"[a-z0-9-]+==[\w.!+]+(?: ; [\w '\"<>=!.()]+)? \\|    --hash=sha256:[0-9a-f]{64}(?: \\)?"
    )
    assert [line for line in lines if not good.fullmatch(line)] == []
    assert sum("==" in line for line in lines) > 100


def test_the_pins_of_development_include_those_of_a_pilot() -> None:
    pinned = [
        set(re.findall(r"^\S+==\S+", (ROOT / name).read_text(encoding="utf-8"), re.M))
        for name in ("template/harness/constraints.txt", "constraints.txt")
    ]
    assert pinned[0] <= pinned[1]


def test_every_test_that_the_readme_names_is_there() -> None:
    text = (
        (ROOT / "README.md").read_text(encoding="utf-8").partition("## What holds")[2].partition("\n## ")[0]
    )
    named = set(re.findall(r"`(test_[\w*]+|mutants\.py)`", text))
    assert len(named) > 8
    folders = (ROOT / "tests", ROOT / "template" / "harness" / "tests")
    there = [path.name for folder in folders for path in folder.rglob("*.py")]
    for name in named:
        assert fnmatch.filter(there, name if name.endswith(".py") else f"{name}.py"), f"there is no {name}"


def test_no_file_is_litter(committed: list[str]) -> None:
    assert [
        name for name in committed if re.search(r"__pycache__|\.py[co]$|\.egg-info|\.DS_Store", name)
    ] == []
