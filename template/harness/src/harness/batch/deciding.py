"""One chunk: who may decide each of its records, what the models say, and what is decided then.

The permission is the service's own, asked by the same object. What is written here is its order alone: asked
before a model sees a record, asked again once it has answered, and again before what was decided is recorded.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from harness.control import Arm, Control, Permission, StateUnreadable, Why
from harness.control.permission import bucket
from harness.errors import PilotError
from harness.pilot import Choice, Contract, Reason
from harness.serving.bulk import BulkModel, Scores
from harness.serving.service import FallbackFailed, Service
from harness.store.database import now

NOT_DECIDED = "fallback_failed"
# What is asked for as often as this, and has changed each time, is asked for one by one.
ATTEMPTS = 3
NO_GROUP, WITHOUT_ENTITY = -1, 0


@dataclass(frozen=True)
class Asked:
    """What the control said of every record of a chunk at one moment.

    Attributes:
        permissions: What it said, once for all who were told alike.
        index: Which of these each record has, shape (n,).
    """

    permissions: list[Permission]
    index: np.ndarray

    def digests(self) -> np.ndarray:
        """The model that each record is assigned to, or None; shape (n,)."""
        found = np.array([each.digest for each in self.permissions] or [None], dtype=object)
        return np.asarray(found[self.index])


class Entities:
    """The entities of a chunk, by bucket: those of one bucket are told alike, so one of them is asked.

    Args:
        ask: The service's own question.
        control: What names the group in which buckets are drawn.
        entities: Each record's entity, as text.
    """

    def __init__(self, ask: Callable[[str], Permission], control: Control, entities: pa.Array) -> None:
        self._ask, self._control = ask, control
        encoded = entities.dictionary_encode()
        self._distinct: list[str] = encoded.dictionary.to_pylist()
        self._index: np.ndarray = encoded.indices.to_numpy()
        self._group: str | None = None
        self._numbers = np.full(len(self._distinct), NO_GROUP)
        self._draw(None)

    def ask(self) -> Asked:
        """Who decides for each of them right now."""
        for _ in range(ATTEMPTS):
            group = self._named()
            if group != self._group:
                self._draw(group)
            numbers, first, place = np.unique(self._numbers, return_index=True, return_inverse=True)
            told = [self._ask(self._distinct[at]) for at in first]
            # Another group has come into force meanwhile, in which they have other buckets.
            if all(each.bucket in (None, number) for each, number in zip(told, numbers, strict=True)):
                return Asked(told, place.reshape(-1)[self._index])
        return Asked([self._ask(entity) for entity in self._distinct], self._index)

    def _draw(self, group: str | None) -> None:
        self._group = group
        drawn = (
            WITHOUT_ENTITY if not entity else NO_GROUP if group is None else bucket(group, entity)
            for entity in self._distinct
        )
        self._numbers = np.fromiter(drawn, np.int64, len(self._distinct))

    def _named(self) -> str | None:
        try:
            state = self._control.state()
        except StateUnreadable:
            return None
        return None if state is None else state.flag_key


@dataclass
class Taken:
    """A chunk that was taken up.

    Attributes:
        decided_at: When, ISO 8601, UTC.
        started: The same on a clock that only grows.
        records: The records that keep the contract.
        entities: Whom they are about.
        before: What the control said before a model saw any of it.
        why: What leaves a record to the fallback already; ``Why.ASSIGNED`` where a model is to be asked.
        answers: What the fallback decided so far, by the record's place.
    """

    decided_at: str
    started: float
    records: pa.Table
    entities: Entities
    before: Asked
    why: np.ndarray
    answers: dict[int, tuple[str, str] | str] = field(default_factory=dict)

    def assigned(self) -> Counter[tuple[str, str, str | None]]:
        """How many records each arm has, why, and by which model."""
        told = zip(self.before.index.tolist(), self.why, strict=True)
        return Counter(
            (self.before.permissions[at].arm.value, str(why), self.before.permissions[at].digest)
            for at, why in told
        )


@dataclass(frozen=True)
class Decided:
    """What was decided of a chunk.

    Attributes:
        columns: The columns of the table of decisions, but for the ids and what is known of the whole chunk.
        by_model: Which records a model decided, shape (n,).
        digests: The model that each of those was assigned to, by what was in force then.
        undecided: Records that the fallback could not decide, by their place, and why.
    """

    columns: dict[str, pa.Array]
    by_model: np.ndarray
    digests: np.ndarray
    undecided: Mapping[int, str]


class Deciding:
    """Decides chunks as the service decides records.

    Args:
        service: What is asked for permissions and for the fallback.
        contract: What a record is.
        model: A model by its digest.
    """

    def __init__(self, service: Service, contract: Contract, model: Callable[[str], BulkModel]) -> None:
        self._service, self._contract, self._model = service, contract, model

    def take_up(self, records: pa.Table) -> Taken:
        """Ask who decides each record, before a model sees any of them."""
        decided_at, started = now(), time.perf_counter()
        text = as_text(records[self._contract.entity])
        entities = Entities(self._service.permission, self._service.control, text)
        before = entities.ask()
        why = np.array([self._left_to(each) for each in before.permissions] or [Why.ASSIGNED], dtype=object)
        return Taken(decided_at, started, records, entities, before, why[before.index])

    def score(self, taken: Taken) -> Mapping[str, tuple[np.ndarray, Scores]]:
        """What each model says, by its digest, of the records assigned to it, with these records' places."""
        digests = taken.before.digests()
        asked = taken.why == Why.ASSIGNED
        found = {}
        for digest in sorted(set(digests[asked])):
            rows = np.flatnonzero(asked & (digests == digest))
            whole = len(rows) == taken.records.num_rows
            part = taken.records if whole else taken.records.take(pa.array(rows))
            found[digest] = rows, self._model(digest).score(part)
        return found

    def settle(self, taken: Taken, scored: Mapping[str, tuple[np.ndarray, Scores]]) -> Decided:
        """Decide, by what is in force now: scores of a model that was stopped or replaced are thrown away."""
        count = taken.records.num_rows
        values, why = np.full(count, np.nan), taken.why.copy()
        decision, reasons = np.full(count, None, dtype=object), np.full(count, "[]", dtype=object)
        for rows, said in scored.values():
            values[rows], why[rows] = said.values, said.why
            decision[rows] = _decisions(said)
            if said.reasons:
                reasons[rows] = [_reasons([Reason(*each) for each in told]) for told in said.reasons]
        after = taken.entities.ask()
        permissions = [*taken.before.permissions, *after.permissions]
        index = taken.before.index.copy()
        scored_rows = why == Why.ASSIGNED
        changed = scored_rows & (taken.before.digests() != after.digests())
        index[scored_rows] = after.index[scored_rows] + len(taken.before.permissions)
        instead = [each.why if each.arm is Arm.FALLBACK else Why.MODEL_REPLACED for each in after.permissions]
        why[changed] = np.array(instead or [Why.ASSIGNED], dtype=object)[after.index[changed]]
        by_model = scored_rows & ~changed
        values[~by_model] = np.nan
        undecided = self._by_fallback(taken, ~by_model, decision, reasons)
        columns = {
            "decision": pa.array(decision, pa.string()),
            "score": pa.array(values, pa.float64(), mask=~by_model),
            "reasons": pa.array(reasons, pa.string()),
            "served_by": _taken(["fallback", "model"], by_model.astype(np.int32)),
            "why": pa.array(why, pa.string()),
            **self._permitted(permissions, index),
        }
        return Decided(columns, by_model, after.digests(), undecided)

    def still_holds(self, taken: Taken, decided: Decided) -> bool:
        """Whether every model that decided here may still do so."""
        latest = taken.entities.ask().digests()
        return bool((latest == decided.digests)[decided.by_model].all())

    def _left_to(self, permission: Permission) -> Why:
        if permission.arm is Arm.FALLBACK or permission.digest is None:
            return permission.why
        try:
            return Why.REAL_DATA_IN_SANDBOX if self._service.refused(permission) else Why.ASSIGNED
        except PilotError:
            return Why.MODEL_UNAVAILABLE

    def _by_fallback(
        self, taken: Taken, left: np.ndarray, decision: np.ndarray, reasons: np.ndarray
    ) -> dict[int, str]:
        undecided = {}
        rows = [int(row) for row in np.flatnonzero(left)]
        missing = [row for row in rows if row not in taken.answers]
        if missing:
            frame = pl.DataFrame(taken.records.take(pa.array(missing, pa.int64())))
            for row, record in zip(missing, frame.iter_rows(named=True), strict=True):
                try:
                    said, because = self._service.fall_back(record)
                    taken.answers[row] = _json(said), _reasons(because)
                except FallbackFailed as error:
                    taken.answers[row] = f"{NOT_DECIDED}:{error}"
        for row in rows:
            answer = taken.answers[row]
            if isinstance(answer, str):
                undecided[row] = answer
            else:
                decision[row], reasons[row] = answer
        return undecided

    def _permitted(self, permissions: list[Permission], index: np.ndarray) -> dict[str, pa.Array]:
        sandbox = [self._service.sandbox(each.stage) for each in permissions]
        return {
            "assigned": _taken([each.arm.value for each in permissions], index),
            "model_digest": _taken([each.digest for each in permissions], index, pa.string()),
            "revision": _taken([each.revision for each in permissions], index, pa.int64()),
            "bucket": _taken([each.bucket for each in permissions], index, pa.int64()),
            "stage": _taken([each.stage for each in permissions], index),
            "sandbox": _taken(sandbox, index, pa.bool_()),
        }


def as_text(column: pa.ChunkedArray) -> pa.Array:
    """Keys and entities as the service writes them: as Python does, and nothing where there is nothing."""
    whole = column.combine_chunks()
    if pa.types.is_string(whole.type) or pa.types.is_integer(whole.type):
        return whole.cast(pa.string()).fill_null("")
    return pa.array(["" if each is None else str(each) for each in whole.to_pylist()], pa.string())


def _decisions(said: Scores) -> np.ndarray:
    """What each score decides, as JSON; None where there is none."""
    decides = said.decision
    if decides is None:
        return np.full(len(said.values), None, dtype=object)
    if isinstance(decides, Choice):
        words = np.array([_json(decides.below), _json(decides.above)], dtype=object)
        return words[(said.values >= decides.threshold).astype(np.int8)]
    return np.array(
        [_json(decides.of(float(each))) if each == each else None for each in said.values], dtype=object
    )


def _taken(values: list[Any], index: np.ndarray, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(values, kind or pa.string()).take(pa.array(index))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)


def _reasons(reasons: Any) -> str:
    told = [{"feature": each.feature, "value": each.value, "effect": each.effect} for each in reasons]
    return _json(told)
