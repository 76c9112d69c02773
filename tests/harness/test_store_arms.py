"""What the database adds up for each arm is what one finds row by row, in SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from harness.control import Why
from harness.simulate import embedded
from harness.store import Database, Shadowed, ShadowStore
from harness.store.arms import NO_FAILURE, OUTSIDE, TOO_SLOW, Arms, ArmStore, Stretch
from harness.store.decisions import decisions
from harness.store.outcomes import outcomes
from harness.store.shadow import ByEntity, shadow

A, B = "a" * 64, "b" * 64
STRETCH = Stretch("early", A, 5, "2026-03-01")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded.server(tmp_path_factory.mktemp("arms") / "pg") as url:
        yield url.replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/decisions.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres")
    opened = Database(url)
    with opened.writing("no", "no") as connection:
        connection.execute(sa.delete(decisions))
        connection.execute(sa.delete(outcomes))
        connection.execute(sa.delete(shadow))
    yield opened
    opened.close()


def put(database: Database, rows: list[dict[str, Any]], known: dict[str, list[Any]] | None = None) -> None:
    values = {
        "decided_at": "2026-03-02T10:00:00.000000+00:00",
        "record": "{}",
        "decision": '"bewässern"',
        "score": 0.5,
        "reasons": "[]",
        "served_by": "model",
        "assigned": "challenger",
        "why": "assigned",
        "model_digest": A,
        "revision": 5,
        "bucket": 1,
        "stage": "early",
        "sandbox": False,
        "elapsed_ms": 5.0,
    }
    made = [
        {"decision_id": f"d{number}", "record_key": f"r{number}", "entity": f"e{number}", **values, **row}
        for number, row in enumerate(rows)
    ]
    said = [
        {"record_key": key, "outcome": json.dumps(each), "received_at": "x", "source": "x"}
        for key, several in (known or {}).items()
        for each in several
    ]
    with database.writing("no", "no") as connection:
        connection.execute(decisions.insert(), made)
        if said:
            connection.execute(outcomes.insert(), said)


OUTSIDE_ROW = {
    "assigned": "fallback",
    "why": OUTSIDE,
    "served_by": "fallback",
    "model_digest": None,
    "bucket": 50,
}
CHAMPION_ROW = {"assigned": "champion", "model_digest": B, "bucket": 50}
FAILED = {"served_by": "fallback", "why": "model_failed", "score": None}


def sizes(arms: Arms) -> tuple[tuple[int, float], tuple[int, float]]:
    return (arms.treated.decisions, arms.treated.events), (arms.control.decisions, arms.control.events)


def test_arms_are_told_apart_by_what_was_assigned_and_never_by_what_served(database: Database) -> None:
    put(database, [{}, FAILED, FAILED, OUTSIDE_ROW, CHAMPION_ROW, {**CHAMPION_ROW, **FAILED}])
    assert sizes(ArmStore(database).failures(STRETCH)) == ((3, 2.0), (3, 1.0))


@pytest.mark.parametrize(
    "left_out",
    [
        {"sandbox": True},
        {"stage": "shadow"},
        {"revision": 4},
        {"decided_at": "2026-02-28T10:00:00.000000+00:00"},
        {**OUTSIDE_ROW, "why": "killed", "bucket": None},
        {**OUTSIDE_ROW, "why": "latched", "bucket": None},
        {**OUTSIDE_ROW, "why": "no_entity", "bucket": None},
    ],
)
def test_what_belongs_to_no_arm_is_left_out(database: Database, left_out: dict[str, Any]) -> None:
    put(database, [{}, OUTSIDE_ROW, left_out])
    assert sizes(ArmStore(database).failures(STRETCH)) == ((1, 0.0), (1, 0.0))


@pytest.mark.parametrize("why", [each.value for each in Why])
def test_what_counts_as_a_failure_and_what_as_a_fallback(database: Database, why: str) -> None:
    put(database, [{"why": why, "served_by": "model" if why == "assigned" else "fallback"}])
    failed, stepped_in = (
        arms.treated.events
        for arms in (ArmStore(database).failures(STRETCH), ArmStore(database).fallbacks(STRETCH))
    )
    assert stepped_in == (why != "assigned")
    assert failed == (why not in NO_FAILURE)
    assert {*NO_FAILURE, OUTSIDE, TOO_SLOW} <= {each.value for each in Why}


def test_an_entity_counts_once_by_its_mean(database: Database) -> None:
    put(
        database,
        [{"entity": "often", **(FAILED if number < 30 else {})} for number in range(120)] + [{}, FAILED],
    )
    found = ArmStore(database).failures(STRETCH).treated
    assert (found.decisions, found.events, found.entities) == (122, 31.0, 3)
    assert found.total == pytest.approx(0.25 + 0 + 1)
    assert found.squares == pytest.approx(0.0625 + 0 + 1)


def test_late_is_what_took_too_long_and_what_ran_out_of_its_time(database: Database) -> None:
    put(
        database, [{}, {"elapsed_ms": 1_001.0}, {**FAILED, "why": TOO_SLOW, "elapsed_ms": 900.0}, OUTSIDE_ROW]
    )
    assert sizes(ArmStore(database).late(STRETCH, 1_000)) == ((3, 2.0), (1, 0.0))


def test_a_wrong_decision_is_one_that_its_latest_outcome_contradicts(database: Database) -> None:
    rows: list[dict[str, Any]] = [
        {},
        {"decision": '"skip"'},
        {},
        OUTSIDE_ROW,
        {},
        {},
        {"record_key": "r5", "decision": '"skip"'},
    ]
    known = {"r0": [True], "r1": [True], "r2": [True, False], "r3": [False], "r5": [False], "other": [True]}
    put(database, rows, known)
    assert sizes(ArmStore(database).wrong(STRETCH, "bewässern", "skip")) == ((4, 2.0), (1, 1.0))


def test_an_amount_is_off_by_a_share_of_its_range_and_by_one_at_most(database: Database) -> None:
    put(
        database,
        [{"decision": "0.25"}, {"decision": "2.0"}, {"decision": "1.0", **OUTSIDE_ROW}],
        {"r0": [0.5], "r1": [90.0], "r2": [1]},
    )
    assert sizes(ArmStore(database).off(STRETCH, 2.0)) == ((2, 1.125), (1, 0.0))


def test_the_spread_is_that_of_the_stage(database: Database) -> None:
    store = ArmStore(database)
    assert (store.spread(STRETCH).treated, store.spread(STRETCH).first_at, store.last_decision()) == (
        0,
        None,
        None,
    )
    put(
        database,
        [{}, {"decided_at": "2026-03-05T10:00:00"}, OUTSIDE_ROW, {"sandbox": True, "decided_at": "2027"}],
    )
    found = store.spread(STRETCH)
    assert (found.treated, found.first_at, found.last_at) == (
        2,
        "2026-03-02T10:00:00.000000+00:00",
        "2026-03-05T10:00:00",
    )
    assert store.last_decision() == "2026-03-05T10:00:00"


def test_a_models_time_in_shadow_is_added_up_by_entity_and_by_day(database: Database) -> None:
    """One entity with four runs of which one failed, one that only failed, and one that agreed; two days."""
    said = [
        ("often", "ok", True, "2026-03-02"),
        ("often", "ok", False, "2026-03-02"),
        ("often", "ok", True, "2026-03-03"),
        ("often", "too_slow", None, "2026-03-04"),
        ("failed", "error", None, "2026-03-05"),
        ("once", "ok", True, "2026-03-03"),
        ("not asked", "dropped", None, "2026-03-06"),
        ("sandbox", "ok", False, "2026-03-07"),
        ("before", "ok", False, "2026-02-01"),
    ]
    put(database, [{"entity": entity} for entity, *_ in said])
    kept = ShadowStore(database)
    kept.add(
        [
            Shadowed(
                f"{day}T10:00:00.000000+00:00", A, entity == "sandbox", status, f"d{number}", agrees=agrees
            )
            for number, (entity, status, agrees, day) in enumerate(said)
        ]
    )
    found = kept.by_entity(A, "2026-03-01")
    assert (found.paired, found.run) == (2, 3)
    assert (found.agreeing, found.failing) == (pytest.approx(2 / 3 + 1), pytest.approx(1 / 4 + 1 + 0))
    assert (kept.days(A, "2026-03-01"), kept.days(A), kept.days(B)) == (2, 3, 0)
    assert kept.by_entity(B) == ByEntity(0, 0.0, 0, 0.0)


def test_it_adds_up_as_going_through_the_rows_does(database: Database) -> None:
    draw = np.random.default_rng(1)
    rows = []
    for number in range(3_000):
        entity = int(draw.integers(0, 400))
        arm = {} if entity < 100 else OUTSIDE_ROW if entity < 300 else CHAMPION_ROW
        fails = FAILED if arm is not OUTSIDE_ROW and draw.random() < 0.2 else {}
        rows.append({"entity": f"e {entity}", "record_key": f"r{number}", **arm, **fails})
    put(database, rows, {f"r{number}": [bool(draw.random() < 0.7)] for number in range(0, 3_000, 2)})
    found = ArmStore(database).failures(STRETCH)
    for arm, low, high in ((found.treated, 0, 100), (found.control, 100, 400)):
        by: dict[str, list[float]] = {}
        for row in rows:
            if low <= int(row["entity"].split()[1]) < high:
                by.setdefault(row["entity"], []).append(float(row.get("why") == "model_failed"))
        means = [float(np.mean(each)) for each in by.values()]
        assert (arm.entities, arm.decisions) == (len(by), sum(map(len, by.values())))
        assert (arm.total, arm.squares) == pytest.approx((sum(means), sum(x * x for x in means)))
    assert ArmStore(database).wrong(STRETCH, "bewässern", "skip").treated.decisions > 100
