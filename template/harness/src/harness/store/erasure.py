"""What leaves the store: a person's data when it is asked for, and everything when its time is over.

Erasing blanks what was said about somebody and keeps what was counted: the decision, who made it and when
stay, under a name that stands for nobody. Both go on in small transactions beside a running service, and a
run that is broken off is taken up by the next one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from harness.store.database import Database, now
from harness.store.decisions import decisions, keys
from harness.store.outbox import DEAD, DELIVERED, DROPPED, WAITING, outbox
from harness.store.outcomes import outcomes
from harness.store.shadow import shadow

A_TRANSACTION = 500
# So many numbers may have been drawn for decisions that are not committed yet.
UNDER_WAY = 10_000
ERASED = "erased:"
Report = Callable[[str, float], None]
_NAMED = decisions.c.decision_id, decisions.c.record_key


@dataclass(frozen=True)
class Erased:
    """What the store has of one entity, or had.

    Attributes:
        decisions: Decisions about it.
        outcomes: Outcomes of its records.
        keys: Idempotency keys of its decisions.
        withdrawn: Deliveries that are no longer made.
        delivered: Decisions that the consumer has, beyond the store's reach.
    """

    decisions: int = 0
    outcomes: int = 0
    keys: int = 0
    withdrawn: int = 0
    delivered: int = 0

    def __add__(self, other: Erased) -> Erased:
        return Erased(
            self.decisions + other.decisions,
            self.outcomes + other.outcomes,
            self.keys + other.keys,
            self.withdrawn + other.withdrawn,
            self.delivered + other.delivered,
        )


@dataclass(frozen=True)
class Pruned:
    """What is older than its time.

    Attributes:
        decisions: Decisions, with what was delivered of them and what ran beside.
        outcomes: Outcomes of no decision that stays.
        undelivered: Decisions that are kept because they are not delivered yet.
    """

    decisions: int
    outcomes: int
    undelivered: int


def erase(database: Database, entity: str, report: Report = lambda _doing, _share: None) -> Erased:
    """Erase what the store has of one entity: the record, its key, the reasons, the name, the request's key.

    Args:
        database: The open database; one of an earlier version, such as a copy, may lack some tables.
        entity: The entity, as decisions name it.
        report: Is told how far it is.

    Raises:
        StoreUnavailable: It does not answer. What was erased until then is; the rest takes another run.
    """
    there = _tables(database)
    name, done = f"{ERASED}{uuid.uuid4()}", Erased()
    what, mend = "not everything could be erased", "Bring the database back, and run it again."
    since = 0
    while True:
        about, last = _about(database, entity, since)
        for start in range(0, len(about), A_TRANSACTION):
            names = [row.decision_id for row in about[start : start + A_TRANSACTION]]
            with database.writing(what, mend) as connection:
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql("PRAGMA secure_delete=ON")  # or the old text stays in the page
                mine = decisions.c.decision_id.in_(names) & (decisions.c.entity == entity)
                rows = connection.execute(sa.select(*_NAMED).where(mine)).all()
                done += _blank(connection, rows, name, there)
            report(f"{done.decisions:,} decisions", (start + len(names)) / len(about))
        # Who is asked about all the time is not to keep it from ending.
        if since and len(about) < A_TRANSACTION:
            break
        since = max(1, last - UNDER_WAY)
    _forget(database)
    return done


def found(database: Database, entity: str) -> Erased:
    """What `erase` would erase."""
    there, (about, _) = _tables(database), _about(database, entity)
    names = [row.decision_id for row in about]
    keyed = sorted({row.record_key for row in about})
    with database.connected() as connection:

        def count(table: sa.Table, column: str, values: list[str], *states: str) -> int:
            if table.name not in there:
                return 0
            query = sa.select(sa.func.count()).select_from(table)
            if states:
                query = query.where(table.c.state.in_(states))
            parts = (values[start : start + A_TRANSACTION] for start in range(0, len(values), A_TRANSACTION))
            return sum(
                connection.execute(query.where(table.c[column].in_(part))).scalar_one() for part in parts
            )

        return Erased(
            decisions=len(about),
            outcomes=count(outcomes, "record_key", keyed),
            keys=count(keys, "decision_id", names),
            withdrawn=count(outbox, "decision_id", names, WAITING, DEAD),
            delivered=count(outbox, "decision_id", names, DELIVERED),
        )


def _about(database: Database, entity: str, since: int = 0) -> tuple[Sequence[Any], int]:
    """The decisions about an entity, by going through all of them: an index would be written with each.

    It is looked for apart from what is written, which would keep everybody else from writing for as long.

    Args:
        database: The open database.
        entity: The entity.
        since: The number from which on to look.

    Returns:
        The decisions, and the number of the last of all.
    """
    query = sa.select(*_NAMED).where(decisions.c.entity == entity)
    with database.connected() as connection:
        last = connection.execute(sa.select(sa.func.max(decisions.c.sequence))).scalar() or 0
        return connection.execute(query.where(decisions.c.sequence >= since)).all(), last


def prune(
    database: Database, before: str, *, apply: bool, report: Report = lambda _doing, _share: None
) -> Pruned:
    """Delete decisions from before a moment, with all that hangs on them, and outcomes of none that stays.

    Args:
        database: The open database.
        before: ISO 8601, UTC.
        apply: Whether to do it; without, it is counted.
        report: Is told how far it is.

    Returns:
        What was deleted, or would be.

    Raises:
        StoreUnavailable: It does not answer. What was deleted until then is.
    """
    old = decisions.c.decided_at < before
    undelivered = sa.exists().where(
        outbox.c.decision_id == decisions.c.decision_id, outbox.c.state.in_((WAITING, DEAD))
    )
    decided = sa.exists().where(
        decisions.c.record_key == outcomes.c.record_key, sa.or_(~old, undelivered) if not apply else sa.true()
    )
    stale = sa.and_(outcomes.c.received_at < before, ~decided)

    def count(table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
        with database.connected() as connection:
            query = sa.select(sa.func.count()).select_from(table).where(condition)
            return int(connection.execute(query).scalar_one())

    kept, total = count(decisions, old & undelivered), count(decisions, old & ~undelivered)
    if not apply:
        return Pruned(total, count(outcomes, stale), kept)
    what, mend = "not everything could be deleted", "Bring the database back, and run it again."
    query = sa.select(decisions.c.decision_id).where(old, ~undelivered).order_by(decisions.c.sequence)
    deleted = ended = 0
    while True:
        with database.writing(what, mend) as connection:
            names = list(connection.execute(query.limit(A_TRANSACTION)).scalars())
            for table in (shadow, keys, outbox, decisions):
                connection.execute(table.delete().where(table.c.decision_id.in_(names)))
        deleted += len(names)
        report(f"{deleted:,} decisions", deleted / max(1, total))
        if len(names) < A_TRANSACTION:
            break
    while True:
        with database.writing(what, mend) as connection:
            places = list(
                connection.execute(sa.select(outcomes.c.sequence).where(stale).limit(A_TRANSACTION)).scalars()
            )
            connection.execute(outcomes.delete().where(outcomes.c.sequence.in_(places)))
        ended += len(places)
        if len(places) < A_TRANSACTION:
            break
    _forget(database)
    return Pruned(deleted, ended, kept)


def _blank(connection: sa.Connection, rows: Sequence[Any], name: str, there: set[str]) -> Erased:
    if not rows:
        return Erased()
    names = [row.decision_id for row in rows]
    came = gone = withdrawn = delivered = 0
    connection.execute(
        decisions.update()
        .where(decisions.c.decision_id == sa.bindparam("which"))
        .values(record="{}", reasons="[]", entity=name, record_key=sa.bindparam("named")),
        [{"which": row.decision_id, "named": named} for row, named in zip(rows, _renamed(rows), strict=True)],
    )
    if "outcomes" in there:
        came = _rename_outcomes(
            connection, dict(zip((row.record_key for row in rows), _renamed(rows), strict=True))
        )
    if keys.name in there:
        gone = connection.execute(keys.delete().where(keys.c.decision_id.in_(names))).rowcount
    if "outbox" in there:
        mine = outbox.c.decision_id.in_(names)
        query = sa.select(sa.func.count()).where(mine, outbox.c.state == DELIVERED)
        delivered = int(connection.execute(query).scalar_one())
        change = outbox.update().where(mine, outbox.c.state.in_((WAITING, DEAD)))
        withdrawn = connection.execute(change.values(state=DROPPED, settled_at=now())).rowcount
        connection.execute(outbox.update().where(mine).values(entity=name, error=None))
    return Erased(len(rows), came, gone, withdrawn, delivered)


def _renamed(rows: Sequence[Any]) -> list[str]:
    # The same for the decisions and outcomes of one record, so that they are still counted together.
    return [f"{ERASED}{uuid.uuid5(_SECRET, row.record_key)}" for row in rows]


# Of this process only: nobody can try keys later to find whose a name was.
_SECRET = uuid.uuid4()


def _rename_outcomes(connection: sa.Connection, named: dict[str, str]) -> int:
    changed = 0
    for key, name in named.items():
        shared = sa.select(sa.func.count()).where(decisions.c.record_key == key, decisions.c.record != "{}")
        if not connection.execute(shared).scalar_one():
            change = outcomes.update().where(outcomes.c.record_key == key).values(record_key=name)
            changed += connection.execute(change).rowcount
    return changed


def _tables(database: Database) -> set[str]:
    with database.connected() as connection:
        return set(sa.inspect(connection).get_table_names())


def _forget(database: Database) -> None:
    """Take what was overwritten out of SQLite's log; while somebody reads, the next checkpoint does so."""
    if database.file is not None:
        with database.engine.connect() as connection:
            connection.connection.driver_connection.execute(  # type: ignore[union-attr]
                "PRAGMA wal_checkpoint(TRUNCATE)"
            )
