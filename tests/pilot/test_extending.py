"""Each place where a team extends the standard, used in a generated pilot.

The whole list: docs/reference/extending.md.

Hooks: test_pre_commit.py. Signals: tests/harness/test_monitor_command.py.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from mistakes.planted import Pilot
from pilot_template.hooks import CHECKS, Status, Tree, run
from rendering import ROOT
from repositories import bare_environment, commit, equip, git

pytestmark = pytest.mark.timeout(300)
PAGE = ROOT / "docs" / "reference" / "extending.md"
(STANDARD_FILES,) = [check for check in CHECKS if check.name == "standard-files"]


def untouched(root: Path) -> bool:
    """Whether every file of the standard's is as it was given."""
    git(root, "add", "--all")
    return run(STANDARD_FILES, Tree(root, same_version=True)).status is Status.PASSED


def example(title: str, language: str) -> str:
    """The example that the page gives below a heading."""
    part = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"```{language}\n(.*?)```", part, re.S)
    return str(found)


INVOICE = {
    "invoice_id": "R000000001",
    "account_no": "A-0000001",
    "due_on": "2026-03-31",
    "amount_eur": 1_200.0,
    "terms_days": 30,
    "due_month": 3,
    "segment": "retail",
    "country": "DE",
    "credit_limit_eur": 12_000.0,
    "customer_months": 40,
    "prior_invoices": 20,
    "prior_late_share": 0.05,
}
SUMMARY = """
import json
from pathlib import Path

import polars as pl

rows = pl.read_parquet("../data/valid.parquet").height
Path("summary.json").write_text(json.dumps({"records": rows}))
"""


@pytest.fixture
def reporting(trained: Pilot) -> Pilot:
    """A pilot with the stage that the page shows."""
    folder = trained.root / "reports"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(example("A stage", "yaml"), encoding="utf-8")
    (folder / "summary.py").write_text(SUMMARY, encoding="utf-8")
    return trained


@pytest.mark.slow
def test_a_stage_in_a_folder_of_the_teams_runs_with_the_pipeline(reporting: Pilot) -> None:
    assert reporting.run("run", "--check").code == 1
    reporting.works("run")
    counted = reporting.read("reports/summary.json")["records"]
    assert counted > 100
    assert reporting.works("run", "--check").stdout.startswith("In step")
    (reporting.root / "reports/summary.py").write_text(SUMMARY.replace("height", "width"), encoding="utf-8")
    ended = reporting.run("run", "--check")
    assert "reports/dvc.yaml:summary, because of reports/summary.py" in ended.line
    reporting.works("run")
    assert 1 < reporting.read("reports/summary.json")["records"] != counted
    assert untouched(reporting.root)


def test_a_stage_of_the_teams_that_fails_is_named_with_its_file(reporting: Pilot) -> None:
    (reporting.root / "reports/summary.py").write_text("raise SystemExit(4)\n", encoding="utf-8")
    ended = reporting.run("run")
    assert ended.code == 2
    assert ended.line.startswith("pilot: reports/dvc.yaml: DVC stopped: failed to reproduce")
    assert "python summary.py" in ended.line


def test_the_route_of_the_page_and_the_one_of_the_new_file_are_answered(modelled: Pilot) -> None:
    file = modelled.file("routes.py")
    fresh = file.read_text(encoding="utf-8")
    assert fresh.count("    # own.append(") == 1
    file.write_text(fresh.replace("    # own.append(", "    own.append("), encoding="utf-8")
    style = [sys.executable, "-m", "ruff", "format", "--check", str(file)]
    assert subprocess.run(style, cwd=modelled.root).returncode == 0
    with served(modelled) as url:
        answer = httpx.get(f"{url}/team/groups", trust_env=False, timeout=30)
        assert answer.json() == ["segment", "country"]
    file.write_text(example("A route", "python"), encoding="utf-8")
    with served(modelled) as url:
        given = [INVOICE, INVOICE | {"invoice_id": "R2"}]
        answer = httpx.post(f"{url}/team/many", json=given, trust_env=False, timeout=30)
        assert {each["decision"] for each in answer.json()} <= {"call", "wait"}, answer.text
        answer = httpx.post(f"{url}/team/many", json=[{}], trust_env=False, timeout=30)
        assert (answer.status_code, answer.json()["error"]) == (422, "invalid_request")
    assert recorded(modelled) == {"R000000001", "R2"}
    assert untouched(modelled.root)


def recorded(pilot: Pilot) -> set[str]:
    """The keys of the decisions on record."""
    with sqlite3.connect(pilot.root / "var" / "decisions.db") as connection:
        return {key for (key,) in connection.execute("select record_key from decisions")}


class served:
    """`pilot serve` for as long as the block lasts."""

    def __init__(self, pilot: Pilot) -> None:
        self.process = subprocess.Popen(
            pilot.command("serve", "--port", "0"),
            **pilot.options(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> str:
        said = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            said.append(line)
            if "listening on " in line:
                return line.rpartition("listening on ")[2].strip()
        raise AssertionError("".join(said))

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


def make(root: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=root,
        env=bare_environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_a_target_in_local_mk_runs_and_is_listed(fresh: Path, tmp_path: Path) -> None:
    equip(fresh)
    (fresh / "local.mk").write_text("ours: setup ## what we do\n\t@echo done by us\n", encoding="utf-8")
    assert re.search(r"^make ours +what we do$", make(fresh, tmp_path / "home", "help").stdout, re.M)
    assert make(fresh, tmp_path / "home", "ours").stdout == "done by us\n"
    assert untouched(fresh)


def test_dependencies_and_overrides_of_the_teams_are_what_setup_installs(fresh: Path, tmp_path: Path) -> None:
    equip(fresh)
    uv = fresh / ".venv" / "bin" / "uv"
    uv.unlink()
    uv.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called.txt\n', encoding="utf-8")
    uv.chmod(0o755)
    assert make(fresh, tmp_path / "home", "setup").stdout == "The pilot is set up: .venv/bin/pilot --help\n"
    time.sleep(0.02)
    project = fresh / "pyproject.toml"
    project.write_text(project.read_text().replace('harness",\n', 'harness",\n    "holidays",\n', 1))
    assert make(fresh, tmp_path / "home", "setup").returncode == 0
    (called,) = (tmp_path / "called.txt").read_text().splitlines()
    assert called.endswith("--editable harness[dev] --editable .")
    assert "--overrides" not in called
    assert re.search(r"^numpy==", (fresh / ".venv/constraints.txt").read_text(), re.M)
    time.sleep(0.02)
    with (fresh / "overrides.txt").open("a", encoding="utf-8") as stream:
        stream.write("numpy==2.1.0\n")
    assert make(fresh, tmp_path / "home", "setup").returncode == 0
    assert "--overrides overrides.txt" in (tmp_path / "called.txt").read_text().splitlines()[1]
    assert not re.search(r"^numpy==", (fresh / ".venv/constraints.txt").read_text(), re.M)
    assert untouched(fresh)


@pytest.fixture
def work_tree(fresh: Path, tmp_path: Path) -> Path:
    """A work tree as `pilot update` makes one: what is committed, in another folder, set up."""
    git(fresh, "worktree", "add", "--quiet", "--detach", str(tmp_path / "another folder" / "work"))
    root = tmp_path / "another folder" / "work"
    equip(root)
    python = root / ".venv" / "bin" / "python"
    path = os.pathsep.join([str(root / "src"), str(root / "harness" / "src")])
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" "$@"\n', encoding="utf-8")
    return root


def test_the_fast_tests_pass_in_a_work_tree_without_data(work_tree: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    done = make(work_tree, tmp_path / "home", "test-fast")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - started < 60  # about 10 s where nothing else runs
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 10
    assert not [name for name in ("data", "var") if (work_tree / name).exists()]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("tests/test_ours.py", 2),
        pytest.param("tests/unit/test_ours.py", 2, marks=pytest.mark.slow),
        ("tests/integration/test_ours.py", 0),
    ],
)
def test_the_fast_tests_are_the_teams_without_its_slow_ones(
    work_tree: Path, tmp_path: Path, file: str, code: int
) -> None:
    (work_tree / file).parent.mkdir(exist_ok=True)
    (work_tree / file).write_text("def test_ours():\n    assert False, 'by us'\n", encoding="utf-8")
    command = ["test-fast", "PYTEST_ADDOPTS=-x"]
    done = make(work_tree, tmp_path / "home", *command)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("by us" in done.stdout) == bool(code)


def test_the_fast_tests_hold_the_five_files_to_the_standard(work_tree: Path, tmp_path: Path) -> None:
    fallback = work_tree / "src" / "late_payment" / "fallback.py"
    fallback.write_text(
        "from harness.pilot import Answer\n\ndef decide(record):\n    return Answer('maybe')\n"
    )
    (work_tree / "tests" / "test_example.py").unlink()
    # One that fails is enough, and the first record with which it does: the smallest takes long to find.
    (work_tree / "src" / "first_found.py").write_text(
        "from hypothesis import Phase, settings\n\n"
        "settings.register_profile('first', phases=[Phase.generate])\nsettings.load_profile('first')\n"
    )
    done = make(work_tree, tmp_path / "home", "test-fast", "PYTEST_ADDOPTS=-x -p first_found")
    assert done.returncode == 2
    assert "test_standard_five_files.py" in done.stdout


def test_an_update_is_proposed_by_the_target_that_ci_calls(fresh: Path, tmp_path: Path) -> None:
    """Outside CI there is nowhere to propose it, and it says what to do."""
    equip(fresh)
    commit(fresh, "Ours")
    done = make(fresh, tmp_path / "home", "propose-update")
    assert done.returncode == 2
    assert "Error 2" in done.stderr
    assert "this is no job of GitHub's or GitLab's" in done.stderr.splitlines()[0]
    assert "Run `make update`" in done.stderr.splitlines()[0]
