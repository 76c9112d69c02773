"""What teams do to a pilot that nobody asked them to: nothing of it is lost, and all of it is named."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import PilotError
from pilot_template.hooks.manifest import MANIFEST
from pilot_template.update import run
from pilot_template.update.decide import Kind
from pilot_template.update.report import Trial
from pilot_template.update.template import render as by_copier
from repositories import commit, git
from updating import PACKAGE, TARGET, Held, committed, contents, is_teams, state, updated, write

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("rendered_once")]
BINARY = bytes(range(256)) * 3


def changed_since(given: dict[str, bytes], fresh_copy: dict[str, bytes]) -> Iterator[str]:
    """Texts of the standard's that a pilot has and that the new version changes."""
    for name, text in sorted(given.items()):
        ours = is_teams(name) or name in (".copier-answers.yml", MANIFEST)
        fresh = set(fresh_copy.get(name, b"").splitlines())
        if not ours and fresh and set(text.splitlines()) - fresh:
            yield name


def newly_wanted(given: dict[str, bytes], fresh_copy: dict[str, bytes]) -> Iterator[str]:
    """Paths of the standard's that the new version has first."""
    for name in sorted(fresh_copy):
        if not is_teams(name) and name not in given and name != MANIFEST:
            yield name


def edited_where_it_changes(text: bytes, new: bytes) -> bytes:
    """The text with an edit on a line that the new version changes too."""
    lines = text.splitlines(keepends=True)
    fresh = set(new.splitlines(keepends=True))
    at = next(number for number, line in enumerate(lines) if line not in fresh)
    lines[at] = b"# ours, and nobody else's\n"
    return b"".join(lines)


@pytest.fixture
def equip_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of the update pass at once: it is about the work tree that they run in."""
    monkeypatch.setattr(run.trial, "try_out", lambda _root, _log: Trial(True))


@pytest.fixture
def given(oldest: Path) -> dict[str, bytes]:
    return committed(oldest, "HEAD")


@pytest.fixture
def conflicting(given: dict[str, bytes], fresh_copy: dict[str, bytes]) -> str:
    """A file of the standard's of which a line is changed."""
    return next(changed_since(given, fresh_copy))


@pytest.fixture
def wanted(given: dict[str, bytes], fresh_copy: dict[str, bytes]) -> str:
    """A path that the standard newly wants."""
    return next(newly_wanted(given, fresh_copy))


def test_everything_at_once(old: Path, released: Path, fresh_copy: dict[str, bytes]) -> None:
    given = committed(old, "HEAD")
    for name in ("model", "features"):
        (old / PACKAGE / f"{name}.py").unlink()
    (old / PACKAGE / "contract.py").rename(old / PACKAGE / "agreement.py")
    (old / "params.yaml").write_bytes(b"")
    (old / "docs" / "scan.bin").parent.mkdir(exist_ok=True)
    (old / "docs" / "scan.bin").write_bytes(BINARY)
    write(old, "tests/a name with blanks, ünïcode and 'quotes'.py", "1\n")
    changed = list(changed_since(given, fresh_copy))
    for name in changed[:6]:
        (old / name).write_bytes(edited_where_it_changes(given[name], fresh_copy[name]))
    gone = [name for name in sorted(given) if name.startswith("harness/src/") and name not in changed[:6]][:2]
    for name in gone:
        (old / name).unlink()
    for name in changed[6:8]:
        (old / name).chmod(0o444)
    for name in list(newly_wanted(given, fresh_copy))[:3]:
        write(old, name, "ours, before it was the standard's\n")
    write(old, ".env", "SECRET=ours\n")
    commit(old, "Our way")
    held = Held(old, given)
    report = updated(old, released)
    held.holds(report)
    named = {line.partition(":")[0] for line in report.needs_somebody}
    assert set(gone) & set(fresh_copy) <= named
    assert report.exit_code == (1 if named else 0)


def test_an_edit_on_a_changed_line_keeps_both(
    oldest: Path, released: Path, conflicting: str, given: dict[str, bytes], fresh_copy: dict[str, bytes]
) -> None:
    ours = edited_where_it_changes(given[conflicting], fresh_copy[conflicting])
    (oldest / conflicting).write_bytes(ours)
    commit(oldest, "Ours")
    held = Held(oldest, given)
    report = updated(oldest, released, apply=True)
    assert not report.applied, "somebody has to look first"
    after = held.holds(report)
    assert after[conflicting] == fresh_copy[conflicting]
    assert after[f"{conflicting}.yours"] == ours
    (line,) = report.needs_somebody
    assert line.startswith(f"{conflicting}: you edited the standard's file where it has changed too")
    assert report.exit_code == 1


def test_an_edit_elsewhere_in_a_changed_file_is_merged_and_named(
    oldest: Path, released: Path, given: dict[str, bytes]
) -> None:
    name = "Makefile"
    assert b"DELETE_ON_ERROR:\n" in given[name]
    ours = given[name].replace(b"DELETE_ON_ERROR:\n", b"DELETE_ON_ERROR:\n# Ours.\n", 1)
    (oldest / name).write_bytes(ours)
    commit(oldest, "Ours")
    held = Held(oldest, given)
    report = updated(oldest, released)
    after = held.holds(report)
    assert b"# Ours." in after[name]
    (done,) = [each for each in report.done if each.name == name]
    assert done.kind is Kind.MERGE
    assert done.merged


def test_a_file_at_a_path_that_the_standard_wants_stays(
    oldest: Path, released: Path, wanted: str, given: dict[str, bytes], fresh_copy: dict[str, bytes]
) -> None:
    write(oldest, wanted, "ours\n")
    commit(oldest, "Ours")
    held = Held(oldest, given)
    report = updated(oldest, released)
    after = held.holds(report)
    assert after[wanted] == b"ours\n"
    assert after[f"{wanted}.standard"] == fresh_copy[wanted]
    (line,) = report.needs_somebody
    assert line.startswith(f"{wanted}: the standard has a file of that name now. Yours stays")


def test_a_file_where_the_standard_wants_a_folder(
    oldest: Path, released: Path, given: dict[str, bytes]
) -> None:
    write(oldest, "governance", "We have a wiki.\n")
    commit(oldest, "Ours")
    held = Held(oldest, given)
    report = updated(oldest, released)
    after = held.holds(report)
    assert after["governance"] == b"We have a wiki.\n"
    assert "governance.standard/system.yaml" in after
    assert report.exit_code == 1


def test_a_link_in_place_of_the_harness_is_not_followed(
    oldest: Path, released: Path, tmp_path: Path, given: dict[str, bytes]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(oldest / "harness", elsewhere)
    (oldest / "harness").symlink_to(elsewhere)
    commit(oldest, "One harness for all of us")
    there, held = contents(elsewhere), Held(oldest, given)
    with pytest.raises(PilotError, match="harness: it is a link or a file, and the standard has a folder"):
        updated(oldest, released)
    assert contents(elsewhere) == there
    assert state(oldest) == held.seen


def test_a_link_in_place_of_a_file_is_kept_beside(
    oldest: Path, released: Path, tmp_path: Path, given: dict[str, bytes], fresh_copy: dict[str, bytes]
) -> None:
    elsewhere = tmp_path / "Makefile"
    shutil.move(oldest / "Makefile", elsewhere)
    (oldest / "Makefile").symlink_to(elsewhere)
    commit(oldest, "One Makefile for all of us")
    held = Held(oldest, given)
    report = updated(oldest, released)
    after = held.holds(report)
    assert after["Makefile"] == fresh_copy["Makefile"]
    assert after["Makefile.yours"] == str(elsewhere).encode()
    assert elsewhere.read_bytes() == given["Makefile"]


def test_a_dirty_checkout_is_left_byte_for_byte(oldest: Path, released: Path, conflicting: str) -> None:
    (oldest / conflicting).write_bytes(b"half-written")
    (oldest / "pilot.toml").write_bytes(b"")
    (oldest / PACKAGE / "model.py").unlink()
    write(oldest, ".env", "SECRET=ours\n")
    write(oldest, "var/decisions.db", "a decision\n")
    write(oldest, "staged.txt", "staged\n")
    git(oldest, "add", "staged.txt", conflicting)
    (oldest / "staged.txt").write_bytes(b"and changed again")
    (oldest / "Makefile").chmod(0o400)
    status = git(oldest, "status", "--porcelain", "--ignored")
    held = Held(oldest, committed(oldest, "HEAD"))
    report = updated(oldest, released)
    held.holds(report)
    assert git(oldest, "status", "--porcelain", "--ignored") == status
    again = updated(oldest, released, apply=True)
    assert again.exit_code == 1
    assert not again.applied
    assert "your checkout is as it was: git merge failed" in again.not_applied
    assert state(oldest) == held.seen


def test_a_merge_that_is_not_finished_is_left_as_it_is(oldest: Path, released: Path) -> None:
    git(oldest, "switch", "--quiet", "--create", "other")
    write(oldest, "params.yaml", "theirs\n")
    commit(oldest, "Theirs")
    git(oldest, "switch", "--quiet", "main")
    write(oldest, "params.yaml", "ours\n")
    commit(oldest, "Ours")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *who, "merge", "--quiet", "other"], cwd=oldest, capture_output=True)
    assert git(oldest, "diff", "--name-only", "--diff-filter=U") == "params.yaml\n"
    held = Held(oldest, committed(oldest, "HEAD"))
    held.holds(updated(oldest, released))
    assert git(oldest, "diff", "--name-only", "--diff-filter=U") == "params.yaml\n"


def test_line_ends_of_windows(oldest: Path, released: Path, fresh_copy: dict[str, bytes]) -> None:
    """A checkout with CRLF, and files that were committed so."""
    git(oldest, "config", "core.autocrlf", "true")
    (oldest / ".gitattributes").unlink()
    for name in ("Makefile", "params.yaml", "harness/uv.txt"):
        text = (oldest / name).read_bytes()
        (oldest / name).write_bytes(text.replace(b"\n", b"\r\n"))
    given = committed(oldest, "HEAD")
    (oldest / ".git" / "index").unlink()  # git would take what it knows for unchanged
    git(oldest, "-c", "core.autocrlf=false", "add", "--all")
    git(oldest, "-c", "core.autocrlf=false", "commit", "--quiet", "--message", "From Windows")
    assert b"\r\n" in committed(oldest, "HEAD")["Makefile"]
    held = Held(oldest, given)
    report = updated(oldest, released)
    after = held.holds(report)
    assert after["Makefile"] == fresh_copy["Makefile"]
    assert after["params.yaml"] == held.before["params.yaml"]
    edited = {each.name for each in report.of(Kind.KEPT, Kind.MERGE)}
    assert edited == set(), "line ends alone are no edit"
    assert {line.partition(":")[0] for line in report.needs_somebody} == {".gitattributes"}


@pytest.mark.slow
def test_on_no_branch(oldest: Path, released: Path) -> None:
    git(oldest, "switch", "--quiet", "--detach")
    held = Held(oldest, committed(oldest, "HEAD"))
    held.holds(updated(oldest, released))
    again = updated(oldest, released, apply=True)
    assert "the checkout is on no branch. Switch to one, then: git merge" in again.not_applied
    assert again.exit_code == 1
    assert state(oldest) == held.seen


@pytest.mark.slow
def test_one_of_many_in_a_repository(
    oldest: Path, released: Path, tmp_path: Path, fresh_copy: dict[str, bytes]
) -> None:
    every = tmp_path / "every"
    for name in ("late", "early"):
        shutil.copytree(oldest, every / "pilots" / name, ignore=shutil.ignore_patterns(".git"))
    write(every, "README.md", "All our pilots.\n")
    git(every, "init", "--quiet", "--initial-branch=main")
    commit(every, "Start")
    before, seen = committed(every, "HEAD"), state(every)
    report = updated(every / "pilots" / "late", released)
    assert report.branch == f"template/pilots-late-{TARGET}"
    assert state(every) == seen
    after = committed(every, report.branch)
    elsewhere = {name for name in before if not name.startswith("pilots/late/")}
    assert {name: after[name] for name in elsewhere} == {name: before[name] for name in elsewhere}
    assert after["pilots/late/Makefile"] == fresh_copy["Makefile"]
    assert {name for name in after if not name.startswith("pilots/late/")} == elsewhere
    both = updated(every / "pilots" / "early", released)
    assert both.branch == f"template/pilots-early-{TARGET}"
    pristine = git(every, "ls-tree", "-r", "--name-only", report.pristine).split()
    assert "pilots/late/Makefile" in pristine


@pytest.mark.slow
def test_a_shallow_clone_and_a_work_tree_of_a_clone(oldest: Path, released: Path, tmp_path: Path) -> None:
    write(oldest, "docs/more.md", "more\n")
    commit(oldest, "More")
    shallow, linked = tmp_path / "shallow", tmp_path / "linked"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{oldest}", str(shallow))
    assert git(shallow, "rev-parse", "--is-shallow-repository") == "true\n"
    held = Held(shallow, committed(oldest, "HEAD^"))
    held.holds(updated(shallow, released))
    git(oldest, "worktree", "add", "--quiet", "-b", "linked", str(linked))
    held = Held(linked, committed(oldest, "HEAD^"))
    held.holds(updated(linked, released))
    assert git(oldest, "worktree", "list").count("\n") == 2


def test_hooks_signatures_and_an_unknown_author_are_not_in_the_way(
    oldest: Path, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hook in (
        "pre-commit",
        "commit-msg",
        "prepare-commit-msg",
        "post-checkout",
        "post-commit",
        "post-merge",
    ):
        file = oldest / ".git" / "hooks" / hook
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\ntouch {tmp_path}/{hook}-ran\nexit 1\n", encoding="utf-8")
        file.chmod(0o755)
    git(oldest, "config", "commit.gpgsign", "true")
    git(oldest, "config", "user.signingkey", "nobody's")
    git(oldest, "config", "user.useConfigOnly", "true")
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "of-somebody-else"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setattr(run.template, "render", by_copier)  # whose git is not to be led astray either
    report = updated(oldest, released, apply=True)
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")
    assert report.applied
    assert not list(tmp_path.glob("*-ran")), "a hook of the team's was run"


def test_answers_that_were_not_asked_for_stay(oldest: Path, released: Path) -> None:
    """An answer that the team added by hand is no question's: it is said, and it does no harm."""
    file = oldest / ".copier-answers.yml"
    file.write_text(f"{file.read_text(encoding='utf-8')}colour: green\n", encoding="utf-8")
    commit(oldest, "Green")
    report = updated(oldest, released)
    assert report.unasked == {"colour": "green"}


def test_files_that_git_does_not_have_are_not_merged_over(oldest: Path, released: Path) -> None:
    """git takes an ignored file for one that nobody will miss."""
    exclude = oldest / ".git" / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_text("/docs/model-card.md\n", encoding="utf-8")
    write(oldest, "docs/model-card.md", "ours, and not in git\n")
    report = updated(oldest, released, apply=True)
    assert report.in_the_way == ["docs/model-card.md"]
    assert report.exit_code == 1
    assert not report.applied
    merged = subprocess.run(
        ["git", "merge", "--ff-only", "--no-overwrite-ignore", report.branch], cwd=oldest, capture_output=True
    )
    assert merged.returncode != 0, "what the report recommends would lose it"
    assert (oldest / "docs/model-card.md").read_text() == "ours, and not in git\n"


def test_what_is_not_committed_is_not_put_away_for_a_merge(oldest: Path, released: Path) -> None:
    git(oldest, "config", "merge.autoStash", "true")
    write(oldest, "Makefile", "ours, half-written\n")
    report = updated(oldest, released, apply=True)
    assert not report.applied
    assert report.exit_code == 1
    assert (oldest / "Makefile").read_text() == "ours, half-written\n"
    assert git(oldest, "stash", "list") == ""


@pytest.mark.slow
def test_a_work_tree_of_the_teams_is_not_forgotten(
    oldest: Path, released: Path, tmp_path: Path, equip_trial: None
) -> None:
    """Its disk is not there for the moment."""
    git(oldest, "worktree", "add", "--quiet", "-b", "elsewhere", str(tmp_path / "disk" / "elsewhere"))
    write(tmp_path / "disk" / "elsewhere", "staged.txt", "staged\n")
    git(tmp_path / "disk" / "elsewhere", "add", "staged.txt")
    (tmp_path / "disk").rename(tmp_path / "away")
    updated(oldest, released, dry=True)
    updated(oldest, released, tests=True)
    (tmp_path / "away").rename(tmp_path / "disk")
    assert git(tmp_path / "disk" / "elsewhere", "status", "--porcelain") == "A  staged.txt\n"


@pytest.mark.slow
def test_what_a_filter_hides_stays_hidden(oldest: Path, released: Path, given: dict[str, bytes]) -> None:
    """As git-crypt does it: in git a file is another one than in the work tree."""
    for name, direction in (("clean", "A-Za-z N-ZA-Mn-za-m"), ("smudge", "N-ZA-Mn-za-m A-Za-z")):
        git(oldest, "config", f"filter.rot.{name}", f"tr {direction}")
    write(oldest, "docs/.gitattributes", "secret.md filter=rot\n")
    write(oldest, "docs/secret.md", "the password is swordfish\n")
    exclude = oldest / ".git" / "info" / "attributes"
    exclude.write_text("/Makefile filter=rot\n", encoding="utf-8")
    (oldest / "Makefile").write_text("swordfish: # ours\n", encoding="utf-8")
    commit(oldest, "Ours")
    held = Held(oldest, given)
    assert b"swordfish" not in held.before["Makefile"] + held.before["docs/secret.md"]
    after = held.holds(updated(oldest, released))
    assert after["docs/secret.md"] == held.before["docs/secret.md"]
    assert after["Makefile.yours"] == held.before["Makefile"]


@pytest.mark.slow
def test_files_that_may_be_executed(oldest: Path, released: Path, fresh_copy: dict[str, bytes]) -> None:
    (oldest / "Makefile").chmod(0o755)
    commit(oldest, "We run it")
    report = updated(oldest, released)
    assert git(oldest, "ls-tree", report.branch, "Makefile").startswith("100755 ")
    (done,) = [each for each in report.done if each.name == "Makefile"]
    assert done.kind is Kind.MERGE
    assert done.merged
    assert committed(oldest, report.branch)["Makefile"] == fresh_copy["Makefile"]


@pytest.mark.slow
def test_a_sparse_checkout_and_ignored_files_of_the_standards(
    oldest: Path, released: Path, fresh_copy: dict[str, bytes]
) -> None:
    git(oldest, "status")  # it looks at every file anew, and leaves out only what it knows to be unchanged
    git(oldest, "sparse-checkout", "set", "--no-cone", "/src/", "/pilot.toml")
    exclude = oldest / ".git" / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_text("/harness/\n/governance/\n", encoding="utf-8")
    assert not (oldest / "Makefile").exists()
    held = Held(oldest, committed(oldest, "HEAD"))
    after = held.holds(updated(oldest, released))
    assert {name for name in fresh_copy if not is_teams(name)} <= after.keys()


@pytest.mark.slow
def test_names_of_folders_that_are_no_names_of_branches(oldest: Path, released: Path, tmp_path: Path) -> None:
    every = tmp_path / "every"
    places = ("our pilots/late", "our-pilots/late", "our/pilots/late")
    for place in places:
        shutil.copytree(oldest, every / place, ignore=shutil.ignore_patterns(".git"))
    git(every, "init", "--quiet", "--initial-branch=main")
    commit(every, "Start")
    branches = {updated(every / place, released).branch for place in places}
    assert len(branches) == len(places)


@pytest.mark.slow
def test_a_name_beside_that_is_taken(
    oldest: Path, released: Path, conflicting: str, given: dict[str, bytes], fresh_copy: dict[str, bytes]
) -> None:
    ours = edited_where_it_changes(given[conflicting], fresh_copy[conflicting])
    (oldest / conflicting).write_bytes(ours)
    write(oldest, f"{conflicting}.yours", "from the last time\n")
    commit(oldest, "Ours")
    held = Held(oldest, given)
    after = held.holds(updated(oldest, released))
    assert after[f"{conflicting}.yours"] == b"from the last time\n"
    assert after[f"{conflicting}.yours-2"] == ours


@pytest.mark.slow
def test_an_edit_of_what_the_standard_has_dropped(
    oldest: Path, released: Path, given: dict[str, bytes], fresh_copy: dict[str, bytes]
) -> None:
    dropped = next(name for name in sorted(given) if not is_teams(name) and name not in fresh_copy)
    write(oldest, dropped, "ours\n")
    commit(oldest, "Ours")
    held = Held(oldest, given)
    report = updated(oldest, released)
    after = held.holds(report)
    assert dropped not in after
    assert after[f"{dropped}.yours"] == b"ours\n"
    (line,) = report.needs_somebody
    assert line.startswith(f"{dropped}: the standard has it no more, and you had edited it.")
