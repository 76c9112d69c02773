"""From the source systems to a raw snapshot: one Parquet file a table, exactly as the source gave it.

A snapshot is written into a folder beside and renamed when it is whole, so that a source which fails half-way
leaves nothing that looks like a snapshot.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import ibis
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import PilotError
from harness.files import whole_folder
from harness.pilot import Table
from harness.progress import Report
from harness.settings import EMBEDDED, NO_DOWNLOADS, CsvSource, PostgresSource, Settings, without_password
from harness.simulate import embedded

if TYPE_CHECKING:
    from ibis.backends.postgres import Backend as Postgres

BATCH_ROWS = 100_000
CONNECT_WITHIN_S = 10
# What the rows of a file drop get: their file's name, and their place over all files.
FILE_COLUMN = "_file"
ROW_COLUMN = "_row"


def extract(settings: Settings, tables: Sequence[Table], folder: Path, report: Report) -> None:
    """Read every declared table into ``folder``/<name>.parquet.

    Raises:
        PilotError: A system or table is not there, or stops answering; ``folder`` is then as it was.
    """
    with whole_folder(folder) as beside:
        systems = list(dict.fromkeys(table.system for table in tables))
        done = 0
        for system in systems:
            source = _source(settings, system)
            wanted = [table for table in tables if table.system == system]
            if isinstance(source, PostgresSource):
                with database(settings, system, source) as backend:
                    for table in wanted:
                        report(f"{system}.{table.name}", done / len(tables))
                        _from_database(backend, system, table, beside / f"{table.name}.parquet")
                        done += 1
            else:
                for table in wanted:
                    report(f"{system}.{table.name}", done / len(tables))
                    _from_files(settings.path(source.path), system, table, beside / f"{table.name}.parquet")
                    done += 1


@contextlib.contextmanager
def database(settings: Settings, system: str, source: PostgresSource) -> Iterator[Postgres]:
    """An open connection to a source database; the embedded one is started and stopped around it."""
    where = f"[sources.{system}] url"
    with contextlib.ExitStack() as stack:
        url = source.url
        if url == EMBEDDED:
            place = embedded_folder(settings, system)
            if not place.exists():
                raise PilotError(
                    "the simulated database was never filled",
                    where=where,
                    mend="Run `pilot simulate`, or name your own database: postgresql://user@host/database.",
                )
            url = stack.enter_context(embedded.server(place))
        try:
            backend = ibis.connect(_in_time(url))
        except psycopg.Error as error:
            raise PilotError(
                f"the database does not answer: {_first_line(error)}",
                where=f"{where} ({without_password(url)})",
                mend="Check that it runs, and the URL in pilot.toml or in the environment.",
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise PilotError(
                f"not a database URL: {_first_line(error)}",
                where=where,
                mend='Write postgresql://user@host:5432/database, or "embedded".',
            ) from error
        stack.callback(backend.disconnect)
        yield backend


def _in_time(url: str) -> str:
    """The same address with a limit to how long a host that does not answer is waited for."""
    if "connect_timeout" in url or not url.startswith(("postgres://", "postgresql://")):
        return url
    return f"{url}{'&' if '?' in url else '?'}connect_timeout={CONNECT_WITHIN_S}"


def embedded_folder(settings: Settings, system: str) -> Path:
    """Where the simulated database of a system keeps its files."""
    return settings.path("var", "sources", f"{system}-postgres")


def read_files(pattern: str) -> str:
    """The SQL that reads a file drop: all text, joined by column name, with each row's file and place."""
    quoted = pattern.replace("'", "''")
    return (
        f"SELECT * EXCLUDE (filename), parse_filename(filename) AS {FILE_COLUMN}, "
        f"row_number() OVER () AS {ROW_COLUMN} "
        f"FROM read_csv('{quoted}', all_varchar = true, union_by_name = true, filename = true, header = true)"
    )


def _source(settings: Settings, system: str) -> PostgresSource | CsvSource:
    try:
        return settings.sources[system]
    except KeyError:
        raise PilotError(
            f"sources.py reads from '{system}', which pilot.toml does not name",
            where="pilot.toml [sources]",
            mend=f"Add [sources.{system}], or correct the system in sources.py.",
        ) from None


def _from_database(backend: Postgres, system: str, table: Table, file: Path) -> None:
    schema, _, name = (table.table or table.name).rpartition(".")
    where = f"{system}.{table.table or table.name}"
    try:
        expression = backend.table(name, database=schema or None)
        batches = backend.to_pyarrow_batches(expression, chunk_size=BATCH_ROWS)
        _write(batches, file)
    except ibis.common.exceptions.TableNotFound as error:
        raise PilotError(
            "the table does not exist",
            where=where,
            mend="Correct its name in sources.py, or ask for the right to read it.",
        ) from error
    except psycopg.Error as error:
        raise PilotError(
            f"reading stopped: {_first_line(error)}",
            where=where,
            mend="Bring the source back and run again; no snapshot was written.",
        ) from error


def _from_files(folder: Path, system: str, table: Table, file: Path) -> None:
    pattern = table.files or f"{table.name}.csv"
    where = f"{system}: {folder / pattern}"
    if not any(folder.glob(pattern)):
        raise PilotError(
            "no such file",
            where=where,
            mend="Run `pilot simulate`, or correct the path in pilot.toml or the files in sources.py.",
        )
    connection = duckdb.connect(config=NO_DOWNLOADS)
    try:
        query = read_files(str(folder / pattern))
        reader = connection.sql(query).to_arrow_reader(BATCH_ROWS)
        _write(reader, file)
    except duckdb.Error as error:
        raise PilotError(
            f"the files cannot be read as CSV: {_first_line(error)}",
            where=where,
            mend="Correct the files there, or the pattern in sources.py.",
        ) from error
    finally:
        connection.close()


def _write(reader: pa.RecordBatchReader, file: Path) -> None:
    with pq.ParquetWriter(file, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
