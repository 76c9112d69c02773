"""Frames of records keep to their schema; expressions are translated once and compute what they did."""

from __future__ import annotations

from datetime import date, datetime
from types import MappingProxyType
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as holds
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from harness.pipeline import frames

SCHEMA = {"a": pl.Float64(), "b": pl.String()}
A = nw.col("a")
WANTED = {
    "half": nw.when(A > 1).then(A / 2),
    "code": nw.col("b").replace_strict(["u", "v"], range(2), default=None, return_dtype=nw.Float64),
    "one": nw.lit(1.0),
}


def records(*rows: tuple[float | None, str | None]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMA, orient="row")


def by_narwhals(given: pl.DataFrame, wanted: dict[str, nw.Expr]) -> pl.DataFrame:
    return nw.to_native(nw.from_native(given).select(**wanted))


@pytest.mark.parametrize(
    "given",
    [
        records((3.0, "u"), (0.5, "v"), (None, "w"), (float("nan"), None)),
        records((2.0, "v")),
        records(),
    ],
    ids=["a batch", "one", "none"],
)
def test_features_are_those_that_narwhals_computes(given: pl.DataFrame) -> None:
    compute = frames.Served(WANTED, SCHEMA)
    for _ in range(2):
        assert_frame_equal(compute(given), by_narwhals(given, WANTED))


def test_a_batch_costs_no_translation(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = frames.Served(WANTED, SCHEMA)
    monkeypatch.delattr(frames, "nw")
    assert compute(records((3.0, "u")))["half"].to_list() == [1.5]


def test_what_cannot_be_translated_without_records_is_said_by_the_records() -> None:
    """A package loads, as it did, and the request is told what is wrong."""
    compute = frames.Served({"x": nw.col("nowhere")}, SCHEMA)
    with pytest.raises(Exception, match="nowhere"):
        compute(records((1.0, "u")))


def test_names_that_narwhals_made_itself_are_its_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the frame was asked for something else than what came out, nothing is kept of it."""
    monkeypatch.setattr(frames._Asked, "asked", (pl.lit("another"),))
    compute = frames.Served(WANTED, SCHEMA)
    assert compute._translated is None
    given = records((3.0, "u"))
    assert_frame_equal(compute(given), by_narwhals(given, WANTED))


FIELDS = {"a": pl.Float64, "b": pl.Int64, "c": pl.String, "d": pl.Boolean, "e": pl.Date}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "a": st.floats() | st.integers(-(2**130), 2**130) | st.booleans(),
    "b": st.integers(-(2**63), 2**63 - 1) | st.booleans(),
    "c": st.text(st.characters(exclude_categories=["Cs"])),
    "d": st.booleans(),
    "e": st.dates(),
}
RECORDS = st.lists(
    st.fixed_dictionaries(
        {"b": VALUES["b"] | st.none()},
        optional={
            **{name: values | st.none() for name, values in VALUES.items() if name != "b"},
            "another": st.integers() | st.text(max_size=3),
        },
    ).flatmap(lambda made: st.permutations(list(made.items())).map(dict)),
    max_size=5,
)


# The first text of a run takes seconds.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@holds(RECORDS)
def test_a_frame_of_records_is_that_of_their_columns(made: list[dict[str, Any]]) -> None:
    columns = {name: [record.get(name) for record in made] for name in FIELDS}
    for records in (made, [MappingProxyType(record) for record in made]):
        found = frames.of_records(records, FIELDS, [name for name in FIELDS if name != "b"])
        assert_frame_equal(found, pl.DataFrame(columns, schema=FIELDS))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("b", value) for value in (1.5, 2.0, "7", date(2026, 1, 1), [1])],
        *[("c", value) for value in (5, 1.5, True)],
        *[("d", value) for value in (1, 0.0, "true")],
        ("a", "1.5"),
        ("e", 5),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_made_fit(name: str, value: Any) -> None:
    """A package whose field was a whole number must not take 1.5 for 1."""
    fits = {"a": 1.5, "b": 2, "c": "x", "d": True, "e": date(2026, 1, 1)}
    for records in ([fits, {**fits, name: value}], [{**fits, name: value}, fits]):
        with pytest.raises(TypeError):
            frames.of_records(records, FIELDS)


def test_a_moment_is_taken_for_its_day_as_it_was() -> None:
    moment = datetime(2026, 1, 2, 3, 4)
    columns = pl.DataFrame({"e": [moment]}, schema={"e": pl.Date})
    assert_frame_equal(frames.of_records([{"e": moment}], {"e": pl.Date}), columns)


def test_a_field_that_has_to_be_there_is_missed() -> None:
    with pytest.raises(KeyError, match="b"):
        frames.of_records([{"a": 1.0}], {"a": pl.Float64, "b": pl.Int64}, ["a"])
