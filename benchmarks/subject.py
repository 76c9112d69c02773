"""What is measured: one pilot with default answers, used by every benchmark, and services as processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.progress import working
from measure import ROOT, SCRATCH

INSIDE = Path(__file__).parent / "inside"
PILOT = SCRATCH / "bench-pilot"
PARTS = ("copier.yml", "questions", "ownership", "template")
LITTER = shutil.ignore_patterns("__pycache__", "*.py[co]", "*.egg-info", ".venv", ".*_cache")
IDENTITY = ("-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "commit.gpgsign=false")


def copy_template(folder: Path) -> Path:
    """The template in a plain folder, without git and without what tools left behind."""
    folder.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=LITTER)
        else:
            shutil.copy2(ROOT / part, folder / part)
    return folder


def commit(folder: Path) -> None:
    """Make the folder a repository with one commit."""
    run(["git", "init", "--quiet", "--initial-branch=main"], folder)
    run(["git", "add", "--all"], folder)
    run(["git", *IDENTITY, "commit", "--quiet", "--message", "start"], folder)


def render(template: Path, pilot: Path) -> None:
    """`copier copy --defaults`, as a whole process; whatever the pilot's folder holds is deleted."""
    shutil.rmtree(pilot, ignore_errors=True)
    copier = ROOT / ".venv" / "bin" / "copier"
    run([str(copier), "copy", "--quiet", "--defaults", str(template), str(pilot)], template)


def new_pilot(folder: Path) -> Path:
    """A pilot with default answers and a first commit; not set up."""
    template = SCRATCH / "bench-template"
    shutil.rmtree(template, ignore_errors=True)
    render(copy_template(template), folder)
    commit(folder)
    return folder


def pilot() -> Path:
    """A pilot that is set up, has run its pipeline and can serve; made anew when the template changed."""
    stamp = SCRATCH / "bench-pilot.sha256"
    wanted = fingerprint()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return PILOT
    stamp.unlink(missing_ok=True)
    with working("a pilot to measure") as report:
        report("copier copy", 0.0)
        new_pilot(PILOT)
        report("make setup", 0.1)
        run(["make", "setup"], PILOT)
        report("pilot simulate", 0.6)
        run([".venv/bin/pilot", "simulate"], PILOT)
        report("pilot run", 0.7)
        run([".venv/bin/pilot", "run"], PILOT)
    stamp.write_text(wanted, encoding="utf-8")
    return PILOT


def fingerprint() -> str:
    """A digest of all that a rendered pilot depends on."""
    found = hashlib.sha256()
    for part in PARTS:
        files = sorted((ROOT / part).rglob("*")) if (ROOT / part).is_dir() else [ROOT / part]
        for file in files:
            relative = file.relative_to(ROOT)
            if file.is_file() and not LITTER(str(file.parent), list(relative.parts)):
                found.update(f"{relative}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def records(pilot: Path, count: int) -> list[dict[str, Any]]:
    """Records that the pipeline held back for the test, as a caller would send them."""
    answer = run([".venv/bin/python", str(INSIDE / "records.py"), str(count)], pilot)
    found: list[dict[str, Any]] = json.loads(answer)
    return found


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would change a pilot's behaviour or its interpreter."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PILOT_", "PYTHON", "VIRTUAL_ENV", "MAKE", "MFLAGS"))
    }
    return {**kept, "MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1", **more}


def run(command: Sequence[str], folder: Path) -> str:
    """Run to the end and give back what it printed; a failure shows everything that it said."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Service:
    """A service as a process, from its start to its end; it says `listening on URL` when it can be asked."""

    def __init__(self, command: Sequence[str], folder: Path, name: str, **variables: str) -> None:
        self.started, self.pid = 0.0, 0
        self._command, self._folder, self._variables = command, folder, variables
        self.log = SCRATCH / f"bench-{name}.log"

    def __enter__(self) -> str:
        with self.log.open("w", encoding="utf-8") as log:
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=environment(PYTHONUNBUFFERED="1", **self._variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid
        while time.perf_counter() < self.started + 60 and self._process.poll() is None:
            _, found, rest = self.log.read_text(encoding="utf-8").partition("listening on ")
            if found and "\n" in rest:
                return re.split(r"[\s\"]", rest)[0]  # the line may be JSON
            time.sleep(0.005)
        self._end()
        raise SystemExit(f"the service did not start:\n{self.log.read_text(encoding='utf-8')}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def decisions(name: str) -> Path:
    """The decision store of the service of that name."""
    return SCRATCH / f"bench-{name}-decisions.db"


def decision_service(
    pilot: Path, *arguments: str, name: str = "service", program: str = ".venv/bin/pilot"
) -> Service:
    """`pilot serve` on a port that the system chooses, with a decision store of its own.

    Args:
        pilot: The pilot.
        arguments: What follows `pilot serve --port 0`.
        name: Of its log and of its store.
        program: What is run in place of `pilot`: a script for the pilot's Python.
    """
    store = decisions(name)
    for file in (store, *(store.with_name(store.name + end) for end in ("-wal", "-shm"))):
        file.unlink(missing_ok=True)
    command = [".venv/bin/python", program, "serve", "--port", "0", *arguments]
    # What workers are forked from finds no other script beside the one that is run.
    return Service(command, pilot, name, PILOT_STORE__URL=f"sqlite:///{store}", PYTHONPATH=str(INSIDE))


def empty_service(pilot: Path, workers: int = 1) -> Service:
    """The floor: FastAPI and uvicorn with endpoints that do nothing, in the pilot's environment."""
    return Service([".venv/bin/python", str(INSIDE / "empty_service.py"), str(workers)], pilot, "empty")
