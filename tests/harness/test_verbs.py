"""Features may use what the engine and Polars compute alike, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ibis
import narwhals as nw
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import PilotError
from harness.pipeline import verbs

C = nw.col
Make = Callable[[], nw.Expr]
EACH: dict[str, Make] = {
    "col": lambda: C("x"),
    "lit": lambda: C("x") * 0 + nw.lit(2.0),
    "alias": lambda: C("x").alias("renamed"),
    "when_then": lambda: nw.when(C("i") > 0).then(C("x")).otherwise(C("y")),
    "coalesce": lambda: nw.coalesce("x", "y"),
    "cast": lambda: C("i").cast(nw.Float64),
    "__add__": lambda: C("x") + C("y"),
    "__sub__": lambda: C("x") - C("i"),
    "__mul__": lambda: C("x") * C("y"),
    "__truediv__": lambda: C("x") / C("y"),
    "__pow__": lambda: C("y") ** 2,
    "__invert__": lambda: ~C("b"),
    "__and__": lambda: C("b") & (C("i") > 0),
    "__or__": lambda: C("b") | (C("i") > 0),
    "__eq__": lambda: C("x") == C("y"),
    "__ne__": lambda: C("s") != "a",
    "__lt__": lambda: C("x") < C("y"),
    "__le__": lambda: C("i") <= 3,
    "__gt__": lambda: C("x") > 0,
    "__ge__": lambda: C("x") >= C("i"),
    "abs": lambda: C("x").abs(),
    "sqrt": lambda: C("x").abs().sqrt(),
    "exp": lambda: (C("y") / 1_000).exp(),
    "log": lambda: (C("x").abs() + 1).log(),
    "floor": lambda: (C("y") / 3).floor(),
    "ceil": lambda: (C("y") / 3).ceil(),
    "clip": lambda: C("y").clip(-1, 2),
    "is_null": lambda: C("x").is_null(),
    "is_in": lambda: C("i").is_in([1, 7]),
    "is_between": lambda: C("x").is_between(-1, 5),
    "is_finite": lambda: (C("x") / 2).is_finite(),
    "fill_null": lambda: C("x").fill_null(9.0),
    "replace_strict": lambda: C("s").replace_strict(
        ["a", "b"], [1.0, 2.0], default=None, return_dtype=nw.Float64
    ),
    "min_horizontal": lambda: nw.min_horizontal("x", "y"),
    "max_horizontal": lambda: nw.max_horizontal("x", "y"),
    "sum_horizontal": lambda: nw.sum_horizontal("x", "y"),
    "any_horizontal": lambda: nw.any_horizontal(C("b"), C("i") > 0, ignore_nulls=False),
    "all_horizontal": lambda: nw.all_horizontal(C("b"), C("i") > 0, ignore_nulls=False),
    "concat_str": lambda: nw.concat_str("s", "s"),
    "str.len_chars": lambda: C("s").str.len_chars(),
    "str.to_lowercase": lambda: C("s").str.to_lowercase(),
    "str.starts_with": lambda: C("s").str.starts_with("a"),
    "str.ends_with": lambda: C("s").str.ends_with("b"),
    "str.contains": lambda: C("s").str.contains("b", literal=True),
    "str.replace_all": lambda: C("s").str.replace_all("a", "zz", literal=True),
    "str.slice": lambda: C("s").str.slice(0, 1),
}
SOME = {
    "x": [None, 0.0, -0.0, 1.5, -2.5, 2.5, 1e150, -1e-150, 3.0, 0.5, -1.0, 7.25],
    "y": [1.0, None, 2.0, -3.0, 4.0, 0.5, -0.5, 1e10, 2.0, 3.0, -1.0, 0.1],
    "i": [None, 0, 1, -1, 7, -7, 5, -5, 100, 3, 2, 9],
    "s": ["a", " Bc ", "", "ÄÖ", "naïve", "x-1", None, "AB", "abc", "Zz", "12", "ß"],
    "b": [True, False, None, True, True, False, None, False, True, True, False, True],
}
TYPES = {"x": pl.Float64, "y": pl.Float64, "i": pl.Int64, "s": pl.String, "b": pl.Boolean}


def both(rows: pl.DataFrame, wanted: dict[str, nw.Expr]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The same expressions on Polars and on the engine, rows in one order."""
    numbered = rows.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    served = nw.from_native(numbered).select("row", **wanted).to_native()
    table = nw.from_native(ibis.memtable(numbered.to_arrow())).select("row", **wanted).to_native()
    trained = pl.from_arrow(table.order_by("row").to_pyarrow())
    assert isinstance(trained, pl.DataFrame)
    return served, trained


def same(one: Any, other: Any) -> bool:
    if one is None or other is None or isinstance(one, str | bool):
        return one == other
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def differ(rows: pl.DataFrame, wanted: dict[str, nw.Expr]) -> set[str]:
    served, trained = both(rows, wanted)
    return {name for name in wanted if not all(map(same, served[name].to_list(), trained[name].to_list()))}


def test_every_verb_on_the_list_is_tried_here() -> None:
    tried = {node.name for make in EACH.values() for node in _nodes(make())}
    assert tried == verbs.TESTED
    assert set(EACH) == verbs.TESTED


def _nodes(expression: nw.Expr) -> list[Any]:
    found = []
    for node in expression._nodes:
        found.append(node)
        for part in node.exprs:
            found += _nodes(part) if isinstance(part, nw.Expr) else []
    return found


def test_the_engine_and_polars_compute_every_verb_alike() -> None:
    wanted = {name.strip("_").replace(".", "_"): make() for name, make in EACH.items()}
    assert differ(pl.DataFrame(SOME, schema=TYPES), wanted) == set()


NUMBERS = st.none() | st.floats(-1e6, 1e6, width=32)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "x": NUMBERS,
            "y": NUMBERS,
            "i": st.none() | st.integers(-1_000, 1_000),
            # Where Unicode has several answers, such as the small letter of a final sigma, engines differ.
            "s": st.none() | st.text("abzAB 019-äé", max_size=6),
            "b": st.none() | st.booleans(),
        }
    ),
    min_size=1,
    max_size=80,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS)
def test_and_so_they_do_on_rows_made_at_random(rows: list[dict[str, Any]]) -> None:
    wanted = {name.strip("_").replace(".", "_"): make() for name, make in EACH.items()}
    assert differ(pl.DataFrame(rows, schema=TYPES), wanted) == set()


@pytest.mark.parametrize(
    ("make", "verb", "mend"),
    [
        (lambda: C("x").round(0), "round", "floor"),
        (lambda: C("x") // C("y"), "floordiv", "floor"),
        (lambda: C("x") % 3, "mod", "floor"),
        (lambda: C("x") - C("x").mean(), "mean", "one row"),
        (lambda: C("x").shift(1), "shift", "one row"),
        (lambda: C("x").is_nan(), "is_nan", "is_null"),
        (lambda: C("d").dt.year(), "dt.year", "dates into numbers"),
        (lambda: nw.when(C("x").rank() > 1).then(1.0), "rank", "one row"),
        (lambda: C("s").str.to_uppercase(), "str.to_uppercase", "small letters"),
        (lambda: C("x").sin(), "sin", "sources.py"),
    ],
)
def test_any_other_verb_is_refused_however_deep_it_stands(make: Make, verb: str, mend: str) -> None:
    with pytest.raises(PilotError) as refused:
        verbs.check({"fine": C("x"), "odd": nw.when(C("b")).then(make()).otherwise(1.0) * 2})
    assert f"the feature 'odd' uses {verb}," in str(refused.value)
    assert mend in refused.value.mend


def test_what_is_refused_for_a_reason_does_differ() -> None:
    nothing = nw.when(C("x") > 1e300).then(1.0)
    wanted = {
        "round": C("y").round(0),
        "upper": C("s").str.to_uppercase(),
        "mean": nw.mean_horizontal(nothing, nothing),
    }
    assert differ(pl.DataFrame(SOME, schema=TYPES), wanted) == set(wanted)
