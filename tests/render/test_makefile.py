"""The pilot's Makefile, as far as it can be tried without installing anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def folder(pilot: Path, tmp_path: Path) -> Path:
    """A pilot of this test's own, in a folder whose name has a space."""
    return Path(shutil.copytree(pilot, tmp_path / "a pilot"))


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as on a fresh machine: no home, no settings, nobody at the keyboard."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder / "no-home")}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def test_make_alone_lists_the_targets(folder: Path) -> None:
    said = make(folder).stdout
    assert re.findall(r"^make ([a-z-]+)", said, re.M) == [
        *(
            "help",
            "setup",
            "demo",
            "test",
            "test-fast",
            "lint",
            "audit",
            "hooks",
            "reproduce",
            "monitor",
            "drill",
        ),
        *("update-check", "update", "propose-update", "format", "ui", "clean"),
    ]
    assert all(len(line) <= 100 for line in said.splitlines())


def test_without_a_usable_python_it_says_what_to_do(folder: Path) -> None:
    done = make(folder, "setup", "PYTHON=/nonexistent/python3")
    assert done.returncode == 2
    message = done.stderr.splitlines()[0]
    assert message.startswith("make setup: no usable Python")
    assert message.endswith("make setup PYTHON=/path/to/python3.12")
    assert not (folder / ".venv").exists()


def test_a_missing_file_of_the_harness_is_named(folder: Path) -> None:
    (folder / "harness" / "constraints.txt").unlink()
    done = make(folder, "setup")
    assert done.returncode == 2
    assert "git checkout -- harness/constraints.txt" in done.stderr.splitlines()[0]


def test_clean_leaves_state_and_data(folder: Path) -> None:
    kept = ["var/decisions.db", "data/records.parquet", "data/__pycache__/kept"]
    for name in [*kept, "src/x/__pycache__/gone", ".pytest_cache/gone"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert make(folder, "clean").returncode == 0
    assert all((folder / name).exists() for name in kept)
    assert not (folder / "src/x/__pycache__").exists()
    assert not (folder / ".pytest_cache").exists()


def test_an_override_takes_its_package_out_of_the_constraints(folder: Path) -> None:
    (folder / "harness/constraints.txt").write_text(
        "a-b==1 \\\n    --hash=sha256:01\nc==2 ; python_version < '3.12' \\\n    --hash=sha256:02\nc-d==3\n",
        encoding="utf-8",
    )
    program = 'show: ; @awk "$$without_overridden" overrides.txt harness/constraints.txt'
    assert make(folder, f"--eval={program}", "show").stdout.count("==") == 3
    (folder / "overrides.txt").write_text("# c-d==9\n  A_b>=2  # why\nc @ somewhere\n", encoding="utf-8")
    assert make(folder, f"--eval={program}", "show").stdout == "c-d==3\n"
