"""Imports point one way, and a service stays free of the training stack: held by import-linter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rendering import ROOT

SOURCE = ROOT / "template" / "harness" / "src"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over the harness below ``folder``, with the contracts of this repository."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    return subprocess.run(
        [*command, "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contracts_hold() -> None:
    done = lint(SOURCE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("harness/store/decisions.py", "import harness.control.state", "Imports point one way"),
        ("harness/settings.py", "import harness.pilot", "Imports point one way"),
        ("harness/serving/app.py", "import harness.testing", "Imports point one way"),
        ("harness/serving/scorer.py", "import mlflow", "A service needs neither"),
        ("harness/pipeline/manifest.py", "import harness.data.engine", "A service needs neither"),
    ],
)
def test_an_import_the_other_way_is_found(file: str, line: str, contract: str, tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    planted = tmp_path / "src" / file
    planted.write_text(planted.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = lint(tmp_path / "src")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract}" in done.stdout
    assert "BROKEN" in done.stdout
