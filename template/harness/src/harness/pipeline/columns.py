"""The contract's fields as columns: what a record is on its way from a request to its features."""

from __future__ import annotations

from typing import Any

from harness.pilot import Contract, FieldType


def frame_schema(contract: Contract) -> dict[str, Any]:
    """The column types that records take on Polars."""
    import polars as pl  # which the service itself has no need of: models run in processes of their own

    types: dict[FieldType, Any] = {
        "text": pl.String,
        "integer": pl.Int64,
        "number": pl.Float64,
        "boolean": pl.Boolean,
        "date": pl.Date,
    }
    return {declared.name: types[declared.type] for declared in contract.fields}
