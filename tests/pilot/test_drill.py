"""`pilot drill` in a generated pilot that has run its pipeline."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mistakes.planted import Pilot

Note = Callable[[str, int, Path], None]


def control(pilot: Pilot) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in (pilot.root / "var" / "control").iterdir()}


def test_the_kill_switch_of_a_generated_pilot_holds(modelled: Pilot) -> None:
    before = control(modelled)
    was = modelled.git("status", "--porcelain", "--untracked-files=all").splitlines()
    # Half a minute by itself, and more where others share the machine.
    done = subprocess.run(
        modelled.command("drill", "kill", "--json"),
        **modelled.options(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    kept = json.loads((modelled.root / "evidence" / "drills" / "kill.json").read_text(encoding="utf-8"))
    assert kept == said
    assert {check["outcome"] for check in said["checks"]} == {"passed"}
    assert said["figures"]["errors_5xx"] == said["figures"]["no_answer"] == 0
    assert control(modelled) == before
    assert not (modelled.root / "var" / "drills").exists()
    now = modelled.git("status", "--porcelain", "--untracked-files=all").splitlines()
    assert set(now) - set(was) == {"?? evidence/drills/kill.json"}


@pytest.mark.parametrize("name", ["data-quality", "integration"])
def test_the_data_checks_and_the_delivery_of_a_generated_pilot_hold(modelled: Pilot, name: str) -> None:
    done = subprocess.run(
        modelled.command("drill", name, "--json"),
        **modelled.options(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {check["outcome"] for check in json.loads(done.stdout)["checks"]} == {"passed"}
    assert (modelled.root / "evidence" / "drills" / f"{name}.json").is_file()
    assert not (modelled.root / "var" / "drills").exists()


@pytest.mark.slow  # tests/harness/test_load.py does so with the tiny pilot
def test_a_generated_pilot_is_held_to_its_slo(modelled: Pilot) -> None:
    """Whether the SLO holds hangs on what else this machine does; what is told of it does not."""
    done = subprocess.run(
        modelled.command("load", "--seconds", "10", "--step", "0", "--json"),
        **modelled.options(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode in (0, 1, 3), done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert done.returncode == {"met": 0, "missed": 1, "inconclusive": 3}[said["verdict"]]
    assert json.loads((modelled.root / "evidence" / "load.json").read_text(encoding="utf-8")) == said
    assert said["volume"]["requests"] == 500
    assert said["volume"]["decided"] + sum(said["volume"]["errors"].values()) == 500
    assert said["volume"]["decided"] > 0
    assert said["volume"]["cpu_ms_per_decision"] > 0
    assert not (modelled.root / "var" / "drills").exists()


@pytest.mark.mistake("pilot drill kill before pilot run")
def test_a_drill_before_the_first_run_says_what_to_run(new: Pilot, note: Note) -> None:
    done = new.run("drill", "kill")
    note(done.line, done.code, new.root)
    assert done.code == 2
    assert done.line.endswith("there is no packaged model. Run `pilot run` to make one.")
    assert not (new.root / "evidence" / "drills").exists()


@pytest.mark.mistake("pilot drill of a drill that does not exist")
def test_a_drill_that_does_not_exist_is_named(new: Pilot, note: Note) -> None:
    done = new.run("drill", "fire")
    note(done.line, done.code, new.root)
    known = "kill, data-quality, integration, load, all, list"
    line = f"pilot: pilot drill: there is no drill 'fire'. Use one of: {known}."
    assert (done.code, done.line) == (2, line)
