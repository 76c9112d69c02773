"""What has to reach the consumer: written with the decision, in one transaction, and kept until delivered.

A decision that is on record is in the outbox, and one that is in the outbox is on record, whatever stops the
service in between.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from harness.store.database import Database, metadata, now
from harness.store.decisions import JSON_COLUMNS, Decision, decisions

# Our own among the advisory locks of the database.
ORDER = 0x6F726472
WAITING, DELIVERED, WITHHELD = "waiting", "delivered", "withheld"

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
        content: What the consumer is told.
    """

    sequence: int
    decision_id: str
    entity: str
    sandbox: bool
    content: dict[str, Any]


@dataclass(frozen=True)
class Waiting:
    """What is not delivered.

    Attributes:
        count: How many decisions wait.
        oldest: Since when the oldest of them waits, ISO 8601, UTC; None when none does.
        error: Why the last attempt at one of them failed; None when there was none.
        withheld: How many decisions of the sandbox are kept back for good: the consumer is a real one.
    """

    count: int
    oldest: str | None
    error: str | None
    withheld: int


def put(connection: sa.Connection, made: Sequence[Decision]) -> None:
    """Put decisions into the outbox, in the transaction that records them."""
    if not made:
        return
    rows = [
        {
            "decision_id": decision.decision_id,
            "entity": decision.entity or decision.decision_id,
            "queued_at": decision.decided_at,
            "state": WAITING,
            "attempts": 0,
        }
        for decision in made
    ]
    if connection.dialect.name == "postgresql":
        _in_order(connection, [str(row["entity"]) for row in rows])
    connection.execute(_insert, rows)


def _in_order(connection: sa.Connection, entities: Iterable[str]) -> None:
    # Hosts write at once there, and a number drawn first may be committed last: it would be delivered late.
    # Whoever holds an entity's lock draws and commits before the next one draws.
    numbers = sorted({zlib.crc32(entity.encode()) - 2**31 for entity in entities})
    connection.execute(_HOLD, {"space": ORDER, "numbers": numbers})


_insert = outbox.insert()
_HOLD = sa.text("SELECT pg_advisory_xact_lock(:space, each) FROM unnest(CAST(:numbers AS integer[])) AS each")


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
            sa.select(outbox.c.sequence, outbox.c.entity, *shown)
            .join_from(outbox, decisions, outbox.c.decision_id == decisions.c.decision_id)
            .where(_waits, wanted)
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
        with self._database.connected() as connection:
            count, oldest = connection.execute(counted).one()
            error = connection.execute(told).scalar()
            return Waiting(count, oldest, error, int(connection.execute(withheld).scalar() or 0))


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
        content=content,
    )
