"""Invert one rule of what holds between releases at a time, and see that a test notices.

``python tests/release/mutants.py [words]``, as tests/harness/mutants.py is for the harness.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PLACES = {"release": Path("release"), "update": Path("pilot_template", "update")}
LINT, RECORD = "tests/release/test_lint.py", "tests/release/test_record.py"
NOTES, OWNERSHIP = "tests/update/test_notes.py", "tests/render/test_ownership.py"
LIVES, HOSTILE = "tests/update/test_pilot_update_property.py", "tests/update/test_pilot_update_hostile.py"
REFUSED = "tests/update/test_pilot_update_refused.py"


class Mutant(NamedTuple):
    """One edit, the file of tests that must notice it, and pytest's -k."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    only: str


MUTANTS = (
    Mutant("no default is fine", "release/lint.py", '"default" not in question', "False", LINT, "default"),
    Mutant("a choice may go", "release/lint.py", "each not in now.choices(name)]", "False]", LINT, "removed"),
    Mutant(
        "a type may change",
        "release/lint.py",
        "        elif before.get(",
        "        elif not before.get(",
        LINT,
        "type",
    ),
    Mutant(
        "a question may go without a plan",
        "release/lint.py",
        "if name not in plans:",
        "if False:",
        LINT,
        "removed",
    ),
    Mutant(
        "a refused answer passes",
        "release/lint.py",
        "if said := now.refusal(name, answer):",
        "if said := release.refusal(name, answer):",
        LINT,
        "lose_an_answer",
    ),
    Mutant("lengths are not tried", "release/stored.py", '"a" * length', '"a"', LINT, "shorter"),
    Mutant("characters are not tried", "release/stored.py", ", *CHARACTERS)", ", *())", LINT, "character"),
    Mutant(
        "plans are believed",
        "release/lint.py",
        "if becomes != expected:",
        "if False:",
        LINT,
        "carries_nothing or proven",
    ),
    Mutant(
        "a list may shrink",
        "release/lint.py",
        "if line not in after.lines:",
        "if False:",
        LINT,
        "seed or retired",
    ),
    Mutant(
        "a path may change hands",
        "release/lint.py",
        "if release.ownership.is_teams(path):",
        "if False:",
        LINT,
        "seed",
    ),
    Mutant(
        "what is dropped need not be retired",
        "release/lint.py",
        "and not now.ownership.is_teams(path)",
        "and False",
        LINT,
        "dropped",
    ),
    Mutant(
        "a path may come back",
        "release/lint.py",
        "seen - release.paths",
        "release.paths - seen",
        LINT,
        "taken_up",
    ),
    Mutant(
        "any commit is a release", "release/record.py", "if stated != version:", "if False:", RECORD, "fault"
    ),
    Mutant(
        "notes may leave out a file",
        "release/record.py",
        "sorted(paths - set(",
        "sorted(paths & set(",
        RECORD,
        "notes_do_not_name",
    ),
    Mutant(
        "the old version's notes again",
        "update/notes.py",
        "start < version)",
        "start <= version)",
        NOTES,
        "between",
    ),
    Mutant(
        "a list that says why is not believed",
        "update/ownership.py",
        "never = NEVER_RENDERED in",
        "never = NEVER_RENDERED not in",
        OWNERSHIP,
        "says_why",
    ),
    Mutant(
        "a file in the way is overwritten",
        "update/decide.py",
        "return Kind.ADDED if now is None else Kind.COLLISION",
        "return Kind.ADDED",
        LIVES,
        "twenty",
    ),
    Mutant(
        "what was deleted comes back",
        "update/decide.py",
        "return Kind.DELETED",
        "return Kind.ADDED",
        LIVES,
        "twenty",
    ),
    Mutant(
        "an edit is replaced",
        "update/decide.py",
        "return Kind.KEPT if after == before else Kind.MERGE",
        "return Kind.CHANGED",
        LIVES,
        "twenty",
    ),
    Mutant(
        "an edit goes with a dropped file",
        "update/decide.py",
        "        return Kind.DROPPED",
        "        return Kind.REMOVED",
        HOSTILE,
        "has_dropped",
    ),
    Mutant(
        "what was given up is taken away",
        "update/decide.py",
        "if name in owner.retired:",
        "if False:",
        LIVES,
        "twenty",
    ),
    Mutant(
        "the team's is the standard's",
        "update/decide.py",
        "elif name in owner.seed:",
        "elif False:",
        LIVES,
        "twenty",
    ),
    Mutant(
        "a merge with markers will do",
        "update/carry.py",
        "return done.stdout if done.returncode == 0 else None",
        "return done.stdout",
        LIVES,
        "twenty",
    ),
    Mutant(
        "the team's side is not kept",
        "update/carry.py",
        "    tree.move(name, beside)",
        "    tree.take(name)",
        HOSTILE,
        "changed_line",
    ),
    Mutant(
        "a name beside that is taken is overwritten",
        "update/carry.py",
        "while not tree.is_free(found):",
        "while False:",
        HOSTILE,
        "taken",
    ),
    Mutant(
        "line ends count as edits",
        "update/template.py",
        'hashlib.sha256(content.replace(b"\\r\\n", b"\\n"))',
        "hashlib.sha256(content)",
        HOSTILE,
        "windows",
    ),
    Mutant(
        "hooks run",
        "update/git.py",
        '*("-c", f"core.hooksPath={os.devnull}"),',
        "",
        HOSTILE,
        "hooks",
    ),
    Mutant(
        "another repository's variables count",
        "update/git.py",
        "if name not in LOCAL",
        "if True",
        HOSTILE,
        "hooks",
    ),
    Mutant(
        "a forged version is believed",
        "update/template.py",
        "if _plain(held) == _plain(given):",
        "if True:",
        REFUSED,
        "not_of or nobodys",
    ),
    Mutant(
        "an older version is newer",
        "update/run.py",
        "if source.is_older(new, than=old):",
        "if False:",
        REFUSED,
        "older",
    ),
    Mutant(
        "a link is followed",
        "update/run.py",
        "if obstacle is not None and obstacle != name:",
        "if False:",
        HOSTILE,
        "link_in_place_of_the_harness",
    ),
    Mutant(
        "what is lost is not looked for",
        "update/run.py",
        "    if lost:",
        "    if False:",
        REFUSED,
        "defect",
    ),
    Mutant(
        "markers are not looked for",
        "update/run.py",
        "or _marked(tree.content(name))",
        "or False",
        REFUSED,
        "conflict",
    ),
    Mutant(
        "rejects are not looked for",
        "update/run.py",
        'name.endswith((".rej", ".orig")) or',
        "False or",
        REFUSED,
        "conflict",
    ),
    Mutant(
        "a conflict is a success",
        "update/report.py",
        "    for name in report.trouble:",
        "    for name in []:",
        REFUSED,
        "conflict",
    ),
    Mutant(
        "a changed answer is a success",
        "update/report.py",
        "    for name, (old, new) in report.changed.items():",
        "    for name, (old, new) in {}.items():",
        REFUSED,
        "became_another",
    ),
    Mutant(
        "failed tests are a success",
        "update/report.py",
        "if report.tests.passed is False:",
        "if False:",
        "tests/update/test_trial.py",
        "fail",
    ),
    Mutant(
        "an earlier branch is taken for this one",
        "update/worktree.py",
        'for what in ("^{tree}", "^"):',
        'for what in ("^{tree}",):',
        REFUSED,
        "branch_that_is",
    ),
    Mutant(
        "a work tree of the team's is forgotten",
        "update/worktree.py",
        "    _forget_the_dead(pilot)",
        '    git(pilot.root, "worktree", "prune")',
        HOSTILE,
        "not_forgotten",
    ),
    Mutant(
        "ignored files are merged over",
        "update/run.py",
        "return [name for name in new if os.path.lexists(pilot.root / name)]",
        "return []",
        HOSTILE,
        "does_not_have",
    ),
    Mutant(
        "changes are put away for a merge",
        "update/git.py",
        '*("-c", "merge.autoStash=false"),',
        "",
        HOSTILE,
        "not_put_away",
    ),
    Mutant(
        "executable files lose it",
        "update/carry.py",
        "entry.mode if edited else mode_of(gives, name)",
        "mode_of(gives, name)",
        HOSTILE,
        "executed",
    ),
    Mutant(
        "whatever is decided is applied",
        "update/run.py",
        "and not report.needs_somebody:",
        ":",
        HOSTILE,
        "changed_line",
    ),
)


def text_of(mutant: Mutant) -> str:
    """The file that it edits."""
    return (ROOT / mutant.file).read_text(encoding="utf-8")


def verdict(mutant: Mutant) -> str:
    """``killed``; or what is wrong: it survived, no longer fits, or its tests could not be run."""
    if text_of(mutant).count(mutant.old) != 1:
        return f"its text is found {text_of(mutant).count(mutant.old)} times in {mutant.file}"
    part, _, name = mutant.file.partition("/")
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        copy = Path(scratch, PLACES[part])
        shutil.copytree(ROOT / part, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / name).write_text(text_of(mutant).replace(mutant.old, mutant.new), encoding="utf-8")
        compile((copy / name).read_text(encoding="utf-8"), mutant.file, "exec")
        code, output = _run_tests(scratch, mutant)
        if f"release under test: {copy}" not in output and f"update under test: {copy}" not in output:
            return f"the copy was not what was tested:\n{output[-2000:]}"
    return {0: "survived", 1: "killed"}.get(code, f"pytest ended with {code}:\n{output[-2000:]}")


def _run_tests(scratch: str, mutant: Mutant) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", mutant.tests, "-k", mutant.only, "-x", "-q", "-s", "--tb=no"]
    kept = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-o", f"pythonpath={scratch} tests ."],
        cwd=ROOT,
        env=kept | {"PYTHONDONTWRITEBYTECODE": "1", "HARNESS_MUTANT": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    wanted = " ".join(sys.argv[1:])
    trouble = 0
    for one in MUTANTS:
        if wanted in f"{one.file}: {one.name}":
            found = verdict(one)
            trouble += found != "killed"
            print(f"{found:<10} {one.file}: {one.name}", flush=True)
    sys.exit(bool(trouble))
