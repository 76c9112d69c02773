"""Files that a system drops, in a folder or an object store: CSV as text, Parquet with its types.

DuckDB guesses how a CSV file is written, and a file that was cut off in its third line then passes for one of
a single column. What it makes of the columns is therefore held against each file's own first line.

What lies in a store is copied first. Read by DuckDB 2.0 through fsspec, two of 18 reads of Parquet failed,
and nothing says that the next would not be of other bytes.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from harness.data.reading import BATCH_ROWS, Since, first_line
from harness.errors import PilotError, full
from harness.pilot import Table
from harness.settings import NO_DOWNLOADS, Settings, without_password
from harness.simulate.digest import columns_of, literal, quoted
from harness.source_kinds import CsvSource, FilesSource

# What the rows of a file drop get: their file's name, and their place over all files.
FILE_COLUMN = "_file"
ROW_COLUMN = "_row"
DELIMITERS = ",;\t|"
# The names that DuckDB gives to columns that have none of their own, or the same one twice.
GIVEN_NAME = re.compile(r"column\d+|.+_\d+")
S3 = re.compile(r"s3a?://", re.IGNORECASE)
BLOCK = 8 << 20
# The name that every other client of S3 has for it.
OPTIONS = {"endpoint_url": "endpoint_override"}
CONNECT_WITHIN_S = 10
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Drop:
    """Where a system drops its files.

    Attributes:
        system: The system's name.
        place: The folder or the address.
        store: fsspec's file system for an address; None for a folder of this machine.
        parquet: Whether a table's files are Parquet where sources.py does not name any.
        room: Where the files of a store are copied to.
        copied: The address of each copy, by its path.
    """

    system: str
    place: str
    store: Any
    parquet: bool
    room: Path = Path()
    copied: dict[str, str] = field(default_factory=dict)

    def where(self, table: Table) -> str:
        """The system and the files that were looked for."""
        return f"{self.system}: {without_password(self.place).rstrip('/')}/{self._pattern(table)}"

    def may_write(self, tables: Sequence[Table]) -> list[str] | None:
        """Nobody can be asked."""
        return None

    def refused(self, error: Exception, table: Table) -> PilotError | None:
        """What an error of the reader means."""
        said = str(error)
        for copy, address in self.copied.items():
            said = said.replace(copy, address)
        found = re.search(r"^\s*file ?= ?(.+)$", said, re.MULTILINE) or re.search(
            r"file ([\"'])(.+?)\1", said
        )
        where = f"{self.system}: {found[found.lastindex or 1].strip()}" if found else self.where(table)
        line = re.search(r"Line: (\d+)", said)
        if "not utf-8 encoded" in said or "Invalid unicode" in said:
            return PilotError(
                f"line {line[1] if line else '?'} is not UTF-8: the file is in another encoding, or in two",
                where=where,
                mend="Have it written in UTF-8, or convert it (iconv -t utf-8) before it is dropped.",
            )
        # What DuckDB says while it streams, Arrow hands on as an OSError without a number.
        if isinstance(error, duckdb.Error) or (isinstance(error, OSError) and error.errno is None):
            what = "CSV" if not self._is_parquet(table) else "Parquet"
            return PilotError(
                f"the files cannot be read as {what}: {(said.strip() or 'no reason given').splitlines()[0]}",
                where=where,
                mend="Correct the files there, or the pattern in sources.py.",
            )
        return None

    @contextmanager
    def batches(self, table: Table, since: Since | None) -> Iterator[pa.RecordBatchReader]:
        """The rows of all files of a table."""
        with contextlib.ExitStack() as stack:
            files = self._files(table)
            if self.store is not None:
                folder = tempfile.TemporaryDirectory(prefix="copied-", dir=self.room)
                files = self._copied(files, Path(stack.enter_context(folder)))
            connection = stack.enter_context(duckdb.connect(config=NO_DOWNLOADS))
            if self._is_parquet(table):
                self._refuse_mixed_types(connection, files)
                query = read_parquet(files)
            else:
                query = read_files(files)
                self._refuse_wrong_columns(connection, query, files)
            if table.incremental:
                # Where a row stands over all files changes with every new file, and would be a changed row.
                query = f"SELECT * EXCLUDE ({ROW_COLUMN}) FROM ({query})"
            if since is not None:
                query = f"SELECT * FROM ({query}) WHERE {since.as_sql()}"
            yield connection.sql(query).to_arrow_reader(BATCH_ROWS)

    def _pattern(self, table: Table) -> str:
        return table.files or f"{table.name}.{'parquet' if self.parquet else 'csv'}"

    def _is_parquet(self, table: Table) -> bool:
        return self.parquet and self._pattern(table).endswith(".parquet")

    def _files(self, table: Table) -> list[str]:
        pattern = self._pattern(table)
        try:
            if self.store is None:
                found = [str(file) for file in Path(self.place).glob(pattern)]
            else:
                folder = self.store._strip_protocol(self.place).rstrip("/")
                found = [self.store.unstrip_protocol(file) for file in self.store.glob(f"{folder}/{pattern}")]
                if not found:
                    # A glob takes whatever goes wrong for an empty folder, a wrong credential included.
                    with contextlib.suppress(FileNotFoundError):
                        self.store.ls(folder)
        except Exception as error:
            raise PilotError(
                f"the files cannot be listed: {first_line(error)}",
                where=self.where(table),
                mend="Check the address, the right to list it, and [sources] options.",
            ) from error
        if not found:
            raise PilotError(
                "no such file",
                where=self.where(table),
                mend="Run `pilot simulate`, or correct the path in pilot.toml or the files in sources.py.",
            )
        return sorted(found)

    def _copied(self, files: Sequence[str], folder: Path) -> list[str]:
        """Copies of a store's files, each under its own name.

        Raises:
            PilotError: One is gone, is replaced meanwhile, or cannot be read.
        """
        copies = []
        for number, address in enumerate(files):
            copy = folder / f"{number:06}" / address.rpartition("/")[2]
            copy.parent.mkdir()
            try:
                before = self.store.ukey(address)
                with self.store.open(address, "rb") as source, copy.open("wb") as target:
                    for block in blocks(source):
                        target.write(block)
                changed = self.store.ukey(address) != before
            except Exception as error:
                if full(error):
                    raise
                raise PilotError(
                    f"reading stopped: {first_line(error)}",
                    where=f"{self.system}: {address}",
                    mend="Bring it back, or the right to read it, and run again; no snapshot was written.",
                ) from error
            if changed:
                raise PilotError(
                    "it was replaced while it was read",
                    where=f"{self.system}: {address}",
                    mend="Run again when it is written; a system had better drop files under new names.",
                )
            self.copied[str(copy)] = address
            copies.append(str(copy))
        return copies

    def _named(self, file: str) -> str:
        """The system and a file, for messages."""
        return f"{self.system}: {self.copied.get(file, file)}"

    def _refuse_wrong_columns(
        self, connection: duckdb.DuckDBPyConnection, query: str, files: Sequence[str]
    ) -> None:
        """Refuse a file whose columns DuckDB takes for others than its first line says."""
        headers = {file: self._header(file) for file in files}
        found = {name.strip() for name in columns_of(connection, f"({query})")} - {FILE_COLUMN, ROW_COLUMN}
        written = {name for names in headers.values() for name in names}
        plain = any(len(names) < 2 for names in headers.values())
        strange = set() if plain else {name for name in found - written if not GIVEN_NAME.fullmatch(name)}
        if not strange and all(set(names) <= found for names in headers.values() if len(names) > 1):
            return
        for file, names in headers.items():
            read = {name.strip() for name in columns_of(connection, f"({read_files([file])})")}
            if len(names) > 1 and not set(names) <= read:
                raise PilotError(
                    f"its lines do not have the {len(names)} columns that its first line names",
                    where=self._named(file),
                    mend="It may be cut off: have it dropped again, with as many values in each line.",
                )

    def _header(self, file: str) -> list[str]:
        with gzip.open(file, "rb") if file.endswith(".gz") else Path(file).open("rb") as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
            first = next((line for line in text if line.strip()), "")
            if not first:
                raise PilotError(
                    "the file is empty, without even a line of names",
                    where=self._named(file),
                    mend="Have it dropped again, or take it away.",
                )
            delimiter = max(DELIMITERS, key=first.count)
            return [name.strip() for name in next(csv.reader([first], delimiter=delimiter)) if name.strip()]

    def _refuse_mixed_types(self, connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> None:
        """Refuse files of one table that hold a column in different types: a union would cast one of them."""
        mixed = connection.execute(
            "SELECT name, list_sort(list(DISTINCT kind)) FROM (SELECT name,"
            " coalesce(logical_type, converted_type, type) AS kind"
            f" FROM parquet_schema({_listed(files)}) WHERE num_children IS NULL OR num_children = 0)"
            " GROUP BY name HAVING count(DISTINCT kind) > 1 ORDER BY name"
        ).fetchall()
        if mixed:
            name, kinds = mixed[0]
            raise PilotError(
                f"the column '{name}' has another type in some files than in others: {' and '.join(kinds)}",
                where=f"{self.system}: {', '.join(dict.fromkeys(Path(file).name for file in files))[:200]}",
                mend="Have them written alike, or declare two tables, by pattern, and cast in records().",
            )


def drop(settings: Settings, system: str, source: CsvSource | FilesSource) -> Drop:
    """Where a system drops its files.

    Raises:
        PilotError: The address is none, or the package of its object store is not installed.
    """
    if isinstance(source, CsvSource):
        return Drop(system, str(settings.path(source.path)), None, parquet=False)
    if not ADDRESS.match(source.path):
        return Drop(system, str(settings.path(source.path)), None, parquet=True)
    where = f"pilot.toml [sources.{system}] path"
    try:
        if S3.match(source.path):
            store = _s3(source.options)
        else:
            import fsspec

            store, _ = fsspec.core.url_to_fs(source.path, **source.options)
    except ImportError as error:
        raise PilotError(
            f"it needs a package that is not installed: {first_line(error)}",
            where=where,
            mend="Add it to the dependencies in pyproject.toml (gcsfs, adlfs), and run `make setup`.",
        ) from error
    except Exception as error:
        raise PilotError(
            f"it cannot be opened: {first_line(error)}",
            where=where,
            mend="Write a folder, or an address such as s3://bucket/folder, and options that it takes.",
        ) from error
    room = settings.path("var", "spill")
    room.mkdir(parents=True, exist_ok=True)
    return Drop(system, source.path, store, parquet=True, room=room)


def _s3(options: Mapping[str, Any]) -> Any:
    """S3 by Arrow's own client: s3fs asks for a botocore whose urllib3 the other packages exclude."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import S3FileSystem

    given = {OPTIONS.get(name, name): value for name, value in options.items()}
    return ArrowFSWrapper(S3FileSystem(**{"connect_timeout": CONNECT_WITHIN_S, **given}))


def blocks(stream: Any) -> Iterator[bytes]:
    """What a stream holds, block by block."""
    return iter(lambda: stream.read(BLOCK), b"")


def read_files(files: Sequence[str]) -> str:
    """The SQL that reads CSV files: all text, joined by column name, with each row's file and place."""
    options = "all_varchar = true, union_by_name = true, filename = true, header = true"
    return _with_place(f"read_csv({_listed(files)}, {options})")


def read_parquet(files: Sequence[str]) -> str:
    """The SQL that reads Parquet files: joined by column name, with each row's file and place."""
    return _with_place(f"read_parquet({_listed(files)}, union_by_name = true, filename = true)")


def _with_place(relation: str) -> str:
    return (
        f"SELECT * EXCLUDE (filename), parse_filename(filename) AS {quoted(FILE_COLUMN)}, "
        f"row_number() OVER () AS {quoted(ROW_COLUMN)} FROM {relation}"
    )


def _listed(files: Sequence[str]) -> str:
    return f"[{', '.join(literal(file) for file in files)}]"
