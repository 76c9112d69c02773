"""The record of every decision.

A decision counts only once it is here: the service answers after the commit, which has reached the disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from harness.errors import PilotError
from harness.store.database import Database, metadata

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("decision_id", sa.String(36), nullable=False, unique=True),
    sa.Column("decided_at", sa.String(32), nullable=False, index=True),
    sa.Column("record_key", sa.Text, nullable=False, index=True),
    sa.Column("entity", sa.Text, nullable=False, index=True),
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

JSON_COLUMNS = ("record", "decision", "reasons")


@dataclass(frozen=True)
class Decision:
    """One decision as it was made.

    Attributes:
        decision_id: UUID, the name by which the decision can be followed.
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
        elapsed_ms: Milliseconds from taking up the request to handing the record to the store.
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
    """A key that was used for another record; nothing was decided."""


def _row(decision: Decision) -> dict[str, Any]:
    row = {name: value for name, value in vars(decision).items() if name != "idempotency_key"}
    for column in JSON_COLUMNS:
        row[column] = json.dumps(row[column], ensure_ascii=False, allow_nan=False, default=str)
    return row


Alongside = Callable[[sa.Connection, Decision], None]


class DecisionStore:
    """The decisions table.

    Args:
        url: An SQLAlchemy URL.
        alongside: What is written with each decision, in its transaction: both are there, or neither is.

    Attributes:
        database: The database that it lies in, shared with the store's other tables.
    """

    def __init__(self, url: str, *, alongside: Sequence[Alongside] = ()) -> None:
        self.database = Database(url)
        self._insert = decisions.insert()
        self._alongside = tuple(alongside)

    def record(self, decision: Decision) -> None:
        """Write one decision; when this returns, the record has reached the disk.

        Raises:
            StoreUnavailable: It could not be written. Nothing was decided.
        """
        self.record_all([decision])

    def record_all(self, decisions: Sequence[Decision]) -> list[Decision | IdempotencyConflict]:
        """Write decisions in one transaction; when this returns, all of them have reached the disk.

        Raises:
            StoreUnavailable: They could not be written. Nothing was decided, about none of them.
        """
        rows = [_row(decision) for decision in decisions]
        what = "the decision could not be recorded"
        mend = "Free the disk or bring the database back; until then nothing is decided."
        with self.database.writing(what, mend) as connection:
            connection.execute(self._insert, rows)
            for write in self._alongside:
                for decision in decisions:
                    write(connection, decision)
        return list(decisions)

    def get(self, decision_id: str) -> Decision | None:
        """The decision of that id; None when it was never made."""
        query = sa.select(decisions).where(decisions.c.decision_id == decision_id)
        return next(self._read(query), None)

    def latest(self, count: int) -> list[Decision]:
        """The last ``count`` decisions, newest first."""
        return list(self._read(sa.select(decisions).order_by(decisions.c.sequence.desc()).limit(count)))

    def counts(self) -> dict[tuple[str, str], int]:
        """How many decisions there are for each pair of served_by and why."""
        query = sa.select(decisions.c.served_by, decisions.c.why, sa.func.count()).group_by(
            decisions.c.served_by, decisions.c.why
        )
        with self.database.connected() as connection:
            return {(served_by, why): count for served_by, why, count in connection.execute(query)}

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

    def last_model_decision(self) -> str | None:
        """When a model last decided, as an ISO 8601 UTC time; None when it never did."""
        query = sa.select(sa.func.max(decisions.c.decided_at)).where(decisions.c.served_by == "model")
        with self.database.connected() as connection:
            found: str | None = connection.execute(query).scalar()
        return found

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
                values = {name: value for name, value in row.items() if name != "sequence"}
                for column in JSON_COLUMNS:
                    values[column] = json.loads(values[column])
                yield Decision(**values)
