"""Databases, each through Ibis's own backend, in sessions that only read where there is such a thing."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import duckdb
import ibis
import psycopg
import pyarrow as pa
from psycopg import sql

from harness.data.reading import BATCH_ROWS, Since, first_line
from harness.errors import PilotError
from harness.pilot import Table
from harness.settings import NO_DOWNLOADS, Settings, without_password
from harness.simulate import embedded
from harness.source_kinds import EMBEDDED, DuckdbSource, IbisSource, PostgresSource, SqliteSource

if TYPE_CHECKING:
    from ibis.backends import BaseBackend

CONNECT_WITHIN_S = 10
WRITING = "INSERT, UPDATE, DELETE, TRUNCATE"


@dataclass(frozen=True)
class Database:
    """An open database.

    Attributes:
        system: The system's name.
        backend: Ibis's backend for it.
        rights: Asks which of some tables, by their full names, this account may change.
    """

    system: str
    backend: BaseBackend
    rights: Callable[[Sequence[str]], list[str]] | None = None

    def where(self, table: Table) -> str:
        """The system and the table, for messages."""
        return f"{self.system}.{table.table or table.name}"

    def may_write(self, tables: Sequence[Table]) -> list[str] | None:
        """The tables that this account may change; None where nobody can be asked."""
        if self.rights is None:
            return None
        return self.rights([table.table or table.name for table in tables])

    @contextmanager
    def batches(self, table: Table, since: Since | None) -> Iterator[pa.RecordBatchReader]:
        """A table's rows, from somewhere on."""
        schema, _, name = (table.table or table.name).rpartition(".")
        expression: Any = self.backend.table(name, database=schema or None)
        if since is not None and since.column in expression.columns:
            expression = expression.filter(since.of(expression))
        if self.backend.name == "duckdb":
            # Ibis 12 asks DuckDB 2 for batches by a name that is gone.
            connection: Any = self.backend.con
            yield connection.sql(self.backend.compile(expression)).to_arrow_reader(BATCH_ROWS)
        else:
            yield self.backend.to_pyarrow_batches(expression, chunk_size=BATCH_ROWS)

    def refused(self, error: Exception, table: Table) -> PilotError | None:
        """What an error that came while reading means."""
        where = self.where(table)
        if isinstance(error, (AttributeError, NameError, AssertionError)):
            return None  # a defect of ours, or of a library's
        if isinstance(error, ibis.common.exceptions.TableNotFound):
            return PilotError(
                "the table does not exist",
                where=where,
                mend="Correct its name in sources.py, or ask for the right to read it.",
            )
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return PilotError(
                f"this account may not read it: {first_line(error)}",
                where=where,
                mend="Ask for the right to SELECT from it; no snapshot was written.",
            )
        if isinstance(error, (psycopg.DataError, pa.ArrowException, OverflowError)):
            return PilotError(
                f"a value cannot be taken over as it is: {first_line(error)}",
                where=where,
                mend="Correct it in the source, or read a view that gives another value: Table(table=...).",
            )
        return PilotError(
            f"reading stopped: {first_line(error)}",
            where=where,
            mend="Bring the source back and run again; no snapshot was written.",
        )


@contextmanager
def postgres(settings: Settings, system: str, source: PostgresSource) -> Iterator[Database]:
    """A PostgreSQL database, in sessions that cannot write; the embedded one runs meanwhile."""
    where = f"[sources.{system}] url"
    with contextlib.ExitStack() as stack:
        url, rights = source.url, True
        if url == EMBEDDED:
            place = embedded_folder(settings, system)
            if not place.exists():
                raise PilotError(
                    "the simulated database was never filled",
                    where=where,
                    mend="Run `pilot simulate`, or name your own database: postgresql://user@host/database.",
                )
            # Its only account made it, and is nobody's credentials.
            url, rights = stack.enter_context(embedded.server(place)), False
        try:
            backend = ibis.connect(_in_time(url))
            connection = backend.con
            if isinstance(connection, psycopg.Connection):
                connection.execute("SET default_transaction_read_only = on")
            else:
                rights = False
        except psycopg.Error as error:
            raise PilotError(
                f"the database does not answer: {first_line(error)}",
                where=f"{where} ({without_password(url)})",
                mend="Check that it runs, and the URL in pilot.toml or in the environment.",
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise PilotError(
                f"not a database URL: {first_line(error)}",
                where=where,
                mend='Write postgresql://user@host:5432/database, or "embedded".',
            ) from error
        stack.callback(backend.disconnect)
        yield Database(system, backend, (lambda names: _writable(connection, names)) if rights else None)


@contextmanager
def sqlite(settings: Settings, system: str, source: SqliteSource) -> Iterator[Database]:
    """An SQLite file, opened for reading only."""
    file = _there(settings, system, source.path)
    connection = sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=CONNECT_WITHIN_S)
    try:
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
            backend = ibis.sqlite.from_connection(connection)
        except sqlite3.Error as error:
            raise _unreadable(system, file, "SQLite", error) from error
        yield Database(system, backend, _nothing)
    finally:
        connection.close()


@contextmanager
def duckdb_file(settings: Settings, system: str, source: DuckdbSource) -> Iterator[Database]:
    """A DuckDB file, opened for reading only."""
    file = _there(settings, system, source.path)
    try:
        backend = ibis.duckdb.connect(str(file), read_only=True, **NO_DOWNLOADS)
        backend.raw_sql("SET enable_progress_bar = false")
    except duckdb.Error as error:
        raise _unreadable(system, file, "DuckDB", error) from error
    try:
        yield Database(system, backend, _nothing)
    finally:
        backend.disconnect()


@contextmanager
def anything(system: str, source: IbisSource) -> Iterator[Database]:
    """Whatever ``ibis.connect`` takes. Whether the account may write, its own people have to see."""
    where = f"pilot.toml [sources.{system}] url"
    if source.url.startswith("duckdb:"):
        raise PilotError(
            "a DuckDB file has a kind of its own, which downloads nothing",
            where=where,
            mend='Write kind = "duckdb" and path.',
        )
    try:
        backend = ibis.connect(source.url)
    except ImportError as error:
        kind = source.url.partition(":")[0]
        raise PilotError(
            f"its backend is not installed: {first_line(error)}",
            where=where,
            mend=f'Add "ibis-framework[{kind}]" to the dependencies in pyproject.toml, and run `make setup`.',
        ) from error
    except Exception as error:
        raise PilotError(
            f"Ibis cannot connect: {without_password(first_line(error))}",
            where=where,
            mend="Check that it runs, and the address in pilot.toml or in the environment.",
        ) from error
    try:
        yield Database(system, backend)
    finally:
        with contextlib.suppress(Exception):
            backend.disconnect()


def embedded_folder(settings: Settings, system: str) -> Path:
    """Where the simulated database of a system keeps its files."""
    return settings.path("var", "sources", f"{system}-postgres")


def _nothing(_names: Sequence[str]) -> list[str]:
    """The tables that can be changed through a file that was opened for reading only."""
    return []


def _writable(connection: psycopg.Connection, names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        quoted = sql.Identifier(*name.rpartition(".")[::2] if "." in name else (name,)).as_string(connection)
        row = connection.execute(
            "SELECT has_table_privilege(to_regclass(%s), %s)", (quoted, WRITING)
        ).fetchone()
        if row and row[0]:
            found.append(name)
    return found


def _in_time(url: str) -> str:
    """The same address with a limit to how long a host that does not answer is waited for."""
    if "connect_timeout" in url or not url.startswith(("postgres://", "postgresql://")):
        return url
    return f"{url}{'&' if '?' in url else '?'}connect_timeout={CONNECT_WITHIN_S}"


def _there(settings: Settings, system: str, path: Path) -> Path:
    file = settings.path(path)
    if not file.is_file():
        raise PilotError("no such file", where=f"{system}: {file}", mend="Correct the path in pilot.toml.")
    return file


def _unreadable(system: str, file: Path, kind: str, error: Exception) -> PilotError:
    return PilotError(
        f"it cannot be opened as {kind}: {first_line(error)}",
        where=f"{system}: {file}",
        mend="Check that it is one, that this account may read it, and that nobody holds it locked.",
    )
