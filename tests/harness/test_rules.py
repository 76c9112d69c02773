"""Domain rules: written once, and the same on the engine as on one request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import ibis
import polars as pl
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.contract import Choice, Contract, Field, Volume
from harness.data import checks, volume
from harness.errors import PilotError
from harness.rules import One, Rule
from harness.serving.app import create_app

FIELDS = (
    Field("reading", "text", "The reading's number"),
    Field("day", "date", "The day of the reading"),
    Field("built", "date", "When it was built", required=False),
    Field("heat", "number", "Temperature", required=False),
    Field("cycles", "integer", "Cycles", required=False),
    Field("on", "boolean", "Whether it runs", required=False),
    Field("site", "text", "Where it stands", categories=("north", "south"), required=False),
)
RULES: dict[str, Callable[[Any], Any]] = {
    "built_before": lambda it: it["built"] <= it["day"],
    "cold_is_off": lambda it: ~(it["heat"] < 10) | (it["on"] == False),  # noqa: E712
    "sum_bounded": lambda it: it["cycles"] * 2 + it["heat"] <= 100,
    "needs_heat": lambda it: it["heat"].notnull() | it["site"].isin(("north",)),
    "either": lambda it: (it["on"] & it["built"].isnull()) | (it["cycles"] >= 3),
    "difference": lambda it: 5 - it["cycles"] > -it["heat"],
    "not_south": lambda it: (it["site"] != "south") & (it["cycles"] == it["cycles"]),
}


def contract(**changes: Any) -> Contract:
    """A contract about machines."""
    given = {
        "key": "reading",
        "entity": "reading",
        "event_time": "day",
        "label": "failed",
        "label_arrives_after_days": 7,
        "decision": Choice("inspect", "leave"),
        "fields": FIELDS,
    }
    return Contract(**{**given, **changes})


def rules(**more: Any) -> tuple[Rule, ...]:
    return tuple(Rule(name, holds, "it holds", **more) for name, holds in RULES.items())


GOOD: dict[str, Any] = {
    "reading": "r",
    "day": date(2026, 1, 1),
    "built": date(2020, 1, 1),
    "heat": 50.0,
    "cycles": 4,
    "on": True,
    "site": "north",
    "failed": False,
}
SCHEMA = {
    "reading": pl.String,
    "day": pl.Date,
    "built": pl.Date,
    "heat": pl.Float64,
    "cycles": pl.Int64,
    "on": pl.Boolean,
    "site": pl.String,
    "failed": pl.Boolean,
}


def table(*rows: dict[str, Any]) -> ibis.Table:
    numbered = [{**row, "reading": row["reading"] + str(place)} for place, row in enumerate(rows)]
    return ibis.memtable(pl.DataFrame(numbered, schema=SCHEMA).to_arrow())


ROWS = st.fixed_dictionaries(
    {
        "reading": st.just("r"),
        "day": st.dates(date(2020, 1, 1), date(2026, 1, 1)),
        "built": st.none() | st.dates(date(2019, 1, 1), date(2027, 1, 1)),
        "heat": st.none() | st.floats(-100, 200),
        "cycles": st.none() | st.integers(-5, 60),
        "on": st.none() | st.booleans(),
        "site": st.none() | st.sampled_from(["north", "south"]),
        "failed": st.none() | st.booleans(),
    }
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROWS, min_size=1, max_size=60))
def test_the_engine_and_one_request_break_the_same_rules(rows: list[dict[str, Any]]) -> None:
    declared = contract(rules=rules())
    quality, _, aside = checks.check(table(*rows), declared)
    by_hand = {rule.name: sum(rule.broken_by(row) for row in rows) for rule in declared.rules}
    assert {name: quality.rules[name] for name in RULES} == by_hand
    named = {row["reading"]: set(row[checks.REASONS].split()) for row in aside.to_pyarrow().to_pylist()}
    for place, row in enumerate(rows):
        expected = {rule.name for rule in declared.breaks(row)}
        assert named.get(f"r{place}", set()) == expected


def test_what_is_absent_breaks_no_rule_that_does_not_ask_for_it() -> None:
    nothing = {**GOOD, "built": None, "heat": None, "cycles": None, "on": None, "site": None}
    broken = {rule.name for rule in rules() if rule.broken_by(nothing)}
    assert broken == set()  # `needs_heat` is unknown, because the site is
    assert {rule.name for rule in rules() if rule.broken_by({**nothing, "site": "south"})} == {
        "needs_heat",
        "not_south",  # false and unknown are false
    }


def test_a_rule_that_warns_is_counted_and_sets_nothing_aside() -> None:
    late = {**GOOD, "built": date(2030, 1, 1)}
    declared = contract(rules=rules(severity="warn"))
    quality, kept, _ = checks.check(table(GOOD, late), declared)
    assert (quality.bad, quality.rules["built_before"]) == (0, 1)
    assert quality.broken(declared, "warn") == {"built_before": 1}
    assert kept.count().execute() == 2
    assert declared.breaks(late) == []


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (lambda it: it["bilt"] <= it["day"], "there is no field 'bilt'"),
        (lambda it: it["built"] <= it["day"] and it["on"], "& | ~"),
        (lambda it: it["day"] - it["built"], "only numbers"),
        (lambda it: it["day"] == "2026-01-01", "a date and a text cannot be compared"),
        (lambda it: it["heat"] + 1, "gives no truth"),
        (lambda _: True, "gives no truth"),
        (lambda it: it["heat"] & it["on"], "neither true nor false"),
        (lambda it: it.heat > 1, "cannot be computed"),
    ],
)
def test_a_rule_that_cannot_be_computed_is_refused_where_it_is_declared(
    rule: Callable[[Any], Any], said: str
) -> None:
    with pytest.raises(PilotError) as refused:
        contract(rules=(Rule("odd", rule, "odd"),))
    assert "'odd'" in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"rules": (Rule("a", RULES["either"], ""), Rule("a", RULES["either"], ""))},
            "names of rules are taken",
        ),
        ({"rules": (Rule("heat", RULES["either"], ""),)}, "names of rules are taken"),
        ({"unique": (("sit",),)}, "'sit' is to be unique"),
        ({"fields": (*FIELDS, Field("x", "text", "", severity="warn"))}, "has the severity 'warn'"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(PilotError, match=said):
        contract(**changed)


def test_a_rules_name_and_severity_are_checked() -> None:
    with pytest.raises(PilotError, match="no name for a rule"):
        Rule("two words", RULES["either"], "")
    with pytest.raises(PilotError, match="unknown severity 'alarm'"):
        Rule("one", RULES["either"], "", severity="alarm")  # type: ignore[arg-type]


def test_groups_of_fields_that_are_unique_are_checked_like_the_key() -> None:
    declared = contract(unique=(("site", "cycles"),))
    same = [
        GOOD,
        {**GOOD, "cycles": 4},
        {**GOOD, "cycles": 5},
        {**GOOD, "site": None},
        {**GOOD, "site": None},
    ]
    quality, kept, aside = checks.check(table(*same), declared)
    assert (quality.rules["site+cycles.repeated"], quality.bad) == (2, 2)
    assert kept.count().execute() == 3
    assert {row[checks.REASONS] for row in aside.to_pyarrow().to_pylist()} == {"site+cycles.repeated"}


def spread(*counts: int) -> ibis.Table:
    """So many records in each window of thirty days, the last one ending today."""
    rows = []
    for back, many in enumerate(reversed(counts)):
        day = date.fromordinal(date(2026, 6, 30).toordinal() - 30 * back)
        rows += [{**GOOD, "reading": f"{back}-", "day": day}] * many
    return table(*rows)


@pytest.mark.parametrize(
    ("counts", "bounds", "lacks"),
    [
        ((10, 10, 10, 10, 10), Volume(drop_to=0.5), ""),
        ((10, 10, 10, 10, 4), Volume(drop_to=0.5), "have 4 records, and 10 are usual"),
        ((10, 10, 10, 10, 5), Volume(drop_to=0.5), ""),
        ((10, 10, 4), Volume(drop_to=0.5), ""),  # too little past to say what is usual
        ((10, 10, 10, 0, 0, 0, 0, 2), Volume(drop_to=0.5), ""),  # months without any count too
        ((10, 10, 10, 10, 1), Volume(), ""),
        ((1, 1), Volume(at_least=3), "2 records are there, and at least 3 have to be"),
    ],
)
def test_too_few_records_are_noticed(counts: tuple[int, ...], bounds: Volume, lacks: str) -> None:
    declared = contract(volume=bounds)
    found = volume.count(spread(*counts), declared)
    assert found.newest == date(2026, 6, 30)
    assert (lacks in found.lacks(declared)) if lacks else found.lacks(declared) == ""


def test_no_records_have_no_window() -> None:
    found = volume.count(table(GOOD).limit(0), contract())
    assert (found.rows, found.newest, found.usual) == (0, None, None)
    assert "at least 1" in found.lacks(contract())


def test_a_request_that_breaks_a_rule_is_refused_by_its_name(tiny: Any) -> None:
    file = tiny.root / "src" / "dryfield" / "contract.py"
    text = file.read_text()
    declared = (
        '    rules=(Rule("somewhere", lambda it: it["plot"] != "nowhere", "a plot is somewhere"),\n'
        '           Rule("odd", lambda it: it["plot"] == "odd", "odd", severity="warn")),\n    fields=('
    )
    file.write_text("from harness.pilot import Rule\n" + text.replace("    fields=(", declared))
    tiny.offered()
    with TestClient(create_app(tiny.service(), name="dry field")) as client:
        assert client.post("/decide", json=tiny.record).status_code == 200
        refused = client.post("/decide", json={**tiny.record, "plot": "nowhere"})
    assert refused.status_code == 422
    assert refused.json()["fields"] == [{"field": "body", "message": "somewhere: a plot is somewhere"}]


def test_one_record_has_only_the_fields_it_has() -> None:
    with pytest.raises(KeyError, match="no field 'b'"):
        One({"a": 1})["b"]
