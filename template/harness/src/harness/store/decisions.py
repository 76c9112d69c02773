"""The record of every decision.

A decision counts only once it is here: the service answers after the commit, which has reached the disk.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import compress
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from harness.encoding import Encoder
from harness.errors import PilotError
from harness.store.batches import BatchStore
from harness.store.database import Database, metadata
from harness.store.inserting import Insert

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("decision_id", sa.String(36), nullable=False, unique=True),
    sa.Column("decided_at", sa.String(32), nullable=False, index=True),
    sa.Column("record_key", sa.Text, nullable=False, index=True),
    # Without an index: it would be the second of which each decision rewrites a page of its own.
    sa.Column("entity", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("reasons", sa.Text, nullable=False),
    sa.Column("served_by", sa.String(16), nullable=False),
    sa.Column("assigned", sa.String(16), nullable=False),
    sa.Column("why", sa.String(32), nullable=False),
    sa.Column("model_digest", sa.String(64)),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("bucket", sa.Integer),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("sandbox", sa.Boolean, nullable=False),
    sa.Column("elapsed_ms", sa.Float, nullable=False),
    sa.Column("reasons_pending", sa.Boolean, nullable=False, server_default=sa.false()),
)
# Written out, because a planner takes an index of part of a table only where it sees the same condition.
_pending = sa.text("reasons_pending = true")
# Named first, though it is always true here: SQLite would rather go through the table in its order.
sa.Index(
    "decisions_pending",
    decisions.c.reasons_pending,
    decisions.c.sequence,
    sqlite_where=_pending,
    postgresql_where=_pending,
)

keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("idempotency_key", sa.Text, primary_key=True),
    sa.Column("decision_id", sa.String(36), nullable=False, index=True),
    # Of the record that it was first used with: the record itself may be erased by now.
    sa.Column("record_sha256", sa.String(64), nullable=False),
    sa.Column("decided_at", sa.String(32), nullable=False, index=True),
)

JSON_COLUMNS = ("record", "decision", "reasons")
# Databases take a limited number of values in a query.
VALUES_A_QUERY = 1_000


@dataclass(frozen=True)
class Decision:
    """One decision as it was made.

    Attributes:
        decision_id: UUID of version 7, the name by which the decision can be followed.
        decided_at: UTC time at which the request was taken up, ISO 8601 with microseconds.
        record_key: The record's key, as text.
        entity: The entity the decision is about, as text; rollout buckets hang on it.
        record: The validated request.
        decision: What was decided.
        score: The model's score; None when the fallback decided.
        reasons: Why, strongest first; each with feature, value and effect.
        served_by: ``model`` or ``fallback``.
        assigned: The arm that the rollout assigned (``champion``, ``challenger`` or ``fallback``), which
            differs from what served when the model failed. Analyse by this one.
        why: What led to ``served_by``, one of a fixed set (harness.control.Why).
        model_digest: The digest of the assigned model; None when there was none.
        revision: The control state's revision that was in force; 0 when there was no readable state.
        bucket: The entity's rollout bucket, 1 to 100; None when the state was not consulted that far.
        stage: The stage that was in force.
        sandbox: Whether this was a decision about nothing real.
        elapsed_ms: Milliseconds from the arrival of the request to handing the record to the store.
        reasons_pending: Whether the reasons are still to be given.
        idempotency_key: The caller's name for the request, unique among all; None where it gave none. It is
            not read back with a decision.
    """

    decision_id: str
    decided_at: str
    record_key: str
    entity: str
    record: dict[str, Any]
    decision: str | float
    score: float | None
    reasons: list[dict[str, Any]]
    served_by: str
    assigned: str
    why: str
    model_digest: str | None
    revision: int
    bucket: int | None
    stage: str
    sandbox: bool
    elapsed_ms: float
    reasons_pending: bool = False
    idempotency_key: str | None = None


class IdempotencyConflict(PilotError):
    """A key that was used for another record; nothing was decided.

    Args:
        key: The key.
        decision_id: The decision that it stands for.
    """

    def __init__(self, key: str, decision_id: str) -> None:
        self.key = key
        self.decision_id = decision_id
        super().__init__(
            "the idempotency key stands for another record",
            where=f"decision {decision_id}",
            mend="Use a key for one request only, and the same one to repeat it.",
        )


# A space of our own among the advisory locks of a database, one lock an entity.
ENTITIES = 0x6F726472
_HOLD = sa.text("SELECT pg_advisory_xact_lock(:space, each) FROM unnest(CAST(:numbers AS integer[])) AS each")
Recorded = Decision | IdempotencyConflict
Alongside = Callable[[sa.Connection, Sequence[Decision]], None]


class DecisionStore:
    """The decisions: those of the table, and those that batches keep in files.

    Args:
        url: An SQLAlchemy URL.
        alongside: What is written with each decision, in its transaction: both are there, or neither is.

    Attributes:
        database: The database that it lies in, shared with the store's other tables.
        batches: The decisions that were made in batches.
    """

    def __init__(self, url: str, *, alongside: Sequence[Alongside] = ()) -> None:
        self.database = Database(url)
        self.batches = BatchStore(self.database)
        self._alongside = tuple(alongside)

    def record(self, decision: Decision) -> Decision:
        """Write one decision; when this returns, the record has reached the disk.

        Returns:
            The decision that stands: an earlier one where its idempotency key was used for the same record.

        Raises:
            StoreUnavailable: It could not be written. Nothing was decided.
            IdempotencyConflict: Its key was used for another record. Nothing was decided.
        """
        (done,) = self.record_all([decision])
        if isinstance(done, IdempotencyConflict):
            raise done
        return done

    def record_all(
        self, decisions: Sequence[Decision], more: Callable[[], Sequence[Decision]] | None = None
    ) -> list[Recorded]:
        """Write decisions in one transaction; when this returns, all of them have reached the disk.

        A key that was used before, here or by another process, is decided once: the same record gets the
        decision that stands, another record a conflict. Neither is written.

        Args:
            decisions: The decisions. One that the database refuses for what is in it fails them all.
            more: Gives those that were made while others wrote. It is asked once, when it is this one's turn.

        Returns:
            What stands for each, in their order, ``more`` last.

        Raises:
            StoreUnavailable: They could not be written. Nothing was decided, about none of them.
        """
        if not decisions:
            return []
        rows = [_row(decision) for decision in decisions]
        what = "the decision could not be recorded"
        mend = "Free the disk or bring the database back; until then nothing is decided."
        with self.database.writing(what, mend) as connection:
            if more is not None and (came := more()):
                decisions = [*decisions, *came]
                rows += [_row(decision) for decision in came]
            done = _standing(connection, decisions)
            kept = [stands is each for each, stands in zip(decisions, done, strict=True)]
            new = list(compress(decisions, kept))
            if new:
                _hold(connection, new)
                _insert(connection, list(compress(rows, kept)))
            for write in self._alongside:
                write(connection, new)
        return done

    def write(self, connection: sa.Connection, made: Sequence[Decision]) -> None:
        """Write decisions that no caller named, and what belongs alongside, in another's transaction."""
        _insert(connection, [_row(each) for each in made])
        for write in self._alongside:
            write(connection, made)

    def pending(self, count: int) -> list[Decision]:
        """The first ``count`` decisions whose reasons are still to be given, oldest first."""
        return list(
            self._read(sa.select(decisions).where(_pending).order_by(decisions.c.sequence).limit(count))
        )

    def reasons_given(self, decision_id: str, reasons: Sequence[Mapping[str, Any]]) -> bool:
        """Write the reasons of a decision that was recorded without.

        Returns:
            Whether they were still to be given; reasons that a decision has are never changed.

        Raises:
            StoreUnavailable: They could not be written, and are still to be given.
        """
        c = decisions.c
        change = (
            decisions.update()
            .where(c.decision_id == decision_id, _pending)
            .values(reasons=_as_json([dict(reason) for reason in reasons]), reasons_pending=False)
        )
        what, mend = "the reasons could not be recorded", "Bring the database back; they are given again."
        with self.database.writing(what, mend) as connection:
            return bool(connection.execute(change).rowcount)

    def get(self, decision_id: str) -> Decision | None:
        """The decision of that id; None when it was never made."""
        query = sa.select(decisions).where(decisions.c.decision_id == decision_id)
        found = next(self._read(query), None)
        if found is None and (row := self.batches.find(decision_id)) is not None:
            found = Decision(**{**row, **{name: json.loads(row[name]) for name in ("decision", "reasons")}})
        return found

    def latest(self, count: int) -> list[Decision]:
        """The last ``count`` decisions of the table, newest first; none of those in batches' files."""
        return list(self._read(sa.select(decisions).order_by(decisions.c.sequence.desc()).limit(count)))

    def counts(self) -> dict[tuple[str, str], int]:
        """How many decisions there are for each pair of served_by and why."""
        query = sa.select(decisions.c.served_by, decisions.c.why, sa.func.count()).group_by(
            decisions.c.served_by, decisions.c.why
        )
        with self.database.connected() as connection:
            found = {(served_by, why): count for served_by, why, count in connection.execute(query)}
        for pair, count in self.batches.counts().items():
            found[pair] = found.get(pair, 0) + count
        return found

    def made(self, digest: str, start: str, end: str, *, size: int = 50_000) -> Iterator[list[Any]]:
        """The decisions that a model was to make from ``start`` to before ``end``, whoever made them then.

        Args:
            digest: The model's digest.
            start: ISO 8601, UTC.
            end: ISO 8601, UTC.
            size: How many come at a time.

        Yields:
            Rows with decided_at, record_key, entity, record and decision (both as JSON), score, served_by,
            assigned and why.
        """
        c = decisions.c
        columns = (c.decided_at, c.record_key, c.entity, c.record, c.decision, c.score, c.served_by)
        query = sa.select(*columns, c.assigned, c.why).where(
            c.model_digest == digest, c.decided_at >= start, c.decided_at < end
        )
        with self.database.connected() as connection:
            result = connection.execution_options(yield_per=size).execute(query)
            for rows in result.partitions():
                yield list(rows)
        yield from self.batches.made(digest, start, end)

    def last_model_decision(self) -> str | None:
        """When a model last decided, as an ISO 8601 UTC time; None when it never did."""
        query = sa.select(sa.func.max(decisions.c.decided_at)).where(decisions.c.served_by == "model")
        with self.database.connected() as connection:
            found: str | None = connection.execute(query).scalar()
        return max(filter(None, (found, self.batches.last(by_model=True))), default=None)

    def ping(self) -> None:
        """Whether a decision could be recorded now, short of recording one.

        Raises:
            StoreUnavailable: The database does not answer, has no table, or its file is not the one that this
                process opened.
        """
        self.database.check_file()
        with self.database.connected() as connection:
            connection.execute(sa.select(decisions.c.sequence).limit(1))

    def close(self) -> None:
        """Close every connection."""
        self.database.close()

    def _read(self, query: sa.Select[Any]) -> Iterator[Decision]:
        with self.database.connected() as connection:
            for row in connection.execute(query).mappings():
                yield _decision(row)


_COLUMNS = tuple(
    (field.name, field.name in JSON_COLUMNS) for field in fields(Decision) if field.name in decisions.c
)
_values = attrgetter(*(name for name, _ in _COLUMNS))
_JSON = tuple(place for place, (_, is_json) in enumerate(_COLUMNS) if is_json)
_insert = Insert(decisions, [name for name, _ in _COLUMNS])


def _row(decision: Decision) -> list[Any]:
    row = list(_values(decision))
    for place in _JSON:
        row[place] = _as_json(row[place])
    return row


_as_json = Encoder(
    json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
).text


def _sha256(record: Mapping[str, Any]) -> str:
    # The same however its fields are ordered: a later version may declare them in another order.
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _standing(connection: sa.Connection, wanted: Sequence[Decision]) -> list[Recorded]:
    """What stands for each: itself, where its key is new or it has none."""
    keyed = [each for each in wanted if each.idempotency_key is not None]
    if not keyed:
        return list(wanted)
    rows = {
        each.idempotency_key: {
            "idempotency_key": each.idempotency_key,
            "decision_id": each.decision_id,
            "record_sha256": _sha256(each.record),
            "decided_at": each.decided_at,
        }
        for each in reversed(keyed)  # the first that has a key gets it
    }
    # In order, because two transactions that wait for each other's keys would never end.
    ordered = [rows[key] for key in sorted(rows, key=str)]
    # Waits for a transaction that is about to commit the same key, and then leaves that one's row.
    connection.execute(_claim(connection.dialect.name), ordered)
    taken = {
        row.idempotency_key: row for row in _by(connection, sa.select(keys), keys.c.idempotency_key, rows)
    }
    own = {each.decision_id for each in wanted}
    earlier = [row.decision_id for row in taken.values() if row.decision_id not in own]
    standing = {
        row.decision_id: _decision(row._mapping)
        for row in _by(connection, sa.select(decisions), decisions.c.decision_id, earlier)
    }
    standing |= {each.decision_id: each for each in wanted}
    return [
        each if each.idempotency_key is None else _answer(each, taken[each.idempotency_key], standing)
        for each in wanted
    ]


def _hold(connection: sa.Connection, made: Sequence[Decision]) -> None:
    """Keep other hosts from numbering decisions about the same entities until these are committed.

    A number drawn first may be committed last, and its decision would be delivered after a later one.
    """
    if connection.dialect.name == "postgresql":
        numbers = sorted({zlib.crc32(decision.entity.encode()) - 2**31 for decision in made})
        connection.execute(_HOLD, {"space": ENTITIES, "numbers": numbers})


def _answer(wanted: Decision, taken: sa.Row[Any], standing: Mapping[str, Decision]) -> Recorded:
    key = str(wanted.idempotency_key)
    if taken.decision_id == wanted.decision_id:
        return wanted
    stands = standing.get(taken.decision_id)
    if stands is None or taken.record_sha256 != _sha256(wanted.record):
        return IdempotencyConflict(key, taken.decision_id)
    return replace(stands, idempotency_key=key)


def _claim(dialect: str) -> Any:
    # Each takes a while to import, and a service has one.
    insert: Any
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        insert = postgresql.insert(keys)
    else:
        from sqlalchemy.dialects import sqlite

        insert = sqlite.insert(keys)
    return insert.on_conflict_do_nothing(index_elements=[keys.c.idempotency_key])


def _by(
    connection: sa.Connection, query: sa.Select[Any], column: sa.ColumnElement[Any], values: Collection[Any]
) -> Iterator[sa.Row[Any]]:
    found = list(values)
    for start in range(0, len(found), VALUES_A_QUERY):
        yield from connection.execute(query.where(column.in_(found[start : start + VALUES_A_QUERY])))


def _decision(row: Mapping[Any, Any]) -> Decision:
    return Decision(**{name: json.loads(row[name]) if is_json else row[name] for name, is_json in _COLUMNS})
