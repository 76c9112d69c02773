"""The engine that bulk expressions run on: DuckDB in this process, or Spark.

What one process holds anyway, such as the rows of a source on their way into the snapshot, or decisions out
of the store, is counted on DuckDB whichever engine is named.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis

from harness.files import whole_file
from harness.settings import NO_DOWNLOADS, Settings

if TYPE_CHECKING:
    from ibis.backends.duckdb import Backend as DuckDB
    from ibis.backends.sql import SQLBackend as Backend


def connect(settings: Settings) -> Backend:
    """The engine that pilot.toml names.

    Raises:
        PilotError: It is Spark, and Spark cannot start.
    """
    if settings.data.engine == "spark":
        from harness.data import spark  # which is not installed where nobody asks for it

        return spark.connect(settings.data.spark, settings.path("var", "spark"), settings.pilot.name)
    return embedded(settings)


def embedded(settings: Settings) -> DuckDB:
    """DuckDB in this process, with spill files below the pilot's var/ folder."""
    spill = settings.path("var", "spill")
    spill.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"temp_directory": str(spill), **NO_DOWNLOADS}
    if settings.data.memory_limit:
        options["memory_limit"] = settings.data.memory_limit
    backend: DuckDB = ibis.duckdb.connect(**options)
    # DuckDB draws a bar of its own where it takes the process for a notebook: standard output is the verb's.
    backend.raw_sql("SET enable_progress_bar = false")
    # A day is the same day on every machine.
    backend.raw_sql("SET TimeZone = 'UTC'")
    return backend


def write_parquet(backend: Backend, table: ibis.Table, file: Path, *, order_by: list[str]) -> None:
    """Write a table in a stated order: the same rows give the same bytes."""
    if backend.name != "duckdb":
        # Equal ones come in whatever order the executors had them.
        order_by = [*order_by, *(name for name in table.columns if name not in order_by)]
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
