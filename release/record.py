"""The releases that there were: ``tests/update/releases.toml``, and the template of each."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from pilot_template.update import notes
from pilot_template.update.notes import Notes, NotesError, version_of
from release import lint, stored
from release.errors import ReleaseError
from release.snapshot import Snapshot, at_commit, in_work_tree

RELEASES = "tests/update/releases.toml"
VERSION_FILE = "template/harness/src/harness/__init__.py"
VERSION_LINE = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
COMMIT = re.compile(r"[0-9a-f]{40}")


def git(repository: Path, *arguments: str) -> str:
    """What git says.

    Raises:
        ReleaseError: git refuses.
    """
    done = subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        complaint = (done.stderr or done.stdout).strip().splitlines()
        why = complaint[-1] if complaint else f"exit code {done.returncode}"
        raise ReleaseError(f"git {arguments[0]}: {why}. Mend that and run it again.")
    return done.stdout.strip()


def version_in(text: str) -> str:
    """The version that a text of the version's file states.

    Raises:
        ReleaseError: There is none.
    """
    if (match := VERSION_LINE.search(text)) is None:
        raise ReleaseError(f'{VERSION_FILE}: no line __version__ = "1.2.3". Put it back.')
    return match[1]


def current_version(repository: Path) -> str:
    """The version that the repository states, in the one place where it does."""
    return version_in((repository / VERSION_FILE).read_text(encoding="utf-8"))


def recorded(repository: Path) -> dict[str, str]:
    """Version and commit of each release, oldest first.

    Raises:
        ReleaseError: The list cannot be read.
    """
    try:
        found = tomllib.loads((repository / RELEASES).read_text(encoding="utf-8"))["releases"]
        ordered = sorted(found, key=version_of)
    except (tomllib.TOMLDecodeError, KeyError, NotesError) as error:
        raise ReleaseError(
            f"{RELEASES}: it cannot be read ({error}). Write one line a release below [releases]."
        ) from error
    if list(found) != ordered:
        raise ReleaseError(
            f"{RELEASES}: the versions are not in order. Append a release, and change no line."
        )
    for version, commit in found.items():
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise ReleaseError(
                f"{RELEASES}: {version}: {commit} is no full commit. Write its 40 characters: git rev-parse."
            )
    return dict(found)


def missing_commits(repository: Path) -> list[str]:
    """Releases whose commits this clone does not have, because it is shallow."""
    if git(repository, "rev-parse", "--is-shallow-repository") != "true":
        return []
    return [version for version, commit in recorded(repository).items() if not _has(repository, commit)]


def _has(repository: Path, commit: str) -> bool:
    command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, cwd=repository, capture_output=True, check=False).returncode == 0


@contextmanager
def snapshots(repository: Path) -> Iterator[tuple[list[Snapshot], Snapshot]]:
    """The template of every release, oldest first, and as it lies there."""
    with TemporaryDirectory() as folder:
        found = []
        for version, commit in recorded(repository).items():
            (place := Path(folder, version)).mkdir()
            found.append(at_commit(repository, commit, version, place))
        (place := Path(folder, "now")).mkdir()
        yield found, in_work_tree(repository, place)


def record_findings(repository: Path) -> list[str]:
    """What is wrong with the list itself and with the version."""
    found = []
    for version, commit in recorded(repository).items():
        where = f"{RELEASES}: {version}"
        if not _has(repository, commit):
            found.append(
                f"{where}: there is no commit {commit[:12]}. Correct it, or fetch it: git fetch --unshallow."
            )
            continue
        stated = version_in(git(repository, "show", f"{commit}:{VERSION_FILE}"))
        if stated != version:
            found.append(
                f"{where}: the commit {commit[:12]} states the version {stated}. Name the commit "
                "that was released."
            )
        if _is_ancestor(repository, commit) is False:
            found.append(
                f"{where}: the commit {commit[:12]} is in no history of this one. Name the commit "
                "that was released."
            )
        tagged = git(
            repository, "for-each-ref", "--format=%(*objectname)%(objectname)", f"refs/tags/v{version}"
        )
        if tagged and not tagged.startswith(commit) and not tagged.endswith(commit):
            found.append(
                f"{where}: the tag v{version} is on another commit. Name the commit that was released."
            )
    known, stated = list(recorded(repository)), current_version(repository)
    # The commit of a release cannot name itself: the record follows it.
    if stated not in known[-1:] and not (repository / f"update/notes/{stated}.yaml").is_file():
        last = known[-1] if known else "none"
        found.append(
            f"{VERSION_FILE}: it states {stated}, and the last release is {last}. Only `make "
            "release` changes it."
        )
    return found


def _is_ancestor(repository: Path, commit: str) -> bool:
    command = ["git", "merge-base", "--is-ancestor", commit, "HEAD"]
    return subprocess.run(command, cwd=repository, capture_output=True, check=False).returncode == 0


def notes_findings(repository: Path, releases: list[Snapshot], now: Snapshot) -> list[str]:
    """What is wrong with the notes: each release has some, and they name what is new and retired."""
    folder = repository / "update" / "notes"
    try:
        known = notes.all_notes(folder)
    except NotesError as error:
        return [f"update/notes/{error}"]
    stated = current_version(repository)
    names = [release.name for release in releases]
    names.append(notes.NEXT if stated in names else stated)
    by_name = {each.version or notes.NEXT: each for each in known}
    found = [
        f"update/notes/{name}.yaml: there is none, and {name} was released. Write it."
        for name in names
        if name not in by_name and name != notes.NEXT
    ]
    found += [
        f"update/notes/{name}.yaml: {name} was not released. Call it {notes.NEXT}.yaml, without a version."
        for name in by_name
        if name not in (*names, notes.NEXT)
    ]
    for name, (before, after) in zip(names[1:], pairwise([*releases, now]), strict=True):
        found += _unnamed(f"update/notes/{name}.yaml", by_name.get(name), before, after)
    return found


def _unnamed(file: str, found: Notes | None, before: Snapshot, after: Snapshot) -> Iterator[str]:
    """What is new between two versions, and not in the notes of the later one."""
    seeds = (after.paths - after.standards) - before.paths
    lines = set(after.ownership.retired.lines) - set(before.ownership.retired.lines)
    retired = {line.strip("/") for line in lines}
    for field, paths in (("seeds", seeds), ("retired", retired)):
        if unnamed := sorted(paths - set(getattr(found, field, ()))):
            yield f"{file}: {field}: {unnamed[0]} is new since {before.name}, and is not named. Add it."


def all_findings(repository: Path) -> list[str]:
    """What `make release-check` says: the list of releases, the lint and the notes."""
    wrong = record_findings(repository)
    if wrong:
        return wrong  # what there is to compare with is not known
    with snapshots(repository) as (releases, now):
        found = lint.findings(releases, now, stored.plans(repository), stored.examples(repository))
        return found + notes_findings(repository, releases, now)
