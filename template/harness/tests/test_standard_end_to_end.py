"""This pilot from its sources to a recorded decision, in a scratch copy."""

# This file is the standard's: `copier update` replaces it. Write tests of your own in tests/.
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from standard_records import ROOT

from harness import pilot
from harness.settings import Settings, load_settings
from harness.store import DecisionStore


class Copy:
    """A copy of this pilot, and the command `pilot` in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # What leads to the pilot in use, by environment or by pilot.toml, leads into the copy here.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
        self.environment = inherited | {
            "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root / "harness" / "src")]),
            "PYTHONUNBUFFERED": "1",
            "PILOT_CONTROL__FOLDER": str(root / "var" / "control"),
            "PILOT_STORE__URL": f"sqlite:///{root}/var/decisions.db",
            "PILOT_TRACKING__URI": f"sqlite:///{root}/var/mlflow/mlflow.db",
            "PILOT_SERVING__MODELS": str(root / "var" / "models"),
            "PILOT_SERVING__HOST": "127.0.0.1",
        }
        self.store = self.environment["PILOT_STORE__URL"]
        self.package = load_settings(root).pilot.package

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "harness.cli", "--root", str(self.root), *arguments]

    def pilot(self, *arguments: str) -> str:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"pilot {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def copy(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy that has simulated sources and a trained model."""
    if not settings.embedded:
        pytest.skip("this pilot reads real sources, and this test reads simulated ones only")
    if not (ROOT / "simulation.yaml").exists():
        pytest.skip("without simulation.yaml there is nothing to simulate")
    root = tmp_path_factory.mktemp("copy") / "pilot"
    _copy(root)
    made = Copy(root)
    made.pilot("simulate", "--rows", "3000")
    made.pilot("run")
    return made


class Service:
    """`pilot serve` as a process of its own."""

    def __init__(self, copy: Copy) -> None:
        self.log = copy.root / "var" / "service.log"
        with self.log.open("w") as log:
            command = copy.command("serve", "--port", "0")
            self.process = subprocess.Popen(command, env=copy.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while "listening on" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "the service did not start in a minute"
            time.sleep(0.05)
        self.url = self.log.read_text().partition("listening on ")[2].split()[0]

    def decide(self, record: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/decide", json=record, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def end(self, how: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(timeout=20)


@pytest.fixture
def service(copy: Copy) -> Iterator[Service]:
    started = Service(copy)
    yield started
    started.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def record(copy: Copy) -> dict[str, Any]:
    held_back = copy.root / "data" / "features" / "test_records.parquet"
    contract = pilot.load_contract(copy.package)
    row = pl.read_parquet(held_back).select([field.name for field in contract.fields]).row(0, named=True)
    found: dict[str, Any] = json.loads(json.dumps(row, default=str))
    return found


def test_a_stop_reaches_the_next_request_and_arming_brings_the_model_back(
    copy: Copy, service: Service, record: dict[str, Any]
) -> None:
    before = service.decide(record)
    copy.pilot("kill", "--reason", "the end-to-end test")
    stopped = service.decide(record)
    copy.pilot("arm", "--reason", "the end-to-end test")
    after = service.decide(record)
    assert [answer["served_by"] for answer in (before, stopped, after)] == ["model", "fallback", "model"]
    assert stopped["why"] == "killed"
    assert before["reasons"]
    assert before["score"] == after["score"]
    assert all(answer["sandbox"] for answer in (before, stopped, after))
    assert stopped["revision"] == before["revision"] + 1


def test_a_decision_outlives_a_service_that_is_killed_right_after_answering(
    copy: Copy, record: dict[str, Any]
) -> None:
    service = Service(copy)
    made = [service.decide(record)["decision_id"] for _ in range(5)]
    service.end(signal.SIGKILL)
    assert _on_record(copy, made) == made


def test_a_second_run_finds_nothing_to_do_but_look_at_the_sources_and_publish(copy: Copy) -> None:
    outcome = json.loads(copy.pilot("run", "--json"))
    assert outcome["ran"] == ["ingest", "publish"]


def test_the_service_loads_neither_the_training_stack_nor_the_sources(
    copy: Copy, record: dict[str, Any]
) -> None:
    code = """
import json, sys
from pathlib import Path
from harness.serving.server import build_service
from harness.settings import load_settings
service = build_service(load_settings(Path.cwd()))
from harness.serving.schema import request_model
made = service.decide(request_model(service.contract).model_validate_json(sys.argv[1]).model_dump())
print(json.dumps([made.served_by, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(record)],
        cwd=copy.root,
        env=copy.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    served_by, modules = json.loads(done.stdout.splitlines()[-1])
    assert served_by == "model"
    assert not {"mlflow", "dvc", "ibis", "duckdb", "sklearn", "pandas"} & set(modules)


def _on_record(copy: Copy, wanted: list[str]) -> list[str]:
    store = DecisionStore(copy.store)
    try:
        return [found.decision_id for found in (store.get(name) for name in wanted) if found is not None]
    finally:
        store.close()


def _copy(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("this pilot is in no git repository yet: git init -b main && git add -A && git commit")
    for name in filter(None, listed.stdout.split("\0")):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "--no-verify", "-m", "copy"]):
        subprocess.run(["git", *command], cwd=target, check=True, capture_output=True)
