"""What a batch reads: Parquet or CSV, a file or a folder, as chunks of records in the contract's types."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from harness.data.corrections import ARROW
from harness.errors import PilotError
from harness.files import sha256_of
from harness.pilot import Contract, Field

PARQUET, CSV = ".parquet", ".csv"
READ_ROWS = 65_536
ISO_DATE_LENGTH = 10
SEPARATORS = ";\t|"
MEND = "Bring the contract's fields, with the label or without it, and nothing else."
REWRITE = "Write it anew; a CSV file as UTF-8, with the columns' names in its first line."

Report = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """Records that were read.

    Attributes:
        records: The contract's fields in the contract's types; null where a value could not be read.
        unreadable: For each rule that says so, which records have a value that could not; shape (n,) each.
    """

    records: pa.Table
    unreadable: dict[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """What was brought.

    Attributes:
        name: As it was named.
        files: The files, in the order in which they are read.
        kind: ``.parquet`` or ``.csv``.
        sha256: The digest of their names and content.
        seen: What each file looked like before its digest was taken.
        contract: What a record is.
    """

    name: str
    files: tuple[Path, ...]
    kind: str
    sha256: str
    seen: tuple[tuple[int, ...], ...]
    contract: Contract

    def parts(
        self, size: int, *, skip: int = 0, only: tuple[str, ...] = (), report: Report | None = None
    ) -> Iterator[Part]:
        """The records in order, so many at a time.

        Args:
            size: Records in a part; the last one may have fewer.
            skip: How many records are passed over.
            only: Fields that are read; all where none are named.
            report: Told of each line of a file that has too many or too few values.

        Raises:
            PilotError: A file cannot be read, or is not what it was.
        """
        fields = [each for each in self.contract.fields if not only or each.name in only]
        waiting: list[pa.Table] = []
        count = 0
        for piece in self._pieces([each.name for each in fields], skip, report):
            left = piece
            while left.num_rows:
                taken = left.slice(0, size - count)
                left = left.slice(taken.num_rows)
                waiting.append(taken)
                count += taken.num_rows
                if count == size:
                    yield _typed(pa.concat_tables(waiting), fields)
                    waiting, count = [], 0
        if count:
            yield _typed(pa.concat_tables(waiting), fields)

    def check_unchanged(self) -> None:
        """Refuse to go on with other bytes than those whose digest was taken.

        Raises:
            PilotError: A file was changed, replaced or taken away meanwhile.
        """
        for file, seen in zip(self.files, self.seen, strict=True):
            if _look(file) != seen:
                raise PilotError(
                    "it was changed while the batch was running; what was decided before stays on record",
                    where=str(file),
                    mend="Bring back what it was and run the same command again, or name another --id.",
                )

    def _pieces(self, names: list[str], skip: int, report: Report | None) -> Iterator[pa.Table]:
        for file in self.files:
            try:
                rows = pq.read_metadata(file).num_rows if self.kind == PARQUET else None
                if rows is not None and rows <= skip:
                    skip -= rows
                    continue
                pieces = _csv(file, report) if rows is None else _parquet(file, names, skip)
                for piece, passed in pieces:
                    skip -= passed
                    dropped = min(skip, piece.num_rows)
                    skip -= dropped
                    yield _with(piece.slice(dropped), names)
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(file, error) from error


def open_source(named: Path, contract: Contract) -> Source:
    """Look at what was brought before anything of it is decided.

    Args:
        named: A Parquet or CSV file, or a folder of files of one of these kinds.
        contract: What a record is.

    Raises:
        PilotError: It is not there, cannot be read, is of no known kind, or has other columns than the
            contract.
    """
    files = [named]
    if named.is_dir():
        files = sorted(each for each in named.rglob("*") if each.suffix.lower() in (PARQUET, CSV))
    kinds = {each.suffix.lower() for each in files}
    if not files or not kinds <= {PARQUET, CSV} or len(kinds) > 1:
        what = "no file that a batch is read from" if len(kinds) < 2 else "it holds both Parquet and CSV"
        raise PilotError(
            what, where=str(named), mend="Name a .parquet or .csv file, or a folder of one kind."
        )
    kind = kinds.pop()
    try:
        seen = tuple(map(_look, files))
        digest = hashlib.sha256()
        for file in files:
            name = file.relative_to(named).as_posix() if file != named else ""
            digest.update(f"{name}\0{sha256_of(file)}\n".encode())
    except OSError as error:
        raise _unreadable(named if error.filename is None else Path(error.filename), error) from error
    for file in files:
        try:
            schema = pq.read_schema(file) if kind == PARQUET else _header(file)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(file, error) from error
        _check(schema, contract, file, typed=kind == PARQUET)
    return Source(str(named), tuple(files), kind, digest.hexdigest(), seen, contract)


def _check(schema: pa.Schema, contract: Contract, file: Path, *, typed: bool) -> None:
    known = {each.name for each in contract.fields}
    if repeated := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise PilotError(f"the column '{repeated[0]}' stands there twice", where=str(file), mend=MEND)
    if len(schema.names) == 1 and any(mark in schema.names[0] for mark in SEPARATORS):
        what = "its first line is a single column: what separates values is no comma"
        raise PilotError(what, where=str(file), mend="Write it anew, with commas between the values.")
    if extra := sorted(set(schema.names) - known - {contract.label}):
        raise PilotError(
            f"columns that the contract does not know: {', '.join(extra)}", where=str(file), mend=MEND
        )
    for field in contract.fields:
        if field.name not in schema.names:
            if field.required or field.name == contract.key:
                raise PilotError(f"there is no column '{field.name}'", where=str(file), mend=MEND)
            continue
        kind = schema.field(field.name).type
        if typed and not _fits(kind, field):
            raise PilotError(
                f"'{field.name}' is {str(kind).removeprefix('large_')}, and the contract says {field.type}",
                where=str(file),
                mend="Cast it where the file is written.",
            )


def _fits(kind: pa.DataType, field: Field) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind):
        return not field.required
    if field.type == "text":
        return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
    if field.type == "number":
        return bool(types.is_floating(kind) or types.is_integer(kind) or types.is_decimal(kind))
    checks = {"integer": types.is_integer, "boolean": types.is_boolean, "date": types.is_date}
    return bool(checks[field.type](kind))


def _parquet(file: Path, names: list[str], skip: int) -> Iterator[tuple[pa.Table, int]]:
    """Pieces of a file, each with how many records were passed over before it."""
    opened = pq.ParquetFile(file)
    first = passed = 0
    while passed + opened.metadata.row_group(first).num_rows <= skip:
        passed += opened.metadata.row_group(first).num_rows
        first += 1
    groups = list(range(first, opened.num_row_groups))
    wanted = [name for name in names if name in opened.schema_arrow.names]
    for batch in opened.iter_batches(READ_ROWS, row_groups=groups, columns=wanted):
        yield pa.Table.from_batches([batch]), passed
        passed = 0


def _header(file: Path) -> pa.Schema:
    return pa.schema([(name, pa.binary()) for name in _begins(file)[0]])


def _begins(file: Path) -> tuple[list[str], bool]:
    """The columns' names, and whether anything stands behind them."""
    # By Python's reader: Arrow's goes on reading behind whoever has seen the first line, and that has aborted
    # the process when it came to its end just then. What is no text further down is told of its record.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        try:
            names = next((row for row in csv.reader(text) if row), [])
        except csv.Error as error:
            raise _unreadable(file, error) from error
        more = text.read(1) != ""
    if not names:
        raise _unreadable(file, ValueError("it is empty"))
    if any("\ud800" <= letter <= "\udfff" for name in names for letter in name):
        raise _unreadable(file, ValueError("its first line is not UTF-8 text"))
    return names, more


def _csv(file: Path, report: Report | None) -> Iterator[tuple[pa.Table, int]]:
    names, more = _begins(file)
    if not more:  # Arrow takes a first line that does not end for no line
        return
    options = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.binary()), strings_can_be_null=True, null_values=[""]
    )
    reader = pa_csv.open_csv(
        file,
        read_options=pa_csv.ReadOptions(use_threads=False),
        parse_options=_parsed(report, file),
        convert_options=options,
    )
    for batch in reader:
        yield pa.Table.from_batches([batch]), 0


def _parsed(report: Report | None, file: Path) -> pa_csv.ParseOptions:
    def handle(row: pa_csv.InvalidRow) -> str:
        if report is not None:
            report(
                f"{file.name}: {row.actual_columns} values and not {row.expected_columns}: {row.text[:200]}"
            )
        return "skip"

    return pa_csv.ParseOptions(invalid_row_handler=handle, newlines_in_values=True)


def _with(piece: pa.Table, names: list[str]) -> pa.Table:
    """The columns of these names, in one form whatever file they came from."""
    columns = []
    for name in names:
        column = piece[name] if name in piece.column_names else pa.nulls(piece.num_rows)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        columns.append(column)
    return pa.table(columns, names=names)


def _typed(piece: pa.Table, fields: list[Field]) -> Part:
    """The records in the contract's types, and which values are none of them."""
    columns, unreadable = [], {}
    for field in fields:
        column = piece[field.name].combine_chunks()
        wanted = ARROW[field.type]
        if pa.types.is_binary(column.type):
            column, none = _read(column, field)
            if none.any():
                unreadable[f"{field.name}.not_a_{field.type}"] = none
        elif column.type != wanted:
            column = column.cast(wanted, safe=field.type != "number")
        columns.append(column)
    return Part(pa.table(columns, names=[each.name for each in fields]), unreadable)


def _read(column: pa.Array, field: Field) -> tuple[pa.Array, np.ndarray]:
    """A column of a CSV file in the field's type, and where that has no value though the file has one."""
    try:
        text = column.cast(pa.string())
    except pa.ArrowInvalid:  # bytes that are no UTF-8, somewhere
        text = pa.array([_decoded(each) for each in column.to_pylist()], pa.string())
    found = pl.Series(text)
    if field.type in ("integer", "number"):
        found = found.cast(pl.Int64 if field.type == "integer" else pl.Float64, strict=False)
    elif field.type == "boolean":
        found = found.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    elif field.type == "date":
        whole = found.str.len_bytes() == ISO_DATE_LENGTH
        found = found.set(~whole, None).str.to_date("%Y-%m-%d", strict=False)
    typed = found.to_arrow().cast(ARROW[field.type])
    none = pc.and_(pc.is_valid(column), pc.is_null(typed))
    return typed, none.to_numpy(zero_copy_only=False)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _look(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _unreadable(file: Path, error: Exception) -> PilotError:
    if isinstance(error, OSError) and error.strerror:
        mend = "Name a readable file."
        return PilotError(f"cannot be read: {error.strerror}", where=str(file), mend=mend)
    said = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return PilotError(f"cannot be read as {file.suffix[1:]}: {said}", where=str(file), mend=REWRITE)
