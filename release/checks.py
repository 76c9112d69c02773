"""What has to be true before a version is released."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pilot_template.hooks import template
from pilot_template.hooks.manifest import MANIFEST
from pilot_template.update import notes
from pilot_template.update.notes import Notes, NotesError, version_of
from release import record
from release.errors import WrongUse
from release.record import git

BRANCH = "main"
CHANGELOG, NEXT = "CHANGELOG.md", f"update/notes/{notes.NEXT}.yaml"
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
UNRELEASED = re.compile(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Checked:
    """What the checks found.

    Attributes:
        wrong: A line for each check that failed.
        notes: The notes of the release; None where they cannot be read.
        changes: What the changelog says of it.
    """

    wrong: tuple[str, ...]
    notes: Notes | None
    changes: str


def wanted(version: str) -> str:
    """A version that may be released.

    Raises:
        WrongUse: It is of another form.
    """
    if not VERSION.fullmatch(version):
        raise WrongUse(
            f"{version or 'nothing'} is no version. Name one of three numbers: make release VERSION=1.2.3"
        )
    return version


def check(repository: Path, version: str) -> Checked:
    """Everything that is looked at, the quick first.

    Raises:
        ReleaseError: git, or the list of releases, cannot be read.
    """
    wrong = _state(repository, version)
    changelog = UNRELEASED.search((repository / CHANGELOG).read_text(encoding="utf-8"))
    changes = changelog[1].strip() if changelog else ""
    if not re.search(r"^- ", changes, re.MULTILINE):
        wrong.append(f"{CHANGELOG}: nothing stands under [Unreleased]. Write what users observe.")
    found, said = _notes(repository)
    wrong += said
    if (repository / "template" / MANIFEST).read_text(encoding="utf-8") != template.build(repository):
        wrong.append(
            f"template/{MANIFEST}: it is not current. Run `make manifest` and commit what it writes."
        )
    # What takes long is not waited for where the rest fails already.
    return Checked(tuple(wrong or record.all_findings(repository)), found, changes)


def _state(repository: Path, version: str) -> list[str]:
    wrong = []
    if git(repository, "status", "--porcelain"):
        wrong.append("The work tree is not clean. Commit what is there, or put it away: git stash --all.")
    if (branch := git(repository, "branch", "--show-current")) != BRANCH:
        wrong.append(
            f"This is {branch or 'no branch'}, and releases are made on {BRANCH}. Run: git switch {BRANCH}"
        )
    last = max([record.current_version(repository), *record.recorded(repository)], key=version_of)
    if version_of(version) <= version_of(last):
        wrong.append(f"{version} is not greater than {last}, the last release. Choose a greater one.")
    if git(repository, "tag", "--list", f"v{version}"):
        wrong.append(
            f"There is a tag v{version} already. Choose another version; a tag that was seen is never moved."
        )
    return wrong


def _notes(repository: Path) -> tuple[Notes | None, list[str]]:
    file = repository / NEXT
    if not file.is_file():
        return None, [f"{NEXT}: there is none. Write what teams do, in the form of the others."]
    try:
        return notes.load(file), []
    except NotesError as error:
        return None, [f"update/notes/{error}"]
