"""The profile of all the data, not of a sample: what is in each column, told without telling anybody's value.

Numbers, dates and truth values are counted by aggregates, as many columns at a time as keep memory bounded; a
text column by one grouping of its values. Every figure hangs on the rows alone and not on their order or on
threads, so that the same data gives the same bytes: hence no mean, whose last digits do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from harness.data import coverage, population, shapes
from harness.data.filedrops import FILE_COLUMN, ROW_COLUMN
from harness.data.profiled import RECORDS, Column, Kind, Profile, Shape, Table
from harness.pilot import Contract
from harness.settings import Data

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
# A quantile and a count of different values take up to 50 bytes for each value.
VALUES_AT_ONCE = 20_000_000
EPOCH = date(1970, 1, 1)
# A whole number that hardly ever repeats identifies its row, whatever it is called.
IDENTIFIES, IDENTIFIED_ROWS = 0.95, 50


def build_profile(
    tables: Mapping[str, ir.Table],
    records: ir.Table,
    contract: Contract,
    settings: Data,
    *,
    package: str,
    origin: Mapping[str, Any],
    report: Callable[[str, float], None] = lambda doing, share: None,
) -> Profile:
    """Profile the snapshot and the records.

    Args:
        tables: The snapshot's tables, by name.
        records: What became of them.
        contract: Says what a record is; its categories alone are named.
        settings: Cycle and population.
        package: The pilot's package.
        origin: What ingest found of the snapshot: data/origin.json.
        report: Told what is being done, and how much of it is.
    """
    found = {}
    hidden = (contract.key, contract.entity)
    for number, (name, table) in enumerate(tables.items()):
        report(name, number / (len(tables) + 1))
        found[f"raw.{name}"] = profile_table(table.drop(*_place(table)), hidden=hidden)
    report(RECORDS, len(tables) / (len(tables) + 1))
    named = {field.name: field.categories for field in contract.fields if field.categories}
    found[RECORDS] = profile_table(records, named, hidden=hidden)
    return Profile(
        package=package,
        origin=origin["origin"],
        digest=origin["digest"],
        tables=dict(sorted(found.items())),
        label=contract.label,
        coverage=coverage.covered(records, contract.event_time, settings.cycle_months),
        population=population.represented(records, contract, settings.population),
        population_source=settings.population.source,
    )


def profile_table(
    table: ir.Table, named: Mapping[str, Sequence[str]] | None = None, hidden: Sequence[str] = ()
) -> Table:
    """Profile one table.

    Args:
        table: The table.
        named: The categories to count, for each column that has any.
        hidden: Columns that identify somebody: no value of theirs is told, were it a number.
    """
    kinds = {name: _kind(kind) for name, kind in table.schema().items()}
    rows, different = _rows(table)
    columns: dict[str, Column] = {}
    plain = [name for name, kind in kinds.items() if kind != "text"]
    at_once = max(1, VALUES_AT_ONCE // max(rows, 1))
    for first in range(0, len(plain), at_once):
        some = plain[first : first + at_once]
        wanted: dict[str, Any] = {}
        for name in some:
            wanted |= _figures(table[name], kinds[name], f"{name}.", told=name not in hidden)
        row = table.aggregate(**wanted).to_pyarrow().to_pylist()[0]
        for name in some:
            columns[name] = _column(row, table[name].type(), kinds[name], f"{name}.", rows)
    for name in (name for name, kind in kinds.items() if kind == "text"):
        columns[name] = _text(table, name, rows, tuple((named or {}).get(name, ())))
    return Table(rows=rows, duplicates=rows - different, columns={name: columns[name] for name in kinds})


def _place(table: ir.Table) -> list[str]:
    return [name for name in (FILE_COLUMN, ROW_COLUMN) if name in table.columns]


def _kind(kind: dt.DataType) -> Kind:
    if isinstance(kind, dt.String):
        return "text"
    if isinstance(kind, dt.Boolean):
        return "boolean"
    if isinstance(kind, dt.Numeric):
        return "number"
    if isinstance(kind, dt.Date):
        return "date"
    return "time" if isinstance(kind, dt.Timestamp) else "other"


def _rows(table: ir.Table) -> tuple[int, int]:
    """How many rows there are, and how many different ones."""
    if not table.columns:
        return int(table.count().to_pyarrow().as_py()), 0
    if table.get_backend().name == "duckdb":
        # 64 bits of hash: ten million different rows share one in less than one of 300,000 snapshots.
        different = ibis.struct({name: table[name] for name in table.columns}).hash().nunique()
        row = table.aggregate(rows=table.count(), different=different).to_pyarrow().to_pylist()[0]
        return row["rows"], row["different"]
    # Elsewhere a hash may have 32 bits only.
    different_rows = table.distinct().count().to_pyarrow().as_py()
    return int(table.count().to_pyarrow().as_py()), int(different_rows)


def _as_number(column: ir.Column, kind: Kind) -> ir.NumericColumn:
    """A date as days, a time as seconds, since 1970; a number that is not finite as none."""
    if kind == "date":
        return column.epoch_days()
    if kind == "time":
        # Not `epoch_seconds`, which Ibis takes for 32 bits: they end in 2038.
        return column.delta(ibis.timestamp("1970-01-01 00:00:00"), unit="second")
    if column.type().is_floating():
        # Plus zero: minus zero equals zero, and which of them is the lowest would hang on the order of rows.
        return ibis.ifelse(column.isnan() | column.isinf(), ibis.null("float64"), column + 0.0)
    return column.cast("float64") if column.type().is_decimal() else column


def _figures(column: ir.Column, kind: Kind, prefix: str, *, told: bool) -> dict[str, Any]:
    # NaN is no null, and Spark's isnull takes it for one.
    found = {"missing": column.isnull().sum()}
    if kind == "boolean":
        found["true"] = column.sum()
    if kind in ("number", "date", "time"):
        if column.type().is_floating():
            odd = column.isnan() | column.isinf()
            found["not_finite"] = ibis.coalesce(odd, False).sum()
            found["missing"] = (column.isnull() & ~ibis.coalesce(column.isnan(), False)).sum()
        number = _as_number(column, kind)
        found["distinct"] = number.nunique()
        if told:
            found |= {
                "low": number.min(),
                "high": number.max(),
                "quantiles": number.quantile(list(QUANTILES)),
            }
    return {f"{prefix}{name}": value for name, value in found.items()}


def _column(row: Mapping[str, Any], type_: dt.DataType, kind: Kind, prefix: str, rows: int) -> Column:
    got = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    counts: dict[str, Any] = {
        name: int(got[name] or 0) for name in ("missing", "true", "not_finite", "distinct") if name in got
    }
    present = rows - counts["missing"]
    identifies = (
        type_.is_integer() and present >= IDENTIFIED_ROWS and counts["distinct"] >= IDENTIFIES * present
    )
    told: dict[str, Any] = {}
    if got.get("low") is not None and not identifies:
        told = {"low": _plain(got["low"], kind), "high": _plain(got["high"], kind)}
        told["quantiles"] = tuple(_plain(each, kind) for each in got["quantiles"])
    # Engines differ in how fine a time is, and that is no difference of the data.
    named = "timestamp" if kind == "time" else str(type_)
    return Column(type=named, kind=kind, **counts, **told)


def _plain(value: Any, kind: Kind) -> float | int | str:
    """A number as JSON has it, and a day or a time as ISO 8601."""
    if kind == "number":
        return int(value) if isinstance(value, int) else float(value)
    whole = int(value)
    try:
        if kind == "date":
            return (EPOCH + timedelta(days=whole)).isoformat()
        return (datetime.fromtimestamp(0, UTC) + timedelta(seconds=whole)).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return "year 10000 or later" if whole > 0 else "before year 1"


def _text(table: ir.Table, name: str, rows: int, named: tuple[str, ...]) -> Column:
    found = shapes.count(table, name, named)
    present, top = sum(found.shapes.values()), found.top()
    return Column(
        type="string",
        kind="text",
        missing=rows - present,
        blank=found.blank,
        placeholders=found.placeholders,
        distinct=found.distinct,
        categories={value: found.named[value] for value in named},
        undeclared=present - found.named.total() if named else 0,
        shapes=tuple(Shape(shape=shape, rows=count) for shape, count in top),
        other_shapes=present - found.blank - sum(count for _, count in top),
    )
