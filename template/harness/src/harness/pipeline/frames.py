"""Frames of records and of features, and the columns that stand beside the features."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl

from harness.pilot import Contract
from harness.pipeline import layout


def beside(contract: Contract) -> dict[str, nw.Expr]:
    """The columns that stand beside the features: key, label and event time."""
    return {
        layout.KEY: nw.col(contract.key),
        layout.LABEL: nw.col(contract.label).cast(nw.Float64),
        layout.TIME: nw.col(contract.event_time),
    }


# What a value may be that Polars takes for the type as it is.
_PLAIN: Mapping[Any, frozenset[type]] = {
    pl.String: frozenset({str, type(None)}),
    pl.Int64: frozenset({int, type(None)}),
    pl.Float64: frozenset({float, type(None)}),
    pl.Boolean: frozenset({bool, type(None)}),
    pl.Date: frozenset({date, type(None)}),
}


def of_records(
    records: Sequence[Mapping[str, Any]], schema: Mapping[str, Any], optional: Collection[str] = ()
) -> pl.DataFrame:
    """Records as a frame of this schema and no other columns.

    Polars makes a frame of whole records in a fifth of the time that it takes for one of columns. But then it
    takes 1.5 for the whole number 1 and "7" for 7, so only records whose values need no translation go that
    way.

    Args:
        records: The records.
        schema: The contract's fields, as ``frame_schema`` types them.
        optional: The fields that may be missing.

    Raises:
        KeyError: A record lacks a field.
        TypeError: A value is not of its field's type.
        polars.exceptions.ComputeError: A whole number is beyond 64 bits.
    """
    values = {
        name: [record.get(name) if name in optional else record[name] for record in records]
        for name in schema
    }
    if all(_PLAIN[schema[name]].issuperset(map(type, column)) for name, column in values.items()):
        return pl.DataFrame([*map(dict, records)], schema=schema)
    return pl.DataFrame(values, schema=schema)


class Served:
    """Computes features as a service does, whether of one record or of a batch.

    Narwhals translates expressions into Polars' own with each call, which takes many times as long as Polars
    takes to compute them for a batch. Here they are translated once, for a frame without rows.

    Args:
        wanted: Each feature, a double.
        schema: The contract's fields, as ``frame_schema`` types them.
    """

    def __init__(self, wanted: Mapping[str, nw.Expr], schema: Mapping[str, Any]) -> None:
        self._wanted = dict(wanted)
        self._translated = _translated(self._wanted, schema)

    def __call__(self, records: pl.DataFrame) -> pl.DataFrame:
        """The features of records that have the schema."""
        if self._translated is None:
            return nw.to_native(nw.from_native(records).select(**self._wanted))
        return records.select(*self._translated)


def served(records: pl.DataFrame, wanted: Mapping[str, nw.Expr]) -> pl.DataFrame:
    """The features of records, once; see ``Served``."""
    return Served(wanted, records.schema)(records)


class _Asked(pl.DataFrame):
    """A frame that keeps what it was asked to select."""

    asked: tuple[Any, ...] = ()

    def select(self, *wanted: Any, **named: Any) -> pl.DataFrame:
        self.asked += (*wanted, *(each.alias(name) for name, each in named.items()))
        return super().select(*wanted, **named)


def _translated(wanted: Mapping[str, nw.Expr], schema: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The expressions as Polars has them; None where they cannot be had without records."""
    frame = _Asked(schema=schema)
    try:
        found = nw.to_native(nw.from_native(frame).select(**wanted))
        same = frame.clear().select(*frame.asked).schema == found.schema
    except Exception:  # the records will say what is wrong with it
        return None
    return frame.asked if same and found.columns == list(wanted) else None


def only_features(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame without the columns that stand beside the features."""
    return frame.drop(layout.KEY, layout.LABEL, layout.TIME)


def label(frame: pl.DataFrame) -> np.ndarray:
    """The outcomes, shape (n,), as doubles."""
    return frame[layout.LABEL].to_numpy()
