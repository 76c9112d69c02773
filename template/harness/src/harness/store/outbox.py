"""What has to reach the consumer: written with the decision, in one transaction, and kept until delivered.

A decision that is on record is in the outbox, and one that is in the outbox is on record, whatever stops the
service in between.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from harness.store.database import Database, metadata, now
from harness.store.decisions import JSON_COLUMNS, Decision, decisions
from harness.store.inserting import Insert

WAITING, DELIVERED, WITHHELD, DEAD, DROPPED = "waiting", "delivered", "withheld", "dead", "dropped"
# By which hosts agree on who delivers.
DELIVERING = 1

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("decision_id", sa.String(36), nullable=False, unique=True),
    # What is delivered in order: the entity, or the decision alone where it is about none.
    sa.Column("entity", sa.Text, nullable=False),
    sa.Column("queued_at", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("settled_at", sa.String(32)),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("attempted_at", sa.String(32)),
    sa.Column("error", sa.String(200)),
)
# Written out, because a planner takes an index of part of a table only where it sees the same condition.
_waits = outbox.c.state == sa.literal_column(f"'{WAITING}'")
# Only what waits is ever looked for, and most of the time that is nothing.
sa.Index("outbox_waiting", outbox.c.sequence, sqlite_where=_waits, postgresql_where=_waits)

_dead = outbox.c.state == sa.literal_column(f"'{DEAD}'")
sa.Index("outbox_dead", outbox.c.entity, sqlite_where=_dead, postgresql_where=_dead)

# What the consumer is told. How it was drawn and how long it took are the pilot's own business.
DELIVERED_COLUMNS = (
    "decision_id",
    "decided_at",
    "record_key",
    "entity",
    "record",
    "decision",
    "score",
    "reasons",
    "reasons_pending",
    "served_by",
    "why",
    "model_digest",
    "revision",
    "stage",
    "sandbox",
)


@dataclass(frozen=True)
class Parcel:
    """One decision on its way.

    Attributes:
        sequence: Its place in the outbox.
        decision_id: The decision.
        entity: What it has to be delivered in order with.
        sandbox: Whether it is about nothing real.
        attempts: How often it was tried.
        content: What the consumer is told.
    """

    sequence: int
    decision_id: str
    entity: str
    sandbox: bool
    attempts: int
    content: dict[str, Any]


@dataclass(frozen=True)
class DeadLetter:
    """A delivery that was given up, and holds back what is later about the same entity.

    Attributes:
        decision_id: The decision.
        queued_at: When it was put into the outbox, ISO 8601, UTC.
        given_up_at: When it was given up.
        attempts: How often it was tried.
        error: Why the last attempt failed.
        behind: How many decisions about the same entity wait behind it.
    """

    decision_id: str
    queued_at: str
    given_up_at: str
    attempts: int
    error: str | None
    behind: int


@dataclass(frozen=True)
class Waiting:
    """What is not delivered.

    Attributes:
        count: How many decisions wait.
        oldest: Since when the oldest of them waits, ISO 8601, UTC; None when none does.
        error: Why the last attempt at one of them failed; None when there was none.
        withheld: How many decisions of the sandbox are kept back for good: the consumer is a real one.
        dead: How many deliveries are given up until somebody retries or drops them.
        dead_since: Since when the oldest of these waits.
        held: How many of those that wait do so behind one that is given up.
    """

    count: int
    oldest: str | None
    error: str | None
    withheld: int
    dead: int = 0
    dead_since: str | None = None
    held: int = 0


def put(connection: sa.Connection, made: Sequence[Decision]) -> None:
    """Put decisions into the outbox, in the transaction that records them."""
    if not made:
        return
    _insert(
        connection,
        [(each.decision_id, each.entity or each.decision_id, each.decided_at, WAITING, 0) for each in made],
    )


_insert = Insert(outbox, ["decision_id", "entity", "queued_at", "state", "attempts"])


class Outbox:
    """The outbox as those who deliver and those who look see it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def first(
        self, count: int, *, without: Collection[str] = (), of: Collection[str] | None = None
    ) -> list[Parcel]:
        """The first decisions that wait, oldest first.

        Args:
            count: How many at most.
            without: Entities that are passed over.
            of: The only entities that are looked for; None for all.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        shown = [decisions.c[name].label(f"its_{name}") for name in DELIVERED_COLUMNS]
        wanted = outbox.c.entity.not_in(list(without)) if of is None else outbox.c.entity.in_(list(of))
        query = (
            sa.select(outbox.c.sequence, outbox.c.entity, outbox.c.attempts, *shown)
            .join_from(outbox, decisions, outbox.c.decision_id == decisions.c.decision_id)
            .where(_waits, wanted, ~_behind(outbox.c.entity))
            .order_by(outbox.c.sequence)
            .limit(count)
        )
        with self._database.connected() as connection:
            return [_parcel(dict(row)) for row in connection.execute(query).mappings()]

    def settle(self, sequences: Sequence[int], state: str) -> None:
        """Take parcels out of the queue: they are ``delivered``, or ``withheld`` for good.

        Raises:
            StoreUnavailable: They still wait, and will be delivered again.
        """
        if not sequences:
            return
        at = now()
        done: dict[str, Any] = {"state": state, "settled_at": at, "error": None}
        if state == DELIVERED:
            done |= {"attempts": outbox.c.attempts + 1, "attempted_at": at}
        change = outbox.update().where(outbox.c.sequence.in_(list(sequences))).values(done)
        with self._database.writing(
            "a delivery could not be noted", "It is delivered again once the database is back."
        ) as connection:
            connection.execute(change)

    def failed(self, errors: dict[int, str]) -> None:
        """Note why parcels could not be delivered; they go on waiting.

        Raises:
            StoreUnavailable: It could not be noted.
        """
        if not errors:
            return
        at = now()
        change = (
            outbox.update()
            .where(outbox.c.sequence == sa.bindparam("failed"))
            .values(attempts=outbox.c.attempts + 1, attempted_at=at, error=sa.bindparam("told"))
        )
        rows = [{"failed": sequence, "told": error[:200]} for sequence, error in errors.items()]
        with self._database.writing(
            "a failed delivery could not be noted", "It is tried again once the database is back."
        ) as connection:
            connection.execute(change, rows)

    def give_up(self, errors: dict[int, str]) -> None:
        """Take parcels out of the queue that cannot be delivered; they hold back their entity's later ones.

        Raises:
            StoreUnavailable: They are tried again.
        """
        if not errors:
            return
        at = now()
        change = (
            outbox.update()
            .where(outbox.c.sequence == sa.bindparam("failed"), _waits)
            .values(
                state=DEAD,
                attempts=outbox.c.attempts + 1,
                attempted_at=at,
                settled_at=at,
                error=sa.bindparam("told"),
            )
        )
        rows = [{"failed": sequence, "told": error[:200]} for sequence, error in errors.items()]
        with self._database.writing(
            "a delivery could not be given up", "It is tried again once the database is back."
        ) as connection:
            connection.execute(change, rows)

    def dead(self, count: int = 1_000) -> list[DeadLetter]:
        """The deliveries that were given up, oldest first.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        later = outbox.alias("later")
        behind = (
            sa.select(sa.func.count())
            .where(later.c.entity == outbox.c.entity, later.c.state == sa.literal_column(f"'{WAITING}'"))
            .scalar_subquery()
        )
        c = outbox.c
        query = (
            sa.select(c.decision_id, c.queued_at, c.settled_at, c.attempts, c.error, behind)
            .where(_dead)
            .order_by(c.sequence)
            .limit(count)
        )
        with self._database.connected() as connection:
            return [DeadLetter(*row) for row in connection.execute(query)]

    def retry(self, decision_ids: Collection[str] | None = None) -> int:
        """Put deliveries that were given up back into their place in the queue.

        Args:
            decision_ids: Which ones; None for all.

        Returns:
            How many they were.

        Raises:
            StoreUnavailable: None of them was.
        """
        return self._revived(decision_ids, {"state": WAITING, "attempts": 0, "settled_at": None})

    def drop(self, decision_ids: Collection[str] | None = None) -> int:
        """Never deliver what was given up; what waits behind goes on. As ``retry``."""
        return self._revived(decision_ids, {"state": DROPPED, "settled_at": now()})

    def _revived(self, decision_ids: Collection[str] | None, values: dict[str, Any]) -> int:
        change = outbox.update().where(_dead).values(values)
        if decision_ids is not None:
            change = change.where(outbox.c.decision_id.in_(list(decision_ids)))
        with self._database.writing(
            "the outbox could not be changed", "Bring the database back."
        ) as connection:
            return int(connection.execute(change).rowcount)

    @contextmanager
    def alone(self) -> Iterator[Callable[[], bool] | None]:
        """Be the only one who delivers, on all hosts; only for a database that several hosts share.

        Yields:
            What asks whether this is still so; None where another one is.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        with self._database.alone(DELIVERING) as holds:
            yield holds

    @property
    def shared(self) -> bool:
        """Whether several hosts may deliver from it."""
        return self._database.engine.dialect.name == "postgresql"

    def waiting(self) -> Waiting:
        """What is not delivered, and why.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        counted = sa.select(sa.func.count(), sa.func.min(outbox.c.queued_at)).where(_waits)
        told = (
            sa.select(outbox.c.error)
            .where(_waits, outbox.c.error.is_not(None))
            .order_by(outbox.c.attempted_at.desc())
            .limit(1)
        )
        withheld = sa.select(sa.func.count()).where(outbox.c.state == WITHHELD)
        dead = sa.select(sa.func.count(), sa.func.min(outbox.c.queued_at)).where(_dead)
        held = sa.select(sa.func.count()).where(_waits, _behind(outbox.c.entity))
        with self._database.connected() as connection:
            count, oldest = connection.execute(counted).one()
            error = connection.execute(told).scalar()
            kept_back = int(connection.execute(withheld).scalar() or 0)
            given_up, since = connection.execute(dead).one()
            behind = int(connection.execute(held).scalar() or 0) if given_up else 0
            return Waiting(count, oldest, error, kept_back, given_up, since, behind)


def _behind(entity: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether a delivery about the entity was given up."""
    other = outbox.alias("other")
    dead = other.c.state == sa.literal_column(f"'{DEAD}'")
    return sa.exists().where(dead, other.c.entity == entity)


def _parcel(row: dict[str, Any]) -> Parcel:
    content = {name: row[f"its_{name}"] for name in DELIVERED_COLUMNS}
    for name in JSON_COLUMNS:
        content[name] = json.loads(content[name])
    content["model"] = content.pop("model_digest")
    return Parcel(
        sequence=row["sequence"],
        decision_id=content["decision_id"],
        entity=row["entity"],
        sandbox=bool(content["sandbox"]),
        attempts=row["attempts"],
        content=content,
    )
