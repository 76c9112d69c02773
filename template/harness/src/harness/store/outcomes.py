"""What came of decisions: outcomes as they become known, by the record's key.

Nothing is ever changed here. A correction is one more row, and the latest row of a key counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from harness.store.batches import MODEL_ARMS, BatchStore
from harness.store.database import Database, metadata, now
from harness.store.decisions import decisions

outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("record_key", sa.Text, nullable=False, index=True),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("known_at", sa.String(32)),
    sa.Column("received_at", sa.String(32), nullable=False, index=True),
    sa.Column("source", sa.Text, nullable=False),
)

# Databases take a limited number of values in a query.
KEYS_A_QUERY = 1_000


@dataclass(frozen=True)
class Outcome:
    """What came of one record.

    Attributes:
        record_key: The record's key, as text; the same as in its decision.
        outcome: True or false for a choice, a number for an amount.
        known_at: When it became known, ISO 8601, UTC; None where nobody said.
    """

    record_key: str
    outcome: bool | float
    known_at: str | None = None

    @property
    def written(self) -> str:
        """The outcome as the table has it."""
        return json.dumps(self.outcome, allow_nan=False)


@dataclass(frozen=True)
class Received:
    """What was done with a batch.

    Attributes:
        received: How many outcomes there were.
        added: How many say something new.
        unchanged: How many were on record already.
        unknown: How many are about records that were never decided; they are kept all the same.
    """

    received: int = 0
    added: int = 0
    unchanged: int = 0
    unknown: int = 0

    def __add__(self, other: Received) -> Received:
        return Received(
            self.received + other.received,
            self.added + other.added,
            self.unchanged + other.unchanged,
            self.unknown + other.unknown,
        )


@dataclass(frozen=True)
class Matched:
    """A decision and what came of it.

    Attributes:
        received_at: When the outcome was received.
        outcome: As the table has it.
        decision: As the table of decisions has it.
        record: The request, as JSON.
    """

    received_at: str
    outcome: str
    decision: str
    record: str


class OutcomeStore:
    """The outcomes table, in the database of the decisions.

    Args:
        database: The open database.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, batch: Sequence[Outcome], *, source: str, once: bool = False) -> Received:
        """Record a batch, all of it or nothing; when this returns, it has reached the disk.

        What is on record already is not recorded again: a file may be sent twice.

        Args:
            batch: The outcomes, in the order in which they were said.
            source: Where they come from.
            once: Whether what this source has said before is never news, even if another has corrected it
                since. For a file, which says the same whenever it is read.

        Raises:
            StoreUnavailable: Nothing was recorded.
        """
        rows = []
        what, mend = (
            "the outcomes could not be recorded",
            "Free the disk or bring the database back, and repeat.",
        )
        with self.database.writing(what, mend) as connection:
            keys = sorted({each.record_key for each in batch})
            latest, said = _on_record(connection, keys, source if once else None)
            decided = _decided(connection, keys)
            for each in batch:
                told = each.record_key, each.written
                same = latest.get(each.record_key)
                repeated = same is not None and same[0] == each.written and each.known_at in (None, same[1])
                if repeated or told in said:
                    continue
                latest[each.record_key] = each.written, each.known_at
                rows.append(
                    {
                        "record_key": each.record_key,
                        "outcome": each.written,
                        "known_at": each.known_at,
                        "received_at": now(),
                        "source": source,
                    }
                )
            if rows:
                connection.execute(outcomes.insert(), rows)
        decided |= BatchStore(self.database).decided(set(keys) - decided)
        unknown = sum(1 for each in batch if each.record_key not in decided)
        return Received(len(batch), len(rows), len(batch) - len(rows), unknown)

    def matched(self, digest: str, start: str, end: str, *, size: int = 50_000) -> Iterator[list[Matched]]:
        """The outcomes received from ``start`` to before ``end``, with the decisions that they are about.

        Each key counts once: by its latest outcome, and by the last decision on it that was this model's.

        Args:
            digest: The model that was to decide.
            start: ISO 8601, UTC.
            end: ISO 8601, UTC.
            size: How many come at a time.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        o, d = outcomes.c, decisions.c
        latest = sa.select(sa.func.max(o.sequence)).group_by(o.record_key)
        of_model = sa.and_(d.model_digest == digest, d.assigned.in_(MODEL_ARMS))
        last = sa.select(sa.func.max(d.sequence)).where(of_model).group_by(d.record_key)
        query = (
            sa.select(o.record_key, o.received_at, o.outcome, d.decided_at, d.decision, d.record)
            .outerjoin(decisions, sa.and_(d.record_key == o.record_key, d.sequence.in_(last)))
            .where(o.received_at >= start, o.received_at < end, o.sequence.in_(latest))
        )
        made = BatchStore(self.database)
        with self.database.connected() as connection:
            result = connection.execution_options(yield_per=size).execute(query)
            for rows in result.partitions():
                in_files = made.latest(digest, [row.record_key for row in rows])
                told = {row[0]: row[1:] for row in in_files.iter_rows()}
                yield [found for row in rows if (found := _matched(row, told)) is not None]


def _matched(row: Any, in_files: Mapping[str, tuple[str, str, str]]) -> Matched | None:
    """An outcome with the later of the two decisions on it; None where this model made neither."""
    decided = (row.decided_at, row.decision, row.record) if row.decided_at is not None else None
    there = in_files.get(row.record_key)
    if decided is None or (there is not None and there[0] > decided[0]):
        decided = there
    return None if decided is None else Matched(row.received_at, row.outcome, *decided[1:])


def _on_record(
    connection: sa.Connection, keys: Sequence[str], source: str | None
) -> tuple[dict[str, tuple[str, str | None]], set[tuple[str, str]]]:
    """The latest outcome of each key, and all that ``source`` has said of these keys."""
    latest: dict[str, tuple[str, str | None]] = {}
    said: set[tuple[str, str]] = set()
    for part in _parts(keys):
        query = sa.select(outcomes).where(outcomes.c.record_key.in_(part)).order_by(outcomes.c.sequence)
        for row in connection.execute(query):
            latest[row.record_key] = row.outcome, row.known_at
            if row.source == source:
                said.add((row.record_key, row.outcome))
    return latest, said


def _decided(connection: sa.Connection, keys: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for part in _parts(keys):
        query = sa.select(decisions.c.record_key).where(decisions.c.record_key.in_(part)).distinct()
        found |= set(connection.execute(query).scalars())
    return found


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), KEYS_A_QUERY):
        yield keys[start : start + KEYS_A_QUERY]
