"""One decision, from the request to the consumer, by its id: what the store, the audit and lineage say.

Each part is told as far as it is known. Two parts that contradict each other, and one that should be there
and is not, are troubles of the kinds that lineage knows.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from harness.control import read_audit
from harness.control.audit import AuditBroken
from harness.errors import PilotError
from harness.lineage.chain import Chain, trace
from harness.lineage.steps import Trouble
from harness.settings import Settings
from harness.store import Decision, DecisionStore
from harness.store.decisions import decisions
from harness.store.outbox import outbox
from harness.store.outcomes import outcomes
from harness.store.shadow import shadow

HIDDEN = "(hidden)"
LENGTH = 36
# A shorter beginning says nothing about which one was meant.
SHORTEST = 4
SHOWN = 5
NEAR = 8
# A service's ids are random, a batch's are made of pilot, batch and record: UUIDs of versions 4 and 5.
BATCH_VERSION = 5
# A stop is in force before its line is written, and another host may have another clock.
LATE_S = 10.0


@dataclass(frozen=True)
class Explained:
    """A decision and what is known of it.

    Attributes:
        decision: The decision, as it was made.
        entries: The audit's entries that put its control state in force, and the one that ended it.
        beside: What a model said beside it; None when none was run.
        outcome: The latest outcome of its record; None while none is known.
        delivery: Its place in the outbox; None where it was decided while no consumer was named.
        chain: The lineage of the model; its own troubles are among those here.
        troubles: What contradicts, or is missing.
    """

    decision: Decision
    entries: list[dict[str, Any]]
    beside: dict[str, Any] | None
    outcome: dict[str, Any] | None
    delivery: dict[str, Any] | None
    chain: Chain
    troubles: list[Trouble]

    @property
    def broken(self) -> bool:
        """Whether two records contradict each other."""
        return any(trouble.kind == "broken" for trouble in self.troubles)

    def redacted(self) -> Explained:
        """The same without a value of the record, of the decision, or of what came of it."""
        made = self.decision
        return replace(
            self,
            decision=replace(
                made,
                record_key=HIDDEN,
                entity=HIDDEN,
                record=dict.fromkeys(made.record, HIDDEN),
                decision=HIDDEN,
                score=None,
                reasons=[{**reason, "value": HIDDEN, "effect": None} for reason in made.reasons],
            ),
            beside=_without(self.beside, "score", "decision"),
            outcome=_without(self.outcome, "record_key", "outcome"),
            delivery=_without(self.delivery, "entity"),
        )

    def document(self) -> dict[str, Any]:
        """The whole as JSON."""
        made, run, model = self.decision, self.chain.run, self.chain.model
        return {
            "schema_version": 1,
            **asdict(made),
            "control": self.entries,
            "lineage": {
                "model": None if model is None else asdict(model),
                "run": None if run is None else asdict(run),
            },
            "beside": self.beside,
            "outcome": self.outcome,
            "delivery": self.delivery,
            "troubles": [asdict(trouble) for trouble in self.troubles],
        }


def explain(settings: Settings, beginning: str) -> Explained:
    """Follow one decision.

    Args:
        settings: This pilot's settings.
        beginning: Its id, or as much of the beginning as only this one has.

    Raises:
        PilotError: No decision, or more than one, is called so.
        StoreUnavailable: The store does not answer.
    """
    with _opened(settings) as store, store.database.connected() as connection:
        decision_id = _named(connection, beginning)
        made = store.get(decision_id)
        assert made is not None
        beside = _row(connection, sa.select(shadow).where(shadow.c.decision_id == decision_id))
        latest = sa.select(outcomes).where(outcomes.c.record_key == made.record_key)
        outcome = _row(connection, latest.order_by(outcomes.c.sequence.desc()))
        delivery = _row(connection, sa.select(outbox).where(outbox.c.decision_id == decision_id))
    chain = trace(settings, decision=decision_id)
    troubles = list(chain.troubles)
    entries = _entries(settings, made, troubles)
    return Explained(made, entries, beside, outcome, delivery, chain, troubles)


@contextmanager
def _opened(settings: Settings) -> Iterator[DecisionStore]:
    url = settings.sqlite_url(settings.store.url)
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise _unknown("no decision is on record")  # asking would make a store
    store = DecisionStore(url)
    try:
        yield store
    finally:
        store.close()


def _named(connection: sa.Connection, beginning: str) -> str:
    """The id that was meant."""
    beginning = beginning.strip().lower()
    if len(beginning) < SHORTEST:
        raise PilotError(
            f"{beginning!r} is too short for a decision's id",
            where="pilot explain",
            mend=f"Give {SHORTEST} characters at least, better the whole decision_id.",
        )
    found = _called(connection, beginning)
    if len(found) == 1:
        return found[0]
    if found:
        more = " and more" if len(found) > SHOWN else ""
        raise PilotError(
            f"several decisions begin so: {', '.join(found[:SHOWN])}{more}",
            where="pilot explain",
            mend="Give more of the id.",
        )
    near = _called(connection, beginning[:NEAR]) if len(beginning) > NEAR else []
    also = f"; {', '.join(near[:SHOWN])} begins as it does" if near else ""
    raise _unknown(f"no decision {beginning[:LENGTH]!r} is on record{also}", batch=_of_a_batch(beginning))


def _called(connection: sa.Connection, beginning: str) -> list[str]:
    column = decisions.c.decision_id
    query = sa.select(column).where(column.startswith(beginning, autoescape=True)).order_by(column)
    return list(connection.execute(query.limit(SHOWN + 1)).scalars())


def _of_a_batch(decision_id: str) -> bool:
    try:
        return uuid.UUID(decision_id).version == BATCH_VERSION
    except ValueError:
        return False


def _unknown(what: str, *, batch: bool = False) -> PilotError:
    mend = "Give the decision_id as the answer had it; another host's service may have another store."
    if batch:
        mend = (
            "Its form is that of a batch's: it stands in the batch's files, below [batch] folder; what was "
            "decided with --deliver is here as well."
        )
    return PilotError(what, where="the store ([store] url in pilot.toml)", mend=mend)


def _row(connection: sa.Connection, query: sa.Select[Any]) -> dict[str, Any] | None:
    found = connection.execute(query.limit(1)).mappings().first()
    if found is None:
        return None
    told = {name: value for name, value in found.items() if name != "sequence"}
    for name in ("decision", "outcome"):
        if told.get(name) is not None:
            told[name] = json.loads(told[name])
    return told


def _apart_s(at: str, before: str) -> float:
    return (datetime.fromisoformat(at) - datetime.fromisoformat(before)).total_seconds()


def _without(row: Mapping[str, Any] | None, *names: str) -> dict[str, Any] | None:
    if row is None:
        return None
    return {name: HIDDEN if name in names and value is not None else value for name, value in row.items()}


def _entries(settings: Settings, made: Decision, troubles: list[Trouble]) -> list[dict[str, Any]]:
    """Who put the state in force that the decision was made under, and who ended it."""
    folder = settings.path(settings.control.folder)
    try:
        entries = read_audit(folder)
    except AuditBroken as error:
        mend = "`pilot audit verify`; compare the file with a backup."
        troubles.append(Trouble("broken", "audit", f"it is not as it was written: {error}", mend))
        return []
    except OSError as error:
        what = f"it cannot be read: {error.strerror}"
        troubles.append(Trouble("missing", "audit", what, "Give yourself the right to read it."))
        return []
    of = [entry for entry in entries if entry["revision"] == made.revision]
    ended = [entry for entry in entries if (entry["revision"] or 0) > made.revision]
    if not of and made.revision:
        what = f"it has no entry for revision {made.revision}, under which this was decided"
        mend = "Ask where the control folder of then is, or restore its audit."
        troubles.append(Trouble("missing", "audit", what, mend))
    elif of and _apart_s(of[0]["at"], made.decided_at) > LATE_S:
        what = f"revision {made.revision} was put in force at {of[0]['at']}, after this was decided under it"
        mend = "Find out whose clock was wrong, or who wrote the audit or the store."
        troubles.append(Trouble("broken", "audit", what, mend))
    return of + ended[:1]
