"""The profile: exact figures of all the rows, the same bytes for the same data, and nobody's values."""

from __future__ import annotations

import json
import math
import random
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import polars as pl
import pytest

from harness.data import profile, shapes
from harness.data.coverage import covered
from harness.data.population import represented
from harness.data.profiled import Profile, load_profile
from harness.data_settings import Population
from harness.errors import PilotError
from harness.pilot import Choice, Contract, Field
from harness.settings import Data

CONTRACT = Contract(
    key="reading",
    entity="machine",
    event_time="day",
    label="failed",
    label_arrives_after_days=7,
    decision=Choice("inspect", "leave"),
    fields=(
        Field("reading", "text", "The reading's number"),
        Field("machine", "integer", "The machine's number"),
        Field("day", "date", "The day of the reading"),
        Field("heat", "number", "Temperature", required=False),
        Field("site", "text", "Where it stands", categories=("north", "south", "unknown"), required=False),
        Field("note", "text", "What the operator wrote", required=False),
        Field("indoors", "boolean", "Whether it stands under a roof", required=False),
    ),
)
SCHEMA = {
    "reading": pl.String,
    "machine": pl.Int64,
    "day": pl.Date,
    "heat": pl.Float64,
    "site": pl.String,
    "note": pl.String,
    "indoors": pl.Boolean,
    "failed": pl.Boolean,
}


def records(rows: int = 400) -> pl.DataFrame:
    draw = random.Random(7)
    return pl.DataFrame(
        [
            {
                "reading": f"r{number:05d}",
                "machine": 700_000 + number % 9,
                "day": date(2025, 1, 1) + timedelta(days=number),
                "heat": draw.choice([None, draw.uniform(-20, 90), draw.uniform(-20, 90)]),
                "site": draw.choice(["north", "south", "east", None]),
                "note": draw.choice(["Frau Müller rief an", "", "  ", "n/a", "ok", None]),
                "indoors": draw.choice([True, False, None]),
                "failed": draw.choice([True, False, False, None]),
            }
            for number in range(rows)
        ],
        schema=SCHEMA,
    )


def on_engine(frame: pl.DataFrame, threads: int = 2) -> ibis.Table:
    backend = ibis.duckdb.connect()
    backend.raw_sql(f"SET threads = {threads}")
    return backend.create_table("t", frame.to_arrow())


def profiled(frame: pl.DataFrame, threads: int = 2, **settings: Any) -> Profile:
    table = on_engine(frame, threads)
    origin = {"origin": "real", "digest": "d"}
    return profile.build_profile(
        {"readings": table}, table, CONTRACT, Data(**settings), package="wear", origin=origin
    )


def test_figures_are_those_of_every_row() -> None:
    frame = records()
    columns = profiled(frame).tables["records"].columns
    heat = frame["heat"]
    assert columns["heat"].missing == heat.null_count()
    assert columns["heat"].distinct == heat.drop_nulls().n_unique()
    assert (columns["heat"].low, columns["heat"].high) == (heat.min(), heat.max())
    wanted = [heat.quantile(at, "linear") for at in profile.QUANTILES]
    assert list(columns["heat"].quantiles) == pytest.approx(wanted, rel=1e-12)
    assert (columns["day"].low, columns["day"].high) == ("2025-01-01", "2026-02-04")
    assert columns["indoors"].true == frame["indoors"].sum()
    assert columns["note"].distinct == frame["note"].drop_nulls().n_unique()
    assert columns["note"].blank == frame["note"].is_in(["", "  "]).sum()
    assert columns["note"].placeholders == (frame["note"] == "n/a").sum()
    assert (
        columns["note"].absent
        == columns["note"].missing + columns["note"].blank + columns["note"].placeholders
    )
    assert columns["reading"].shapes[0].shape == "a9+"


def test_the_same_rows_give_the_same_bytes_in_any_order_on_any_number_of_threads() -> None:
    frame = records(3_000)
    first = json.dumps(profiled(frame).document(), sort_keys=True)
    for threads, seed in ((1, 3), (4, 5)):
        again = profiled(frame.sample(fraction=1.0, shuffle=True, seed=seed), threads)
        assert json.dumps(again.document(), sort_keys=True) == first


def test_a_profile_tells_nobodys_values() -> None:
    told = json.dumps(profiled(records()).document())
    for value in ("Müller", "Frau", "rief", "r00001", "east", "700000", "700001.0"):
        assert value not in told
    assert "north" in told  # contract.py declares it


def test_a_whole_number_that_identifies_its_row_is_not_told_whatever_it_is_called() -> None:
    frame = pl.DataFrame({"person": range(40_000, 40_200), "age": [number % 60 for number in range(200)]})
    columns = profile.profile_table(on_engine(frame)).columns
    assert (columns["person"].low, columns["person"].quantiles) == (None, ())
    assert (columns["age"].low, columns["age"].high) == (0, 59)


def test_only_declared_categories_are_named_and_the_others_counted() -> None:
    frame = records()
    site = profiled(frame).tables["records"].columns["site"]
    assert site.categories == {
        "north": (frame["site"] == "north").sum(),
        "south": (frame["site"] == "south").sum(),
        "unknown": 0,
    }
    assert site.undeclared == (frame["site"] == "east").sum()
    assert profiled(frame).tables["raw.readings"].columns["site"].categories == {}


def test_a_declared_category_is_no_placeholder() -> None:
    frame = records(3).with_columns(site=pl.Series(["unknown", "N/A", "north"]))
    assert profiled(frame).tables["records"].columns["site"].placeholders == 1


def test_exact_duplicates_are_counted_on_every_column_nulls_included() -> None:
    frame = records(100)
    assert profiled(pl.concat([frame, frame[:7], frame[:3]])).tables["records"].duplicates == 10
    assert profiled(frame).tables["records"].duplicates == 0


def test_numbers_that_are_none_are_counted_and_no_figure_hangs_on_them() -> None:
    values = [1.0, 2.0, math.nan, math.inf, None, -0.0, 0.0]
    column = profile.profile_table(on_engine(pl.DataFrame({"x": values}))).columns["x"]
    assert (column.missing, column.not_finite, column.distinct) == (1, 2, 3)
    assert (column.low, column.high) == (0.0, 2.0)
    assert str(column.low) == "0.0"


def test_dates_and_times_at_the_ends_of_the_calendar_are_told() -> None:
    frame = pl.DataFrame({
        "day": [date(9999, 12, 31), date(1, 1, 1)],
        "at": [datetime(9999, 12, 31, 23, 59), datetime(1, 1, 1)],
    })  # fmt: skip
    columns = profile.profile_table(on_engine(frame)).columns
    assert (columns["day"].low, columns["day"].high) == ("0001-01-01", "9999-12-31")
    assert columns["at"].high == "9999-12-31T23:59:00Z"


def test_columns_a_few_at_a_time_give_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = records()
    whole = profiled(frame)
    monkeypatch.setattr(profile, "VALUES_AT_ONCE", 1)
    assert profiled(frame) == whole


def test_a_table_without_rows_has_a_profile() -> None:
    found = profiled(records(0))
    assert found.tables["records"].rows == 0
    assert found.coverage.first is None
    assert not found.coverage.covers_cycle


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("EUR 1,234.56", "A 9,999.99"),
        ("EUR 12,345,678.90", "A 9,999.99"),
        ("1.234,56 €", "9.999,99 a"),
        ("17.99", "9.99"),
        ("123456.99", "9.99"),
        ("2025-03-07", "9999-99-99"),
        ("07.03.2025", "99.99.9999"),
        ("03/07/2025", "99/99/9999"),
        ("1234", "9999"),
        ("12345", "9+"),
        ("A-0000017", "A-9+"),
        (" Retail", " Aa"),
        ("Müller", "Aa"),
        ("one two three four five six seven", shapes.FREE_TEXT),
        ("", ""),
    ],
)
def test_a_text_has_one_shape_wherever_it_is_computed(text: str, shape: str) -> None:
    table = on_engine(pl.DataFrame({"x": [text, text, None]}, schema={"x": pl.String}))
    here = shapes.count(table, "x")
    assert dict(here.shapes) == {shape: 2}
    values = table.filter(table.x.notnull()).group_by(value="x").agg(rows=ibis._.count())
    (row,) = shapes.reduced(values, ()).to_pyarrow().to_pylist()
    assert shapes.shape_of(row["shape"]) == shape
    assert (row["rows"], row["values"]) == (2, 1)


def test_the_engines_own_counts_are_the_same_as_ours() -> None:
    draw = random.Random(3)
    alphabet = "aA9é ./,-Z0"
    texts = ["".join(draw.choices(alphabet, k=draw.randint(0, 9))) for _ in range(3_000)]
    table = on_engine(pl.DataFrame({"x": [*texts, "N/A", " null ", "north", "south"]}))
    here = shapes.count(table, "x", ("north", "N/A"))
    values = table.group_by(value="x").agg(rows=ibis._.count())
    there = shapes.Texts()
    for row in shapes.reduced(values, ("north", "N/A")).to_pyarrow().to_pylist():
        there.distinct += row["values"]
        there.placeholders += row["placeholders"]
        there.shapes[shapes.shape_of(row["shape"])] += row["rows"]
        there.named["north"] += row["named_0"]
        there.named["N/A"] += row["named_1"]
    assert there == here
    assert here.placeholders == 1 + sum(text.strip() in shapes.PLACEHOLDERS for text in texts)


def months(*named: str, event_time: str = "day") -> Any:
    frame = pl.DataFrame({event_time: [date.fromisoformat(f"{month}-15") for month in named]})
    return covered(on_engine(frame), event_time, 12)


def test_a_cycle_is_covered_by_months_in_a_row() -> None:
    year = [f"2025-{month:02}" for month in range(1, 13)]
    assert months(*year).covers_cycle
    assert not months(*year[:-1]).covers_cycle
    gap = months(*year[:6], *year[7:], "2026-01", "2026-02")
    assert (gap.longest_run, gap.empty_months, gap.covers_cycle) == (7, 1, False)


def test_a_single_record_of_long_ago_covers_nothing() -> None:
    found = months("1970-01", "2025-01", "2025-02")
    assert (found.first, found.longest_run, found.covers_cycle) == ("1970-01-15", 2, False)
    assert found.months == {"1970-01": 1, "2025-01": 1, "2025-02": 1}


def test_records_unlike_the_declared_population_are_told_apart() -> None:
    frame = records(200).with_columns(site=pl.Series(["north"] * 150 + ["south"] * 50))
    alike = Population(shares={"site": {"north": 0.75, "south": 0.25}})
    other = Population(shares={"site": {"north": 0.4, "south": 0.6}})
    table = on_engine(frame)
    assert represented(table, CONTRACT, alike)["site"].alike
    found = represented(table, CONTRACT, other)["site"]
    assert (found.alike, found.distance) == (False, 0.35)
    assert found.psi == pytest.approx(0.35 * math.log(0.75 / 0.4) - 0.35 * math.log(0.25 / 0.6))
    assert profiled(frame, population=other).population["site"] == found


def test_bands_of_a_number_are_compared() -> None:
    frame = records(100).with_columns(heat=pl.Series([5.0] * 50 + [50.0] * 30 + [500.0] * 20))
    declared = Population(bands={"heat": {"edges": (10, 100), "shares": (0.5, 0.3, 0.2)}})  # type: ignore[dict-item]
    assert represented(on_engine(frame), CONTRACT, declared)["heat"].distance == 0.0


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"shares": {"colour": {"red": 1.0}}}, "no field 'colour'"),
        ({"shares": {"site": {"north": 0.5, "west": 0.5}}}, "'west' is no category"),
        ({"shares": {"heat": {"north": 1.0}}}, "'heat' is a number"),
        ({"shares": {"note": {"ok": 1.0}}}, "it has no categories"),
        ({"bands": {"site": {"edges": (1,), "shares": (0.5, 0.5)}}}, "'site' is a text"),
    ],
)
def test_a_population_that_the_contract_does_not_know_is_refused(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(PilotError, match=said) as caught:
        represented(on_engine(records(3)), CONTRACT, Population(**declared))
    assert caught.value.where.startswith("pilot.toml [data.population.")


@pytest.mark.parametrize(
    "declared",
    [
        {"shares": {"site": {"north": 0.5, "south": 0.2}}},
        {"bands": {"heat": {"edges": (10, 5), "shares": (0.5, 0.3, 0.2)}}},
        {"bands": {"heat": {"edges": (5, 10), "shares": (0.5, 0.5)}}},
    ],
)
def test_shares_that_cannot_be_are_refused(declared: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"add up|ascend"):
        Population(**declared)


def test_a_profile_is_read_back_as_it_was_and_anything_else_is_refused(tmp_path: Path) -> None:
    found, file = profiled(records()), tmp_path / "profile.json"
    file.write_text(json.dumps(found.document()))
    assert load_profile(file) == found
    file.write_text('{"schema_version": 2}')
    with pytest.raises(PilotError, match="not a profile that this version can read"):
        load_profile(file)
    with pytest.raises(PilotError, match="there is no profile"):
        load_profile(tmp_path / "nothing.json")
