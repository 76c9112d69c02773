"""What happened in each arm of a rollout stage, added up by the database.

Arms are told apart by what the rollout *assigned*, never by what served: a model that fails is answered for
by the fallback, and would otherwise look fine. The control arm is everybody to whom the stage assigned no
model on trial: the champion's entities, or the fallback's where there is no champion. A stop is no part of
either.

An entity counts once, by the mean over its decisions, however many those are: decisions about one entity
are alike, and a thousand of them are not a thousand times the evidence.

Decisions that a batch keeps in files are in neither arm: they add no days, no decisions and no failures, so a
stage is never left for what happened in them. Those that a batch puts into the table count like any other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from harness.store.batches import BatchStore
from harness.store.database import Database
from harness.store.decisions import decisions
from harness.store.outcomes import outcomes

TREATED, CONTROL = "treated", "control"
# What harness.control.Why calls it, which stands above this package: the model was assigned and is no longer
# in use, or somebody stopped it meanwhile. That is nobody's failure.
NO_FAILURE = (
    "assigned",
    "model_busy",
    "model_too_slow",
    "model_replaced",
    "overloaded",
    "real_data_in_sandbox",
)
TOO_SLOW, OUTSIDE = "model_too_slow", "outside_rollout"
MODEL = "model"


@dataclass(frozen=True)
class Stretch:
    """The decisions of one stage of one model.

    Attributes:
        stage: The stage.
        digest: The model that is looked at.
        revision: The control state's revision from which on decisions count. It is no clock's.
        since: No decision before it is looked for; ISO 8601, UTC.
    """

    stage: str
    digest: str
    revision: int
    since: str


@dataclass(frozen=True)
class Counted:
    """One arm.

    Attributes:
        decisions: Its decisions.
        events: The sum of what was counted over them.
        entities: How many entities they are about.
        total: The sum of the entities' means.
        squares: The sum of these means' squares.
    """

    decisions: int = 0
    events: float = 0.0
    entities: int = 0
    total: float = 0.0
    squares: float = 0.0


@dataclass(frozen=True)
class Spread:
    """How a model's decisions lie in time.

    Attributes:
        treated: Decisions assigned to the model.
        days: On how many days (UTC) it made any itself. Neither a stop nor a model that fails makes days.
        first_at: When it made the first; None when it made none.
        last_at: When it made the last.
    """

    treated: int
    days: int
    first_at: str | None
    last_at: str | None


@dataclass(frozen=True)
class Arms:
    """Both arms; the control is empty where everybody has the model."""

    treated: Counted
    control: Counted


class ArmStore:
    """Asks the decisions and outcomes tables about one stage.

    Args:
        database: The open database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def spread(self, stretch: Stretch) -> Spread:
        """How the model's decisions lie in time.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        d = decisions.c
        moment = sa.case((d.served_by == MODEL, d.decided_at))
        day = sa.func.substr(moment, 1, 10)
        query = sa.select(
            sa.func.count(), sa.func.count(sa.distinct(day)), sa.func.min(moment), sa.func.max(moment)
        ).where(_within(stretch), d.model_digest == stretch.digest)
        with self._database.connected() as connection:
            count, days, first, last = connection.execute(query).one()
        return Spread(int(count), int(days), first, last)

    def failures(self, stretch: Stretch) -> Arms:
        """Decisions in which the model that was assigned failed, was not there, or gave no valid score."""
        d = decisions.c
        failed = sa.and_(d.served_by != MODEL, d.why.not_in(NO_FAILURE), d.model_digest.is_not(None))
        return self._arms(stretch, sa.case((failed, 1.0), else_=0.0))

    def fallbacks(self, stretch: Stretch) -> Arms:
        """Decisions in which the fallback stepped in for the model that was assigned."""
        d = decisions.c
        stepped_in = sa.and_(d.served_by != MODEL, d.model_digest.is_not(None))
        return self._arms(stretch, sa.case((stepped_in, 1.0), else_=0.0))

    def late(self, stretch: Stretch, over_ms: float) -> Arms:
        """Decisions that took longer than ``over_ms``, and those in which the model ran out of its time."""
        d = decisions.c
        return self._arms(
            stretch, sa.case((sa.or_(d.elapsed_ms > over_ms, d.why == TOO_SLOW), 1.0), else_=0.0)
        )

    def wrong(self, stretch: Stretch, above: str, below: str) -> Arms:
        """Decisions for a choice that their outcome contradicts: ``above`` belongs to true."""
        said, came = decisions.c.decision, outcomes.c.outcome
        yes, no = (json.dumps(each, ensure_ascii=False) for each in (above, below))
        right = sa.or_(sa.and_(said == yes, came == "true"), sa.and_(said == no, came == "false"))
        return self._arms(stretch, sa.case((right, 0.0), else_=1.0), outcomes_too=True)

    def off(self, stretch: Stretch, span: float) -> Arms:
        """By how much amounts were off their outcomes, as a share of ``span`` and 1 at most."""
        said, came = sa.cast(decisions.c.decision, sa.Float), sa.cast(outcomes.c.outcome, sa.Float)
        share = sa.func.abs(said - came) / span
        return self._arms(stretch, sa.case((share > 1.0, 1.0), else_=share), outcomes_too=True)

    def last_decision(self) -> str | None:
        """When anything was last decided outside the sandbox; None when nothing was."""
        query = sa.select(sa.func.max(decisions.c.decided_at)).where(decisions.c.sandbox.is_(False))
        with self._database.connected() as connection:
            found: str | None = connection.execute(query).scalar()
        return max(filter(None, (found, BatchStore(self._database).last(real=True))), default=None)

    def _arms(
        self, stretch: Stretch, counted: sa.ColumnElement[float], *, outcomes_too: bool = False
    ) -> Arms:
        d = decisions.c
        arm = _arm(stretch).label("arm")
        columns = (arm, d.entity, sa.func.count().label("n"), sa.func.sum(counted).label("events"))
        each: sa.Select[Any] = sa.select(*columns).where(_within(stretch), arm.is_not(None))
        if outcomes_too:
            each = _with_outcomes(each, stretch)
        by_entity = each.group_by(arm, d.entity).subquery()
        e = by_entity.c
        mean = e.events / e.n
        sums = (
            sa.func.sum(e.n),
            sa.func.sum(e.events),
            sa.func.count(),
            sa.func.sum(mean),
            sa.func.sum(mean * mean),
        )
        query = sa.select(e.arm, *sums).group_by(e.arm)
        with self._database.connected() as connection:
            rows = connection.execute(query).all()
        found = {
            arm: Counted(int(count), float(events), int(entities), float(total), float(squares))
            for arm, count, events, entities, total, squares in rows
        }
        return Arms(found.get(TREATED, Counted()), found.get(CONTROL, Counted()))


def _within(stretch: Stretch) -> sa.ColumnElement[bool]:
    d = decisions.c
    return sa.and_(
        d.decided_at >= stretch.since,
        d.revision >= stretch.revision,
        d.stage == stretch.stage,
        d.sandbox.is_(False),
    )


def _arm(stretch: Stretch) -> sa.ColumnElement[str]:
    d = decisions.c
    of_another = sa.and_(d.model_digest.is_not(None), d.bucket.is_not(None))
    of_nobody = sa.and_(d.assigned == "fallback", d.why == OUTSIDE)
    return sa.case(
        (d.model_digest == stretch.digest, TREATED), (sa.or_(of_another, of_nobody), CONTROL), else_=None
    )


def _with_outcomes(query: sa.Select[Any], stretch: Stretch) -> sa.Select[Any]:
    """Only decisions whose outcome is known: a record once, by its last decision and latest outcome."""
    d, o = decisions.c, outcomes.c
    # Joined and not asked for with IN: SQLite would go through every pair of the two lists.
    latest = sa.select(o.record_key, sa.func.max(o.sequence).label("place")).group_by(o.record_key).subquery()
    counted = sa.and_(_within(stretch), _arm(stretch).is_not(None))
    last = (
        sa.select(d.record_key, sa.func.max(d.sequence).label("place"))
        .where(counted)
        .group_by(d.record_key)
        .subquery()
    )
    return (
        query.join(last, last.c.place == d.sequence)
        .join(latest, latest.c.record_key == last.c.record_key)
        .join(outcomes, o.sequence == latest.c.place)
    )
