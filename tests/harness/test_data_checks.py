"""Bulk checks: each rule counts what breaks it, and sets exactly that aside."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import ibis
import polars as pl
import pytest

from harness.data import checks
from harness.errors import CheckFailed, PilotError
from harness.pilot import Choice, Contract, Field

CONTRACT = Contract(
    key="reading",
    entity="machine",
    event_time="day",
    label="failed",
    label_arrives_after_days=7,
    decision=Choice("inspect", "leave"),
    fields=(
        Field("reading", "text", "The reading's number"),
        Field("machine", "text", "The machine"),
        Field("day", "date", "The day of the reading"),
        Field("heat", "number", "Temperature", unit="°C", low=-40, high=400, required=False),
        Field("cycles", "integer", "Cycles since overhaul", low=0),
        Field("site", "text", "Where it stands", categories=("north", "south"), required=False),
    ),
)
GOOD: dict[str, Any] = {
    "reading": "r0",
    "machine": "m1",
    "day": date(2026, 1, 1),
    "heat": 71.5,
    "cycles": 12,
    "site": "north",
    "failed": False,
}
SCHEMA = {
    "reading": pl.String,
    "machine": pl.String,
    "day": pl.Date,
    "heat": pl.Float64,
    "cycles": pl.Int64,
    "site": pl.String,
    "failed": pl.Boolean,
}


def table(*rows: dict[str, Any]) -> ibis.Table:
    """An engine's table with a good row and the given ones."""
    good = [GOOD | {"reading": f"good {number}"} for number in range(3)]
    records = pl.DataFrame([*good, *rows], schema=SCHEMA, strict=False)
    return ibis.duckdb.connect().create_table("records", records.to_arrow())


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"reading": None}, "reading.missing"),
        ({"reading": " "}, "reading.blank"),
        ({"machine": None}, "machine.missing"),
        ({"day": None}, "day.missing"),
        ({"heat": -41.0}, "heat.too_low"),
        ({"heat": 400.5}, "heat.too_high"),
        ({"heat": math.inf}, "heat.not_finite"),
        ({"heat": math.nan}, "heat.not_finite"),
        ({"cycles": -1}, "cycles.too_low"),
        ({"cycles": None}, "cycles.missing"),
        ({"site": "North"}, "site.unknown_category"),
    ],
)
def test_a_rule_counts_what_breaks_it_and_sets_that_aside(changed: dict[str, Any], rule: str) -> None:
    quality, kept, aside = checks.check(table(GOOD | changed), CONTRACT)
    assert (quality.rows, quality.bad) == (4, 1)
    assert quality.rules[rule] == 1
    assert kept.count().execute() == 3
    (row,) = aside.to_pyarrow().to_pylist()
    assert rule in row[checks.REASONS].split()
    assert set(row) - {checks.REASONS} == set(SCHEMA)


@pytest.mark.parametrize("changed", [{"heat": None}, {"site": None}, {"heat": -40.0}, {"heat": 400.0}])
def test_what_the_contract_allows_is_kept(changed: dict[str, Any]) -> None:
    quality, kept, _ = checks.check(table(GOOD | changed), CONTRACT)
    assert quality.bad == 0
    assert kept.count().execute() == 4


def test_every_record_of_a_repeated_key_is_set_aside_and_two_nulls_are_no_repetition() -> None:
    twice = [GOOD | {"reading": "twice", "cycles": cycles} for cycles in (1, 2)]
    nothing = [GOOD | {"reading": None}] * 2
    quality, kept, _ = checks.check(table(*twice, *nothing), CONTRACT)
    assert quality.rules["reading.repeated"] == 2
    assert quality.rules["reading.missing"] == 2
    assert quality.bad == 4
    assert kept.count().execute() == 3


def test_a_record_that_breaks_two_rules_is_one_bad_record_with_two_reasons() -> None:
    quality, _, aside = checks.check(table(GOOD | {"cycles": -1, "site": "east"}), CONTRACT)
    assert quality.bad == 1
    (row,) = aside.to_pyarrow().to_pylist()
    assert row[checks.REASONS].split() == ["cycles.too_low", "site.unknown_category"]


def test_missing_values_are_counted_where_they_are_allowed() -> None:
    quality, _, _ = checks.check(table(GOOD | {"heat": None}), CONTRACT)
    assert quality.missing == {"heat": 0.25, "site": 0.0}


def test_no_records_are_no_division_by_zero() -> None:
    empty = table().limit(0)
    quality, _, _ = checks.check(empty, CONTRACT)
    assert (quality.rows, quality.bad_share) == (0, 0.0)


def test_a_schema_that_is_not_the_contracts_is_named_column_by_column() -> None:
    checks.check_schema(table(), CONTRACT)
    with pytest.raises(CheckFailed, match="'heat' of the contract is missing"):
        checks.check_schema(table().drop("heat"), CONTRACT)
    with pytest.raises(CheckFailed, match="'cycles' is string, and the contract says integer"):
        checks.check_schema(table().mutate(cycles=ibis._.cycles.cast("string")), CONTRACT)
    with pytest.raises(CheckFailed, match="label 'failed' is missing"):
        checks.check_schema(table().drop("failed"), CONTRACT)
    with pytest.raises(CheckFailed, match="does not know: colour"):
        checks.check_schema(table().mutate(colour=ibis.literal("red")), CONTRACT)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"entity": "owner"}, "'owner' is named as a key"),
        ({"groups": ("colour",)}, "'colour' is named"),
        ({"label": "heat"}, "not known when the decision is asked for"),
        ({"fields": (*CONTRACT.fields, Field("heat", "number", "again"))}, "declared twice: heat"),
        ({"fields": (*CONTRACT.fields, Field("odd", "float", "odd"))}, "unknown type 'float'"),  # type: ignore[arg-type]
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(changes: dict[str, Any], said: str) -> None:
    import dataclasses

    with pytest.raises(PilotError, match=said):
        dataclasses.replace(CONTRACT, **changes)
