"""What has to be delivered is written with its decision or not at all, and kept until it is delivered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from harness.store import Decision, DecisionStore, Outbox, StoreUnavailable, put
from harness.store.outbox import DELIVERED, WITHHELD, outbox

MADE = Decision(
    decision_id="d-0",
    decided_at="2026-03-01T10:00:00.000000+00:00",
    record_key="r-1",
    entity="Äcker-7",
    record={"plot": "Äcker-7", "measured_on": "2026-03-01", "dryness": 0.1 + 0.2, "crop": None},
    decision="water",
    score=0.1 + 0.2,
    reasons=[{"feature": "dryness", "value": 0.3, "effect": 0.3}],
    served_by="model",
    assigned="champion",
    why="assigned",
    model_digest="a" * 64,
    revision=3,
    bucket=100,
    stage="sandbox",
    sandbox=True,
    elapsed_ms=1.25,
)


@pytest.fixture
def url(store_url: str) -> str:
    return store_url


@pytest.fixture
def store(url: str) -> Iterator[DecisionStore]:
    opened = DecisionStore(url, alongside=(put,))
    yield opened
    opened.close()


@pytest.fixture
def waiting(store: DecisionStore) -> Outbox:
    return Outbox(store.database)


def record(store: DecisionStore, *entities: str, start: int = 0) -> list[str]:
    made = [f"d-{start + number}" for number in range(len(entities))]
    for name, entity in zip(made, entities, strict=True):
        store.record(
            replace(MADE, decision_id=name, entity=entity, decided_at=f"2026-03-01T10:00:{name[2:]:0>2}")
        )
    return made


def names(found: list[Any]) -> list[str]:
    return [parcel.decision_id for parcel in found]


def test_a_decision_waits_with_all_that_was_decided(store: DecisionStore, waiting: Outbox) -> None:
    store.record(MADE)
    (parcel,) = waiting.first(10)
    assert (parcel.decision_id, parcel.entity, parcel.sandbox) == ("d-0", "Äcker-7", True)
    assert parcel.content == {
        "decision_id": "d-0",
        "decided_at": MADE.decided_at,
        "record_key": "r-1",
        "entity": "Äcker-7",
        "record": MADE.record,
        "decision": "water",
        "score": 0.1 + 0.2,
        "reasons": MADE.reasons,
        "reasons_pending": False,
        "served_by": "model",
        "why": "assigned",
        "model": "a" * 64,
        "revision": 3,
        "stage": "sandbox",
        "sandbox": True,
    }


def test_without_a_consumer_nothing_is_written(url: str) -> None:
    store = DecisionStore(url)
    store.record(MADE)
    assert Outbox(store.database).waiting().count == 0
    store.close()


def test_a_decision_that_is_not_recorded_does_not_wait(store: DecisionStore, waiting: Outbox) -> None:
    store.record(MADE)
    with pytest.raises(StoreUnavailable):
        store.record(replace(MADE, entity="another"))  # the same id
    assert [parcel.entity for parcel in waiting.first(10)] == ["Äcker-7"]


def test_a_decision_that_cannot_wait_is_not_recorded(store: DecisionStore) -> None:
    with store.database.engine.begin() as connection:
        connection.execute(sa.text("drop table outbox"))
    with pytest.raises(StoreUnavailable, match="could not be recorded"):
        store.record(MADE)
    assert store.get("d-0") is None


def test_what_comes_first_is_what_was_decided_first(store: DecisionStore, waiting: Outbox) -> None:
    made = record(store, "a", "b", "a", "c")
    assert names(waiting.first(10)) == made
    assert names(waiting.first(2)) == made[:2]
    assert names(waiting.first(10, without=["a"])) == [made[1], made[3]]
    assert names(waiting.first(10, of=["a", "c"])) == [made[0], made[2], made[3]]
    assert names(waiting.first(10, of=[])) == []


def test_decisions_about_nobody_do_not_wait_for_each_other(store: DecisionStore, waiting: Outbox) -> None:
    record(store, "", "")
    first, second = waiting.first(10)
    assert first.entity != second.entity
    assert (first.content["entity"], second.content["entity"]) == ("", "")


def test_what_is_settled_waits_no_more(store: DecisionStore, waiting: Outbox) -> None:
    made = record(store, "a", "b", "c")
    first, second, _ = waiting.first(10)
    waiting.settle([first.sequence], DELIVERED)
    waiting.settle([second.sequence], WITHHELD)
    waiting.settle([], DELIVERED)
    assert names(waiting.first(10)) == [made[2]]
    found = waiting.waiting()
    assert (found.count, found.withheld, found.oldest, found.error) == (1, 1, "2026-03-01T10:00:02", None)
    with store.database.connected() as connection:
        kept = connection.execute(sa.select(outbox).order_by(outbox.c.sequence)).mappings().all()
    assert [(row["state"], row["attempts"]) for row in kept] == [
        ("delivered", 1),
        ("withheld", 0),
        ("waiting", 0),
    ]
    assert kept[0]["settled_at"]


def test_a_failure_is_kept_until_the_delivery_succeeds(store: DecisionStore, waiting: Outbox) -> None:
    record(store, "a", "b")
    first, second = waiting.first(10)
    waiting.failed({first.sequence: "503", second.sequence: "x" * 500})
    waiting.failed({first.sequence: "no answer"})
    waiting.failed({})
    assert waiting.waiting().error == "no answer"
    assert len(waiting.first(10)) == 2
    waiting.settle([first.sequence, second.sequence], DELIVERED)
    assert waiting.waiting() == type(waiting.waiting())(0, None, None, 0)


def test_it_is_there_after_a_restart(url: str) -> None:
    store = DecisionStore(url, alongside=(put,))
    record(store, "a")
    store.close()
    again = DecisionStore(url)
    assert names(Outbox(again.database).first(10)) == ["d-0"]
    again.close()


def test_looking_for_what_waits_reads_nothing_that_was_delivered(tmp_path: Path) -> None:
    store = DecisionStore(f"sqlite:///{tmp_path}/decisions.db", alongside=(put,))
    seen: list[tuple[str, Any]] = []

    @sa.event.listens_for(store.database.engine, "before_cursor_execute")
    def see(_c: Any, _cu: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    Outbox(store.database).first(10, without=["a"])
    statement, parameters = seen[-1]
    with store.database.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"explain query plan {statement}", parameters).fetchall()
    store.close()
    assert any("outbox_waiting" in str(step) for step in plan), plan
    assert not any("SCAN decisions" in str(step) for step in plan), plan
