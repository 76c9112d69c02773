"""What an update refuses: one line that names the thing and the mend, exit 2, and nothing changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.errors import PilotError
from pilot_template.update import run, worktree
from pilot_template.update.carry import Done
from pilot_template.update.cli import main
from pilot_template.update.decide import Kind
from pilot_template.update.report import Trial
from pilot_template.update.tree import PLAIN, Tree
from repositories import commit, git
from updating import TARGET, state, updated, write

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("rendered_once")]


def answers(pilot: Path, **changed: str | None) -> None:
    """Edit the answers file by hand, and commit that."""
    file = pilot / ".copier-answers.yml"
    found = yaml.safe_load(file.read_text(encoding="utf-8")) | changed
    kept = {name: value for name, value in found.items() if value is not None}
    file.write_text(yaml.safe_dump(kept), encoding="utf-8")
    commit(pilot, "By hand")


def refused(pilot: Path, capsys: pytest.CaptureFixture[str], *options: str, clone: Path | None = None) -> str:
    """The one line that `pilot-update` says; the pilot must be as it was."""
    seen = state(pilot) if pilot.is_dir() else {}
    names = git(pilot, "for-each-ref") if (pilot / ".git").exists() else ""
    given = ["--clone", str(clone)] if clone else []
    code = main(["--root", str(pilot), "--no-tests", *given, *options])
    said = capsys.readouterr()
    assert code == 2, said
    assert said.out == ""
    assert "Traceback" not in said.err
    (line,) = [line for line in said.err.splitlines() if line.startswith("pilot: ")]
    if pilot.is_dir():
        assert state(pilot) == seen
    if (pilot / ".git").exists():
        assert git(pilot, "for-each-ref") == names
        assert git(pilot, "worktree", "list").count("\n") == 1
    return line


Said = pytest.CaptureFixture[str]


def test_no_answers_file(oldest: Path, released: Path, capsys: Said) -> None:
    (oldest / ".copier-answers.yml").unlink()
    commit(oldest, "Gone")
    line = refused(oldest, capsys, "--to", TARGET, clone=released)
    assert line.startswith("pilot: .copier-answers.yml: the file is missing. Bring it back: ")
    git(oldest, "show", "HEAD^:.copier-answers.yml")
    write(oldest, ".copier-answers.yml", git(oldest, "show", "HEAD^:.copier-answers.yml"))
    line = refused(oldest, capsys, "--to", TARGET, clone=released)
    assert "it is not in the newest commit. Commit it: git add .copier-answers.yml" in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", ".copier-answers.yml line 1: it is not YAML."),
        ("- 1\n", ".copier-answers.yml: it holds no answers."),
        ("_commit: v0.1.0\n", "_src_path is missing, the address of the template."),
        ("_src_path: /somewhere\n", "_commit is missing, the version of the template."),
        ("_src_path: ../template\n_commit: v0.1.0\n", "_src_path is neither an address nor an absolute path"),
    ],
)
def test_answers_that_are_none(oldest: Path, released: Path, capsys: Said, text: str, says: str) -> None:
    write(oldest, ".copier-answers.yml", text)
    commit(oldest, "By hand")
    assert says in refused(oldest, capsys, "--to", TARGET, clone=released)


def test_a_version_that_there_never_was(oldest: Path, released: Path, capsys: Said) -> None:
    answers(oldest, _commit="v77.0.0")
    line = refused(oldest, capsys, "--to", TARGET, clone=released)
    assert "_commit is 'v77.0.0', and the template at" in line
    assert "has no such version. Bring it back: `git log -p -- .copier-answers.yml`" in line


def test_a_version_that_the_pilot_is_not_of(oldest: Path, released: Path, capsys: Said) -> None:
    """Written to look up to date: Copier alone says that there is nothing to do."""
    answers(oldest, _commit=f"v{TARGET}")
    line = refused(oldest, capsys, "--to", TARGET, clone=released)
    assert f"_commit says v{TARGET}, and harness/MANIFEST.sha256 is the one of v0.1.0" in line
    assert "Write `_commit: v0.1.0` there, and commit that." in line


def test_a_list_of_the_standards_files_that_is_nobodys(oldest: Path, released: Path, capsys: Said) -> None:
    write(oldest, "harness/MANIFEST.sha256", "0" * 64 + "  Makefile\n")
    commit(oldest, "It was red")
    line = refused(oldest, capsys, "--to", TARGET, clone=released)
    assert "harness/MANIFEST.sha256: it is not the list that v0.1.0 of the template gave." in line


def test_a_template_that_cannot_be_reached(oldest: Path, capsys: Said, tmp_path: Path) -> None:
    answers(oldest, _src_path=str(tmp_path / "gone"))
    line = refused(oldest, capsys, "--to", TARGET)
    assert f"{tmp_path}/gone: the template cannot be reached: git clone failed (fatal: " in line
    assert "Check the network and your right to read it, or _src_path in .copier-answers.yml." in line


def test_a_version_that_is_not_known_and_one_that_is_older(
    oldest: Path, released: Path, capsys: Said
) -> None:
    line = refused(oldest, capsys, "--to", "77", clone=released)
    assert f"the template has no version '77'. Its newest are: v{TARGET}" in line
    updated(oldest, released, apply=True)
    line = refused(oldest, capsys, "--to", "0.1.0", clone=released)
    assert f"the pilot is of v{TARGET}, and v0.1.0 is no later version. An update goes forward only." in line


def test_an_answer_that_is_not_valid_any_more(oldest: Path, released: Path, capsys: Said) -> None:
    """Copier alone would take the default instead, and say nothing."""
    answers(oldest, risk_tier="enormous")
    line = refused(oldest, capsys, "--to", TARGET, clone=released)
    assert "risk_tier" in line
    assert "is not valid in" in line
    assert "copier update --vcs-ref=:current: --data NAME=VALUE" in line


def test_no_repository_no_commit_no_folder(
    oldest: Path, released: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    shutil.rmtree(oldest / ".git")
    line = refused(oldest, capsys, "--to", TARGET, clone=released)
    assert "it is in no git repository, so nothing could be undone. Run: git init -b main" in line
    git(oldest, "init", "--quiet")
    assert "it has no commit yet. Commit it first" in refused(oldest, capsys, "--to", TARGET, clone=released)
    assert "there is no such folder" in refused(tmp_path / "gone", capsys, "--to", TARGET)


def test_a_branch_that_is_there_already(oldest: Path, released: Path, capsys: Said) -> None:
    first = updated(oldest, released)
    again = updated(oldest, released)
    assert again.branch == first.branch, "the same update is no second one"
    git(oldest, "commit", "--quiet", "--allow-empty", "--message", "The same files, and another story")
    line = refused(oldest, capsys, "--to", TARGET, clone=released)
    assert f"template/{TARGET}: the branch is there already, from an earlier update." in line
    assert f"git branch -D template/{TARGET}" in line


@pytest.mark.parametrize("gone", ["params.yaml", "notes/ours.md", "harness/ours.txt"])
def test_a_defect_that_would_change_what_is_the_teams_is_stopped(
    oldest: Path, released: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    write(oldest, gone, "ours\n")
    commit(oldest, "Ours")
    carry_out = run.carry_out

    def clumsy(change: object, tree: Tree, *rest: object) -> Done:
        tree.entries.pop(gone, None)
        done: Done = carry_out(change, tree, *rest)  # type: ignore[arg-type]
        return done

    monkeypatch.setattr(run, "carry_out", clumsy)
    line = refused(oldest, capsys, "--to", TARGET, clone=released)
    assert f"the update would have changed what is yours ({gone}), and was given up." in line


@pytest.mark.parametrize("left", ["Makefile", "harness/ours.rej"])
def test_a_conflict_is_never_called_a_success(
    oldest: Path, released: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """However it came there: the update is looked at as git will have it."""
    carry_out = run.carry_out

    def clumsy(change: object, tree: Tree, *rest: object) -> Done:
        done: Done = carry_out(change, tree, *rest)  # type: ignore[arg-type]
        if done.name == "Makefile":
            tree.put(left, b"<<<<<<< before updating\n" if left == "Makefile" else b"rejected\n", PLAIN)
        return done

    monkeypatch.setattr(run, "carry_out", clumsy)
    report = updated(oldest, released, apply=True)
    assert report.exit_code == 1
    assert f"{left}: it holds a conflict" in report.needs_somebody
    assert not report.applied


def test_what_git_shows_as_unmerged_is_never_called_a_success(
    oldest: Path, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge of git's that ends well and leaves a conflict: the checkout is asked afterwards."""
    asked = worktree.git

    def says(folder: Path, *arguments: str, **more: object) -> str:
        if "--diff-filter=U" in arguments:
            return "Makefile"
        found: str = asked(folder, *arguments, **more)  # type: ignore[arg-type]
        return found

    monkeypatch.setattr(worktree, "git", says)
    report = updated(oldest, released, apply=True)
    assert not report.applied
    assert report.exit_code == 1
    assert "Makefile is unmerged in your checkout. Mend that by hand" in report.needs_somebody


def test_an_answer_that_became_another_is_never_called_a_success(
    oldest: Path, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it came about: the answers file of before is held against the one of afterwards."""
    render = run.template.render

    def forgetful(*arguments: object) -> object:
        made = render(*arguments)  # type: ignore[arg-type]
        file = made.root / ".copier-answers.yml"
        file.write_text(file.read_text().replace("team: Credit control", "team: TODO"), encoding="utf-8")
        return made

    monkeypatch.setattr(run.template, "render", forgetful)
    report = updated(oldest, released, apply=True)
    assert report.changed == {"team": ("Credit control", "TODO")}
    assert report.needs_somebody == ["the answer team became 'TODO'; it was 'Credit control'"]
    assert report.exit_code == 1
    assert not report.applied


PROGRAM = """
import os, signal, sys
from pilot_template.update import cli, run
# What was begun in the background by a shell ignores it, and so does what that begins.
signal.signal(signal.SIGINT, signal.default_int_handler)
def struck(root, log):
    os.kill(os.getpid(), signal.{signal})
run.trial.try_out = struck
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.slow), "SIGINT"])
def test_a_run_that_was_ended_leaves_nothing_that_the_next_stumbles_over(
    oldest: Path, released: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its longest part, in which its work tree stands."""
    seen = state(oldest)
    given = ["--root", str(oldest), "--to", TARGET, "--clone", str(released)]
    folder = tmp_path / "temporary"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(signal=name), *given],
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert state(oldest) == seen
    assert git(oldest, "branch", "--list", "template/*") == ""
    if name == "SIGKILL":
        assert done.returncode == -9, done.stderr
        assert git(oldest, "worktree", "list").count("\n") == 2
    else:
        assert done.returncode == 130, done.stderr
        assert done.stderr.splitlines()[-1] == "pilot: interrupted; nothing was changed"
        assert "Traceback" not in done.stderr
        assert list(folder.iterdir()) == []
        assert git(oldest, "worktree", "list").count("\n") == 1
    monkeypatch.setattr(run.trial, "try_out", lambda _root, _log: Trial(True))
    report = updated(oldest, released, tests=True)
    assert report.of(Kind.CHANGED)
    assert git(oldest, "worktree", "list").count("\n") == 1
    assert list(folder.iterdir()) == []


def test_without_git_and_with_a_word_that_is_none(
    oldest: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--wrong"])
    assert ended.value.code == 2
    capsys.readouterr()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--root", str(oldest), "--to", TARGET]) == 2
    assert "pilot: " in capsys.readouterr().err
    with pytest.raises(PilotError):
        main(["--root", str(oldest), "--to", TARGET, "--debug"])
