"""Ctrl-C, SIGTERM, SIGKILL, and two runs at once: nothing is left behind, and the next run works."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from mistakes.planted import Ended, Pilot

pytestmark = pytest.mark.timeout(300)
Note = Callable[..., None]
STAGES = ("ingest", "profile", "validate", "features", "train", "evaluate", "package", "publish")
# Those that speak to somebody, or write what a service or the next run could take for whole.
TRIED = ("ingest", "train", "package", "publish")
HOLD = """
import sys, zc.lockfile
held = zc.lockfile.LockFile(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""
SLOW = "import time; print('now', flush=True); time.sleep(60)"


@contextmanager
def started(pilot: Pilot, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, as a terminal starts it."""
    process = subprocess.Popen(
        pilot.command(*command),
        **pilot.options(),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=(pilot.root / "stdout").open("w"),
        stderr=(pilot.root / "stderr").open("w"),
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def said(pilot: Pilot) -> str:
    return (pilot.root / "stdout").read_text() + (pilot.root / "stderr").read_text()


def await_text(pilot: Pilot, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in said(pilot):
        assert time.monotonic() < deadline, said(pilot)
        time.sleep(0.01)


def ended(pilot: Pilot, process: subprocess.Popen[str]) -> Ended:
    code = process.wait(timeout=90)
    return Ended(code, (pilot.root / "stdout").read_text(), (pilot.root / "stderr").read_text())


def leftovers(pilot: Pilot) -> list[str]:
    """Processes that still run on the pilot, its databases included."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        told = " ".join([*(process.info["cmdline"] or []), "in", process.info["cwd"] or ""])
        if str(pilot.root) in told:
            found.append(told)
    return found


def nothing_left(pilot: Pilot) -> None:
    assert not leftovers(pilot)
    assert not pilot.parts()


def slow(pilot: Pilot, stage: str) -> None:
    """Let a stage take a minute, in code that is the standard's: it is only to be interrupted."""
    file = pilot.root / "harness" / "src" / "harness" / "pipeline" / "stages" / f"{stage}.py"
    text = file.read_text()
    run = text.index("\ndef run(")
    place = text.rindex("\n    return ", run, text.find("\ndef ", run + 1)) + 1
    file.write_text(text[:place] + f"    {SLOW}\n" + text[place:])


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(
            stage,
            marks=[
                pytest.mark.mistake(f"Ctrl-C in the stage {stage}"),
                *([] if stage in TRIED else [pytest.mark.slow]),
            ],
        )
        for stage in STAGES
    ],
)
def test_ctrl_c_in_a_stage(stage: str, request: pytest.FixtureRequest, note: Note) -> None:
    trained: Pilot = request.getfixturevalue("trained" if stage == "ingest" else "modelled")
    before = trained.written()
    slow(trained, stage)
    with started(trained, "stage", stage) as process:
        await_text(trained, "now")
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # the impatient press it twice
        end = ended(trained, process)
    assert end.code == 130
    assert "interrupted" in end.line
    nothing_left(trained)
    if stage in ("train", "package"):
        trained.git("checkout", "-q", "-f", "--", ".")
        assert {path: size for path, (size, _) in trained.written().items()} == {
            path: size for path, (size, _) in before.items()
        }
    note(end.line, end.code, trained.root)


@pytest.mark.mistake("Ctrl-C in pilot run")
def test_ctrl_c_in_a_run(trained: Pilot, note: Note) -> None:
    with started(trained, "run") as process:
        await_text(trained, "ingest …")
        time.sleep(0.7)  # the embedded database is up by now, or coming
        os.killpg(process.pid, signal.SIGINT)
        end = ended(trained, process)
    assert end.code == 130
    assert "interrupted" in end.line
    nothing_left(trained)
    note(end.line, end.code, trained.root)
    trained.works("stage", "ingest")  # a whole run works even after SIGKILL, see below


@pytest.mark.mistake("SIGTERM to pilot run")
def test_sigterm_to_a_run_ends_all_of_it(trained: Pilot, note: Note) -> None:
    slow(trained, "ingest")
    trained.git("add", "-A")
    with started(trained, "run") as process:
        await_text(trained, "now")
        process.send_signal(signal.SIGTERM)  # to this one process, as a supervisor does
        end = ended(trained, process)
    assert end.code == 130
    assert "interrupted" in end.line
    nothing_left(trained)
    note(end.line, end.code, trained.root)
    trained.git("checkout", "-q", "-f", "HEAD", "--", "harness")
    trained.works("stage", "ingest")


def test_sigkill_to_a_run_and_all_that_it_started(trained: Pilot) -> None:
    with started(trained, "run") as process:
        await_text(trained, "ingest …")
        time.sleep(0.7)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    trained.works("run")
    nothing_left(trained)


@pytest.mark.mistake("a second pilot run at the same time")
def test_two_runs_at_once(trained: Pilot, note: Note) -> None:
    with started(trained, "run") as process:
        await_text(trained, "ingest …")
        second = trained.run("run")
        assert second.code == 2
        assert f"another `pilot run` is under way (process {process.pid})" in second.line
        # Without the first one's process its DVC goes on, and keeps others out until it has finished.
        process.kill()
        process.wait()
        third = trained.run("run")
        assert "another `pilot run` is under way" in third.line
        deadline = time.monotonic() + 60
        while leftovers(trained):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    note(second.line, second.code, trained.root)
    trained.works("run")


@pytest.mark.mistake("pilot run while somebody runs DVC by hand")
def test_a_lock_of_dvcs(trained: Pilot, note: Note) -> None:
    lock = trained.root / ".dvc" / "tmp" / "lock"
    command = [trained.command()[0], "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        end = trained.run("run")
        holder.communicate("")
    assert end.code == 2
    assert "another DVC process is at work here" in end.line
    assert "Wait" in end.line
    note(end.line, end.code, trained.root)


@pytest.mark.mistake("Ctrl-C in pilot simulate")
def test_ctrl_c_in_a_simulation(trained: Pilot, note: Note) -> None:
    before = trained.written()
    with started(trained, "simulate", "--rows", "300000") as process:
        await_text(trained, "simulate …")
        time.sleep(2)
        os.killpg(process.pid, signal.SIGINT)
        end = ended(trained, process)
    assert end.code == 130
    assert "interrupted" in end.line
    nothing_left(trained)
    assert trained.written() == before
    note(end.line, end.code, trained.root)
    # What lay there lies there still, and is still known to be simulated.
    trained.works("stage", "ingest")
    assert '"simulated"' in (trained.root / "data" / "origin.json").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_service_that_is_told_to_end_ends_well(number: signal.Signals, new: Pilot) -> None:
    with started(new, "serve", "--port", "0") as process:
        await_text(new, "listening on")
        time.sleep(0.2)
        os.killpg(process.pid, number)
        end = ended(new, process)
    assert end.code == 0
    assert "Traceback" not in end.stderr
    assert not leftovers(new)


@pytest.mark.mistake("Ctrl-C in pilot demo")
def test_ctrl_c_in_a_demo(trained: Pilot, note: Note) -> None:
    with started(trained, "demo") as process:
        await_text(trained, "simulate …")
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        end = ended(trained, process)
    assert end.code == 130
    nothing_left(trained)
    lines = [line for line in end.stderr.splitlines() if line.startswith("pilot: ")]
    assert "interrupted" in lines[-1]
    assert "Traceback" not in end.stderr
    note(lines[-1], end.code, trained.root)
