"""`make release`: two commits and a tag in a scratch clone, or one line a failed check and no change."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from pilot_template.hooks import template
from pilot_template.hooks.manifest import MANIFEST
from pilot_template.update import notes
from release import record
from release.checks import NEXT, UNRELEASED
from rendering import ROOT
from repositories import commit, git

Run = Callable[..., subprocess.CompletedProcess[str]]
VERSION = "9.8.7"
NOTES = (
    "summary: All is new.\nteams_do:\n  - when: you serve\n    do: Start the service anew.\n    "
    "command: pilot serve\n"
)
CHANGES = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n\n## [0.1.0] - 2026-01-01\n\n- Older.\n"


@pytest.fixture(autouse=True)
def ready(clone: Path) -> None:
    """As somebody leaves it who is about to release."""
    seeds = (
        (clone / NEXT).read_text(encoding="utf-8").partition("\nseeds:")[2]
        if (clone / NEXT).is_file()
        else ""
    )
    (clone / NEXT).write_text(NOTES + (f"seeds:{seeds}" if seeds else ""), encoding="utf-8")
    (clone / "CHANGELOG.md").write_text(CHANGES, encoding="utf-8")
    commit(clone, "Ready")


def state(clone: Path) -> str:
    return git(clone, "for-each-ref") + git(clone, "status", "--porcelain") + git(clone, "rev-parse", "HEAD")


def test_a_version_is_released(clone: Path, make: Run) -> None:
    before = git(clone, "rev-parse", "HEAD").strip()
    done = make(VERSION)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"tagged v{VERSION}. Now: git push origin HEAD v{VERSION}\n")
    assert git(clone, "log", "--format=%s", f"{before}..HEAD").splitlines() == [
        f"Record the release {VERSION}",
        f"Release {VERSION}",
    ]
    assert git(clone, "status", "--porcelain") == ""
    released = git(clone, "rev-parse", "HEAD~1").strip()
    assert git(clone, "cat-file", "-t", f"v{VERSION}").strip() == "tag"
    assert git(clone, "rev-parse", f"v{VERSION}^{{commit}}").strip() == released
    recorded = tomllib.loads((clone / record.RELEASES).read_text())["releases"]
    assert list(recorded.items())[-1] == (VERSION, released)
    assert record.current_version(clone) == VERSION
    assert (clone / "template/harness/MANIFEST.sha256").read_text() == template.build(clone)
    assert not (clone / NEXT).exists()
    assert notes.load(clone / f"update/notes/{VERSION}.yaml").summary == "All is new."
    changelog = (clone / "CHANGELOG.md").read_text()
    assert re.sub(r"\d{4}-\d\d-\d\d", "DATE", changelog).startswith(
        f"# Changelog\n\n## [Unreleased]\n\n## [{VERSION}] - DATE\n\nAll is new.\n\n### "
        "Added\n\n- A thing.\n\n"
        "### What teams do\n\n- You serve: Start the service anew. `pilot serve`\n"
    )
    assert changelog.endswith("\n\n## [0.1.0] - 2026-01-01\n\n- Older.\n")
    check = make("--check")
    assert (check.returncode, check.stderr) == (0, "")
    git(clone, "checkout", "--quiet", f"v{VERSION}")
    check = make("--check")
    assert (check.returncode, check.stderr) == (0, ""), "what is tagged passes too"


def test_a_dry_run_says_what_would_be_and_changes_nothing(clone: Path, make: Run) -> None:
    """Versions are compared as numbers: 10 comes after 9."""
    before = state(clone)
    done = make("0.10.0", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "0.10.0 can be released." in done.stdout
    assert "- You serve: Start the service anew. `pilot serve`" in done.stdout
    assert state(clone) == before


def dirty(clone: Path) -> None:
    (clone / "left.txt").write_text("x\n", encoding="utf-8")


def elsewhere(clone: Path) -> None:
    git(clone, "switch", "--quiet", "--create", "feature")


def detached(clone: Path) -> None:
    git(clone, "switch", "--quiet", "--detach")


def tagged(clone: Path) -> None:
    git(clone, "tag", f"v{VERSION}")


def rewritten(name: str, old: str, new: str) -> Callable[[Path], None]:
    def rewrite(clone: Path) -> None:
        text = (clone / name).read_text(encoding="utf-8")
        assert old in text
        (clone / name).write_text(text.replace(old, new, 1), encoding="utf-8")
        commit(clone, "Edit")

    return rewrite


def version_by_hand(clone: Path) -> None:
    rewritten(record.VERSION_FILE, '__version__ = "', '__version__ = "1.')(clone)
    (clone / "template" / MANIFEST).write_text(template.build(clone), encoding="utf-8")
    commit(clone, "Renew")


def without_notes(clone: Path) -> None:
    (clone / NEXT).unlink()
    commit(clone, "Edit")


REFUSALS = {
    "work tree": (
        dirty,
        "The work tree is not clean. Commit what is there, or put it away: git stash --all.",
    ),
    "branch": (elsewhere, "This is feature, and releases are made on main. Run: git switch main"),
    "no branch": (detached, "This is no branch, and releases are made on main. Run: git switch main"),
    "tag": (
        tagged,
        f"There is a tag v{VERSION} already. Choose another version; a tag that was seen is never moved.",
    ),
    "nothing to tell": (
        rewritten("CHANGELOG.md", "- A thing.\n", ""),
        "CHANGELOG.md: nothing stands under [Unreleased]. Write what users observe.",
    ),
    "no notes": (
        without_notes,
        "update/notes/next.yaml: there is none. Write what teams do, in the form of the others.",
    ),
    "notes of another form": (
        rewritten(NEXT, "teams_do:", "team_does:"),
        "update/notes/next.yaml: team_does: Extra inputs are not permitted. Write it as the other notes do.",
    ),
    "notes with a version": (
        rewritten(NEXT, "summary:", "version: 0.2.0\nsummary:"),
        "update/notes/next.yaml: version is 0.2.0. Give it no version before it is released.",
    ),
    "manifest": (
        rewritten("template/Makefile", "help:", "helps:"),
        "template/harness/MANIFEST.sha256: it is not current. Run `make manifest` and commit what it writes.",
    ),
    "lint": (
        rewritten("ownership/seed.yml", "        /docs/\n", "        /doc/\n"),
        "ownership/seed.yml: /docs/ stood there in 0.1.0 and is gone. Put it back: teams have files there.",
    ),
    "version by hand": (
        version_by_hand,
        "Only `make release` changes it.",
    ),
}


@pytest.mark.parametrize(("spoil", "line"), REFUSALS.values(), ids=REFUSALS)
def test_a_failed_check_is_one_line_and_changes_nothing(
    clone: Path, make: Run, spoil: Callable[[Path], None], line: str
) -> None:
    spoil(clone)
    before = state(clone)
    done = make(VERSION)
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.splitlines()
    assert all(each.startswith("release: ") for each in said)
    assert [each for each in said if each.endswith(line)], done.stderr
    assert state(clone) == before


@pytest.mark.parametrize("version", ["0.1.0", "0.0.9"])
def test_a_version_that_is_not_greater_is_refused(make: Run, version: str) -> None:
    done = make(version)
    assert done.returncode == 1
    assert re.match(rf"release: {version} is not greater than [\d.]+, the last release\. Choose", done.stderr)


@pytest.mark.parametrize(
    "arguments", [(), ("1.2",), ("v1.2.3",), ("1.2.3-rc1",), ("01.2.3",), ("--check", "1.2.3")]
)
def test_wrong_use_is_told_apart(clone: Path, make: Run, arguments: tuple[str, ...]) -> None:
    before = state(clone)
    done = make(*arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert state(clone) == before


def test_what_fails_half_way_is_taken_back(clone: Path, make: Run) -> None:
    before = state(clone)
    hook = clone / ".git" / "hooks" / "commit-msg"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        '#!/bin/sh\n! grep -q "^Record" "$1" || { echo "not today" >&2; exit 1; }\n', encoding="utf-8"
    )
    hook.chmod(0o755)
    done = make(VERSION)
    assert (done.returncode, done.stderr) == (
        1,
        "release: git commit: not today. Mend that and run it again.\n",
    )
    assert state(clone) == before


def test_a_shallow_clone_cannot_look(clone: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file:{'//'}{clone}", "shallow")
    for arguments in (("--check",), (VERSION,)):
        done = subprocess.run(
            [sys.executable, "-m", "release", *arguments],
            cwd=tmp_path / "shallow",
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == "release: this clone is shallow and has no 0.1.0. Run: git fetch --unshallow\n"


def test_the_target_takes_the_version_and_tells_how_to_name_one() -> None:
    done = subprocess.run(
        ["make", "release-check", "release", "--dry-run"], cwd=ROOT, capture_output=True, text=True
    )
    assert ".venv/bin/python -m release --check\n" in done.stdout


def test_the_unreleased_section_ends_where_the_next_begins() -> None:
    found = UNRELEASED.search(CHANGES)
    assert found is not None
    assert found[1].strip() == "### Added\n\n- A thing."
