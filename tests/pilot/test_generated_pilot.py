"""A generated pilot, set up and run as its team would: by its Makefile, on one Python after the other."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from rendering import ROOT, copy_template, render

pytestmark = pytest.mark.timeout(1800)


def interpreter(version: str) -> str | None:
    """The interpreter of that version that the pilot's Makefile would find; None when there is none."""
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    for candidate in (f"python{version}", *map(str, installed)):
        found = shutil.which(candidate)
        # A pyenv shim is there for versions that are not chosen, and only fails when it is called.
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return found
    return None


def make(pilot: Path, *targets: str) -> str:
    """Run make in the pilot and give back all that it printed."""
    return run(pilot, "make", *targets)


def run(pilot: Path, *command: str) -> str:
    """Run a command in the pilot, which must succeed, and give back all that it printed."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PILOT_", "PYTEST_"))
    }
    done = subprocess.run(
        command,
        cwd=pilot,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=1740,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def alone() -> tuple[str, ...]:
    """How to run a command without any network; nothing where this account may not take it away."""
    found = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    may = shutil.which("unshare") and not subprocess.run([*found, "true"], capture_output=True).returncode
    return found if may else ()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_template(tmp_path_factory.mktemp("template"))


def new_pilot(template: Path, folder: Path, version: str) -> Path:
    pilot = render(template, folder / "pilot", {"python_version": version})
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], [*identity, "commit", "-q", "-m", "start"]):
        subprocess.run(["git", *command], cwd=pilot, check=True)
    return pilot


# The oldest and the newest bracket the one between, which `make test-full` runs too. The oldest goes the
# whole way, the demo without any network. The newest does what may differ by interpreter: the pinned versions
# can be installed and imported, a model can be trained, saved and loaded, the checks read the code alike.
# `make test-full` goes the whole way on all of them.
WHOLE = "the pilot's own `make test`, with the whole way"
QUICK = "its tests of its code and of its five files"


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        pytest.param("3.11", WHOLE, id="3.11"),
        pytest.param("3.13", QUICK, id="3.13"),
        pytest.param("3.12", WHOLE, id="3.12", marks=pytest.mark.slow),
        pytest.param("3.13", WHOLE, id="3.13 the whole way", marks=pytest.mark.slow),
    ],
)
def test_the_pilots_own_tests_pass(version: str, wanted: str, template: Path, tmp_path: Path) -> None:
    if interpreter(version) is None:
        pytest.skip(f"no Python {version} on this machine, and none may be downloaded")
    pilot = new_pilot(template, tmp_path, version)
    if version == "3.12":  # as the README has it: the demo is what sets a pilot up
        make(pilot, "demo")
    elif version == "3.11":
        make(pilot, "setup")
        tells_the_whole_story(pilot, run(pilot, *alone(), "make", "demo"))
    elif wanted == WHOLE:
        make(pilot, "setup")
    else:  # what is not compiled beforehand is compiled when it is imported
        make(pilot, "setup", "uv=.venv/bin/uv pip install --python .venv/bin/python --quiet")
    python = pilot / ".venv" / "bin" / "python"
    running = subprocess.run([python, "--version"], capture_output=True, text=True, check=True)
    assert running.stdout.startswith(f"Python {version}.")
    before = git(pilot, "status", "--porcelain")
    output = make(pilot, "lint", "test") if wanted == WHOLE else make(pilot, "lint") + quick(pilot)
    assert re.search(r"\d+ passed", output)
    assert "skipped" not in output
    assert "failed" not in output
    assert git(pilot, "status", "--porcelain") == before, "the tests left something behind in the work tree"


def quick(pilot: Path) -> str:
    """Load the libraries that a pilot uses, and run the tests that start no process; gives what is said."""
    libraries = (
        "dvc.cli, ibis.backends.duckdb, ibis.backends.postgres, lightgbm, mlflow, scipy.stats, sklearn"
    )
    code = f"import {libraries}, harness.cli, harness.monitor.watch, harness.serving.server, harness.tracking"
    tests = "-m pytest -rs tests/test_example.py harness/tests/test_standard_five_files.py"
    python = str(pilot / ".venv" / "bin" / "python")
    return run(pilot, python, "-c", code) + run(pilot, python, *tests.split())


def tells_the_whole_story(pilot: Path, output: str) -> None:
    deciders = re.findall(r"^  [123]: \w+ +by (model|fallback)", output, re.MULTILINE)
    assert deciders == ["model"] * 3 + ["fallback"] * 3 + ["model"] * 3
    assert "9 answered, 9 on record" in output
    assert re.search(r"INCONCLUSIVE .*\(exit code 3\)", output)
    assert re.search(r"REFUSED at shadow.*\(exit code 1\)", output)
    with sqlite3.connect(pilot / "var" / "decisions.db") as connection:
        stored = connection.execute(
            "select served_by, why, sandbox from decisions order by sequence"
        ).fetchall()
    assert [row[0] for row in stored] == deciders
    assert {row[1] for row in stored} == {"assigned", "killed"}
    assert all(row[2] for row in stored)
    published(pilot)
    assert not leftovers(pilot), "the demo left processes running"


def published(pilot: Path) -> None:
    """What MLflow has: the run with its figures and data, and the model behind the alias."""
    with sqlite3.connect(pilot / "var" / "mlflow" / "mlflow.db") as connection:

        def rows(query: str) -> list[tuple[str, ...]]:
            return connection.execute(query).fetchall()

        aliases = rows("select name, alias, version from registered_model_aliases")
        tags = dict(rows("select key, value from tags"))
        metrics = {name for (name,) in rows("select key from metrics")}
        params = dict(rows("select key, value from params"))
        data = dict(rows("select name, digest from datasets"))
        here = "join experiments using (experiment_id) where experiments.name = 'late_payment'"
        ids = rows(f"select run_uuid from runs {here}")
    assert [(name, alias) for name, alias, _ in aliases] == [("late_payment", "challenger")]
    manifest = pilot / "data" / "package" / "manifest.json"
    assert tags["git_tree"] == git(pilot, "rev-parse", "HEAD^{tree}")
    assert tags["origin"] == "simulated"
    assert tags["data_digest"] == json.loads(manifest.read_text())["data"]
    assert {"model.f1", "fallback.f1", "model_beats_fallback"} <= metrics
    assert params["train.rounds"] == "50"
    locked = (pilot / "dvc.lock").read_text()
    assert set(data) == {"data/raw", "data/valid.parquet", "data/features"}
    assert all(digest in locked for digest in data.values())
    ((run,),) = ids
    artifacts = pilot / "var" / "mlflow" / "artifacts" / run / "artifacts"
    assert (artifacts / "package" / "manifest.json").read_bytes() == manifest.read_bytes()
    cached = [file for file in (pilot / ".dvc" / "cache").rglob("*") if file.is_file()]
    assert not any(run.encode() in file.read_bytes() for file in cached), "a run id entered a cached stage"


def leftovers(pilot: Path) -> list[str]:
    """Command lines of processes that still run from the pilot's folder."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(pilot) in command:
            found.append(command)
    return found


def git(pilot: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=pilot, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_pilot_outside_git_says_so(template: Path, tmp_path: Path) -> None:
    """Outside any repository: /tmp is in none."""
    pilot = render(template, tmp_path / "pilot", {})
    done = subprocess.run(
        [os.sys.executable, "-m", "harness.cli", "--root", str(pilot), "run"],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT / "template" / "harness" / "src"),
            "GIT_CEILING_DIRECTORIES": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "not in a git repository" in done.stderr
    assert "git init" in done.stderr
    assert "Traceback" not in done.stderr
