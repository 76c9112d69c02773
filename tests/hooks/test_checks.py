"""Each check passes on a new pilot, and finds what is planted: by file, line and mend."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pilot_template.hooks import CHECKS, Outcome, Status, Tree, run
from pilot_template.hooks.manifest import MANIFEST
from repositories import commit, git

BY_ID = {check.id: check for check in CHECKS}


def looked(pilot: Path, check: str, *, same_version: bool = False) -> Outcome:
    return run(BY_ID[check], Tree(pilot, same_version=same_version))


def edit(pilot: Path, name: str, old: str, new: str) -> None:
    text = (pilot / name).read_text(encoding="utf-8")
    assert old in text
    (pilot / name).write_text(text.replace(old, new, 1), encoding="utf-8")


def add(pilot: Path, name: str, content: bytes | str) -> None:
    file = pilot / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def planted(pilot: Path, name: str, content: bytes | str) -> None:
    """A new file, in git."""
    add(pilot, name, content)
    git(pilot, "add", "--force", name)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_a_new_pilot_passes(fresh_once: Path, check: object) -> None:
    outcome = run(check, Tree(fresh_once, same_version=True))  # type: ignore[arg-type]
    assert outcome.status is (Status.SKIPPED if outcome.check == "PT401" else Status.PASSED), outcome


def conflict(pilot: Path) -> None:
    edit(
        pilot,
        "README.md",
        "## Three",
        "<<<<<<< before updating\nours\n=======\ntheirs\n>>>>>>> after\n## Three",
    )


def unmerged(pilot: Path) -> None:
    """Both sides add the same file; nobody wrote a marker."""
    git(pilot, "switch", "--quiet", "--create", "theirs")
    add(pilot, "docs/note.png", b"\x89PNG\0theirs")
    commit(pilot, "Theirs")
    git(pilot, "switch", "--quiet", "main")
    add(pilot, "docs/note.png", b"\x89PNG\0ours")
    commit(pilot, "Ours")
    with pytest.raises(AssertionError):
        git(pilot, "merge", "theirs")


def linked(pilot: Path) -> None:
    shutil.copy(pilot / "Makefile", pilot / "mine.mk")
    (pilot / "Makefile").unlink()
    (pilot / "Makefile").symlink_to("mine.mk")


# The check, what somebody did, and what the finding says: file, line, what is wrong, mend.
FAULTS: dict[str, tuple[str, Callable[[Path], object], tuple[str, int, str, str]]] = {
    "a standard file is edited": (
        "PT101",
        lambda pilot: edit(pilot, "dvc.yaml", "python -m", "true || python -m"),
        ("dvc.yaml", 0, "it is not as the standard gave it", "git checkout HEAD -- dvc.yaml"),
    ),
    "a file of the harness is edited": (
        "PT101",
        lambda pilot: edit(pilot, "harness/src/harness/errors.py", "exit_code = 1", "exit_code = 0"),
        ("harness/src/harness/errors.py", 0, "it is not as the standard gave it", "Undo the edit"),
    ),
    "a standard file is deleted": (
        "PT101",
        lambda pilot: (pilot / "harness/uv.txt").unlink(),
        ("harness/uv.txt", 0, "it is missing", "Bring it back"),
    ),
    "a standard file is a link": (
        "PT101",
        linked,
        ("Makefile", 0, "it is a link or a folder", "Bring it back"),
    ),
    "a file of the team's lies in the harness": (
        "PT101",
        lambda pilot: add(pilot, "harness/src/harness/ours.py", "x = 1\n"),
        ("harness/src/harness/ours.py", 0, "not the standard's", "Move it to src/"),
    ),
    "the list is gone": (
        "PT101",
        lambda pilot: (pilot / MANIFEST).unlink(),
        (MANIFEST, 0, "is missing", "git checkout HEAD -- harness/MANIFEST.sha256"),
    ),
    "the list cannot be read": (
        "PT101",
        lambda pilot: (pilot / MANIFEST).write_text("zz  Makefile\n"),
        (MANIFEST, 0, "line 1 is no hash", "Bring it back"),
    ),
    "the answers are gone": (
        "PT102",
        lambda pilot: (pilot / ".copier-answers.yml").unlink(),
        (".copier-answers.yml", 0, "the file is missing", "git checkout HEAD"),
    ),
    "the answers are no YAML": (
        "PT102",
        lambda pilot: edit(pilot, ".copier-answers.yml", "alerts: log", "alerts: [log"),
        (".copier-answers.yml", 5, "it is not YAML", "Bring it back"),
    ),
    "the answers are a list": (
        "PT102",
        lambda pilot: add(pilot, ".copier-answers.yml", "- a\n"),
        (".copier-answers.yml", 0, "it holds no answers", "Bring it back"),
    ),
    "the version is no version": (
        "PT102",
        lambda pilot: edit(pilot, ".copier-answers.yml", "_commit: ", "_commit: the newest "),
        # Without its quotes, which are others where the commit's name is all digits.
        (".copier-answers.yml", 2, "the newest", "Bring it back"),
    ),
    "the version is left out": (
        "PT102",
        lambda pilot: edit(pilot, ".copier-answers.yml", "_commit:", "commit:"),
        (".copier-answers.yml", 0, "_commit is missing", "git repository"),
    ),
    "a newer version is claimed": (
        "PT102",
        lambda pilot: edit(pilot, ".copier-answers.yml", "_commit: ", "_commit: v9.0.0 # "),
        (".pre-commit-config.yaml", 8, "the answers file says v9.0.0", "edited by hand"),
    ),
    "the template's address is relative": (
        "PT102",
        lambda pilot: edit(pilot, ".copier-answers.yml", "_src_path: /", "_src_path: ../"),
        (".copier-answers.yml", 3, "_src_path is neither", "absolute path"),
    ),
    "the template's address is left out": (
        "PT102",
        lambda pilot: edit(pilot, ".copier-answers.yml", "_src_path:", "src_path:"),
        (".copier-answers.yml", 0, "_src_path is missing", "Bring it back"),
    ),
    "a governance document has an unknown key": (
        "PT201",
        lambda pilot: edit(pilot, "governance/risks.yaml", "owner:", "ownr:"),
        ("governance/risks.yaml", 0, "ownr", "Did you mean 'owner'?"),
    ),
    "a governance document is deleted": (
        "PT201",
        lambda pilot: (pilot / "governance/tco.yaml").unlink(),
        ("governance/tco.yaml", 0, "the file is missing", "Bring it back"),
    ),
    "a conflict is left": (
        "PT301",
        conflict,
        ("README.md", 7, "a conflict that nobody resolved", "take the marker lines out"),
    ),
    "a conflict is left in a file that git does not have": (
        "PT301",
        lambda pilot: add(pilot, "src/notes.txt", "a\n>>>>>>> theirs\n"),
        ("src/notes.txt", 2, "a conflict that nobody resolved", "take the marker lines out"),
    ),
    "a reject is left": (
        "PT301",
        lambda pilot: add(pilot, "Makefile.rej", "@@ -1 +1 @@\n"),
        ("Makefile.rej", 0, "left over by an update", "what belongs into Makefile, and delete it"),
    ),
    "an update kept the team's": (
        "PT301",
        lambda pilot: add(pilot, "Makefile.yours", "ours:\n"),
        ("Makefile.yours", 0, "you had edited the standard's file", "and delete this file"),
    ),
    "an update kept the standard's, and that name was taken": (
        "PT301",
        lambda pilot: add(pilot, "docs/runbook.md.standard-2", "theirs\n"),
        ("docs/runbook.md.standard-2", 0, "the standard has a file of this name now", "delete this file"),
    ),
    "an update kept what the standard has dropped, in a folder": (
        "PT301",
        lambda pilot: add(pilot, "deploy.standard/compose\nnew.yml", "theirs\n"),
        ("deploy.standard/compose\nnew.yml", 0, "the standard has a file of this name now", "delete"),
    ),
    "a merge is not ended": (
        "PT301",
        unmerged,
        ("docs/note.png", 0, "unmerged", "git add"),
    ),
    "a large file is in git": (
        "PT302",
        lambda pilot: planted(pilot, "docs/export.csv", "1;2;3\n" * 100_000),
        ("docs/export.csv", 0, "600,000 bytes", "git rm --cached docs/export.csv"),
    ),
    "a data set is in git": (
        "PT303",
        lambda pilot: planted(pilot, "docs/customers.parquet", "PAR1"),
        ("docs/customers.parquet", 0, "a .parquet file is data or a model", "git rm --cached"),
    ),
    "a pickle is in git": (
        "PT303",
        lambda pilot: planted(pilot, "src/late_payment/model.PKL", "x"),
        ("src/late_payment/model.PKL", 0, "a .pkl file", "git rm --cached"),
    ),
    "something binary is in git": (
        "PT303",
        lambda pilot: planted(pilot, "docs/book.xlsx", b"PK\x03\x04\0\0\0"),
        ("docs/book.xlsx", 0, "it is binary", "git rm --cached"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fresh: Path, fault: str) -> None:
    check, plant, (file, line, what, mend) = FAULTS[fault]
    plant(fresh)
    outcome = looked(fresh, check)
    assert outcome.status is Status.FAILED
    (found,) = [finding for finding in outcome.findings if what in finding.what]
    assert (found.file, found.line) == (file, line)
    assert mend in found.mend
    assert found.mend.endswith((".", "?"))


def test_every_check_has_a_planted_fault() -> None:
    here = {check for check, _, _ in FAULTS.values()} | {"PT401"}  # tests/pilot/test_in_step.py, beside DVC
    assert here == set(BY_ID)


def test_who_edits_a_file_and_its_hash_is_found_by_the_checks_own_list(fresh: Path) -> None:
    from pilot_template.hooks.manifest import digest

    makefile, listed = fresh / "Makefile", fresh / MANIFEST
    before = digest(makefile.read_bytes())
    makefile.write_text(makefile.read_text().replace("-m pytest", "-m pytest || true"))
    listed.write_text(listed.read_text().replace(before, digest(makefile.read_bytes())))
    assert looked(fresh, "PT101").status is Status.PASSED, "the pilot alone cannot tell"
    outcome = looked(fresh, "PT101", same_version=True)
    assert [finding.file for finding in outcome.findings] == [MANIFEST]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("docs/picture.png", b"\x89PNG\0"),
        ("tests/examples/small.parquet", b"PAR1\0"),
        ("src/late_payment/notes.txt", "Heading\n=======\n"),
        ("docs/how.md", "a <<<<<<< b\n"),
        ("docs/old mac.txt", b"one\rtwo\r"),
        ("docs/the.standards.md", "The standard that we follow.\n"),
    ],
)
def test_what_is_no_fault_passes(fresh: Path, name: str, content: bytes | str) -> None:
    planted(fresh, name, content)
    for check in ("PT101", "PT301", "PT302", "PT303"):
        assert looked(fresh, check).status is Status.PASSED, check


def test_what_git_ignores_is_nobodys_business(fresh: Path) -> None:
    add(fresh, "harness/src/harness/__pycache__/a.pyc", b"\0")
    add(fresh, "var/decisions.db", b"\0" * 600_000)
    add(fresh, "data/model.rej", "")
    for check in ("PT101", "PT301", "PT302", "PT303"):
        assert looked(fresh, check).status is Status.PASSED, check


@pytest.mark.parametrize("check", ["PT101", "PT301", "PT302", "PT303"])
def test_a_folder_outside_git_is_unknown_and_no_pass(
    fresh: Path, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(fresh.parent))
    shutil.rmtree(fresh / ".git")
    outcome = looked(fresh, check)
    assert outcome.status is Status.UNKNOWN
    assert "not a git repository" in outcome.reason


def test_without_git_nothing_is_known(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    outcome = looked(fresh, "PT302")
    assert (outcome.status, outcome.reason) == (Status.UNKNOWN, "git is not installed. Install git.")


@pytest.mark.parametrize(
    "version", ["0a1b2c3", "v1.0.0", "1.2", "v1.2.0rc1", "v1.2.0-rc.1", "v1.0.0-3-gabcdef0", "2.0.0.post3"]
)
def test_versions_as_git_describes_them_are_good(fresh: Path, version: str) -> None:
    given = yaml.safe_load((fresh / ".copier-answers.yml").read_text())["_commit"]
    edit(fresh, ".copier-answers.yml", given, version)
    edit(fresh, ".pre-commit-config.yaml", given, version)
    assert looked(fresh, "PT102").status is Status.PASSED
