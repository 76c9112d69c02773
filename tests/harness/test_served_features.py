"""Expressions are translated once for a service, and compute what they compute anywhere else."""

from __future__ import annotations

import narwhals as nw
import polars as pl
import pytest
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
