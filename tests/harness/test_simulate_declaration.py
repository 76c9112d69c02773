"""A mistake in simulation.yaml or in a parameter is named with its place and its mend."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from harness.errors import PilotError
from harness.simulate import PROFILES, Parameters, Target, simulate
from harness.simulate.spec import read_specification

GOOD = """
tables:
  first:
    rows: 10
    columns: {a: row, _b: u('b')}
  second:
    system: files
    each: first
    files: {name: "second_{year}.csv", since: 2020}
    columns:
      a: first.a
      b: {sql: first._b, missing: usual}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "simulation.yaml"
    path.write_text(text)
    return path


def filled(tmp_path: Path, text: str) -> None:
    targets = {"files": Target("csv", str(tmp_path / "drop"))}
    simulate(written(tmp_path, text), Parameters(rows=10), targets, lambda *_: None)


@pytest.mark.parametrize(
    ("old", "new", "place", "reason"),
    [
        ("rows: 10", "rows: 10\n    colour: 1", "tables.first.colour", "unknown"),
        ("missing: usual", "missing: often", "tables.second.columns.b.missing", "0.15-0.30"),
        ("missing: usual", "missing: 0.5-0.1", "tables.second.columns.b", "between 0 and 1"),
        ("missing: usual", "misssing: usual", "tables.second.columns.b.misssing", "unknown"),
        ("missing: usual", "dates: [roman]", "tables.second.columns.b.dates.0", "iso"),
        ("each: first", "each: third", "tables.second", "declared above"),
        ("each: first", "each: first\n    rows: 3", "tables.second", "either 'rows' or 'each'"),
        ("each: first", "each: first\n    lookup: {x: {table: second, at: 0}}", "tables.second", "above"),
        ("missing: usual", "missing: 0.1, 0.2", "tables.second.columns.b.0.2", "unknown"),
        ("a: row", "row: row", "tables.first", "cannot be a name"),
        ("a: row", "'a b': row", "tables.first", "cannot be a name"),
        ("a: row", "a: row, A: row", "tables.first", "more than case"),
        ('"second_{year}.csv"', "second.csv", "tables.second.files.name", "pattern"),
        ("tables:\n", "tables:\n\t", ":3", "not YAML"),
    ],
)
def test_what_the_file_says_wrongly(tmp_path: Path, old: str, new: str, place: str, reason: str) -> None:
    assert old in GOOD
    with pytest.raises(PilotError) as raised:
        read_specification(written(tmp_path, GOOD.replace(old, new, 1)))
    assert place in str(raised.value)
    assert reason in raised.value.what
    assert raised.value.mend


@pytest.mark.parametrize("use", ["each: second", "rows: 1\n    lookup: {x: {table: second, at: 0}}"])
def test_only_tables_with_one_row_each_can_be_built_upon(tmp_path: Path, use: str) -> None:
    third = f"  third:\n    {use}\n    columns: {{a: row}}\n"
    with pytest.raises(PilotError, match=r"tables\.third"):
        read_specification(written(tmp_path, GOOD + third))


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("rows: 10", "rows: many()", "tables.first.rows"),
        ("_b: u('b')", "_b: c + 1", "tables.first.columns._b"),
        ("_b: u('b')", "_b: '1) from x; --'", "tables.first.columns._b"),
        ("a: first.a", "a: first.z", "tables.second.columns.a"),
        ("each: first", "each: first\n    where: first.a >", "tables.second.where"),
        ("each: first", "each: first\n    time: soon", "tables.second.time"),
        ("since: 2020", "since: 2020, where: hour = 1", "tables.second.files.where"),
        ("missing: usual", "money: {currency: euro}", "tables.second.columns.b.money.currency"),
        (
            "each: first",
            "each: first\n    duplicates: {near: {share: 0.1, change: {b: x}}}",
            "tables.second.duplicates.near.change.b",
        ),
    ],
)
def test_wrong_sql_is_found_in_its_place(tmp_path: Path, old: str, new: str, place: str) -> None:
    assert old in GOOD
    with pytest.raises(PilotError) as raised:
        filled(tmp_path, GOOD.replace(old, new, 1))
    assert raised.value.where.endswith(place)
    assert "DuckDB refuses" in raised.value.what


def test_a_wrong_value_in_a_row_names_the_table(tmp_path: Path) -> None:
    with pytest.raises(PilotError) as raised:
        filled(tmp_path, GOOD.replace("_b: u('b')", "_b: cast('x' || row as integer)"))
    assert "tables.first" in raised.value.where


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PilotError, match="cannot be read"):
        read_specification(tmp_path / "simulation.yaml")


def test_function_names_inside_texts_stay_texts(tmp_path: Path) -> None:
    filled(tmp_path, GOOD.replace("a: row", "a: \"'it''s u(1), drift()' || cast(u('x') < 2 as varchar)\""))
    assert "it's u(1), drift()true" in next((tmp_path / "drop").glob("*.csv")).read_text()


def test_equal_salts_in_two_tables_are_independent(tmp_path: Path) -> None:
    text = GOOD.replace("rows: 10", "rows: 200").replace("a: first.a", "a: abs(u('b') - first._b) < 0.01")
    filled(tmp_path, text)
    body = next((tmp_path / "drop").glob("*.csv")).read_text()
    assert body.count('"true"') < 20


def test_profiles_are_what_pilots_and_production_look_like() -> None:
    assert PROFILES["pilot"].rows == 10_000
    assert PROFILES["pilot"].missing == (0.02, 0.02)
    assert PROFILES["production"].rows == 10_000_000
    assert PROFILES["production"].missing == (0.15, 0.30)
    assert PROFILES["production"].mess > PROFILES["pilot"].mess
    assert Parameters.of("pilot", rows=7, drift=None).rows == 7
    assert Parameters.of("pilot", until=date(2025, 1, 1)).until == date(2025, 1, 1)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"rows": 0}, "rows"),
        ({"missing": (0.3, 0.1)}, "missing"),
        ({"mess": 1.1}, "mess"),
        ({"drift": -0.1}, "drift"),
        ({"seed": -1}, "seed"),
        ({"colour": 1}, "colour"),
    ],
)
def test_parameters_out_of_range(changes: dict[str, object], place: str) -> None:
    with pytest.raises(PilotError) as raised:
        Parameters.of("pilot", **changes)
    assert raised.value.where == f"simulate: {place}"


def test_an_unknown_profile() -> None:
    with pytest.raises(PilotError, match="pilot, production"):
        Parameters.of("demo")
