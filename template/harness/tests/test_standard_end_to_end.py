"""This pilot from its sources to a recorded decision, in a scratch copy."""

# This file is the standard's: `copier update` replaces it. Write tests of your own in tests/.
from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from harness.testing import PilotCopy, Service

Serve = Callable[..., Service]


@pytest.fixture
def record(held_back: Callable[[int], list[dict[str, Any]]]) -> dict[str, Any]:
    return held_back(1)[0]


def test_a_stop_reaches_the_next_request_and_arming_brings_the_model_back(
    pilot_copy: PilotCopy, serve: Serve, record: dict[str, Any]
) -> None:
    service = serve()
    before = service.decide(record)
    pilot_copy.pilot("kill", "--reason", "the end-to-end test")
    stopped = service.decide(record)
    pilot_copy.pilot("arm", "--reason", "the end-to-end test")
    after = service.decide(record)
    assert [answer["served_by"] for answer in (before, stopped, after)] == ["model", "fallback", "model"]
    assert stopped["why"] == "killed"
    assert before["reasons"]
    assert before["score"] == after["score"]
    assert all(answer["sandbox"] for answer in (before, stopped, after))
    assert stopped["revision"] == before["revision"] + 1


def test_a_decision_outlives_a_service_that_is_killed_right_after_answering(
    pilot_copy: PilotCopy, serve: Serve, record: dict[str, Any]
) -> None:
    service = serve()
    made = [service.decide(record)["decision_id"] for _ in range(5)]
    service.end(signal.SIGKILL)
    store = pilot_copy.store()
    on_record = [found.decision_id for found in map(store.get, made) if found is not None]
    store.close()
    assert on_record == made


def test_a_second_run_finds_nothing_to_do_but_look_at_the_sources_and_publish(pilot_copy: PilotCopy) -> None:
    outcome = json.loads(pilot_copy.pilot("run", "--json"))
    assert outcome["ran"] == ["ingest", "publish"]


def test_the_service_loads_neither_the_training_stack_nor_the_sources(
    pilot_copy: PilotCopy, record: dict[str, Any]
) -> None:
    code = """
import json, sys
from pathlib import Path
from harness.serving.server import build_service
from harness.settings import load_settings
service = build_service(load_settings(Path.cwd()))
service.model_state()
from harness.serving.schema import request_model
made = service.decide(request_model(service.contract).model_validate_json(sys.argv[1]).model_dump())
print(json.dumps([made.served_by, sorted({name.partition(".")[0] for name in sys.modules})]))
service.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(record)],
        cwd=pilot_copy.root,
        env=pilot_copy.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    served_by, modules = json.loads(done.stdout.splitlines()[-1])
    assert served_by == "model"
    assert not {"mlflow", "dvc", "ibis", "duckdb", "sklearn", "pandas", "polars"} & set(modules)
