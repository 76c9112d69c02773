"""What `pilot run` says about the model that came of it, and whether that model may decide."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import date
from typing import Any

import polars as pl
import pytest

from harness.cli import context
from harness.cli.main import _run
from harness.control import kill
from harness.control.state import read_state
from harness.pipeline import layout, reproduce, stages
from harness.pipeline.manifest import build_package

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`pilot run --json` with stages that leave a package and its figures behind; gives what it said."""

    def run(*, beats: bool = True, origin: str = "simulated", score: float = 0.8) -> dict[str, Any]:
        tiny.package(origin=origin)
        layout.write_json(tiny.root / layout.METRICS, {"model_beats_fallback": beats})
        record = {**tiny.record, "measured_on": date(2026, 3, 1)}
        pl.DataFrame([record]).write_parquet(tiny.root / layout.TEST_RECORDS)
        beside = {layout.KEY: ["r-1"], layout.LABEL: [True], layout.TIME: [date(2026, 3, 1)]}
        features = {"dryness": [score], "depth": [20.0]}
        pl.DataFrame({**features, **beside}).write_parquet(tiny.root / layout.TEST)
        build_package(tiny.settings())
        monkeypatch.setattr(reproduce, "reproduce", lambda *_, **__: list(stages.NAMES))
        capsys.readouterr()
        code = _run(["--root", str(tiny.root), "run", "--json"])
        printed = capsys.readouterr()
        context.choose(root=None, debug=False)
        if code:
            return {"code": code, "said": printed.err}
        found: dict[str, Any] = json.loads(printed.out)
        return found

    (tiny.root / "params.yaml").write_text("split:\n  test_share: 0.25\n")
    subprocess.run(["git", "init", "-q", str(tiny.root)], check=True)
    commit(tiny)
    return run


def commit(tiny: Any) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    for command in (["add", "src"], [*identity, "commit", "-q", "-m", "start"]):
        subprocess.run(["git", "-C", str(tiny.root), *command], check=True)


def test_a_simulated_model_is_offered_for_everything_and_there_is_nothing_to_say(tiny: Any, run: Run) -> None:
    found = run()
    assert (found["offered"], found["notes"]) == (True, [])
    state = read_state(tiny.control)
    assert state is not None
    assert state.challenger is not None
    assert (state.challenger.digest, state.challenger.pct) == (found["model"], 100)


def test_a_model_that_is_no_better_than_the_rule_says_so(run: Run) -> None:
    (note,) = run(beats=False)["notes"]
    assert "does not beat the fallback" in note


def test_real_data_is_not_offered_and_the_digest_to_declare_is_named(tiny: Any, run: Run) -> None:
    found = run(origin="real")
    (note,) = found["notes"]
    assert found["offered"] is False
    assert found["data_digest"] in note
    assert "[sandbox]" in note
    assert read_state(tiny.control) is None


def test_a_stop_outlasts_a_new_model(tiny: Any, run: Run) -> None:
    run()
    kill(tiny.control, reason="a test")
    (note,) = run()["notes"]
    assert "stopped and stay so" in note
    assert "`pilot arm`" in note
    state = read_state(tiny.control)
    assert state is not None
    assert state.latched


def test_outside_the_sandbox_nothing_is_offered(tiny: Any, run: Run) -> None:
    before = tiny.put(stage="shadow")
    found = run()
    (note,) = found["notes"]
    assert found["offered"] is False
    assert "has left the sandbox" in note
    assert read_state(tiny.control) == before


def test_code_that_is_not_committed_is_named_until_it_is(tiny: Any, run: Run) -> None:
    file = tiny.root / "src" / "dryfield" / "fallback.py"
    file.write_text(f"{file.read_text()}# a change\n")
    (note,) = run()["notes"]
    assert "not as it was committed" in note
    commit(tiny)
    assert run()["notes"] == []


def test_a_model_that_scores_otherwise_in_serving_is_not_offered(tiny: Any, run: Run) -> None:
    found = run(score=0.7)
    assert found["code"] == 1
    assert "in serving and" in found["said"]
    assert read_state(tiny.control) is None
