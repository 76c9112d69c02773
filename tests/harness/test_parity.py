"""A feature that comes out otherwise in serving than in training stops the pipeline."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import ibis
import narwhals as nw
import numpy as np
import polars as pl
import pytest

from harness.contract import Choice, Contract, Field
from harness.data import checks, engine
from harness.errors import CheckFailed
from harness.pipeline import layout, made, parity, verbs
from harness.pipeline.columns import frame_schema
from harness.rules import Rule
from harness.serving.schema import request_model
from harness.settings import load_settings
from machines import pilot_folder, run

__all__ = ["pilot_folder"]

FLOAT = nw.Float64
CONTRACT = Contract(
    key="ticket",
    entity="desk",
    event_time="opened_on",
    label="escalated",
    label_arrives_after_days=3,
    decision=Choice("escalate", "leave"),
    fields=(
        Field("ticket", "text", "The ticket"),
        Field("desk", "text", "The desk", categories=("north", "south", "west")),
        Field("opened_on", "date", "The day"),
        Field("replies", "integer", "How many", low=0, high=40),
        Field("waits_h", "number", "How long", low=0, high=900),
        Field("open_h", "number", "How long in all", low=0, high=900, required=False),
        Field("balance", "number", "Of no particular range", required=False),
        Field("urgent", "boolean", "Whether it is", required=False),
        Field("subject", "text", "What it says", required=False),
    ),
    rules=(Rule("waits_within", lambda it: it["waits_h"] <= it["open_h"], "One waits while it is open"),),
)


def write_features(root: Path, code: str) -> None:
    file = root / "src" / "wear" / "features.py"
    file.write_text(f"import narwhals as nw\ndef features():\n    heat = nw.col('heat')\n    return {code}\n")


def stopped(root: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> CheckFailed:
    """What the stage says of features that get past the list of verbs."""
    write_features(root, code)
    monkeypatch.setattr(verbs, "check", lambda wanted: None)
    settings = load_settings(root)
    with pytest.raises(CheckFailed) as found:
        run(settings, "ingest", "validate", "features")
    assert not settings.path("var", "parity").exists()
    return found.value


def test_the_stage_compares_real_records_and_made_ones(pilot_folder: Path) -> None:
    said = run(load_settings(pilot_folder), "ingest", "validate", "features")[-1]
    many = len(made.make(_contract_of(pilot_folder)))
    assert f"600 records and {many} made ones alike on Polars" in said
    assert many > 300


def _contract_of(root: Path) -> Contract:
    from harness.pilot import load_contract

    return load_contract(load_settings(root).pilot.package)


def test_a_verb_that_rounds_otherwise_stops_the_stage_and_shows_a_made_record(
    pilot_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = stopped(pilot_folder, monkeypatch, "{'heat': heat, 'steps': heat.round(0)}")
    assert found.where == "features.py"
    assert found.what.startswith(
        "'steps' is 0.0 when served and 1.0 when trained on duckdb, for a made record with heat=0.5 ("
    )
    assert "of 600 real records differ)" in found.what
    assert "both engines" in found.mend


def test_of_a_real_record_the_fields_are_named_and_their_values_only_on_demand(
    pilot_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "make", lambda contract: [])
    odd = "{'heat': heat, 'steps': (heat * 0 + 0.5).round(0)}"
    quiet = stopped(pilot_folder, monkeypatch, odd)
    assert (
        "'steps' is 0.0 when served and 1.0 when trained on duckdb, for a real record with heat" in quiet.what
    )
    assert "heat present (0 of 0 made and 570 of 600 real records differ)" in quiet.what
    assert "pilot --debug run" in quiet.mend
    monkeypatch.setenv("PILOT_DEBUG", "1")
    assert "for a real record with heat=" in stopped(pilot_folder, monkeypatch, odd).what


def test_a_feature_that_looks_across_rows_differs_where_records_come_one_by_one(
    pilot_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = stopped(pilot_folder, monkeypatch, "{'heat': heat, 'above': heat - heat.mean()}")
    assert "'above' is 0.0 when served and" in found.what


def test_a_feature_that_the_engine_refuses_at_an_edge_is_named_without_the_engines_words(
    pilot_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = stopped(pilot_folder, monkeypatch, "{'heat': heat, 'order': (heat * 1e7).cast(nw.Int32)}")
    assert "the feature 'order' cannot be computed for every record that the contract accepts (" in found.what
    assert "range" in found.mend


def test_a_feature_that_serving_alone_refuses_is_named(
    pilot_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Polars is strict where the engine looks a value up that is not there.
    real = parity.frames.served

    def strict(records: pl.DataFrame, wanted: dict[str, nw.Expr]) -> pl.DataFrame:
        if "hot" in wanted or any("90" in str(each) for each in wanted.values()):
            raise pl.exceptions.ComputeError("a value of somebody's")
        return real(records, wanted)

    monkeypatch.setattr(parity.frames, "served", strict)
    with pytest.raises(CheckFailed, match="the feature 'hot' cannot be computed") as found:
        run(load_settings(pilot_folder), "ingest", "validate", "features")
    assert "somebody" not in str(found.value)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1.0, 1.0 + 1e-12, True),
        (1.0, 1.0 + 1e-7, False),
        (1e12, 1e12 + 1, True),
        (1e-11, 3e-11, False),
        (None, None, True),
        (None, math.nan, False),
        (math.nan, None, False),
        (math.nan, math.nan, True),
        (None, 0.0, False),
        (0.0, None, False),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
        (math.inf, 1e308, False),
        (0.0, -0.0, True),
    ],
)
def test_absent_not_a_number_and_a_number_are_three_things(
    left: float | None, right: float | None, same: bool
) -> None:
    one, other = (pl.Series("x", [each], dtype=pl.Float64) for each in (left, right))
    assert parity.differ(one, other).tolist() == [not same]


def test_the_same_records_are_chosen_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "ROWS", 50)
    keys = [f"t{number}" for number in range(400)]
    taken = []
    for order in (keys, keys[::-1]):
        table = ibis.memtable({"ticket": order})
        taken.append(set(parity.chosen(table, "ticket").to_pyarrow()["ticket"].to_pylist()))
    assert taken[0] == taken[1]
    assert len(taken[0]) == 50
    assert taken[0] != set(keys[:50])


def test_ten_thousand_records_are_compared() -> None:
    assert parity.ROWS == 10_000


def test_every_edge_of_the_contract_is_in_a_made_record() -> None:
    records = made.make(CONTRACT)
    for field in CONTRACT.fields:
        found = {repr(record[field.name]) for record in records}
        assert found == {repr(value) for value in made.values(field)}, field.name
        assert ("None" in found) is not field.required
    both = {name: {record[name] for record in records} for name in ("replies", "waits_h", "opened_on")}
    assert {0, 1, 39, 40} <= both["replies"]
    assert {0.0, math.nextafter(0, 1), 900.0, math.nextafter(900, 0)} <= both["waits_h"]
    assert {date(1, 1, 1), date(9999, 12, 31)} <= both["opened_on"]
    assert max(len(record["subject"] or "") for record in records) == 1_000


def test_made_records_are_the_same_every_time_and_break_no_rule() -> None:
    records = made.make(CONTRACT)
    assert records == made.make(CONTRACT)
    assert records != made.make(CONTRACT, seed=8)
    assert not [record for record in records if CONTRACT.breaks(record)]
    assert any(record["open_h"] is not None for record in records)


def test_a_request_and_the_bulk_checks_accept_every_made_record() -> None:
    accept = request_model(CONTRACT)
    records = made.make(CONTRACT)
    for record in records:
        said = accept.model_validate_json(json.dumps(record, default=str))
        assert said.model_dump() == record
    frame = pl.DataFrame(records, schema=frame_schema(CONTRACT)).with_columns(pl.lit(None).alias("escalated"))
    quality, _, _ = checks.check(ibis.memtable(frame.to_arrow()), CONTRACT)
    broken = {name for name, count in quality.rules.items() if count}
    assert broken == {"ticket.repeated"}


def test_the_fields_that_a_feature_is_made_of() -> None:
    x = nw.col("x")
    assert verbs.reads(nw.when(x > nw.col("y")).then(x).otherwise(nw.lit(1.0))) == ("x", "y")
    assert verbs.reads(nw.coalesce("x", "y") + nw.max_horizontal("z", x)) == ("x", "y", "z")
    assert verbs.reads(nw.col("s").str.contains("b", literal=True)) == ("s",)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nw.col("waits_h") / nw.when(nw.col("open_h") > 0).then(nw.col("open_h")),
        lambda: nw.col("subject").str.len_chars(),
        lambda: nw.col("subject").str.to_lowercase() == "a",
        lambda: nw.col("subject").str.contains("a%b_c", literal=True),
        lambda: nw.col("subject").str.replace_all("a", "", literal=True).str.len_chars(),
        lambda: nw.col("replies") * 1.5 - nw.col("balance"),
        lambda: nw.col("urgent") & (nw.col("desk") == "north"),
        lambda: nw.col("desk").replace_strict(["north"], [1.0], default=None, return_dtype=FLOAT),
        lambda: nw.col("balance").is_null(),
    ],
)
def test_what_the_list_of_verbs_allows_is_alike_at_every_edge(
    make: Callable[[], nw.Expr], tmp_path: Path, pilot_folder: Path
) -> None:
    backend = engine.embedded(load_settings(pilot_folder))
    records = pl.DataFrame(made.make(CONTRACT), schema=frame_schema(CONTRACT))
    table = backend.create_table("edges", records.to_arrow(), temp=True)
    wanted: dict[str, Any] = {"feature": make().cast(FLOAT)}
    found = parity.compare(backend, table, CONTRACT, wanted, tmp_path)
    assert np.flatnonzero(found.differing("feature")).tolist() == []


def test_what_is_compared_is_what_training_reads(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    run(settings, "ingest", "validate", "features")
    assert pl.read_parquet(settings.path(layout.TEST))["hot"].dtype == pl.Float64
