"""From early on a gate asks for a load test: recent, of this code, model and SLO, conclusive, and met."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from governed import STEP, Governed
from harness.control.state import Slot, State, write_state
from harness.errors import PilotError
from harness.pipeline import record
from harness.readiness import examine, loaded
from harness.serving_settings import Slo

CHECK, VOLUME = "evidence.load-test", "evidence.volume"


@pytest.fixture
def governed(tiny: Any, tmp_path: Path) -> Governed:
    """A pilot in shadow, with a load test that held."""
    made = Governed(tiny, tmp_path / "control")
    made.control.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "rev": 3,
        "stage": "shadow",
        "flag_key": "dryfield",
        "actor": "x",
        "reason": "x",
    }
    values |= {"changed_at": "2026-01-01T00:00:00+00:00"}
    challenger = Slot(digest=record.read(made.root).model, pct=0)
    write_state(made.control, State(challenger=challenger, **values))
    made.loaded()
    made.commit()
    return made


def said(governed: Governed, gate: Any = "early", now: datetime | None = None) -> dict[str, tuple[str, str]]:
    """What the two checks found, with its status; nothing when all is well."""
    report = examine(governed.settings(), gate, now)
    return {
        each.check: (each.status, f"{each.field}: {each.what}")
        for each in report.missing
        if each.check in (CHECK, VOLUME)
    }


@pytest.mark.parametrize("gate", ["early", "broad", "full"])
def test_with_a_load_test_that_held_the_gate_has_nothing_to_say(governed: Governed, gate: str) -> None:
    assert said(governed, gate) == {}


def test_shadow_does_not_ask_for_one(governed: Governed) -> None:
    (governed.root / loaded.FILE).unlink()
    assert said(governed, "shadow") == {}


def missing(governed: Governed) -> None:
    (governed.root / loaded.FILE).unlink()


def not_the_record(governed: Governed) -> None:
    governed.write(loaded.FILE.as_posix(), '{"verdict": "met"}')


def too_slow(governed: Governed) -> None:
    governed.loaded(p95_ms=90.0, p99_ms=800.0)


def too_often_the_fallback(governed: Governed) -> None:
    governed.loaded(fallbacks={"model_busy": 90})


def too_often_nobody(governed: Governed) -> None:
    governed.loaded(decided=1490, errors={"503 busy": 10})


def piled_up(governed: Governed) -> None:
    governed.loaded(throughput_per_s=30.0)


def other_code(governed: Governed) -> None:
    governed.edit("src/dryfield/model.py", "hook = None", "hook = None  # faster")


def other_model(governed: Governed) -> None:
    governed.run(weight=0.5)


def another_slo(governed: Governed) -> None:
    governed.loaded(slo={"p99_ms": 900.0})


def a_smaller_volume(governed: Governed) -> None:
    governed.loaded(rate_per_s=40.0)


FAULTS: dict[Callable[[Governed], None], str] = {
    missing: "the record of a load test is missing",
    not_the_record: "not the record of a load test",
    too_slow: "at 50 a second p99 is 800 ms, and 500 are allowed",
    too_often_the_fallback: "6.0% of decisions came from the fallback (model_busy), and 1.00% are allowed",
    too_often_nobody: "0.7% of requests got no decision (503 busy), and 0.10% are allowed",
    piled_up: "30 decisions a second, so that requests pile up",
    other_code: "it speaks of other code: src has changed since",
    other_model: "it speaks of another model",
    another_slo: "it speaks of another SLO than pilot.toml [slo] states",
    a_smaller_volume: "40 a second were tried, and 50 are stated",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_one_fault_refuses(governed: Governed, fault: Callable[[Governed], None]) -> None:
    fault(governed)
    governed.commit()
    status, told = said(governed)[CHECK]
    assert status == "refused"
    assert FAULTS[fault] in told


@pytest.mark.parametrize(
    ("volume", "told"),
    [
        ({"client_cpu": 0.95}, "the client took 95% of a core"),
        ({"client_late_p99_ms": 130.0}, "the client was 130 ms late"),
        ({"requests": 200, "decided": 200, "throughput_per_s": 7.0}, "200 requests are too few for a p99"),
    ],
    ids=["busy", "late", "few"],
)
def test_a_client_at_its_limit_shows_nothing(governed: Governed, volume: dict[str, Any], told: str) -> None:
    """Not even where the figures look well: what could not be asked for was not kept either."""
    governed.loaded(**volume)
    governed.commit()
    status, what = said(governed)[CHECK]
    assert (status, told in what) == ("unknown", True), what


def test_it_grows_old(governed: Governed) -> None:
    now = datetime.now(UTC)
    assert said(governed, now=now + timedelta(days=89)) == {}
    assert "92 days old" in said(governed, now=now + timedelta(days=92))[CHECK][1]
    assert "has not come yet" in said(governed, now=now - timedelta(days=1))[CHECK][1]


def test_the_stated_volume_is_not_below_what_is_paid_for(governed: Governed) -> None:
    a_year = 365 * 24 * 3600
    governed.change("tco", lambda values: values["production"].update(decisions=str(50 * a_year)))
    assert said(governed) == {}
    governed.change("tco", lambda values: values["production"].update(decisions=str(60 * a_year)))
    status, told = said(governed)[VOLUME]
    assert status == "refused"
    assert "[slo] rate_per_s: 50 a second are less than the 1,892,160,000 decisions a year" in told
    assert "which are 60.0 a second on average" in told


def test_a_record_that_claims_more_than_its_figures_say_is_none(governed: Governed) -> None:
    file = governed.root / loaded.FILE
    governed.loaded(p99_ms=800.0)
    honest = json.loads(file.read_text())
    assert loaded.read(governed.root).verdict == "missed"
    for forged in (
        {"verdict": "met", "why": []},
        {"verdict": "met"},
        {"knee_per_s": 100.0},
        {"replicas": 1},
        {"volume": {**honest["volume"], "decided": 1400}},
        {"volume": {**honest["volume"], "fallbacks": {"x": 2000}}},
        {"passed": True},
    ):
        file.write_text(json.dumps(honest | forged))
        with pytest.raises(PilotError, match="not the record of a load test"):
            loaded.read(governed.root)


def test_replicas_leave_room_for_peaks_and_for_one_that_is_lost() -> None:
    assert [loaded.replicas(rate, 100.0) for rate in (1, 70, 71, 140, 141)] == [1, 1, 2, 2, 3]
    assert loaded.replicas(50, None) is None


def test_no_decision_at_all_is_not_a_fast_one() -> None:
    values = {"requests": 1500, "decided": 0, "errors": {"0 ConnectionRefusedError": 1500}}
    nothing = {**STEP, "rate_per_s": 50.0, **values, "p95_ms": 0.0, "p99_ms": 0.0, "throughput_per_s": 0.0}
    verdict, why = loaded.concluded(loaded.Step(**nothing), Slo())
    assert verdict == "missed"
    assert why[0].startswith("100.0% of requests got no decision (0 ConnectionRefusedError)")
