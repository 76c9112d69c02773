"""The engine that bulk expressions run on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis

from harness.files import whole_file
from harness.settings import NO_DOWNLOADS, Settings

if TYPE_CHECKING:
    from ibis.backends.duckdb import Backend


def connect(settings: Settings) -> Backend:
    """An engine in this process, with spill files below the pilot's var/ folder."""
    spill = settings.path("var", "spill")
    spill.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"temp_directory": str(spill), **NO_DOWNLOADS}
    if settings.data.memory_limit:
        options["memory_limit"] = settings.data.memory_limit
    backend: Backend = ibis.duckdb.connect(**options)
    # DuckDB draws a bar of its own where it takes the process for a notebook: standard output is the verb's.
    backend.raw_sql("SET enable_progress_bar = false")
    # A day is the same day on every machine.
    backend.raw_sql("SET TimeZone = 'UTC'")
    return backend


def write_parquet(backend: Backend, table: ibis.Table, file: Path, *, order_by: list[str]) -> None:
    """Write a table in a stated order: the same rows give the same bytes."""
    with whole_file(file) as beside:
        backend.to_parquet(table.order_by(order_by), beside)


def as_declared(backend: Backend, name: str, table: ibis.Table) -> ibis.Table:
    """The same table with the column types that Ibis declares, as a view of that name.

    The two can differ: DuckDB takes the 1.0 of a `when` for a decimal and a date plus days for a timestamp.
    Ibis takes them for a double and a date, and leaves out a cast that would say so. On a view it does not.
    """
    view = backend.create_view(name, table, overwrite=True)
    found, declared = view.schema(), table.schema()
    casts = {
        column: view[column].cast(declared[column])
        for column in table.columns
        if found[column].copy(nullable=True) != declared[column].copy(nullable=True)
    }
    return view.mutate(**casts)
