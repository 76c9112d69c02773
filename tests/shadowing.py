"""The tiny pilot with a model in shadow, and a stand-in that does with it whatever a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from harness.control import Slot
from harness.serving import server, shadow
from harness.store import DecisionStore, Outcome, OutcomeStore, Shadowed, ShadowStore
from harness.store.decisions import decisions
from harness.store.shadow import Counts

Act = Callable[[str, Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Heard:
    """What a model said."""

    score: float
    decision: str | float


def wet(_digest: str, _record: Mapping[str, Any]) -> Heard:
    return Heard(0.9, "water")


@dataclass
class Stand:
    """Stands in for the process in which models run beside.

    Attributes:
        act: What the model does.
        asked: The records that it was asked about, in order.
        answered: How many of them it has dealt with.
        settled: How often it was waited for until it was loaded.
        loading: Set once it is.
        told: What it says of itself then.
        closed: Whether it was ended.
    """

    act: Act = wet
    asked: list[dict[str, Any]] = field(default_factory=list)
    answered: int = 0
    settled: int = 0
    loading: threading.Event | None = None
    told: str = "loaded"
    closed: bool = False

    def score(self, digest: str, record: Mapping[str, Any]) -> Any:
        self.asked.append(dict(record))
        try:
            return self.act(digest, record)
        finally:
            self.answered += 1

    def state(self, _digest: str) -> str:
        if self.loading is not None:
            self.loading.wait(60)
        self.settled += 1
        return self.told

    def close(self) -> None:
        self.closed = True


@dataclass
class Held:
    """An act that lasts until a test lets it go."""

    begun: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __call__(self, digest: str, record: Mapping[str, Any]) -> Heard:
        self.begun.set()
        self.released.wait(60)
        return wet(digest, record)


@dataclass
class Beside:
    """The tiny pilot with a champion that decides and a challenger that runs beside.

    Attributes:
        tiny: The pilot.
        monkeypatch: The test's own.
    """

    tiny: Any
    monkeypatch: pytest.MonkeyPatch
    champion: str = ""
    challenger: str = ""

    def start(self, **state: Any) -> Beside:
        self.monkeypatch.setattr(shadow, "WRITE_EVERY_S", 0.02)
        self.champion = self.tiny.package(weight=1.0).digest
        self.challenger = self.tiny.package(weight=0.5).digest
        self.put(**state)
        return self

    def put(self, **changes: Any) -> None:
        state = {"stage": "early", "champion": Slot(digest=self.champion, pct=100)}
        self.tiny.put(**{**state, "challenger": Slot(digest=self.challenger, pct=0), **changes})

    def service(self, host: Any = None, **more: str) -> Any:
        """A service; with ``host``, models run beside in that one."""
        for name, value in more.items():
            self.monkeypatch.setenv(f"PILOT_SERVING__{name.upper()}", value)
        if host is not None:
            self.monkeypatch.setattr(server, "shadow_host", lambda *_: host)
        return self.tiny.service()

    def decide(self, count: int = 1, **changes: Any) -> list[Any]:
        """Decisions of the latest service, each about another reading and another plot."""
        deciding, parsed = self.tiny.services[-1], self.tiny.parsed
        numbers = [len(deciding.store.latest(10_000)) + number for number in range(count)]
        return [
            deciding.decide(parsed(**{"reading": f"r-{each}", "plot": f"p-{each}", **changes}))
            for each in numbers
        ]

    @property
    def store(self) -> DecisionStore:
        found: DecisionStore = self.tiny.services[-1].store
        return found

    def rows(self) -> list[Any]:
        """The shadow table."""
        with self.store.database.connected() as connection:
            return list(connection.exec_driver_sql("select * from shadow order by sequence"))

    def counts(self, *, sandbox: bool = False) -> Counts:
        return ShadowStore(self.store.database).counts(self.challenger, sandbox=sandbox)

    def statuses(self) -> dict[str, int]:
        """How often it came to what, without what never happened."""
        return {status: times for status, times in self.counts().by_status.items() if times}


@dataclass(frozen=True)
class Said:
    """A decision and what was said beside it, as a test writes it down.

    Attributes:
        served: What was decided.
        served_score: The deciding model's score; None for the fallback.
        shadow: What was said in shadow.
        shadow_score: With what score.
        record: What is otherwise in the record.
        outcome: What came of it; None while unknown.
        elapsed_ms: How long it took in shadow.
        sandbox: Whether it is about nothing real.
        at: When; by default an hour after the one before.
        key: The record's key; by default one of its own.
    """

    served: Any
    served_score: float | None
    shadow: Any
    shadow_score: float
    record: Mapping[str, Any] = field(default_factory=dict)
    outcome: Any = None
    elapsed_ms: float = 1.0
    sandbox: bool = False
    at: str = ""
    key: str = ""


def write(
    store: DecisionStore,
    digest: str,
    said: list[Said],
    *,
    agree: Callable[[Any, Any], bool] = lambda a, b: a == b,
) -> None:
    """Put pairs into the store as the service does, in bulk."""
    made, beside, came = [], [], []
    for number, each in enumerate(said):
        at = each.at or (datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=number)).isoformat(
            timespec="microseconds"
        )
        key = each.key or f"r-{number}"
        record = {"reading": key, "plot": f"p-{number}", "crop": "maize", "dryness": 50.0, **each.record}
        made.append(
            {
                "decision_id": f"d-{number:06}",
                "decided_at": at,
                "record_key": key,
                "entity": f"p-{number}",
                "record": json.dumps(record),
                "decision": json.dumps(each.served),
                "score": each.served_score,
                "reasons": "[]",
                "served_by": "fallback" if each.served_score is None else "model",
                "assigned": "champion",
                "why": "assigned",
                "model_digest": "c" * 64,
                "revision": 1,
                "bucket": 50,
                "stage": "early",
                "sandbox": each.sandbox,
                "elapsed_ms": 1.0,
            }
        )
        beside.append(
            Shadowed(
                at=at,
                digest=digest,
                sandbox=each.sandbox,
                status="ok",
                decision_id=f"d-{number:06}",
                bucket=50,
                score=each.shadow_score,
                decision=json.dumps(each.shadow),
                agrees=agree(each.served, each.shadow),
                elapsed_ms=each.elapsed_ms,
            )
        )
        if each.outcome is not None:
            came.append(Outcome(key, each.outcome))
    with store.database.writing("no", "no") as connection:
        connection.execute(decisions.insert(), made)
    ShadowStore(store.database).add(beside)
    if came:
        OutcomeStore(store.database).add(came, source="a test")
