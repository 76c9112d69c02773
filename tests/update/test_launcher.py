"""`pilot update` starts the updater of the version that is wanted, with what that version needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.errors import PilotError
from harness.updater import address, update
from pilot_template.update.address import address as updaters_address
from repositories import commit, git, render
from updating import TARGET, state

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def template(released: Path, tmp_path: Path) -> Path:
    """A template whose newest release says so, so that it can be told which one ran."""
    folder = tmp_path / "template"
    git(tmp_path, "clone", "--quiet", str(released), str(folder))
    return folder


@pytest.fixture
def pilot(template: Path, tmp_path: Path) -> Path:
    folder = render(template, tmp_path / "pilot", {}, vcs_ref=f"v{TARGET}")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Start from pilot-template")
    return folder


def newer(template: Path, version: str, word: str) -> None:
    """A release whose updater says a word of its own."""
    file = template / "update" / "report.py"
    text = file.read_text(encoding="utf-8")
    text, found = re.subn(r"# [^{\n]+ (?=\{report\.before\})", f"# {word} ", text)
    assert found == 1
    file.write_text(text, encoding="utf-8")
    (template / "template" / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    commit(template, f"Release {version}", f"v{version}")


def pilot_update(pilot: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", "--root", str(pilot), "update", *options],
        cwd=pilot.parent,
        env=os.environ | {"NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_updater_of_the_wanted_version_does_it(template: Path, pilot: Path, tmp_path: Path) -> None:
    """Not the one that is installed here, and not the newest either when an earlier one is wanted."""
    newer(template, "1000.0.0", "the thousandth")
    newer(template, "1001.0.0", "the newest")
    newer(template, "1002.0.0rc1", "a preview")
    seen = state(pilot)
    done = pilot_update(pilot, "--to", "1000.0.0", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"# the thousandth v{TARGET} → v1000.0.0\n")
    assert state(pilot) == seen
    report = tmp_path / "report.md"
    done = pilot_update(pilot, "--no-tests", "--json", "--report", str(report))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["after"] == "v1001.0.0"
    assert told["branch"] == "template/1001.0.0"
    assert report.read_text(encoding="utf-8").startswith(f"# the newest v{TARGET} → v1001.0.0\n")
    assert state(pilot) == seen
    assert git(pilot, "show", "template/1001.0.0:dvc.yaml") == "stages: {}\n"
    git(pilot, "merge", "--quiet", "--ff-only", "template/1001.0.0")  # --apply: test_pilot_update.py
    current = pilot_update(pilot)
    assert current.returncode == 0
    assert current.stdout == "The pilot is of v1001.0.0, and there is nothing newer.\n"


def said(pilot: Path, *options: str) -> str:
    """The one line of a refusal."""
    seen = state(pilot)
    done = pilot_update(pilot, *options)
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert state(pilot) == seen
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("pilot: ")]
    return line


def test_what_it_refuses(template: Path, pilot: Path, tmp_path: Path) -> None:
    assert "the template has no version '77'. Its newest release is v999.0.0." in said(pilot, "--to", "77")
    line = said(pilot, "--to", "0.1.0")
    assert "v0.1.0 has no updater of its own. Update with Copier itself: copier update --defaults" in line
    answers = pilot / ".copier-answers.yml"
    kept = yaml.safe_load(answers.read_text(encoding="utf-8"))
    for value, says in (
        (str(tmp_path / "gone"), "the template cannot be fetched (fatal: "),
        ("../template", "_src_path is neither an address nor an absolute path: '../template'."),
        (None, "_src_path is missing, the template's address. Bring it back: "),
    ):
        answers.write_text(yaml.safe_dump({**kept, "_src_path": value}), encoding="utf-8")
        assert says in said(pilot)
    answers.write_text("a: [", encoding="utf-8")
    assert ".copier-answers.yml: it is not YAML." in said(pilot)
    answers.unlink()
    assert ".copier-answers.yml: the file cannot be read." in said(pilot)


def test_an_updater_that_cannot_be_installed(
    template: Path, pilot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    seen = state(pilot)
    with pytest.raises(PilotError, match="the updater cannot be installed"):
        update(pilot, None, [])
    assert state(pilot) == seen


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("gh:acme/pilot-template", "https://github.com/acme/pilot-template.git"),
        ("gh:/acme/pilot-template.git", "https://github.com/acme/pilot-template.git"),
        ("gl:acme/tools/pilot-template", "https://gitlab.com/acme/tools/pilot-template.git"),
        ("git+https://git.example.org/t.git", "https://git.example.org/t.git"),
        ("git+ssh://git@git.example.org/t.git", "ssh://git@git.example.org/t.git"),
        ("git@git.example.org:acme/t.git", "git@git.example.org:acme/t.git"),
        ("/srv/templates/t", "/srv/templates/t"),
    ],
)
def test_every_form_that_copier_takes(source: str, plain: str) -> None:
    assert address(source) == plain
    assert updaters_address(source) == plain


def test_an_address_below_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert address("~/t") == updaters_address("~/t") == f"{tmp_path}/t"
