"""A field that knows the outcome, as one is that was written when the outcome was known."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import polars as pl

from harness.contract import Choice, Contract, Field

ORDER = ("number", "integer", "boolean", "text")


def leaked(
    records: pl.DataFrame, contract: Contract, accepted: Collection[str]
) -> tuple[str, pl.DataFrame] | None:
    """The records with one field made of the outcome, in values that it may have; None where none can be.

    Args:
        records: Records that keep the contract.
        contract: Says which column is the outcome.
        accepted: Findings that the pilot accepts; a field that one of them names is left alone.
    """
    left_alone = {contract.key, contract.entity, contract.event_time}
    left_alone |= {each.partition(":")[2] for each in accepted}
    fields = [each for each in contract.fields if each.type in ORDER and each.name not in left_alone]
    for field in sorted(fields, key=lambda each: ORDER.index(each.type)):
        made = _made(field, records, contract)
        if made is not None:
            known = pl.col(contract.label).is_not_null()
            value = pl.when(known).then(made).otherwise(pl.col(field.name)).cast(records.schema[field.name])
            return field.name, records.with_columns(value.alias(field.name))
    return None


def _made(field: Field, records: pl.DataFrame, contract: Contract) -> pl.Expr | None:
    label = pl.col(contract.label).cast(pl.Float64)
    if isinstance(contract.decision, Choice):
        both = _two(field, records[field.name])
        return None if both is None else pl.when(label > 0.5).then(pl.lit(both[1])).otherwise(pl.lit(both[0]))
    both = _two(field, records[field.name]) if field.type == "number" else None
    low, high = records.select(label.min().alias("low"), label.max().alias("high")).row(0)
    if both is None or low is None or low == high:
        return None
    made: pl.Expr = (label - low) / (high - low) * (both[1] - both[0]) + both[0]
    return made


def _two(field: Field, column: pl.Series) -> tuple[Any, Any] | None:
    """Two values that the field has, or may have."""
    if field.type == "boolean":
        return False, True
    if field.type == "text":
        return (field.categories[0], field.categories[1]) if len(field.categories) > 1 else None
    found = column.drop_nulls()
    found = found.filter(found.is_finite()) if found.dtype.is_float() else found
    if found.n_unique() < 2:
        return None
    return found.min(), found.max()
