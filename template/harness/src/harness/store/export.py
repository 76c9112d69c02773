"""The store's tables as Parquet, partitioned by day, for the monitor on another engine and for a warehouse.

``TABLE/date=YYYY-MM-DD/part.parquet`` is the layout that DuckDB, Spark, Polars and warehouses read as one
table with a column ``date``. A file is whole or not there, and once it is, it is listed in SHA256SUMS as
``sha256sum -c`` reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from harness.errors import PilotError
from harness.files import whole_file
from harness.store.database import Database
from harness.store.decisions import decisions
from harness.store.outcomes import outcomes
from harness.store.shadow import shadow

SUMS = "SHA256SUMS"
PART = "part.parquet"
# By what each table is partitioned.
MOMENTS = {
    "decisions": decisions.c.decided_at,
    "outcomes": outcomes.c.received_at,
    "shadow": shadow.c.at,
}
# A decision that was taken up before midnight may be committed after it.
OVER_AFTER = timedelta(minutes=10)
ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
        written: The files that are new, below the folder.
        rows: How many rows are in them.
        kept: How many files were there already.
    """

    written: tuple[str, ...]
    rows: int
    kept: int


def export(
    database: Database,
    to: Path,
    *,
    at: datetime | None = None,
    report: Callable[[str, float], None] = lambda _doing, _share: None,
) -> Exported:
    """Write every day that is over and not there yet.

    Args:
        database: The open database.
        to: The folder.
        at: The present moment, UTC; now by default.
        report: Is told how far it is.

    Raises:
        StoreUnavailable: It does not answer; what was written until then is there.
        PilotError: The folder cannot be written, or a file in it is not what was written there.
    """
    today = ((at or datetime.now(UTC)) - OVER_AFTER).date().isoformat()
    try:
        to.mkdir(parents=True, exist_ok=True)
        sums = _read(to / SUMS)
        wanted = [(table, day) for table in MOMENTS for day in _days(database, table, today)]
        written, rows, kept = [], 0, 0
        for number, (table, day) in enumerate(wanted):
            name = f"{table}/date={day}/{PART}"
            report(name, number / len(wanted))
            if name in sums:
                _check(to / name, sums[name])
                kept += 1
                continue
            rows += _write(database, table, day, to / name)
            sums[name] = _sha256(to / name)
            with whole_file(to / SUMS) as file:
                file.write_text("".join(f"{sums[each]}  {each}\n" for each in sorted(sums)), "utf-8")
            written.append(name)
    except OSError as error:
        raise PilotError(
            f"it cannot be written: {error.strerror}",
            where=str(to),
            mend="Make it writable, or free the disk.",
        ) from error
    return Exported(tuple(written), rows, kept)


def _days(database: Database, table: str, today: str) -> list[str]:
    day = sa.func.substr(MOMENTS[table], 1, 10)
    with database.connected() as connection:
        return list(connection.execute(sa.select(day).distinct().where(day < today).order_by(day)).scalars())


def _write(database: Database, table: str, day: str, file: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = MOMENTS[table].table
    schema = pa.schema([(column.name, _type(column, pa)) for column in found.columns])
    rows = 0
    with whole_file(file) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for batch in _rows(database, found, MOMENTS[table], day):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
            rows += len(batch)
    return rows


def _rows(
    database: Database, table: Any, moment: sa.ColumnElement[str], day: str
) -> Iterator[list[dict[str, Any]]]:
    # The day after in the order of text: a moment goes on with a T.
    query = sa.select(table).where(moment >= day, moment < f"{day}U").order_by(table.c.sequence)
    with database.connected() as connection:
        result = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query)
        for rows in result.partitions():
            yield [dict(row._mapping) for row in rows]


def _type(column: Any, pa: Any) -> Any:
    if isinstance(column.type, sa.Boolean):
        return pa.bool_()
    if isinstance(column.type, sa.Integer):
        return pa.int64()
    return pa.float64() if isinstance(column.type, sa.Float) else pa.string()


def _read(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    lines = (line.split("  ", 1) for line in file.read_text("utf-8").splitlines())
    return {name: digest for digest, name in lines}


def _check(file: Path, digest: str) -> None:
    if not file.is_file() or _sha256(file) != digest:
        raise PilotError(
            "it is not what was written there",
            where=str(file),
            mend=f"Delete its line in {SUMS} to have it written again.",
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
