"""The kinds of ``[sources.NAME]`` in pilot.toml: where a system is, and nothing of what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.sections import Section

EMBEDDED = "embedded"


class PostgresSource(Section):
    """A PostgreSQL database; ``url`` is "embedded" for the simulated one."""

    kind: Literal["postgres"]
    url: str = EMBEDDED


class CsvSource(Section):
    """A folder into which a system drops CSV files."""

    kind: Literal["csv"]
    path: Path


class FilesSource(Section):
    """CSV or Parquet files in a folder or an object store.

    Attributes:
        kind: ``files``.
        path: A folder, or an address that fsspec takes, such as ``s3://bucket/folder``.
        options: What the object store's package is opened with, such as ``endpoint_url``. Secrets belong in
            the environment, or in the places where that package looks by itself.
    """

    kind: Literal["files"]
    path: str
    options: dict[str, Any] = Field(default_factory=dict)


class SqliteSource(Section):
    """An SQLite file, opened for reading only."""

    kind: Literal["sqlite"]
    path: Path


class DuckdbSource(Section):
    """A DuckDB file, opened for reading only."""

    kind: Literal["duckdb"]
    path: Path


class IbisSource(Section):
    """Any system whose address ``ibis.connect`` takes; its backend is installed by the team."""

    kind: Literal["ibis"]
    url: str


Source = Annotated[
    PostgresSource | CsvSource | FilesSource | SqliteSource | DuckdbSource | IbisSource,
    Field(discriminator="kind"),
]
KINDS: dict[str, list[str]] = {
    "postgres": list(PostgresSource.model_fields),
    "csv": list(CsvSource.model_fields),
    "files": list(FilesSource.model_fields),
    "sqlite": list(SqliteSource.model_fields),
    "duckdb": list(DuckdbSource.model_fields),
    "ibis": list(IbisSource.model_fields),
}
