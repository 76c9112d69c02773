"""Bringing tables into systems, so that nothing half-written ever looks finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import psycopg
from psycopg import sql

from harness.errors import PilotError
from harness.simulate.digest import Fingerprint, Tally, csv_relation, fingerprint, literal, quoted
from harness.simulate.spec import Table

Report = Callable[[float], None]

# Rows in one portion: bounds the memory and the size of the file between DuckDB and PostgreSQL.
PORTION = 500_000

# Written beside what was simulated. What does not carry it is somebody's data and is never replaced.
_MARK = "simulated"

_TYPES = {
    "VARCHAR": "text",
    "BOOLEAN": "boolean",
    "TINYINT": "bigint",
    "SMALLINT": "bigint",
    "INTEGER": "bigint",
    "BIGINT": "bigint",
    "FLOAT": "double precision",
    "DOUBLE": "double precision",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
}


@dataclass(frozen=True)
class Target:
    """A system to fill.

    Attributes:
        kind: ``postgres`` or ``csv``.
        address: The URL of the database, or the folder for the files.
    """

    kind: Literal["postgres", "csv"]
    address: str


@dataclass(frozen=True)
class Delivery:
    """One table as its system is to hold it.

    Attributes:
        name: The table's name.
        table: Its declaration.
        query: What the system holds; the columns ``row``, ``year``, ``copy`` and ``again`` give the order.
        last_row: The highest row number, plus one.
        where: The file and key, for messages.
        after: How many rows the table has to have by now; None to make it anew.
    """

    name: str
    table: Table
    query: str
    last_row: int
    where: str
    after: int | None = None

    def columns(self) -> list[str]:
        """The columns that the system gets."""
        return list(self.table.delivered())


class Postgres:
    """A database to be filled in one transaction."""

    def __init__(self, connection: psycopg.Connection, folder: Path) -> None:
        self._connection = connection
        self._folder = folder

    def fill(self, world: duckdb.DuckDBPyConnection, delivery: Delivery, report: Report) -> Fingerprint:
        """Replace a table; others see it when ``commit`` has run.

        Raises:
            PilotError: A value has no counterpart in PostgreSQL, or the table there was not simulated.
        """
        names = delivery.columns()
        listed = ", ".join(quoted(name) for name in names)
        tally = Tally(names)
        portion = self._folder / "portion.csv"
        try:
            if delivery.after is None:
                self._create(world, delivery)
            else:
                self._refuse_another(delivery, delivery.after)
            for first in range(0, max(delivery.last_row, 1), PORTION):
                world.execute(
                    f"create or replace temp table portion as select * from ({delivery.query})"
                    f" where row >= {first} and row < {first + PORTION}"
                )
                world.execute(
                    f"copy (select {listed} from portion order by row, year, copy, again)"
                    f" to {literal(str(portion))} (format csv, header false)"
                )
                self._copy(delivery.name, listed, portion)
                tally.add(world, "portion")
                report(min(1.0, (first + PORTION) / max(delivery.last_row, 1)))
        except (duckdb.Error, psycopg.Error) as error:
            raise _refused(error, delivery) from error
        finally:
            portion.unlink(missing_ok=True)
            world.execute("drop table if exists portion")
        return tally.fingerprint()

    def commit(self) -> None:
        """Make everything visible at once."""
        self._connection.commit()

    def _create(self, world: duckdb.DuckDBPyConnection, delivery: Delivery) -> None:
        name = sql.Identifier(delivery.name)
        self._refuse_real(delivery)
        columns = []
        for column, kind, *_ in world.execute(f"describe {delivery.query}").fetchall():
            if column not in delivery.columns():
                continue
            if kind not in _TYPES:
                raise PilotError(
                    f"a {kind} has no counterpart in PostgreSQL",
                    where=f"{delivery.where}.columns.{column}",
                    mend="Cast it to varchar, bigint, double, boolean, date or timestamp.",
                )
            columns.append(sql.SQL("{} " + _TYPES[kind]).format(sql.Identifier(column)))
        run = self._connection.execute
        run(sql.SQL("drop table if exists {}").format(name))
        run(sql.SQL("create table {} ({})").format(name, sql.SQL(", ").join(columns)))
        run(sql.SQL("comment on table {} is {}").format(name, sql.Literal(_MARK)))

    def _refuse_real(self, delivery: Delivery) -> None:
        found = self._connection.execute(
            "select obj_description(to_regclass(%s), 'pg_class'), to_regclass(%s) is not null",
            (quoted(delivery.name), quoted(delivery.name)),
        ).fetchone()
        if found and found[1] and found[0] != _MARK:
            raise PilotError(
                f"the database has a table '{delivery.name}' that was not simulated, and it stays as it is",
                where=delivery.where,
                mend="Give the simulation a database of its own.",
            )

    def _refuse_another(self, delivery: Delivery, rows: int) -> None:
        self._refuse_real(delivery)
        name = sql.Identifier(delivery.name)
        found = self._connection.execute(sql.SQL("select count(*) from {}").format(name)).fetchone()
        if found is None or found[0] != rows:
            raise PilotError(
                f"the table has {found[0] if found else 0:,} rows, and the last delivery left {rows:,}",
                where=delivery.where,
                mend="Begin anew: `pilot simulate`.",
            )

    def _copy(self, name: str, listed: str, portion: Path) -> None:
        with (
            portion.open("rb") as content,
            self._connection.cursor() as cursor,
            cursor.copy(f"copy {quoted(name)} ({listed}) from stdin (format csv)".encode()) as copy,
        ):
            while block := content.read(1 << 20):
                copy.write(block)


class Folder:
    """A folder of yearly files, each renamed into place when all are written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._beside = folder / ".writing"
        self._mark = folder / f".{_MARK}"
        self._globs: list[str] = []

    def fill(self, world: duckdb.DuckDBPyConnection, delivery: Delivery, report: Report) -> Fingerprint:
        """Write a table's files; they are in place when ``commit`` has run.

        Raises:
            PilotError: A file of that name was not simulated, or the folder cannot be written.
        """
        files = delivery.table.files
        if files is None:
            raise PilotError(
                "the system drops files, and the table does not say which",
                where=delivery.where,
                mend="Add 'files' with a name and the first year.",
            )
        try:
            self._refuse_real(files.glob())
            self._beside.mkdir(exist_ok=True)
            years = [
                row[0]
                for row in world.execute(
                    f"select distinct year from ({delivery.query}) order by 1"
                ).fetchall()
            ]
            for done, year in enumerate(years):
                listed = _named_in(delivery.table, year)
                path = literal(str(self._beside / files.name.format(year=year)))
                world.execute(
                    f"copy (select {listed} from ({delivery.query}) where year = {year}"
                    f" order by row, copy, again) to {path} (format csv, header true, force_quote *)"
                )
                report((done + 1) / len(years))
            if not years:
                raise PilotError(
                    "no row falls into any year's file",
                    where=f"{delivery.where}.files",
                    mend="Start with an earlier year, or widen 'where'.",
                )
            # Read back, and not computed from the query: a reader of CSV cannot tell an empty text from none.
            self._globs.append(files.glob())
            return fingerprint(world, csv_relation(str(self._beside / files.glob())))
        except (duckdb.Error, OSError) as error:
            raise _refused(error, delivery) from error

    def commit(self) -> None:
        """Put the files in place, and take away those of an earlier simulation."""
        self._mark.write_text(
            "Everything in this folder was simulated and may be replaced.\n", encoding="utf-8"
        )
        for pattern in self._globs:
            written = sorted(self._beside.glob(pattern))
            for old in set(self._folder.glob(pattern)) - {self._folder / new.name for new in written}:
                old.unlink()
            for new in written:
                new.replace(self._folder / new.name)

    def _refuse_real(self, pattern: str) -> None:
        if not self._mark.exists() and any(self._folder.glob(pattern)):
            raise PilotError(
                f"there are files {pattern} that were not simulated, and they stay as they are",
                where=str(self._folder),
                mend="Give the simulation a folder of its own.",
            )


@contextmanager
def opened(target: Target, system: str, folder: Path) -> Iterator[Postgres | Folder]:
    """A system that can be filled; what was not committed is gone at the end.

    Args:
        target: The system.
        system: Its name, for messages.
        folder: Room for temporary files.

    Raises:
        PilotError: It cannot be reached or written.
    """
    if target.kind == "csv":
        place = Path(target.address)
        try:
            place.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(place / ".writing", ignore_errors=True)
        except OSError as error:
            raise PilotError(
                f"the folder cannot be written: {error.strerror}",
                where=f"{system}: {place}",
                mend="Give the simulation a folder that it may write.",
            ) from error
        try:
            yield Folder(place)
        finally:
            shutil.rmtree(place / ".writing", ignore_errors=True)
        return
    try:
        connection = psycopg.connect(target.address, connect_timeout=10)
    except psycopg.Error as error:
        raise PilotError(
            f"the database cannot be reached: {str(error).strip().splitlines()[0]}",
            where=system,
            mend="Start it, or correct its address in pilot.toml.",
        ) from error
    try:
        yield Postgres(connection, folder)
    finally:
        with suppress(psycopg.Error):
            connection.rollback()
        connection.close()


def _named_in(table: Table, year: int) -> str:
    """The columns under the names that they had in a year."""
    listed = []
    for name, column in table.delivered().items():
        names = [column.names[start] for start in sorted(column.names) if start <= year]
        listed.append(f"{quoted(name)} as {quoted(names[-1] if names else name)}")
    return ", ".join(listed)


def _refused(error: Exception, delivery: Delivery) -> PilotError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return PilotError(
        f"the table could not be filled: {reason}",
        where=delivery.where,
        mend="Correct the expression, or make room and run `pilot simulate` again.",
    )
