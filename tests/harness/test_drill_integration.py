"""`pilot drill integration` passes where decisions arrive and strangers do not get in, and fails else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from drilling import change, drillable
from harness import pilot
from harness.drills import integration
from harness.drills.integration import Asked
from harness.drills.outcome import Checks
from harness.readiness import drilled
from harness.testing import Received

__all__ = ["drillable"]

Run = Callable[..., subprocess.CompletedProcess[str]]
EVERY = {
    *(f"refused.{what}" for what in ("no_token", "wrong_token", "bad_record")),
    "decided.all",
    *(f"delivered.{what}" for what in ("nothing_lost", "once_each", "in_order", "same_values")),
    *(f"outage.{what}" for what in ("decided", "nothing_lost", "once_each", "in_order")),
    "recorded.no_other",
    *(f"logged.{what}" for what in ("each_decision", "no_value")),
}


def test_each_decision_arrives_once_also_after_an_outage(drillable: Any, pilot_here: Run) -> None:
    done = pilot_here("drill", "integration", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    kept = drillable.root / "evidence" / "drills" / "integration.json"
    assert said == json.loads(kept.read_text(encoding="utf-8"))
    assert {check["name"]: check["outcome"] for check in said["checks"]} == dict.fromkeys(EVERY, "passed")
    count = 2 * integration.RECORDS * integration.ROUNDS
    assert (said["figures"]["decisions"], said["figures"]["deliveries"]) == (count, count)
    assert said["figures"]["decisions_by_model"] > 0
    assert not (drillable.root / "var" / "decisions.db").exists()
    assert not (drillable.root / "var" / "drills").exists()


def test_it_fails_where_nothing_is_delivered_anybody_is_let_in_and_the_log_tells(
    drillable: Any, pilot_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(drillable, "serving/delivery.py", "        self._thread.start()\n", "        pass\n")
    change(
        drillable,
        "serving/access.py",
        "        if authorization is None:\n            if self._open():\n",
        '        if authorization:\n            return Caller("")\n'
        "        if authorization is None:\n            if self._open():\n",
    )
    change(drillable, "serving/access.py", "        if not self._open_in_sandbox:\n", "        if False:\n")
    monkeypatch.setattr(integration, "WITHIN_S", 2.0)
    done = pilot_here("drill", "integration")
    assert done.returncode == 1, done.stdout + done.stderr
    kept = json.loads((drillable.root / "evidence" / "drills" / "integration.json").read_text())
    found = {check["name"]: check["outcome"] for check in kept["checks"]}
    assert {name for name, outcome in found.items() if outcome == "failed"} == {
        "refused.no_token",
        "refused.wrong_token",
        "delivered.nothing_lost",
        "delivered.once_each",
        "delivered.in_order",
        "delivered.same_values",
        "recorded.no_other",
        "logged.each_decision",  # those of the strangers are named as well
    }
    assert found["outage.nothing_lost"] == "inconclusive"
    assert "FAILED: " in done.stdout


RECORD = {
    "reading": "reading-1",
    "plot": "plot-7",
    "measured_on": "2026-03-01",
    "crop": "maize",
    "depth_cm": 20,
}
IDS = [f"{number:08}-0000-4000-8000-000000000000" for number in range(3)]
ANSWER = {
    "decision": "water",
    "score": 0.7,
    "reasons": [],
    "served_by": "model",
    "why": "assigned",
    "revision": 1,
    "sandbox": True,
}


def asked() -> list[Asked]:
    return [Asked(RECORD, 200, {**ANSWER, "decision_id": each, "model": "m"}) for each in IDS]


def content(name: str) -> dict[str, Any]:
    about = {"record": RECORD, "model": "m", "entity": "plot-7", "record_key": "reading-1"}
    return {**ANSWER, **about, "decision_id": name}


def verdicts(checks: Checks) -> dict[str, str]:
    return {each.name: each.verdict.value for each in checks.made}


@pytest.fixture
def contract(tiny: Any) -> Any:
    return pilot.load_contract("dryfield")


@pytest.mark.parametrize(
    ("came", "not_held"),
    [
        (IDS, set()),
        (IDS[:2], {"x.nothing_lost", "x.in_order"}),
        ([*IDS, IDS[0]], {"x.once_each", "x.in_order"}),
        ([IDS[1], IDS[0], IDS[2]], {"x.in_order"}),
        ([*IDS, "of nobody"], {"x.once_each", "x.in_order"}),
        ([], {"x.nothing_lost", "x.once_each", "x.in_order"}),
    ],
)
def test_what_is_lost_doubled_or_late_fails(
    contract: Any, monkeypatch: pytest.MonkeyPatch, came: list[str], not_held: set[str]
) -> None:
    monkeypatch.setattr(integration, "WITHIN_S", 0.0)
    monkeypatch.setattr(integration, "QUIET_S", 0.0)
    arrived = [Received(200, name, content(name)) for name in came]
    arrived.insert(0, Received(503, IDS[2], content(IDS[2])))  # refused: it did not arrive
    checks = Checks()
    consumer: Any = SimpleNamespace(arrived=lambda: arrived)
    integration._arrived("x", consumer, contract, asked(), checks)
    assert {name for name, outcome in verdicts(checks).items() if outcome == "failed"} == not_held


def test_a_value_that_differs_on_its_way_fails(contract: Any) -> None:
    class Store:
        def __init__(self, **other: Any) -> None:
            self.other = other

        def get(self, name: str) -> Any:
            kept = {**content(name), "model_digest": "m"}
            return SimpleNamespace(**{**kept, **self.other})

        def counts(self) -> dict[str, int]:
            return {"all": len(IDS)}

    def found(store: Store, **other: Any) -> dict[str, str]:
        checks = Checks()
        arrived = [Received(200, name, {**content(name), **other}) for name in IDS]
        integration.recorded(store, contract, arrived, asked(), checks)  # type: ignore[arg-type]
        return verdicts(checks)

    assert set(found(Store()).values()) == {"passed"}
    for other in (
        {"score": 0.8},
        {"record": {**RECORD, "depth_cm": 21}},
        {"model": "n"},
        {"entity": "plot-8"},
    ):
        assert found(Store(), **other)["delivered.same_values"] == "failed"
    assert found(Store(decision="skip"))["delivered.same_values"] == "failed"
    assert found(Store(model_digest="n"))["delivered.same_values"] == "failed"


def test_a_log_that_tells_a_value_or_not_a_decision_fails(contract: Any) -> None:
    def found(*lines: str, ids: list[str] = IDS) -> dict[str, str]:
        named = [
            f"2026-03-01 10:00:00 INFO decision {name} by model (assigned), revision 1, 2.0 ms"
            for name in ids
        ]
        checks = Checks()
        integration.logged("\n".join([*named, *lines]), contract, asked(), "pilot_abc", checks)
        return verdicts(checks)

    # The day of a line is no value of a record.
    assert set(found("2026-03-01 10:00:00,123 INFO refused /decide: no token").values()) == {"passed"}
    assert found(ids=IDS[:2])["logged.each_decision"] == "failed"
    for told in ("about plot-7", "crop='maize'", "measured 2026-03-01", "Bearer pilot_abc"):
        assert found(f"2026-03-02 10:00:00 WARNING {told}")["logged.no_value"] == "failed"


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (("passed", "passed"), 0),
        (("inconclusive", "passed"), 3),
        (("passed", "failed"), 1),
        (("failed", "inconclusive"), 1),
    ],
)
def test_all_drills_pass_only_together(
    pilot_here: Run, monkeypatch: pytest.MonkeyPatch, outcomes: tuple[str, ...], code: int
) -> None:
    told = {f"drill-{number}": each for number, each in enumerate(outcomes)}

    def ran(_settings: Any, name: str) -> drilled.Drilled:
        return drilled.Drilled(
            drill=name,
            passed=told[name] == "passed",
            verdict=told[name],  # type: ignore[arg-type]
            produced_at=datetime(2026, 3, 1, tzinfo=UTC),
            produced_by="somebody",
            harness="1.0.0",
            cores=2,
            trees={},
            model="m",
            figures={},
            checks=(drilled.Checked(name="a", outcome=told[name], detail="seen"),),  # type: ignore[arg-type]
        )

    monkeypatch.setattr("harness.drills.drill", ran)
    monkeypatch.setattr("harness.drills.DRILLS", [SimpleNamespace(name=each, shows="it") for each in told])
    done = pilot_here("drill", "all", "--json")
    assert done.returncode == code, done.stderr
    assert [each["verdict"] for each in json.loads(done.stdout)] == list(outcomes)
    assert pilot_here("drill", "all").stdout.count("Kept in evidence/drills/drill-") == len(outcomes)
