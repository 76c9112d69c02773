"""Invert one promise of the conventions at a time, and see that a test notices.

``python tests/hooks/mutants.py [words]``, as tests/harness/mutants.py is for the harness.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = {"hooks": ROOT / "hooks", "harness": ROOT / "template" / "harness" / "src" / "harness"}
PLACES = {"hooks": Path("pilot_template", "hooks"), "harness": Path("harness")}
LITTER = shutil.ignore_patterns("__pycache__")

CHECKS, RESULTS = "tests/hooks/test_checks.py", "tests/hooks/test_results.py"
IN_STEP, REPRODUCE = "tests/pilot/test_in_step.py", "tests/harness/test_reproduce.py"


@dataclass(frozen=True)
class Mutant:
    """One edit and the tests that must notice it.

    Attributes:
        name: What the mutant does wrong.
        file: The file, from ``hooks`` or ``harness`` on.
        old: The text that is replaced; it occurs once.
        new: What replaces it.
        tests: The file of tests that must fail.
        only: pytest's -k.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    only: str


MUTANTS = (
    Mutant(
        "an edited file of the standard's passes",
        "hooks/checks/standard.py",
        "elif manifest.digest(content) != expected:",
        "elif not content:",
        CHECKS,
        "planted_fault and edited",
    ),
    Mutant(
        "a file beside the standard's passes",
        "hooks/checks/standard.py",
        'if name.startswith("harness/") and name not in listed',
        'if name.startswith("harness/") and name in listed',
        CHECKS,
        "team and harness",
    ),
    Mutant(
        "a list of hashes that was edited together with a file passes",
        "hooks/checks/standard.py",
        "if tree.same_version and text != manifest.own():",
        "if tree.same_version and not text:",
        CHECKS,
        "who_edits",
    ),
    Mutant(
        "a version that was written by hand passes",
        "hooks/checks/answers.py",
        "if rev != version:",
        "if not rev:",
        CHECKS,
        "newer",
    ),
    Mutant(
        "a mistake in a governance document passes",
        "hooks/checks/governance.py",
        "for wrong in kind.examine(tree.root)[1]:",
        "for wrong in kind.examine(tree.root)[1][:0]:",
        CHECKS,
        "governance",
    ),
    Mutant(
        "an end marker alone passes",
        "hooks/checks/repository.py",
        "^(<{7}|>{7}",
        "^(<{7}|>{9}",
        CHECKS,
        "conflict",
    ),
    Mutant(
        "a file that git took in as binary passes",
        "hooks/checks/repository.py",
        "elif name in binary and",
        "elif name not in binary and not",
        CHECKS,
        "binary",
    ),
    Mutant(
        "a check that could not look has passed",
        "hooks/check.py",
        "return Outcome(check.id, Status.UNKNOWN, reason=str(reason))",
        "return Outcome(check.id, Status.PASSED, reason=str(reason))",
        RESULTS,
        "could_not_look",
    ),
    Mutant(
        "what nobody could look at ends with 0",
        "hooks/cli.py",
        "return 3 if any(",
        "return 0 if any(",
        RESULTS,
        "exit_codes",
    ),
    Mutant(
        "a failed check ends with 0",
        "hooks/cli.py",
        "if Status.FAILED in errors:",
        "if Status.SKIPPED in errors:",
        RESULTS,
        "exit_codes",
    ),
    Mutant(
        "evidence without a lock file is taken for a new pilot",
        "hooks/checks/pipeline.py",
        "        if not left:",
        "        if left or not left:",
        IN_STEP,
        "no_fresh_pilot",
    ),
    Mutant(
        "a parameter that changed passes without DVC",
        "hooks/checks/pipeline.py",
        "if key not in locked.params or not same_value(value, locked.params[key]):",
        "if key not in locked.params:",
        IN_STEP,
        "named_by_both and parameter",
    ),
    Mutant(
        "a lock file of two halves passes",
        "harness/pipeline/reproduce.py",
        "if made.get(path, was) != was]",
        "if made.get(path, was) == None]",
        REPRODUCE,
        "two_halves",
    ),
    Mutant(
        "evidence that is gone counts as data that a clone does not have",
        "harness/pipeline/reproduce.py",
        'path.startswith("data/") and state in ABSENT',
        "state in ABSENT",
        REPRODUCE,
        "clone_does_not_have",
    ),
    Mutant(
        "a stage that always runs has always changed",
        "harness/pipeline/reproduce.py",
        'if entry != "always changed":',
        'if entry != "":',
        REPRODUCE,
        "clone_does_not_have",
    ),
)


def text_of(mutant: Mutant) -> str:
    """The file that it edits."""
    part, _, name = mutant.file.partition("/")
    return (SOURCES[part] / name).read_text(encoding="utf-8")


def verdict(mutant: Mutant) -> str:
    """``killed``; or what is wrong: it survived, no longer fits, or its tests could not be run."""
    if text_of(mutant).count(mutant.old) != 1:
        return f"its text is found {text_of(mutant).count(mutant.old)} times in {mutant.file}"
    part, _, name = mutant.file.partition("/")
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        copy = Path(scratch) / PLACES[part]
        shutil.copytree(SOURCES[part], copy, ignore=LITTER)
        if part == "hooks":
            shutil.copy(ROOT / "template" / "harness" / "MANIFEST.sha256", copy)
        (copy / name).write_text(text_of(mutant).replace(mutant.old, mutant.new), encoding="utf-8")
        compile((copy / name).read_text(encoding="utf-8"), mutant.file, "exec")
        code, output = _run_tests(Path(scratch), mutant)
    if f"under test: {copy}" not in output:
        return f"the copy was not what was tested:\n{output[-2000:]}"
    return {0: "survived", 1: "killed"}.get(code, f"pytest ended with {code}:\n{output[-2000:]}")


def _run_tests(source: Path, mutant: Mutant) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", mutant.tests, "-k", mutant.only, "-x", "-q", "-s", "--tb=no"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"} | {
        "PYTHONPATH": os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HARNESS_MUTANT": "1",
    }
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=environment,
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
