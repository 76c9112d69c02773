"""Pilots of earlier releases, what teams do to them, and what has to hold after an update."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pilot_template.update import ownership
from pilot_template.update.report import Report
from pilot_template.update.run import Wish, update
from rendering import ROOT, files, render
from repositories import commit, git

RELEASES = ROOT / "tests" / "update" / "releases.toml"
TARGET = "999.0.0"
PACKAGE = "src/late_payment"


def releases() -> dict[str, str]:
    """Every release that is on record, and its commit."""
    found: dict[str, str] = tomllib.loads(RELEASES.read_text(encoding="utf-8"))["releases"]
    return found


def known(commit: str) -> bool:
    """Whether this clone reaches back to a commit."""
    asked = subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True)
    return asked.returncode == 0


def tagged(folder: Path, template_at_head: Path) -> Path:
    """A clone of the template in which every release has its tag, and what is here now is the newest."""
    git(folder.parent, "clone", "--quiet", str(template_at_head), str(folder))
    for version, made in releases().items():
        if known(made):
            git(folder, "tag", "--force", f"v{version}", made)
    git(folder, "tag", f"v{TARGET}", "HEAD")
    return folder


def pilot_of(template: Path, version: str, folder: Path, **answers: Any) -> Path:
    """A pilot as a release gave it, in a repository of its own."""
    given = {"team": "Credit control", **answers}
    render(template, folder, given, vcs_ref=f"v{version}")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Start from pilot-template")
    return folder


def updated(pilot: Path, template: Path, **wish: Any) -> Report:
    """Update it, as the updater of the newest version does."""
    settings = {"to": TARGET, "clone": template, "tests": False, **wish}
    return update(Wish(pilot, **settings))


def edit(pilot: Path, name: str, old: str, new: str) -> None:
    """Replace a text, which must be there."""
    text = (pilot / name).read_text(encoding="utf-8")
    assert old in text, f"{name} has no {old!r}"
    (pilot / name).write_text(text.replace(old, new, 1), encoding="utf-8")


def write(pilot: Path, name: str, text: str) -> None:
    """Write a file, and its folder."""
    (pilot / name).parent.mkdir(parents=True, exist_ok=True)
    (pilot / name).write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- what is there, to compare


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but git's own."""
    return {
        name: os.readlink(folder / name).encode()
        if (folder / name).is_symlink()
        else (folder / name).read_bytes()
        for name in files(folder)
        if not name.startswith(".git/") and name != ".git"
    }


def committed(pilot: Path, name: str) -> dict[str, bytes]:
    """Every file of a commit, below the pilot's folder."""
    listed = git(pilot, "ls-tree", "-r", "-z", name).split("\0")
    found = {}
    for entry in filter(None, listed):
        facts, _, path = entry.partition("\t")
        done = subprocess.run(
            ["git", "cat-file", "blob", facts.split()[2]], cwd=pilot, capture_output=True, check=True
        )
        found[path] = done.stdout
    return found


def state(pilot: Path) -> dict[str, str]:
    """All that a person would notice of a checkout: files, times, git's index, and where it stands."""
    found = {}
    for path in sorted(pilot.rglob("*")):
        name = path.relative_to(pilot).as_posix()
        if name.startswith(".git/") and not name.startswith(
            (".git/HEAD", ".git/index", ".git/refs/heads/main")
        ):
            continue
        if path.is_file() and not path.is_symlink():
            told = path.stat()
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            # git looks at its index again whenever it is asked something.
            changed = "" if name == ".git/index" else told.st_mtime_ns
            found[name] = f"{content} {told.st_mode:o} {changed}"
        elif path.is_symlink():
            found[name] = f"link to {path.readlink()}"
    return found


OWNERS = ownership.in_folder(ROOT)


def is_teams(name: str) -> bool:
    """Whether a path is the team's, as the newest version says."""
    return OWNERS.is_teams(name)


def answers_of(content: bytes) -> dict[str, Any]:
    """What people answered."""
    return {name: value for name, value in yaml.safe_load(content).items() if not name.startswith("_")}


# ---------------------------------------------------------------- what has to hold, whatever a team did


@dataclass
class Held:
    """A pilot before its update.

    Attributes:
        pilot: Its folder.
        given: What its version gave.
        before: What its newest commit holds.
        seen: What a person would notice of the checkout.
    """

    pilot: Path
    given: dict[str, bytes]
    before: dict[str, bytes] = field(init=False)
    seen: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.before = committed(self.pilot, "HEAD")
        self.seen = state(self.pilot)

    def holds(self, report: Report, teams: Callable[[str], bool] = is_teams) -> dict[str, bytes]:
        """Assert what no update may break, and give what the branch holds."""
        assert state(self.pilot) == self.seen, "the checkout was touched"
        assert report.branch, "there is no branch"
        after = committed(self.pilot, report.branch)
        parents = git(self.pilot, "rev-parse", f"{report.branch}^").strip()
        assert parents == git(self.pilot, "rev-parse", "HEAD").strip()
        theirs = set(self.before.values())
        marks = (b"<<<<<<< ", b">>>>>>> ", b"||||||| ")
        for name, content in after.items():
            if content in theirs:
                continue  # as the team committed it, be it under another name
            assert not name.endswith((".rej", ".orig")), name
            assert not any(line.startswith(marks) for line in content.splitlines()), name
        earlier = answers_of(self.before[".copier-answers.yml"])
        later = answers_of(after[".copier-answers.yml"])
        assert {name: later[name] for name in earlier if name in later} == {
            name: value for name, value in earlier.items() if name in later
        }
        self._nothing_is_lost(after, report, teams)
        self._nothing_comes_back(after)
        return after

    def _nothing_comes_back(self, after: dict[str, bytes]) -> None:
        for name in self.given:
            assert name in self.before or name not in after, f"{name} was deleted, and is there again"

    def _nothing_is_lost(self, after: dict[str, bytes], report: Report, teams: Callable[[str], bool]) -> None:
        told = {each.name: each for each in report.done}
        for name, content in self.before.items():
            if after.get(name) == content:
                continue
            assert not teams(name), f"{name} is the team's"
            if plain(content) == plain(self.given.get(name, b"")) and name in self.given:
                continue  # as the standard gave it: replaced or taken away
            if name == ".copier-answers.yml":
                continue
            assert name in told, f"{name} was the team's work, and nobody is told"
            if told[name].beside:
                beside = after[told[name].beside]
                assert content in (beside, after.get(name)), f"{name}: neither side is the team's"
                continue
            assert told[name].merged, f"{name} changed without a word"
            ours = set(plain(content).splitlines()) - set(plain(self.given.get(name, b"")).splitlines())
            assert ours <= set(after[name].splitlines()), f"{name}: a line of the team's is gone"


def plain(content: bytes) -> bytes:
    """The content with line ends of one kind."""
    return content.replace(b"\r\n", b"\n")
