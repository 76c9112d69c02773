"""A plant whose readings lie in one source or another, and what ingest makes of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from harness.data import engine, snapshot
from harness.data.extract import Extracted, extract
from harness.data.snapshot import Counts, Part
from harness.pilot import Table
from harness.settings import Settings, load_settings

PILOT = """
[pilot]
name = "Plant"
package = "plant"
purpose = "Say how long a part lasts."
use_case = "regression"
team = "plant"
owner = "TODO"
on_call = "TODO"
risk_tier = "minimal"
data_classification = "internal"
"""
START = datetime(2026, 3, 1, 12)
HOUR = timedelta(hours=1)
READINGS = Table("readings", system="plant", key="reading", watermark="at")
TWO_TABLES = (READINGS, Table("repairs", system="plant", key="reading", watermark="at"))
Row = tuple[Any, ...]


def quiet(_doing: str, _share: float) -> None:
    """Report to nobody."""


@dataclass
class Plant:
    """A pilot's folder with one system, ``plant``.

    Attributes:
        root: The folder.
        source: Its table in pilot.toml, without the name.
        tables: What sources.py would declare.
    """

    root: Path
    source: str = 'kind = "sqlite"\npath = "plant.db"'
    tables: tuple[Table, ...] = field(default=(READINGS,))

    @property
    def settings(self) -> Settings:
        (self.root / "pilot.toml").write_text(f"{PILOT}\n[sources.plant]\n{self.source}\n", encoding="utf-8")
        return load_settings(self.root)

    @property
    def folder(self) -> Path:
        return self.root / "data" / "raw"

    def ingest(self, *, full: bool = False) -> Extracted:
        return extract(self.settings, self.tables, self.folder, quiet, whole=full)

    def parts(self, name: str = "readings") -> list[Part]:
        return snapshot.parts(self.folder / name)

    def last(self) -> Counts:
        return self.parts()[-1].about.counts

    def received(self, name: str = "readings") -> list[Row]:
        """What ``records`` would get, in order."""
        backend = engine.connect(self.settings)
        table = snapshot.tables(backend, self.tables, self.folder)[name]
        names = sorted(table.columns)
        rows = backend.to_pyarrow(table.select(names)).to_pylist()
        backend.disconnect()
        return sorted((tuple(row[name] for name in names) for row in rows), key=repr)

    def bytes(self) -> dict[str, bytes]:
        """Every file of the snapshot."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def kept(self) -> int:
        """All rows of all parts."""
        return sum(pq.read_metadata(part.file).num_rows for part in self.parts())


def reading(number: int, hours: float, heat: float | None = 20.0, machine: str = "m1") -> Row:
    """A row of the table: its number, its machine, its heat and when it was last changed."""
    return (f"r{number:04}", machine, heat, START + hours * HOUR)


def sqlite_table(root: Path, rows: Iterable[Row], *, columns: str = "") -> None:
    """Make the table anew in the plant's SQLite file."""
    declared = columns or "reading text, machine text, heat real, at timestamp"
    with sqlite3.connect(root / "plant.db") as connection:
        connection.execute("drop table if exists readings")
        connection.execute(f"create table readings ({declared})")
        add_rows(connection, rows)
    connection.close()


def add_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    for row in rows:
        values = [str(value) if isinstance(value, datetime) else value for value in row]
        connection.execute(f"insert into readings values ({', '.join('?' * len(values))})", values)


def change(root: Path, *statements: str) -> None:
    """Change the plant's SQLite file."""
    with sqlite3.connect(root / "plant.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
