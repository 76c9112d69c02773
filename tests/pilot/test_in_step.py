"""Whether the last run belongs to what is here: asked of DVC (`pilot run --check`), and read without (PT401).

The two must agree, in the pilot that ran and in a clone of it that has no data.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mistakes.planted import Pilot
from pilot_template.hooks import CHECKS, Outcome, Status, Tree, run
from repositories import bare_environment, commit, equip, git

pytestmark = pytest.mark.timeout(300)
(PIPELINE_LOCK,) = [check for check in CHECKS if check.id == "PT401"]
MEND = "Run `pilot run`, and commit dvc.lock and evidence/ together with what changed."


def read_without_dvc(pilot: Pilot) -> Outcome:
    return run(PIPELINE_LOCK, Tree(pilot.root))


@pytest.fixture
def committed(modelled: Pilot) -> Pilot:
    """A pilot whose run is committed."""
    commit(modelled.root, "A run")
    return modelled


@pytest.fixture
def clone(trained_once: Pilot, tmp_path: Path) -> Pilot:
    """A clone of such a pilot, as CI has it: no data, no cache, nothing that was run."""
    whole = Path(shutil.copytree(trained_once.root / ".git", tmp_path / "whole" / ".git")).parent
    for name in ("dvc.lock", "evidence"):
        place = trained_once.root / name
        (shutil.copytree if place.is_dir() else shutil.copy)(place, whole / name)
    git(whole, "add", "dvc.lock", "evidence")
    git(whole, "commit", "--quiet", "--message", "A run")
    git(tmp_path, "clone", "--quiet", str(whole), str(tmp_path / "clone"))
    pilot = Pilot(tmp_path / "clone")
    assert not (pilot.root / "data").exists()
    return pilot


def test_a_clone_without_data_is_in_step_and_nothing_is_trained(clone: Pilot) -> None:
    said = clone.works("run", "--check").stdout
    assert said == "In step: dvc.lock and evidence/ belong to this code, these parameters and these pins.\n"
    assert read_without_dvc(clone).status is Status.PASSED
    assert not (clone.root / "data").exists()
    assert git(clone.root, "status", "--porcelain") == ""
    told = json.loads(clone.works("run", "--check", "--json").stdout)
    assert told == {"committed": True, "in_step": True, "changed": {}}


def test_the_pilot_that_ran_is_in_step(committed: Pilot) -> None:
    committed.works("run", "--check")
    assert read_without_dvc(committed).status is Status.PASSED


def test_a_pilot_without_a_run_says_that_there_is_none(new: Pilot) -> None:
    said = new.works("run", "--check").stdout
    assert said == "No run has been committed yet, so there is nothing to reproduce.\n"
    told = json.loads(new.works("run", "--check", "--json").stdout)
    assert told == {"committed": False, "in_step": False, "changed": {}}, "no run is no pass"
    assert read_without_dvc(new).status is Status.SKIPPED


def another_lock(pilot: Pilot) -> None:
    """A merge that took one stage from one side and the next from the other."""
    lock = yaml.safe_load((pilot.root / "dvc.lock").read_text())
    lock["stages"]["train"]["outs"][0]["md5"] = "0" * 32 + ".dir"
    (pilot.root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))


def stage_taken_out(pilot: Pilot) -> None:
    lock = yaml.safe_load((pilot.root / "dvc.lock").read_text())
    del lock["stages"]["evaluate"]
    (pilot.root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))


def appended(name: str, text: str) -> Callable[[Pilot], None]:
    def append(pilot: Pilot) -> None:
        with (pilot.root / name).open("a") as stream:
            stream.write(text)

    return append


def deleted(name: str) -> Callable[[Pilot], None]:
    return lambda pilot: (pilot.root / name).unlink()


def added(name: str) -> Callable[[Pilot], None]:
    def add(pilot: Pilot) -> None:
        (pilot.root / name).write_text("x = 1\n")
        git(pilot.root, "add", name)

    return add


# What changed, the stages that would run again, and why.
CHANGES: dict[str, tuple[Callable[[Pilot], None], tuple[str, ...], str]] = {
    "a line of code": (
        appended("src/late_payment/features.py", "# x\n"),
        ("ingest", "profile", "validate", "features", "train", "evaluate", "package"),
        "src/late_payment",
    ),
    "a new file of code": (
        added("src/late_payment/more.py"),
        ("ingest", "profile", "validate", "features", "train", "evaluate", "package"),
        "src/late_payment",
    ),
    "a line of the harness": (
        appended("harness/src/harness/errors.py", "# x\n"),
        ("ingest", "profile", "validate", "features", "train", "evaluate", "package"),
        "harness/src/harness",
    ),
    "a pin": (
        appended("harness/constraints.txt", "# x\n"),
        ("ingest", "profile", "validate", "features", "train", "evaluate", "package"),
        "harness/constraints.txt",
    ),
    "a parameter": (
        lambda pilot: pilot.edit("params.yaml", "rounds: 50", "rounds: 60"),
        ("train",),
        "train in params.yaml",
    ),
    "a setting": (
        lambda pilot: pilot.edit("pilot.toml", "max_bad_share = 0.05", "max_bad_share = 0.5"),
        ("profile", "validate", "features"),
        "data in pilot.toml",
    ),
    "evidence that was edited": (
        appended("evidence/metrics.json", "\n"),
        ("evaluate", "package"),
        "evidence/metrics.json",
    ),
    "evidence that was deleted": (deleted("evidence/quality.json"), ("validate",), "evidence/quality.json"),
    "a lock file of two halves": (another_lock, ("evaluate", "package"), "data/model"),
    "a stage that the lock file lacks": (stage_taken_out, ("evaluate",), ""),
    "another command": (
        lambda pilot: pilot.edit("dvc.yaml", "harness.pipeline train", "harness.pipeline train "),
        (),
        "",
    ),
    "a command that does more": (
        lambda pilot: pilot.edit("dvc.yaml", "harness.pipeline train", "harness.pipeline train --fast"),
        ("train",),
        "changed command",
    ),
}


# Found in the same way as their neighbours.
RARE = ("a new file of code", "evidence that was deleted", "a stage that the lock file lacks")


@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=pytest.mark.slow) if name in RARE else name for name in CHANGES]
)
def test_what_would_run_again_is_named_by_both(clone: Pilot, change: str) -> None:
    make, stages, why = CHANGES[change]
    make(clone)
    done = clone.run("run", "--check")
    outcome = read_without_dvc(clone)
    if not stages:
        assert (done.code, outcome.status) == (0, Status.PASSED), done.stderr
        return
    assert done.code == 1
    assert done.line.startswith(
        f"pilot: dvc.lock: these stages would run again: {', '.join(stages)}, because"
    )
    assert why in done.line
    assert done.line.endswith(MEND)
    assert outcome.status is Status.FAILED
    assert {finding.file for finding in outcome.findings} == {"dvc.lock"}
    for stage in stages:
        assert any(f"stage {stage}" in finding.what for finding in outcome.findings), outcome
    assert not (clone.root / "data").exists(), "something was run"


def test_what_none_of_them_depends_on_changes_nothing(clone: Pilot) -> None:
    (clone.root / "README.md").write_text("Ours.\n")
    clone.edit("pilot.toml", "port = 8080", "port = 8081")
    clone.edit("params.yaml", "learning_rate: 0.1", "learning_rate: 1.0e-1  # the same")
    (clone.root / "src/late_payment/__pycache__").mkdir(exist_ok=True)
    (clone.root / "src/late_payment/__pycache__/x.pyc").write_bytes(b"x")
    clone.works("run", "--check")
    assert read_without_dvc(clone).status is Status.PASSED


def test_data_that_was_changed_by_hand_is_seen_where_there_is_data(committed: Pilot) -> None:
    (committed.root / "data" / "model" / "more.txt").write_text("x")
    done = committed.run("run", "--check")
    assert done.code == 1
    assert "data/model" in done.line


def test_evidence_without_a_lock_file_is_no_fresh_pilot(clone: Pilot) -> None:
    (clone.root / "dvc.lock").unlink()
    done = clone.run("run", "--check")
    assert done.code == 1
    assert "dvc.lock: it is missing, and evidence/metrics.json claims that there was a run" in done.line
    assert read_without_dvc(clone).status is Status.FAILED


def test_a_lock_file_that_is_none_is_no_pass(clone: Pilot) -> None:
    (clone.root / "dvc.lock").write_text("<<<<<<< ours\n")
    done = clone.run("run", "--check")
    assert done.code == 2
    assert "dvc.lock" in done.line
    assert read_without_dvc(clone).status is Status.FAILED


@pytest.mark.parametrize(
    "text", [None, "stages: [", "stages:\n  train:\n    foreach: [a]\n    do: {cmd: x}\n"]
)
def test_a_pipeline_that_cannot_be_read_without_dvc_is_unknown(clone: Pilot, text: str | None) -> None:
    if text is None:
        (clone.root / "dvc.yaml").unlink()
    else:
        (clone.root / "dvc.yaml").write_text(text)
    assert read_without_dvc(clone).status is Status.UNKNOWN


def test_one_asks_while_another_runs(clone: Pilot) -> None:
    from harness.pipeline.reproduce import alone

    with alone(clone.root):
        done = clone.run("run", "--check")
    assert done.code == 2
    assert "another `pilot run` is under way" in done.line


def test_make_reproduce_says_the_same(clone: Pilot, tmp_path: Path) -> None:
    import subprocess

    equip(clone.root)
    environment = bare_environment(tmp_path / "home")

    def make() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "reproduce"], cwd=clone.root, env=environment, capture_output=True, text=True
        )

    assert make().returncode == 0
    clone.edit("params.yaml", "rounds: 50", "rounds: 60")
    done = make()
    assert done.returncode == 2
    assert "these stages would run again: train" in done.stderr
    assert "Error 1" in done.stderr
