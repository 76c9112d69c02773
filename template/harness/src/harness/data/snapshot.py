"""The raw snapshot: a folder for each table, in it one Parquet file for each read that brought something new.

What ingest has to remember stands in the files' own metadata, so there is no second file that could disagree
with them. A part is written beside and renamed when it is whole. At any moment the parts that are there are a
state that ingest was in before, or the new one; to read on from an earlier state loses nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.data.versions import PART_COLUMN, newest
from harness.errors import PilotError
from harness.pilot import Table

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from ibis.backends.sql import SQLBackend as Backend

METADATA = b"pilot"
LAYOUT = 1
NAME = re.compile(r"part-(\d{6,})\.parquet")
AGAIN = "Bring it back (`dvc checkout data/raw`), or run `pilot run --full`."


@dataclass(frozen=True)
class Counts:
    """What a read brought.

    Attributes:
        read: Rows that the source gave.
        new: Rows whose key was not there.
        changed: Rows whose key was there, with other content.
        late: New and changed rows that are older than the newest row of the read before.
        repeated: Rows that were there already, byte for byte, or came twice.
        unmarked: Changed rows whose watermark stayed as it was.
        gone: Rows that should have come again and did not; they stay.
    """

    read: int = 0
    new: int = 0
    changed: int = 0
    late: int = 0
    repeated: int = 0
    unmarked: int = 0
    gone: int = 0


@dataclass(frozen=True)
class About:
    """What a part says of itself.

    Attributes:
        source: The digest of where it was read from.
        key: The columns that identify a row.
        watermark: The column that grows; empty for a table that is read whole.
        kind: How that column is kept; see ``reading.Since``.
        high: The newest watermark of all parts up to this one, as a number.
        counts: What the read brought.
        digest: Of a whole read, where there is a simulation to compare it with: the fingerprint of what the
            source gave, repeated rows included.
    """

    source: str
    key: tuple[str, ...] = ()
    watermark: str = ""
    kind: str = ""
    high: int | None = None
    counts: Counts = field(default_factory=Counts)
    digest: tuple[int, str] | None = None

    def encoded(self) -> dict[bytes, bytes]:
        """As Parquet keeps it."""
        return {METADATA: json.dumps({"layout": LAYOUT, **asdict(self)}, sort_keys=True).encode()}


@dataclass(frozen=True)
class Part:
    """One file of a table.

    Attributes:
        file: The file.
        number: Its place, from 0.
        rows: Its rows.
        columns: Its columns, without the one that says the part's number.
        about: What it says of itself.
    """

    file: Path
    number: int
    rows: int
    columns: dict[str, str]
    about: About


def part_file(folder: Path, number: int) -> Path:
    """The file of a part of a table."""
    return folder / f"part-{number:06}.parquet"


def parts(folder: Path) -> list[Part]:
    """A table's parts in order; none where it was never read.

    Raises:
        PilotError: One is damaged, or one is missing between others.
    """
    numbers = sorted(
        int(found[1]) for file in folder.glob("part-*.parquet") if (found := NAME.fullmatch(file.name))
    )
    if numbers != list(range(len(numbers))):
        missing = next(number for number in range(len(numbers)) if number not in numbers)
        raise PilotError(
            "a part of the snapshot is missing", where=str(part_file(folder, missing)), mend=AGAIN
        )
    return [_part(part_file(folder, number), number) for number in numbers]


def _part(file: Path, number: int) -> Part:
    try:
        footer = pq.read_metadata(file)
        said = json.loads((footer.metadata or {})[METADATA])
        if said.pop("layout") != LAYOUT:
            raise ValueError("another layout")
        digest = said.pop("digest")
        about = About(
            **said | {"key": tuple(said["key"]), "counts": Counts(**said["counts"])},
            digest=(digest[0], digest[1]) if digest else None,
        )
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise PilotError("a part of the snapshot is damaged", where=str(file), mend=AGAIN) from error
    return Part(file, number, footer.num_rows, columns_of(footer.schema.to_arrow_schema()), about)


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """The source's columns and their types."""
    return {each.name: str(each.type) for each in schema if each.name != PART_COLUMN}


def all_columns(found: Sequence[Part]) -> dict[str, str]:
    """The columns of all parts of a table; a later one may have more."""
    return {name: kind for part in found for name, kind in part.columns.items()}


@dataclass(frozen=True)
class Change:
    """What a read does to a table's parts.

    Attributes:
        table: The table.
        staged: The new part, written beside; None where nothing new came.
        number: The new part's place; 0 replaces every other.
    """

    table: Table
    staged: Path | None
    number: int


def commit(snapshot: Path, changes: Sequence[Change]) -> None:
    """Bring what was read into the snapshot, and take away what belongs to no table.

    Where a whole read replaces parts, the later ones go first and the last one first: what is left at any
    moment is the state of an earlier read.
    """
    snapshot.mkdir(parents=True, exist_ok=True)
    for change in changes:
        folder = snapshot / change.table.name
        if change.staged is None:
            continue
        if not folder.is_dir():
            folder.unlink(missing_ok=True)
            folder.mkdir()
        if change.number == 0:
            later = [file for file in folder.glob("part-*.parquet") if file != part_file(folder, 0)]
            for file in sorted(later, reverse=True):
                file.unlink()
        _sync(change.staged)
        change.staged.replace(part_file(folder, change.number))
        _sync(folder)
    _tidy(snapshot, {change.table.name for change in changes})


def _tidy(snapshot: Path, names: set[str]) -> None:
    for path in snapshot.iterdir():
        if path.name in names and path.is_dir():
            for file in path.iterdir():
                if not NAME.fullmatch(file.name):
                    _take_away(file)
        else:
            _take_away(path)


def _take_away(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sync(path: Path) -> None:
    """Have the disk keep it, in case the machine stops."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def tables(backend: Backend, declared: Sequence[Table], snapshot: Path) -> dict[str, ir.Table]:
    """Each table as ``records`` receives it: whole, or the newest version of every row."""
    return {table.name: _received(backend, table, parts(snapshot / table.name)) for table in declared}


def _received(backend: Backend, table: Table, found: Sequence[Part]) -> ir.Table:
    files = [str(part.file) for part in found]
    read = backend.read_parquet(files, table_name=f"raw_{table.name}", union_by_name=True)
    if not table.incremental:
        return read
    if not any(part.about.counts.changed for part in found):
        return read.drop(PART_COLUMN)
    return newest(read, table.keys, table.watermark)


def evidence(found: Mapping[str, Sequence[Part]], declared: Sequence[Table]) -> dict[str, Any]:
    """What the parts say of how each table was read: numbers only, and the same for the same parts."""
    said: dict[str, Any] = {}
    for table in declared:
        kept = found[table.name]
        totals = {name: sum(getattr(part.about.counts, name) for part in kept) for name in asdict(Counts())}
        said[table.name] = {
            "system": table.system,
            "rows": sum(part.rows for part in kept),
            "parts": len(kept),
            "incremental": table.incremental,
            **({"counts": totals, "last": asdict(kept[-1].about.counts)} if table.incremental else {}),
        }
    return said
