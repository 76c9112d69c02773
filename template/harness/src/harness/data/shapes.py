"""How texts are written, without what they say: each text reduced to a shape, and shapes counted.

``EUR 1,234.56`` and ``USD 9,876.10`` have the shape ``A 9,999.99``. A digit is 9, five or more are 9+;
letters in a row are A or a, and whatever is not ASCII counts as a letter in lower case. What has more than
six of those is free text, which has no format: the rule hangs on the text alone, so that the same rows give
the same counts in any order, and it keeps the number of shapes small.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# What people and systems write where there is no value; in lower case, without blanks around it.
PLACEHOLDERS = ("-", "--", "?", "n/a", "na", "n.a.", "nan", "none", "null", "nil", "unknown", "tbd", "#n/a")
FREE_TEXT, FREE = "(free text)", "([aA][^aA]*){7}"
KEPT = 12
LONGEST = 40
BATCH_ROWS = 250_000

_BYTES = np.arange(256, dtype=np.uint8)
_BYTES[ord("0") : ord("9") + 1] = ord("9")
_BYTES[ord("A") : ord("Z") + 1] = ord("A")
_BYTES[ord("a") : ord("z") + 1] = ord("a")
_BYTES[128:] = ord("a")


@dataclass
class Texts:
    """The values of a text column, counted.

    Attributes:
        distinct: Different values.
        shapes: Rows a shape.
        placeholders: Rows with a text that stands for no value.
        named: Rows of each value that was asked for.
    """

    distinct: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    placeholders: int = 0
    named: Counter[str] = field(default_factory=Counter)

    @property
    def blank(self) -> int:
        """Rows with a text of blanks only."""
        return sum(rows for shape, rows in self.shapes.items() if not shape.strip())

    def top(self) -> list[tuple[str, int]]:
        """The most frequent shapes of what is not blank, in an order that hangs on nothing else."""
        some = ((shape, rows) for shape, rows in self.shapes.items() if shape.strip())
        return sorted(some, key=lambda one: (-one[1], one[0]))[:KEPT]


def count(table: ir.Table, name: str, named: Iterable[str] = ()) -> Texts:
    """Count a column's values and their shapes; each value is looked at once, however often it is there.

    On DuckDB the values pass through this process in batches, because its regular expressions take four times
    as long; on any other engine they stay there.
    """
    values = table.filter(table[name].notnull()).group_by(value=name).agg(rows=ibis._.count())
    found = Texts()
    wanted = tuple(named)
    backend = table.get_backend()
    if backend.name == "duckdb":
        # Not Ibis's own batches: version 12 asks DuckDB 2 for a method that it no longer has.
        for batch in backend.con.sql(str(backend.compile(values))).to_arrow_reader(BATCH_ROWS):
            _add(found, batch.column("value"), batch.column("rows"), wanted)
        return found
    for row in reduced(values, wanted).to_pyarrow().to_pylist():
        found.distinct += row["values"]
        found.placeholders += row["placeholders"]
        found.shapes[shape_of(row["shape"])] += row["rows"]
        for number, value in enumerate(wanted):
            found.named[value] += row[f"named_{number}"]
    return found


def reduced(values: ir.Table, named: tuple[str, ...]) -> ir.Table:
    """The same counts as expressions of the engine: a row for each shape.

    Args:
        values: Columns ``value`` and ``rows``.
        named: Values to count.
    """
    written = values.value
    shape = written.re_replace("[0-9]{5,}", "9+").re_replace("[0-9]", "9").re_replace("[^\\x00-\\x7F]", "a")
    shape = shape.re_replace("[a-z]+", "a").re_replace("[A-Z]+", "A")
    # One shape for all free text, which is again free text to `shape_of`.
    shape = shape.re_search(FREE).ifelse("a " * 7, shape[: 3 * LONGEST])
    empty = written.strip().lower().isin(PLACEHOLDERS)
    if named:
        empty &= written.notin(named)
    return (
        values.mutate(shape=shape, empty=empty.ifelse(values.rows, 0))
        .group_by("shape")
        .agg(
            rows=ibis._.rows.sum(),
            values=ibis._.count(),
            placeholders=ibis._.empty.sum(),
            **{
                f"named_{number}": (ibis._.value == value).ifelse(ibis._.rows, 0).sum()
                for number, value in enumerate(named)
            },
        )
        .order_by(ibis.desc("rows"), "shape")
    )


def shape_of(masked: str) -> str:
    """A shape out of a text whose characters were masked, one by one or already in runs.

    How many digits a grouped or a decimal number has is its size and no format.
    """
    found = re.sub("A+", "A", re.sub("a+", "a", re.sub(r"9{5,}", "9+", masked)))
    if re.search(FREE, found):
        return FREE_TEXT
    found = re.sub(r"(?<![9.,])9{1,3}(,999)+(?![9,])", "9,999", found)
    found = re.sub(r"(?<![9.,])9{1,3}(\.999)+(?![9.])", "9.999", found)
    return re.sub(r"(?<![9.,/:])(9{1,4}|9\+)(?=[.,]99?(?![9.,/:]))", "9", found)[:LONGEST]


def _add(found: Texts, values: pa.Array, rows: pa.Array, named: tuple[str, ...]) -> None:
    found.distinct += len(values)
    empty = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(values)), pa.array(PLACEHOLDERS))
    if named:
        inside = pc.is_in(values, pa.array(named))
        empty = pc.and_not(empty, inside)
        some = zip(pc.filter(values, inside).to_pylist(), pc.filter(rows, inside).to_pylist(), strict=True)
        for value, number in some:
            found.named[value] += number
    found.placeholders += pc.sum(pc.filter(rows, empty)).as_py() or 0
    masked = pa.table({"shape": _masked(values), "rows": rows}).group_by("shape").aggregate([("rows", "sum")])
    for shape, number in zip(masked["shape"].to_pylist(), masked["rows_sum"].to_pylist(), strict=True):
        found.shapes[shape_of(shape)] += number


def _masked(values: pa.Array) -> pa.Array:
    """Each byte by its class; one look-up for the whole batch."""
    text = pa.concat_arrays([values.cast(pa.large_string())])
    valid, offsets, data = text.buffers()
    if data is None:
        return text
    masked = _BYTES[np.frombuffer(data, dtype=np.uint8)]
    return pa.Array.from_buffers(
        pa.large_string(), len(text), [valid, offsets, pa.py_buffer(masked)], offset=text.offset
    )
