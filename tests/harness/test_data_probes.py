"""The probes: each leak that is planted is found and named, and clean data passes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import ibis
import narwhals as nw
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from harness.data.groups import wilson
from harness.data.probes import Probed, Sides, probe
from harness.data.single import tells
from harness.data_settings import Probes
from harness.errors import CheckFailed
from harness.pilot import Amount, Choice, Contract, Field
from harness.pipeline import layout
from harness.pipeline.stages import features

CONTRACT = Contract(
    key="reading",
    entity="machine",
    event_time="day",
    label="failed",
    label_arrives_after_days=7,
    decision=Choice("inspect", "leave"),
    groups=("site",),
    fields=(
        Field("reading", "text", "The reading's number"),
        Field("machine", "text", "The machine"),
        Field("day", "date", "The day of the reading"),
        Field("heat", "number", "Temperature", required=False),
        Field("site", "text", "Where it stands", categories=("north", "south"), required=False),
    ),
)
START, ROWS = date(2025, 1, 1), 2_000
Row = dict[str, Any]


def quiet(_doing: str, _share: float) -> None:
    """Report to nobody."""


def rows(machines: int = 40, new_ones: bool = False) -> list[Row]:
    """Readings of two years; the heat says something of the failure. The last have no outcome yet."""
    draw = random.Random(7)
    found = []
    for number in range(ROWS):
        heat = draw.uniform(0, 100)
        failed = draw.random() < 0.1 + 0.4 * (heat > 60)
        day = START + timedelta(days=number * 730 // ROWS)
        at = number % machines + (machines if new_ones and number > ROWS * 0.705 else 0)
        found.append(
            {
                "reading": f"r{number:05d}",
                "machine": f"m{at}",
                "day": day,
                "heat": heat if draw.random() > 0.05 else None,
                "site": draw.choice(["north", "north", "south", None]),
                "failed": failed if number < ROWS * 0.95 else None,
            }
        )
    return found


def probed(
    readings: list[Row],
    more: Mapping[str, nw.Expr] | None = None,
    contract: Contract = CONTRACT,
    **bounds: Any,
) -> Probed:
    """What the stage does, without its files."""
    backend = ibis.duckdb.connect()
    table = backend.create_table("records", pl.DataFrame(readings, infer_schema_length=None).to_arrow())
    wanted = {"heat": nw.col("heat"), **(more or {})}
    wanted = {name: expression.cast(nw.Float64) for name, expression in wanted.items()}
    split = features.divide(table, contract, 0.25)
    sides = Sides(
        train=split.train,
        test=split.test,
        train_features=features.compute(split.train, contract, wanted),
        test_features=features.compute(split.test, contract, wanted),
        all_features=features.compute(table, contract, wanted),
        label=layout.LABEL,
        names=tuple(wanted),
    )
    return probe(table, sides, contract, Probes(**bounds), quiet)


def having(*fields: Field, **changes: Any) -> Contract:
    return replace(CONTRACT, fields=(*CONTRACT.fields, *fields), **changes)


def with_column(name: str, value: Any) -> list[Row]:
    draw = random.Random(11)
    return [row | {name: value(row, draw)} for row in rows()]


def test_clean_data_passes_every_probe() -> None:
    found = probed(rows())
    assert found.findings == ()
    assert set(found.singles) == {"heat", "site"}
    assert 0.6 < found.singles["heat"].value < 0.8
    assert found.document()["verdict"] == "passed"


# A column, how it is made of the outcome, what finds it.
LEAKS: dict[str, tuple[Field, Any, str]] = {
    "the outcome itself": (
        Field("leak", "integer", "x", required=False),
        lambda row, draw: None if row["failed"] is None else int(row["failed"]),
        "proxy",
    ),
    "turned round and stretched": (
        Field("leak", "number", "x", required=False),
        lambda row, draw: None if row["failed"] is None else 5 - 3 * row["failed"] + draw.random(),
        "proxy",
    ),
    "with one in a hundred wrong": (
        Field("leak", "number", "x", required=False),
        lambda row, draw: float(bool(row["failed"]) != (draw.random() < 0.01)),
        "single",
    ),
    "a code that no rank shows": (
        Field("leak", "integer", "x", required=False),
        lambda row, draw: 5 if row["failed"] else draw.choice([1, 2, 8, 9]),
        "proxy",
    ),
    "absence alone": (
        Field("leak", "number", "x", required=False),
        lambda row, draw: None if row["failed"] else draw.random(),
        "proxy",
    ),
    "a text": (
        Field("leak", "text", "x", required=False),
        lambda row, draw: "dunned" if row["failed"] else draw.choice(["open", "paid"]),
        "proxy",
    ),
    "a truth value": (
        Field("leak", "boolean", "x", required=False),
        lambda row, draw: bool(row["failed"]),
        "proxy",
    ),
    "a date after the decision": (
        Field("leak", "date", "x", required=False),
        lambda row, draw: (
            row["day"] + timedelta(days=draw.choice([20, 30]) if row["failed"] else draw.choice([1, 9]))
        ),
        "future",
    ),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_what_knows_the_outcome_stops_the_pipeline(leak: str) -> None:
    field, value, by = LEAKS[leak]
    found = probed(with_column("leak", value), contract=having(field))
    assert f"{by}:leak" in {each.id for each in found.having("stop")}
    assert all(each.name == "leak" for each in found.findings)
    (first, *_) = found.having("stop")
    assert first.where.startswith("contract.py leak")
    assert "data.probes.accepted" in first.mend
    assert found.document()["verdict"] == "stopped"


def test_a_feature_that_is_made_of_a_leak_is_named_with_its_file() -> None:
    field, value, _ = LEAKS["the outcome itself"]
    found = probed(with_column("leak", value), {"made_of_it": nw.col("leak") * 2 - 7}, having(field))
    ids = {each.id: each.where for each in found.having("stop")}
    assert ids["proxy:made_of_it"] == "features.py made_of_it"


def test_what_is_there_only_once_the_outcome_is_known_stops_the_pipeline() -> None:
    def closed(row: Row, draw: random.Random) -> float | None:
        return draw.random() if row["failed"] is not None and draw.random() < 0.6 else None

    field = Field("closed_by", "number", "x", required=False)
    found = probed(with_column("closed_by", closed), {"who": nw.col("closed_by")}, having(field))
    assert [each.id for each in found.having("stop")] == ["available:closed_by", "available:who"]
    assert "60" in found.findings[0].what
    assert "0.0% of the 100 others" in found.findings[0].what


def test_what_is_rare_may_be_absent_in_the_few_whose_outcome_is_not_known() -> None:
    def rarely(row: Row, draw: random.Random) -> float | None:
        return draw.random() if row["failed"] is not None and draw.random() < 0.03 else None

    field = Field("rare", "number", "x", required=False)
    assert probed(with_column("rare", rarely), contract=having(field)).findings == ()


def test_a_date_ahead_that_tells_nothing_warns_until_it_is_declared_planned() -> None:
    def value(row: Row, draw: random.Random) -> date:
        return row["day"] + timedelta(days=draw.randint(-30, 30))

    field = Field("service_on", "date", "The next service")
    found = probed(with_column("service_on", value), contract=having(field))
    assert [(each.id, each.severity) for each in found.findings] == [("future:service_on", "warn")]
    planned = probed(with_column("service_on", value), contract=having(replace(field, planned=True)))
    assert planned.findings == ()


def test_a_planned_date_that_tells_the_outcome_is_still_found() -> None:
    field, value, _ = LEAKS["a date after the decision"]
    found = probed(with_column("leak", value), contract=having(replace(field, planned=True)))
    assert [each.id for each in found.having("stop")] == ["proxy:leak"]


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (0.0, [("proxy:leak", "stop")]),
        (10.0, [("single:leak", "stop")]),
        (20.0, [("single:leak", "warn")]),
        (900.0, []),
    ],
)
def test_a_number_that_is_decided_is_held_against_ranks(
    noise: float, expected: list[tuple[str, str]]
) -> None:
    draw = random.Random(5)
    readings = []
    for row in rows():
        life = draw.uniform(0, 400)
        readings.append(row | {"failed": life, "leak": 1_000 - 2 * life + draw.uniform(-noise, noise)})
    contract = having(Field("leak", "number", "x"), decision=Amount("days", 0, 400))
    found = probed(readings, contract=contract)
    assert [(each.id, each.severity) for each in found.findings] == expected


def test_a_finding_that_somebody_stands_for_does_not_stop_and_stays_in_the_evidence() -> None:
    field, value, _ = LEAKS["a truth value"]
    why = "A. Person, May 2026: the switch is set by the guard before the reading."
    found = probed(
        with_column("leak", value), contract=having(field), accepted={"proxy:leak": why, "proxy:gone": why}
    )
    assert found.having("stop") == ()
    (accepted,) = found.having("accepted")
    assert (accepted.id, accepted.accepted) == ("proxy:leak", why)
    assert found.document()["accepted_but_not_found"] == ["proxy:gone"]
    with pytest.raises(ValueError, match="say who looked at it"):
        Probes(accepted={"proxy:leak": "ok"})


def test_too_few_held_back_outcomes_judge_no_column() -> None:
    few = [row | {"failed": bool(row["failed"]) and row["reading"] < "r00100"} for row in rows()]
    field = Field("leak", "integer", "x")
    found = probed([row | {"leak": int(row["failed"])} for row in few], contract=having(field))
    assert found.singles == {}
    assert set(found.not_judged) == {"heat", "site", "leak"}


def test_entities_on_both_sides_are_counted_and_no_trouble_by_themselves() -> None:
    found = probed(rows())
    assert found.entities == {"held_back": 40, "shared": 40, "shared_share": 1.0, "records_share": 1.0}
    assert probed(rows(new_ones=True)).entities["shared"] == 0


def test_entities_that_are_kept_apart_are_left_out_of_the_test() -> None:
    half = [
        row | {"machine": row["machine"] + ("x" if row["reading"] > "r01500" and row["heat"] else "")}
        for row in rows()
    ]
    apart = replace(CONTRACT, entities_apart=True)
    table = ibis.duckdb.connect().create_table("t", pl.DataFrame(half, infer_schema_length=None).to_arrow())
    split = features.divide(table, apart, 0.25)
    both = {*split.train.machine.to_pyarrow().to_pylist()} & {*split.test.machine.to_pyarrow().to_pylist()}
    assert both == set()
    assert split.test.count().to_pyarrow().as_py() > 100
    assert (
        features.divide(table, CONTRACT, 0.25).test.count().to_pyarrow().as_py()
        > split.test.count().to_pyarrow().as_py()
    )
    assert probed(half, contract=apart).findings == ()
    with pytest.raises(CheckFailed, match="every entity of the test was trained on"):
        probed(rows(), contract=apart)


def test_one_entity_that_is_written_in_two_ways_is_still_one() -> None:
    two_ways = [
        row | {"machine": f" {row['machine'].upper()}" if row["reading"] > "r01410" else row["machine"]}
        for row in rows()
    ]
    (found,) = probed(two_ways, contract=replace(CONTRACT, entities_apart=True)).having("stop")
    assert found.id == "entities:machine"
    assert "40 of 40 held-back entities" in found.what


def test_a_group_of_too_few_and_one_of_another_outcome_are_told() -> None:
    draw = random.Random(2)
    readings = [row | {"site": "north" if draw.random() < 0.997 else "south"} for row in rows()]
    found = probed(readings)
    assert [(each.id, each.severity) for each in found.findings] == [("group_share:site=south", "warn")]
    unlike = [
        row
        | {
            "failed": row["failed"]
            if row["failed"] is None
            else draw.random() < (0.55 if row["site"] == "south" else 0.2)
        }
        for row in rows()
    ]
    (one,) = probed(unlike).findings
    assert (one.id, one.severity) == ("group_rate:site=south", "warn")
    (south,) = [each for each in probed(unlike).groups["site"] if each.name == "south"]
    assert south.low is not None
    assert south.high is not None
    assert south.low < 0.55 < south.high


def test_a_declared_category_without_a_record_is_a_group_of_none() -> None:
    found = probed([row | {"site": "north"} for row in rows()])
    assert [each.id for each in found.findings] == ["group_share:site=south", "one_value:site"]


def test_names_of_groups_that_nobody_declared_are_not_told() -> None:
    contract = replace(CONTRACT, groups=("machine",))
    names = {each.name for each in probed(rows(machines=3), contract=contract).groups["machine"]}
    assert names == {"group 1", "group 2", "group 3"}


def test_shares_have_wilsons_interval() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_the_rank_of_a_column_is_scikit_learns_auc() -> None:
    draw = np.random.default_rng(3)
    label = draw.random(4_000) < 0.3
    value = draw.normal(size=4_000) + label
    found = tells(
        pa.chunked_array([value[:3_000]]), label[:3_000].astype(float),
        pa.chunked_array([value[3_000:]]), label[3_000:].astype(float), choice=True,
    )  # fmt: skip
    assert found is not None
    assert found.value == pytest.approx(roc_auc_score(label[3_000:], value[3_000:]), abs=0.02)
    assert found.at_least < found.value


def test_chance_looks_like_no_leak_however_few_there_are() -> None:
    draw = np.random.default_rng(5)
    for _ in range(200):
        label = np.array([1.0] * 22 + [0.0] * 30)
        found = tells(
            pa.chunked_array([draw.normal(size=80)]), (draw.random(80) < 0.4).astype(float),
            pa.chunked_array([draw.normal(size=52)]), label, choice=True,
        )  # fmt: skip
        assert found is not None
        assert found.at_least < Probes().warn_auc


@pytest.mark.parametrize(
    ("sites", "records", "found"),
    [
        (["south"], 2000, True),
        (["south", None], 2000, True),
        (["south"], 99, False),
        (["south", "north"], 2000, False),
    ],
    ids=["one", "one-or-none", "too-few", "both"],
)
def test_one_category_in_every_row_is_named(sites: list[str | None], records: int, found: bool) -> None:
    readings = [
        row | {"site": sites[number % len(sites)] if number < records else None}
        for number, row in enumerate(rows())
    ]
    named = {each.id: each.what for each in probed(readings).findings if each.probe == "one_value"}
    assert set(named) == ({"one_value:site"} if found else set())
    assert all("records that have it say 'south'" in said for said in named.values())
