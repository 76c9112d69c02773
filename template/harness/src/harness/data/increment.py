"""What a read of a table with a watermark brought, held against the parts that are there.

Everything is counted on DuckDB over the files, so that ten million rows need no more memory than it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from harness.data.filedrops import FILE_COLUMN
from harness.data.reading import EPOCH, Since, as_number
from harness.data.snapshot import Counts, Part
from harness.data.versions import PART_COLUMN
from harness.errors import CheckFailed
from harness.pilot import Table
from harness.simulate.digest import literal, quoted

# A clock may run ahead, and a time without a zone may be another zone's.
AHEAD = timedelta(days=1)
# A shift of that many moments by the same whole quarters of an hour is a time zone and no coincidence.
SHIFTED_MOMENTS = 10
SHIFTED_SHARE = 0.9
MOST_SHIFT_US = 14 * 3600 * 1_000_000
QUARTER_US = 900 * 1_000_000
MOMENT = "_moment"


@dataclass(frozen=True)
class Read:
    """A read that lies beside the snapshot, as the source gave it.

    Attributes:
        table: The table.
        file: The rows.
        columns: Its columns and their types.
        kind: How the watermark is kept; see ``reading.Since``.
        where: The system and the table, for messages.
        simulated: Whether the source is one that ``pilot simulate`` fills: its time is not ours.
    """

    table: Table
    file: Path
    columns: dict[str, str]
    kind: str
    where: str
    simulated: bool = False

    @property
    def content(self) -> list[str]:
        """The columns that make a row what it is; which file it came in does not."""
        return [name for name in self.columns if name != FILE_COLUMN]


def high_of(connection: duckdb.DuckDBPyConnection, read: Read) -> int | None:
    """The newest watermark of a read, after a look at whether each row has one that can be.

    Raises:
        CheckFailed: A row has no key or no watermark, or its watermark lies in the future.
    """
    moment = as_number(read.table.watermark, read.kind)
    no_key = " OR ".join(f"{quoted(name)} IS NULL" for name in read.table.keys)
    keyless, timeless, high = connection.execute(
        f"SELECT count(*) FILTER (WHERE {no_key}), count(*) FILTER (WHERE {moment} IS NULL), max({moment})"
        f" FROM {_relation([read.file])}"
    ).fetchall()[0]
    if keyless:
        raise CheckFailed(
            f"{keyless:,} rows have no {' and '.join(read.table.keys)}",
            where=read.where,
            mend="Name columns that every row has (key=), or take the watermark out: it is read whole then.",
        )
    if timeless:
        raise CheckFailed(
            f"{timeless:,} rows have no {read.table.watermark} that is a moment: once read, never again",
            where=f"{read.where}.{read.table.watermark}",
            mend="Have the source fill it, or take the watermark out: the table is read whole then.",
        )
    if high is not None and read.kind != "number" and not read.simulated:
        _refuse_the_future(connection, read, moment)
    return None if high is None else int(high)


def _refuse_the_future(connection: duckdb.DuckDBPyConnection, read: Read, moment: str) -> None:
    now = datetime.now(UTC).replace(tzinfo=None) + AHEAD
    latest = (now - EPOCH) // timedelta(microseconds=1)
    ahead, furthest = connection.execute(
        f"SELECT count(*), max({moment}) FROM {_relation([read.file])} WHERE {moment} > {latest}"
    ).fetchall()[0]
    if ahead:
        raise CheckFailed(
            f"{ahead:,} rows are dated in the future, up to {shown(furthest, read.kind)}; no later row would"
            " ever be read",
            where=f"{read.where}.{read.table.watermark}",
            mend="Correct them in the source, or read a view that leaves them out or dates them.",
        )


def refuse_other_columns(columns: dict[str, str], before: dict[str, str], where: str) -> list[str]:
    """Hold the columns against those of the last read.

    Returns:
        The names of new columns.

    Raises:
        CheckFailed: A column is gone, or has another type.
    """
    gone = [name for name in before if name not in columns]
    new = [name for name in columns if name not in before]
    if gone:
        renamed = f"; new since then: {', '.join(new)}" if new else ""
        raise CheckFailed(
            f"the source no longer has {', '.join(gone)}{renamed}",
            where=where,
            mend="Have it back, or correct sources.py for it and run `pilot run --full`.",
        )
    for name, kind in before.items():
        if columns[name] != kind:
            raise CheckFailed(
                f"'{name}' was {kind} and is {columns[name]} now",
                where=where,
                mend="Have it back, or correct sources.py for it and run `pilot run --full`.",
            )
    return new


@dataclass(frozen=True)
class Found:
    """What is new in a read.

    Attributes:
        counts: How much of what.
        query: The SQL of the new part's rows, in their order.
    """

    counts: Counts
    query: str


def compare(
    connection: duckdb.DuckDBPyConnection, read: Read, known: Sequence[Part], since: Since | None
) -> Found:
    """Sort a read's rows into new, changed, late and repeated ones.

    Raises:
        CheckFailed: A key comes twice with the same watermark and other content, or all watermarks have moved
            by the same whole hours.
    """
    compared = _Compared(connection, read)
    rows = compared.rows()
    compared.refuse_two_truths()
    if not known:
        distinct, changed = compared.distinct()
        counts = Counts(read=rows, new=distinct - changed, changed=changed, repeated=rows - distinct)
        return Found(counts, compared.ordered("distinct_rows", 0))
    compared.with_known(known, since)
    compared.refuse_another_zone()
    fresh, late, unmarked, new = compared.fresh(known, known[-1].about.high or 0)
    counts = Counts(
        read=rows,
        new=new,
        changed=fresh - new,
        late=late,
        repeated=rows - fresh,
        unmarked=unmarked,
        gone=compared.gone(since.value) if since else 0,
    )
    return Found(counts, compared.ordered("fresh_rows", known[-1].number + 1))


class _Compared:
    """The tables that a comparison needs, in a connection that is closed after it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, read: Read) -> None:
        self._connection = connection
        self._read = read
        self._there: set[str] = set()
        self._key = ", ".join(quoted(name) for name in read.table.keys)
        self._content = ", ".join(quoted(name) for name in read.content)
        self._moment = as_number(read.table.watermark, read.kind)
        self._run(f"CREATE OR REPLACE TEMP VIEW read_rows AS {self._with_moment(_relation([read.file]))}")
        # Nearly every key comes once: only the others are held against each other.
        self._run(
            f"CREATE OR REPLACE TEMP TABLE several AS SELECT {self._key} FROM read_rows"
            f" GROUP BY {self._key} HAVING count(*) > 1"
        )
        file = f", min({FILE_COLUMN}) AS {FILE_COLUMN}" if FILE_COLUMN in read.columns else ""
        self._run(
            f"CREATE OR REPLACE TEMP TABLE again AS SELECT {self._content}, {MOMENT}{file}"
            f" FROM read_rows SEMI JOIN several USING ({self._key}) GROUP BY {self._content}, {MOMENT}"
        )
        self._run(
            "CREATE OR REPLACE TEMP VIEW distinct_rows AS SELECT * FROM read_rows"
            f" ANTI JOIN several USING ({self._key}) UNION ALL BY NAME SELECT * FROM again"
        )

    def rows(self) -> int:
        return self._count("read_rows")

    def distinct(self) -> tuple[int, int]:
        """How many rows differ, and how many of these are further versions of another."""
        again, several = self._count("again"), self._count("several")
        once = self._count(f"read_rows ANTI JOIN several USING ({self._key})")
        return once + again, again - several

    def refuse_two_truths(self) -> None:
        truths = self._count(f"(SELECT 1 FROM again GROUP BY {self._key}, {MOMENT} HAVING count(*) > 1)")
        if truths:
            key, watermark = ", ".join(self._read.table.keys), self._read.table.watermark
            raise CheckFailed(
                f"{truths:,} rows come twice with the same {key} and the same {watermark}, and differ:"
                " nothing says which is true",
                where=self._read.where,
                mend=f"Find them (GROUP BY {key}, {watermark} HAVING COUNT(*) > 1) and correct the source, or"
                " name a key or a watermark that tells them apart.",
            )

    def with_known(self, known: Sequence[Part], since: Since | None) -> None:
        """Fetch what is there of the time that was read again, and set aside what is new."""
        lowest = self._run(f"SELECT min({MOMENT}) FROM read_rows").fetchall()[0][0]
        if since is not None:
            lowest = min(lowest, since.value)
        parts = self._with_moment(_relation([part.file for part in known]))
        self._there = {name for part in known for name in part.columns}
        columns = ", ".join(quoted(name) for name in self._read.content if name in self._there)
        self._run(
            f"CREATE OR REPLACE TEMP TABLE known_rows AS SELECT {columns}, {MOMENT},"
            # Of one moment, what was read last is what the source said at last.
            f" row_number() OVER (PARTITION BY {self._key}, {MOMENT} ORDER BY {PART_COLUMN} DESC) = 1"
            f" AS _stands,"
            f" row_number() OVER (PARTITION BY {self._key} ORDER BY {MOMENT} DESC, {PART_COLUMN} DESC) = 1"
            f" AS _newest FROM ({parts}) WHERE {MOMENT} >= {lowest}"
        )
        self._run(
            "CREATE OR REPLACE TEMP TABLE fresh_rows AS SELECT * FROM distinct_rows AS d WHERE NOT EXISTS"
            f" (SELECT 1 FROM known_rows AS k WHERE k._stands AND {self._same(self._read.content)})"
        )

    def fresh(self, known: Sequence[Part], high: int) -> tuple[int, int, int, int]:
        """How many rows are new or changed; of these late; of these without a newer watermark; new keys."""
        rows, late = self._run(
            f"SELECT count(*), count(*) FILTER (WHERE {MOMENT} < {high}) FROM fresh_rows"
        ).fetchall()[0]
        unmarked = self._count(f"fresh_rows SEMI JOIN known_rows USING ({self._key}, {MOMENT})")
        keys = f"(SELECT DISTINCT {self._key} FROM fresh_rows)"
        everything = _relation([part.file for part in known])
        new = self._count(f"{keys} AS f ANTI JOIN {everything} AS k USING ({self._key})")
        return rows, late, unmarked, new

    def gone(self, since: int) -> int:
        return self._count(
            f"(SELECT {self._key} FROM known_rows WHERE _newest AND {MOMENT} >= {since}) AS k"
            f" ANTI JOIN read_rows USING ({self._key})"
        )

    def refuse_another_zone(self) -> None:
        if self._read.kind == "number":
            return
        rest = [name for name in self._read.content if name != self._read.table.watermark]
        key = " AND ".join(f"k.{quoted(name)} = d.{quoted(name)}" for name in self._read.table.keys)
        moved = self._run(
            f"SELECT d.{MOMENT} - k.{MOMENT} AS shift, count(*), count(DISTINCT k.{MOMENT})"
            f" FROM fresh_rows AS d JOIN known_rows AS k ON {key} WHERE k._newest AND {self._same(rest)}"
            " GROUP BY shift ORDER BY 2 DESC, 1 LIMIT 1"
        ).fetchall()
        if not moved:
            return
        shift, rows, moments = moved[0]
        again = self._count(f"known_rows SEMI JOIN read_rows USING ({self._key}) WHERE _newest")
        whole = shift != 0 and shift % QUARTER_US == 0 and abs(shift) <= MOST_SHIFT_US
        if whole and moments >= SHIFTED_MOMENTS and rows >= SHIFTED_SHARE * again:
            raise CheckFailed(
                f"{rows:,} of {again:,} rows that were read again have moved by {shift / 3.6e9:+g} hours:"
                " the time zone of the source has changed",
                where=f"{self._read.where}.{self._read.table.watermark}",
                mend="Have it back, or make sources.py read UTC; then `pilot run --full`.",
            )

    def ordered(self, rows: str, number: int) -> str:
        """The SQL of a part: in an order of its own, so that the same rows give the same bytes."""
        columns = ", ".join(quoted(name) for name in self._read.columns)
        return (
            f"SELECT {columns}, CAST({number} AS INTEGER) AS {PART_COLUMN} FROM {rows}"
            f" ORDER BY {MOMENT}, {self._key}, {self._content}"
        )

    def _with_moment(self, relation: str) -> str:
        return f"SELECT *, {self._moment} AS {MOMENT} FROM {relation}"

    def _same(self, columns: Sequence[str]) -> str:
        # A column that is new has no value in what is there.
        same = [
            f"k.{quoted(name)} IS NOT DISTINCT FROM d.{quoted(name)}"
            if name in self._there
            else f"d.{quoted(name)} IS NULL"
            for name in columns
        ]
        return " AND ".join(same) or "TRUE"

    def _run(self, query: str) -> duckdb.DuckDBPyConnection:
        return self._connection.execute(query)

    def _count(self, relation: str) -> int:
        return int(self._run(f"SELECT count(*) FROM {relation}").fetchall()[0][0])


def shown(number: int, kind: str) -> str:
    """A watermark as a person reads it."""
    if kind == "number":
        return str(number)
    moment = EPOCH + timedelta(microseconds=number)
    return moment.date().isoformat() if kind == "date" else moment.isoformat(" ", "seconds")


def _relation(files: Sequence[Path]) -> str:
    listed = ", ".join(literal(str(file)) for file in files)
    return f"read_parquet([{listed}], union_by_name = true)"
