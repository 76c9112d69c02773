"""The steps of a release: two commits and a tag, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pilot_template.hooks import template
from pilot_template.hooks.manifest import MANIFEST
from pilot_template.update.notes import what_teams_do
from release.checks import CHANGELOG, NEXT, UNRELEASED, Checked, check
from release.errors import ReleaseError
from release.record import RELEASES, VERSION_FILE, VERSION_LINE, git


def release(repository: Path, version: str, say: Callable[[str], None], *, dry_run: bool) -> None:
    """Check, and release a version; what fails half way is taken back.

    Raises:
        ReleaseError: A check failed, or git refused a step.
    """
    checked = check(repository, version)
    if checked.wrong:
        raise ReleaseError(*checked.wrong)
    if dry_run:
        say(f"{version} can be released. It would be written to {VERSION_FILE},")
        say(f"{NEXT} would become {_notes_file(version)}, template/{MANIFEST} would be renewed,")
        say(
            f"committed as 'Release {version}', tagged v{version}, and recorded in {RELEASES}. "
            f"{CHANGELOG} would say:\n"
        )
        say(_section(version, checked))
        return
    start = git(repository, "rev-parse", "HEAD")
    try:
        commit = _commit_release(repository, version, checked)
        git(repository, "tag", "--annotate", f"v{version}", "--message", f"Release {version}", commit)
        with (repository / RELEASES).open("a", encoding="utf-8", newline="\n") as releases:
            releases.write(f'"{version}" = "{commit}"\n')
        _commit(repository, f"Record the release {version}", RELEASES)
    except ReleaseError:
        _take_back(repository, start, version)
        raise
    say(f"Released {version}: {commit[:12]}, tagged v{version}. Now: git push origin HEAD v{version}")


def _commit_release(repository: Path, version: str, checked: Checked) -> str:
    def rewrite(name: str, change: Callable[[str], str]) -> None:
        file = repository / name
        file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")

    rewrite(VERSION_FILE, lambda text: VERSION_LINE.sub(f'__version__ = "{version}"', text))
    section = f"## [Unreleased]\n\n{_section(version, checked)}\n"
    rewrite(CHANGELOG, lambda text: UNRELEASED.sub(lambda _: section, text))
    git(repository, "mv", NEXT, _notes_file(version))
    rewrite(_notes_file(version), lambda text: f"version: {version}\n{text}")
    (repository / "template" / MANIFEST).write_text(
        template.build(repository), encoding="utf-8", newline="\n"
    )
    written = (VERSION_FILE, CHANGELOG, _notes_file(version), f"template/{MANIFEST}")
    return _commit(repository, f"Release {version}", *written)


def _commit(repository: Path, message: str, *files: str) -> str:
    git(repository, "add", "--", *files)
    git(repository, "commit", "--quiet", "--message", message)
    return git(repository, "rev-parse", "HEAD")


def _take_back(repository: Path, start: str, version: str) -> None:
    """The work tree was clean, so nothing but the release is lost."""
    git(repository, "reset", "--quiet", "--hard", start)
    if git(repository, "tag", "--list", f"v{version}"):
        git(repository, "tag", "--delete", f"v{version}")


def _notes_file(version: str) -> str:
    return f"update/notes/{version}.yaml"


def _section(version: str, checked: Checked) -> str:
    """What the changelog says of the version."""
    if checked.notes is None:
        raise ReleaseError(f"{NEXT}: it cannot be read. Mend it.")
    today = datetime.now(UTC).date().isoformat()
    head = f"## [{version}] - {today}\n\n{checked.notes.summary}\n\n{checked.changes}"
    return f"{head}\n\n### What teams do\n\n{what_teams_do([checked.notes])}"
