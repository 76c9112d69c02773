"""From the source systems to the raw snapshot: each table is read beside it, and joins it when all are whole.

A table with a key and a watermark is read from where the last read ended; any other one is read whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from harness.data import databases, engine, filedrops, increment, snapshot
from harness.data.databases import embedded_folder
from harness.data.filedrops import FILE_COLUMN, ROW_COLUMN
from harness.data.origin import MANIFEST
from harness.data.reading import BATCH_ROWS, Reader, Since, explained, kind_of, pulled
from harness.data.snapshot import About, Change, Counts, Part
from harness.data.versions import PART_COLUMN
from harness.errors import CheckFailed, PilotError
from harness.files import PART
from harness.pilot import Table
from harness.progress import Report
from harness.settings import Settings, without_password
from harness.simulate import Manifest, fingerprint
from harness.simulate.digest import literal, quoted
from harness.source_kinds import (
    EMBEDDED,
    CsvSource,
    DuckdbSource,
    FilesSource,
    IbisSource,
    PostgresSource,
    Source,
    SqliteSource,
)

__all__ = ["Extracted", "embedded_folder", "extract"]

DEFAULT_LOOKBACK = timedelta(days=1)


@dataclass(frozen=True)
class Extracted:
    """What came of reading the sources.

    Attributes:
        notes: What a person should know of it, one line each.
        evidence: Counts and rights, for evidence/ingest.json.
    """

    notes: list[str]
    evidence: dict[str, Any]


def extract(
    settings: Settings, tables: Sequence[Table], folder: Path, report: Report, *, whole: bool = False
) -> Extracted:
    """Read every declared table into the snapshot ``folder``.

    Args:
        settings: The pilot's settings.
        tables: What sources.py declares.
        folder: The snapshot.
        report: Told what is being read.
        whole: Read every table whole, take its columns as they are now, and forget earlier versions.

    Raises:
        PilotError: A system or table is not there, or stops answering; the snapshot is then as it was.
        CheckFailed: What came cannot be what was meant; the snapshot is then as it was.
    """
    notes: list[str] = []
    changes: list[Change] = []
    rights: dict[str, Any] = {}
    with _beside(folder) as beside, contextlib.closing(engine.embedded(settings).con) as connection:
        for system in dict.fromkeys(table.system for table in tables):
            source = _source(settings, system)
            wanted = [table for table in tables if table.system == system]
            with _opened(settings, system, source) as reader:
                for table in wanted:
                    report(f"{system}.{table.name}", len(changes) / len(tables))
                    identity = _identity(settings, system, source, table)
                    found = _found(folder / table.name, whole)
                    step = _Step(
                        settings, connection, reader, table, identity, found, beside / table.name, whole
                    )
                    changes.append(step.taken())
                    notes += step.notes
                rights[system] = {"may_write": _may_write(reader, system, wanted, notes)}
        snapshot.commit(folder, changes)
    kept = {table.name: snapshot.parts(folder / table.name) for table in tables}
    said = {"schema_version": 1, "tables": snapshot.evidence(kept, tables), "credentials": rights}
    return Extracted(notes, said)


class _Step:
    """The reading of one table."""

    def __init__(
        self,
        settings: Settings,
        connection: duckdb.DuckDBPyConnection,
        reader: Reader,
        table: Table,
        identity: str,
        found: list[Part],
        beside: Path,
        whole: bool,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._reader = reader
        self._table = table
        self._beside = beside
        self._about = About(source=identity, key=table.keys, watermark=table.watermark)
        goes_on = bool(found) and self._goes_on(found[-1].about)
        rows = sum(part.rows for part in found)
        self._known = found if goes_on and rows and not whole else []
        self._rows_before = rows if goes_on else 0
        self._where = reader.where(table)
        self.notes: list[str] = []
        if found and not goes_on:
            self.notes.append(f"{self._where}: read whole, because it is another source, key or watermark")

    def _goes_on(self, before: About) -> bool:
        wanted = self._about
        return (before.source, before.key, before.watermark) == (wanted.source, wanted.key, wanted.watermark)

    def taken(self) -> Change:
        """Read the table beside the snapshot, and hold it against what is there."""
        since = self._since()
        self._beside.mkdir()
        read = self._beside / "read.parquet"
        rows, schema = self._read(read, since)
        self._refuse_nothing(rows, since)
        if not self._table.incremental:
            return Change(self._table, read, 0)
        return self._compared(read, schema, since)

    def _since(self) -> Since | None:
        """From where on to read: the newest watermark that is there, less the lookback."""
        if not self._table.incremental or not self._known:
            return None
        last = self._known[-1].about
        lookback = self._table.lookback
        if last.kind == "number":
            if not isinstance(lookback, int):
                raise PilotError(
                    f"the watermark '{self._table.watermark}' is a number, and the lookback is none",
                    where=f"sources.py, table {self._table.name}",
                    mend="Write lookback= as a number: how far behind the newest one late rows may come.",
                )
            back = lookback
        else:
            if isinstance(lookback, int):
                raise PilotError(
                    f"the watermark '{self._table.watermark}' is a moment, and the lookback a number",
                    where=f"sources.py, table {self._table.name}",
                    mend="Write lookback= as a timedelta.",
                )
            back = (DEFAULT_LOOKBACK if lookback is None else lookback) // timedelta(microseconds=1)
        return Since(self._table.watermark, last.kind, (last.high or 0) - back)

    def _read(self, file: Path, since: Since | None) -> tuple[int, pa.Schema]:
        try:
            with self._reader.batches(self._table, since) as batches:
                schema = batches.schema
                # Before the first row: a value that no longer fits its column would be told first.
                self._refuse_columns(schema)
                about = self._about.encoded()
                rows = 0
                with pq.ParquetWriter(file, schema.with_metadata(about), compression="zstd") as writer:
                    for batch in pulled(self._reader, self._table, batches):
                        writer.write_batch(batch)
                        rows += batch.num_rows
                return rows, schema
        except Exception as error:
            raise explained(self._reader, self._table, error) from error

    def _refuse_columns(self, schema: pa.Schema) -> None:
        needed = [*self._table.keys, *filter(None, [self._table.watermark])]
        missing = [name for name in needed if name not in schema.names]
        if missing and self._table.incremental:
            raise CheckFailed(
                f"there is no column {', '.join(missing)}, which the table is read by",
                where=self._where,
                mend="Correct key and watermark in sources.py, or have the source bring it back.",
            )
        if self._table.incremental and PART_COLUMN in schema.names:
            raise PilotError(
                f"a column of the source is called '{PART_COLUMN}'",
                where=self._where,
                mend="Read a view that gives it another name.",
            )
        before = snapshot.all_columns(self._known)
        new = increment.refuse_other_columns(snapshot.columns_of(schema), before, self._where)
        if before and new:
            self.notes.append(f"{self._where}: new since the last read: {', '.join(new)}")

    def _refuse_nothing(self, rows: int, since: Since | None) -> None:
        if rows or not self._rows_before:
            return
        again = "" if since is None else ", not even those that it had at last"
        raise CheckFailed(
            f"it gives no rows{again}, and had {self._rows_before:,}: an outage, and not a quiet day",
            where=self._where,
            mend="Bring the source back. If it is meant to be empty, delete "
            f"data/raw/{self._table.name} and run again.",
        )

    def _compared(self, file: Path, schema: pa.Schema, since: Since | None) -> Change:
        column = schema.field(self._table.watermark)
        kind = kind_of(column.type)
        if kind is None:
            raise CheckFailed(
                f"'{column.name}' is {column.type}, which is no watermark",
                where=self._where,
                mend="Name a timestamp, a date, an ISO 8601 text or a whole number, or leave it out.",
            )
        simulated = self._settings.simulated(self._table.system)
        columns = snapshot.columns_of(schema)
        read = increment.Read(self._table, file, columns, kind, self._where, simulated)
        high = increment.high_of(self._connection, read)
        found = increment.compare(self._connection, read, self._known, since)
        self._say(found.counts, kind, since)
        highs = [each for each in (high, *(part.about.high for part in self._known)) if each is not None]
        about = replace(
            self._about,
            kind=kind,
            high=max(highs, default=None),
            counts=found.counts,
            digest=self._digest(file, since),
        )
        number = len(self._known)
        if self._known and not found.counts.new + found.counts.changed:
            return Change(self._table, None, number)
        staged = self._beside / "part.parquet"
        whole = schema.append(pa.field(PART_COLUMN, pa.int32()))
        with pq.ParquetWriter(staged, whole.with_metadata(about.encoded()), compression="zstd") as writer:
            for batch in self._connection.sql(found.query).to_arrow_reader(BATCH_ROWS):
                writer.write_table(pa.Table.from_batches([batch]).cast(whole))
        file.unlink()
        return Change(self._table, staged, number)

    def _digest(self, file: Path, since: Since | None) -> tuple[int, str] | None:
        """Of a whole read, where there is a simulation that it may have come from."""
        if since is not None or not self._settings.path(MANIFEST).exists():
            return None
        names = [name for name in (FILE_COLUMN, ROW_COLUMN) if name in pq.read_schema(file).names]
        left_out = f" EXCLUDE ({', '.join(map(quoted, names))})" if names else ""
        made = fingerprint(self._connection, f"(SELECT *{left_out} FROM read_parquet({literal(str(file))}))")
        return made.rows, made.digest

    def _say(self, counts: Counts, kind: str, since: Since | None) -> None:
        told = {name: count for name, count in asdict(counts).items() if count and name != "read"}
        told["without a newer " + self._table.watermark] = told.pop("unmarked", 0)
        told["gone, and kept"] = told.pop("gone", 0)
        listed = ", ".join(f"{count:,} {name}" for name, count in told.items() if count) or "nothing"
        start = f" from {increment.shown(since.value, kind)} on" if since else ""
        self.notes.append(f"{self._where}{start}: {listed}")


def _found(folder: Path, whole: bool) -> list[Part]:
    try:
        return snapshot.parts(folder)
    except PilotError:
        if not whole:  # which is what mends it
            raise
        return []


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """An empty folder beside the snapshot, gone at the end."""
    beside = folder.with_name(f"{folder.name}{PART}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _source(settings: Settings, system: str) -> Source:
    try:
        return settings.sources[system]
    except KeyError:
        raise PilotError(
            f"sources.py reads from '{system}', which pilot.toml does not name",
            where="pilot.toml [sources]",
            mend=f"Add [sources.{system}], or correct the system in sources.py.",
        ) from None


@contextmanager
def _opened(settings: Settings, system: str, source: Source) -> Iterator[Reader]:
    if isinstance(source, CsvSource | FilesSource):
        yield filedrops.drop(settings, system, source)
        return
    if isinstance(source, PostgresSource):
        opened = databases.postgres(settings, system, source)
    elif isinstance(source, SqliteSource):
        opened = databases.sqlite(settings, system, source)
    elif isinstance(source, DuckdbSource):
        opened = databases.duckdb_file(settings, system, source)
    else:
        opened = databases.anything(system, source)
    with opened as database:
        yield database


def _identity(settings: Settings, system: str, source: Source, table: Table) -> str:
    """Tells one source from another: rows of two systems must not become versions of each other.

    A simulation replaces what is in its systems, so each is a source of its own; a later delivery adds to it.
    """
    if isinstance(source, PostgresSource | IbisSource):
        place = without_password(source.url).partition("://")[2].rpartition("@")[2] or source.url
        if source.url == EMBEDDED:
            place = _simulation(settings)
    else:
        place = str(source.path)
        if settings.simulated(system):
            place += _simulation(settings)
    what = [source.kind, system, place, table.table or table.name, table.files]
    return hashlib.sha256("\n".join(what).encode()).hexdigest()


def _simulation(settings: Settings) -> str:
    manifest = settings.path(MANIFEST)
    if not manifest.exists():
        return ""
    return Manifest.read(manifest).first or hashlib.sha256(manifest.read_bytes()).hexdigest()


def _may_write(reader: Reader, system: str, tables: Sequence[Table], notes: list[str]) -> list[str] | None:
    found = reader.may_write(tables)
    if found:
        notes.append(f"{system}: this account may write in {', '.join(found)}; give it one that only reads")
    return found
