"""How long does an update take? `pilot-update` beside plain `copier update`, from each release on.

Whole processes in turns, each on a pilot of its own; without the pilot's tests, and without the environment
that `pilot update` installs first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import subject
from measure import ROOT, SCRATCH, Row, publish, take_turns

ROUNDS = 5
TARGET = 1.5
NEWEST = "999.0.0"
PLACE = SCRATCH / "bench-update"


def main() -> None:
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    template = PLACE / "template"
    git(PLACE, "clone", "--quiet", str(ROOT), str(template))
    releases = tomllib.loads((ROOT / "tests/update/releases.toml").read_text(encoding="utf-8"))["releases"]
    for version, commit in releases.items():
        git(template, "tag", "--force", f"v{version}", commit)
    git(template, "tag", f"v{NEWEST}", "HEAD")
    rows = []
    for version in releases:
        pilot = PLACE / f"of-{version}"
        command = [
            "copier",
            "copy",
            "--quiet",
            "--defaults",
            f"--vcs-ref=v{version}",
            str(template),
            str(pilot),
        ]
        subprocess.run([str(Path(sys.executable).with_name("copier")), *command[1:]], check=True)
        subject.commit(pilot)
        measured = take_turns(
            {"pilot-update": timed(pilot, ours(template)), "copier update": timed(pilot, plain())},
            rounds=ROUNDS,
            title=f"from {version}",
        )
        own, other = measured["pilot-update"], measured["copier update"]
        what = f"pilot-update from {version}, without tests and environment"
        rows.append(Row(what, own, "s", "copier update", other, TARGET, target_is_ratio=True))
    shutil.rmtree(PLACE)
    publish("update", rows)


def ours(template: Path) -> Callable[[Path], list[str]]:
    """The updater on a pilot."""
    words = ["--to", NEWEST, "--clone", str(template), "--no-tests"]
    return lambda pilot: [sys.executable, "-m", "pilot_template.update.cli", "--root", str(pilot), *words]


def plain() -> Callable[[Path], list[str]]:
    """Copier on a pilot."""
    copier = str(Path(sys.executable).with_name("copier"))
    words = ["update", "--quiet", "--defaults", f"--vcs-ref=v{NEWEST}"]
    return lambda pilot: [copier, *words, str(pilot)]


def timed(pilot: Path, command: Callable[[Path], list[str]]) -> Callable[[], float]:
    """Seconds of a whole process, each time on a copy of the pilot."""

    def run() -> float:
        copy = PLACE / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(pilot, copy, symlinks=True)
        start = time.perf_counter()
        done = subprocess.run(command(copy), capture_output=True, text=True, check=False)
        taken = time.perf_counter() - start
        if done.returncode != 0:
            raise SystemExit(f"{command(copy)} failed:\n{done.stdout}{done.stderr}")
        return taken

    return run


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)


if __name__ == "__main__":
    main()
