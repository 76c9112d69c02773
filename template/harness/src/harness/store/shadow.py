"""What a model said that was run beside the decision, and decided nothing.

A row is written after the decision that it is about, and some moments later. It never changes that decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from harness.store.database import Database, metadata
from harness.store.decisions import decisions
from harness.store.outcomes import outcomes

Status = Literal["ok", "error", "too_slow", "invalid", "dropped"]
STATUSES: tuple[Status, ...] = ("ok", "error", "too_slow", "invalid", "dropped")
FAILED: tuple[Status, ...] = ("error", "too_slow", "invalid")

shadow = sa.Table(
    "shadow",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    # Absent where decisions were dropped by the number.
    sa.Column("decision_id", sa.String(36), index=True),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("bucket", sa.Integer),
    sa.Column("sandbox", sa.Boolean, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("decision", sa.Text),
    sa.Column("agrees", sa.Boolean),
    sa.Column("elapsed_ms", sa.Float),
)
sa.Index("shadow_by_model", shadow.c.digest, shadow.c.at)


@dataclass(frozen=True)
class Shadowed:
    """What came of running a model beside.

    Attributes:
        at: When the decision was taken up; for decisions dropped by the number, when they were counted.
        digest: The model that was run beside.
        sandbox: Whether the decision was about nothing real.
        status: ``ok``; it raised or could not be loaded (``error``); it was not done in time (``too_slow``);
            it gave no valid score (``invalid``); or it was not asked (``dropped``).
        decision_id: The decision; None where decisions were dropped by the number.
        bucket: The entity's rollout bucket, as the decision has it.
        times: How many decisions the row stands for: one, but for those dropped by the number.
        score: The model's score, where the status is ``ok``.
        decision: What it would have decided, as JSON.
        agrees: Whether that is what was decided.
        elapsed_ms: Milliseconds that it took.
    """

    at: str
    digest: str
    sandbox: bool
    status: Status
    decision_id: str | None = None
    bucket: int | None = None
    times: int = 1
    score: float | None = None
    decision: str | None = None
    agrees: bool | None = None
    elapsed_ms: float | None = None


@dataclass(frozen=True)
class Pair:
    """A decision, and what the model beside it said.

    Attributes:
        decision_id: The decision.
        decided_at: When it was taken up.
        record: The request, as JSON.
        served: What was decided, as JSON.
        served_score: The deciding model's score; None when the fallback decided.
        assigned: The arm that was to decide.
        shadow: What the model beside would have decided, as JSON.
        shadow_score: Its score.
        agrees: Whether both are the same.
        elapsed_ms: Milliseconds that the model beside took.
        outcome: What came of it, as JSON; None while unknown. Of several decisions on a record only the last
            has it.
    """

    decision_id: str
    decided_at: str
    record: str
    served: str
    served_score: float | None
    assigned: str
    shadow: str
    shadow_score: float
    agrees: bool
    elapsed_ms: float
    outcome: str | None


@dataclass(frozen=True)
class Counts:
    """How often the model beside gave what.

    Attributes:
        by_status: Decisions by status; each status is there.
        agreeing: How often it agreed.
        first_at: When the first decision of a pair was taken up; None when there is no pair.
        last_at: When the last one was.
    """

    by_status: dict[Status, int]
    agreeing: int
    first_at: str | None
    last_at: str | None

    @property
    def total(self) -> int:
        """All decisions beside which it was to run."""
        return sum(self.by_status.values())


@dataclass(frozen=True)
class ByEntity:
    """A model's time beside, each entity counted once.

    Attributes:
        paired: Entities with a pair.
        agreeing: The sum of their shares of pairs that agree.
        run: Entities for which the model was run.
        failing: The sum of their shares of runs that failed.
    """

    paired: int
    agreeing: float
    run: int
    failing: float


@dataclass(frozen=True)
class Summary:
    """What a gate asks of a model's time beside. Decisions of the sandbox are not in it.

    Attributes:
        pairs: Decisions for which there is the model's own as well.
        agreeing: How many of them are the same.
        errors: How often the model failed, was too slow, or gave no valid score.
        dropped: How often it was not asked.
        first_at: When the first decision of a pair was taken up; None when there is no pair.
        last_at: When the last one was.
        days: On how many days (UTC) there is a pair.
        by_entity: The same by entity, whose decisions are alike.
    """

    pairs: int
    agreeing: int
    errors: int
    dropped: int
    first_at: str | None
    last_at: str | None
    days: int
    by_entity: ByEntity


class ShadowStore:
    """The shadow table, in the database of the decisions.

    Args:
        database: The open database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, rows: Sequence[Shadowed]) -> None:
        """Record a batch, all of it or nothing, in one short transaction.

        Raises:
            StoreUnavailable: Nothing was recorded.
        """
        if not rows:
            return
        with self._database.writing(
            "what a model in shadow said could not be recorded",
            "Bring the database back; decisions do not wait for it.",
        ) as connection:
            connection.execute(shadow.insert(), [asdict(row) for row in rows])

    def counts(self, digest: str, since: str = "", *, sandbox: bool = False) -> Counts:
        """How often a model gave what beside decisions from ``since`` on.

        Args:
            digest: The model.
            since: ISO 8601, UTC; empty for all.
            sandbox: Whether decisions of the sandbox count, and no others.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        s = shadow.c
        agreeing = sa.func.sum(sa.case((s.agrees, 1), else_=0))
        query = (
            sa.select(s.status, sa.func.sum(s.times), agreeing, sa.func.min(s.at), sa.func.max(s.at))
            .where(s.digest == digest, s.at >= since, s.sandbox == sandbox)
            .group_by(s.status)
        )
        with self._database.connected() as connection:
            found = {row[0]: row for row in connection.execute(query)}
        paired = found.get("ok")
        return Counts(
            by_status={status: int(found[status][1]) if status in found else 0 for status in STATUSES},
            agreeing=int(paired[2]) if paired else 0,
            first_at=paired[3] if paired else None,
            last_at=paired[4] if paired else None,
        )

    def days(self, digest: str, since: str = "") -> int:
        """On how many days (UTC) the model gave a score. Decisions of the sandbox are not in it.

        Args:
            digest: The model.
            since: ISO 8601, UTC; empty for all.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        s = shadow.c
        query = sa.select(sa.func.count(sa.distinct(sa.func.substr(s.at, 1, 10)))).where(
            s.digest == digest, s.at >= since, s.sandbox.is_(False), s.status == "ok"
        )
        with self._database.connected() as connection:
            return int(connection.execute(query).scalar_one())

    def by_entity(self, digest: str, since: str = "") -> ByEntity:
        """The same, each entity counted once, by its own shares. Decisions of the sandbox are not in it.

        Args:
            digest: The model.
            since: ISO 8601, UTC; empty for all.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        s, d = shadow.c, decisions.c
        count = sa.func.sum
        each = (
            sa.select(
                count(sa.case((s.status == "ok", 1.0), else_=0.0)).label("pairs"),
                count(sa.case((sa.and_(s.status == "ok", s.agrees), 1.0), else_=0.0)).label("agreeing"),
                count(sa.case((s.status.in_(FAILED), 1.0), else_=0.0)).label("failed"),
            )
            .select_from(shadow.join(decisions, s.decision_id == d.decision_id))
            .where(s.digest == digest, s.at >= since, s.sandbox.is_(False), s.status != "dropped")
            .group_by(d.entity)
            .subquery()
        )
        e = each.c
        paired = e.pairs > 0
        query = sa.select(
            count(sa.case((paired, 1), else_=0)),
            count(sa.case((paired, e.agreeing / e.pairs), else_=0.0)),
            count(1),
            count(e.failed / (e.pairs + e.failed)),
        ).select_from(each)
        with self._database.connected() as connection:
            found = [value or 0 for value in connection.execute(query).one()]
        return ByEntity(int(found[0]), float(found[1]), int(found[2]), float(found[3]))

    def pairs(
        self, digest: str, since: str = "", *, sandbox: bool = False, size: int = 10_000
    ) -> Iterator[list[Pair]]:
        """The pairs of a model from ``since`` on, with outcomes where they arrived, in the order of writing.

        Args:
            digest: The model.
            since: ISO 8601, UTC; empty for all.
            sandbox: Whether decisions of the sandbox count, and no others.
            size: How many come at a time.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        with self._database.connected() as connection:
            query = _pairs(digest, since, sandbox)
            result = connection.execution_options(yield_per=size).execute(query)
            for rows in result.partitions():
                yield [Pair(*row) for row in rows]

    def models(self) -> list[str]:
        """The digests of all models that were run beside, the latest first."""
        query = (
            sa.select(shadow.c.digest)
            .group_by(shadow.c.digest)
            .order_by(sa.func.max(shadow.c.sequence).desc())
        )
        with self._database.connected() as connection:
            return list(connection.execute(query).scalars())


def summary(store: ShadowStore, digest: str, since: str) -> Summary:
    """What a gate asks of a model's time beside, from ``since`` on (ISO 8601, UTC).

    Raises:
        StoreUnavailable: The database does not answer.
    """
    found = store.counts(digest, since)
    return Summary(
        pairs=found.by_status["ok"],
        agreeing=found.agreeing,
        errors=sum(found.by_status[status] for status in FAILED),
        dropped=found.by_status["dropped"],
        first_at=found.first_at,
        last_at=found.last_at,
        days=store.days(digest, since),
        by_entity=store.by_entity(digest, since),
    )


def _pairs(digest: str, since: str, sandbox: bool) -> sa.Select[Any]:
    s, d, o = shadow.c, decisions.c, outcomes.c
    of_model = sa.and_(s.digest == digest, s.status == "ok", s.at >= since, s.sandbox == sandbox)
    both = s.decision_id == d.decision_id
    # An outcome is about a record. It counts once, with the last decision on it; a correction counts instead.
    last = (
        sa.select(sa.func.max(d.sequence))
        .select_from(shadow.join(decisions, both))
        .where(of_model)
        .group_by(d.record_key)
    )
    latest = sa.select(sa.func.max(o.sequence)).group_by(o.record_key)
    known = sa.and_(o.record_key == d.record_key, o.sequence.in_(latest), d.sequence.in_(last))
    return (
        sa.select(
            d.decision_id,
            d.decided_at,
            d.record,
            d.decision,
            d.score,
            d.assigned,
            s.decision,
            s.score,
            s.agrees,
            s.elapsed_ms,
            o.outcome,
        )
        .select_from(shadow.join(decisions, both).outerjoin(outcomes, known))
        .where(of_model)
        .order_by(s.sequence)
    )
