"""Many decisions in one transaction; a key stands for one decision; reasons that are given later."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from delivering import MADE
from harness.store import (
    Decision,
    DecisionStore,
    IdempotencyConflict,
    Outbox,
    StoreUnavailable,
    database,
    inserting,
    put,
)
from harness.store.decisions import keys

Start = Callable[..., subprocess.Popen[str]]
OFFER = """
import json, sys
from harness.store import Decision, DecisionStore, put

store = DecisionStore(sys.argv[1], alongside=(put,))
made = json.loads(sys.argv[2])
sys.stdin.readline()
for turn in range(25):
    names = range(turn, turn + 4)
    batch = [
        Decision(**{**made, "decision_id": f"{sys.argv[3]}-{turn}-{n}", "idempotency_key": f"key-{n}"})
        for n in (names if int(sys.argv[3]) % 2 else reversed(names))
    ]
    print(json.dumps({each.idempotency_key: done.decision_id
                      for each, done in zip(batch, store.record_all(batch))}), flush=True)
store.close()
"""


@pytest.fixture
def store(store_url: str) -> Iterator[DecisionStore]:
    opened = DecisionStore(store_url, alongside=(put,))
    yield opened
    opened.close()


def made(number: int | str, key: str | None = None, **changes: Any) -> Decision:
    return replace(MADE, decision_id=f"d-{number}", idempotency_key=key, **changes)


def recorded(store: DecisionStore) -> set[str]:
    return {each.decision_id for each in store.latest(1_000)}


def waiting(store: DecisionStore) -> list[str]:
    return [each.decision_id for each in Outbox(store.database).first(1_000)]


def test_many_are_recorded_and_wait_in_their_order(store: DecisionStore) -> None:
    batch = [made(number, entity=f"e-{number % 7}") for number in range(40)]
    assert store.record_all(batch) == batch
    assert [each.decision_id for each in reversed(store.latest(50))] == [each.decision_id for each in batch]
    assert waiting(store) == [each.decision_id for each in batch]
    assert store.record_all([]) == []


@pytest.mark.parametrize("count", [1, 2, 3, 31, 32, 33, 55, 63, 200])
def test_however_many_they_are_each_is_recorded_as_it_is_and_in_its_order(
    store: DecisionStore, count: int
) -> None:
    batch = [
        made(
            number,
            score=None if number % 3 else number / 7,
            decision=float(number) if number % 5 else "wait",
            record={"word": f"'{number}'; ü \"", "nothing": None},
            sandbox=bool(number % 2),
            reasons_pending=not number % 4,
        )
        for number in range(count)
    ]
    assert store.record_all(batch) == batch
    assert list(reversed(store.latest(1_000))) == batch
    assert waiting(store) == [each.decision_id for each in batch]


def test_what_was_made_while_others_wrote_is_written_along(store: DecisionStore) -> None:
    """Asked for once, when it is this one's turn: it may take the same key, and falls with the others."""
    first, asked = made(1, "a"), []

    def more() -> list[Decision]:
        asked.append(1)
        return [made(2, "a"), made(3)]

    assert store.record_all([first], more) == [first, replace(first, decision_id="d-1"), made(3)]
    assert asked == [1]
    assert recorded(store) == {"d-1", "d-3"}
    with pytest.raises(StoreUnavailable):
        store.record_all([made(4)], lambda: [made(3)])
    assert recorded(store) == {"d-1", "d-3"}
    assert waiting(store) == ["d-1", "d-3"]


def test_a_statement_holds_no_more_values_than_an_old_sqlite_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DecisionStore(f"sqlite:///{tmp_path}/decisions.db", alongside=(put,))
    most = []

    def executed(connection: sa.Connection, statement: str, values: Any) -> None:
        most.append(len(values))
        database.directly(connection, statement, values)

    monkeypatch.setattr(inserting, "directly", executed)
    for count in (200, *range(1, 40)):
        store.record_all([made(f"{count}-{number}") for number in range(count)])
    assert 500 < max(most) <= 999
    # Each number of rows is a statement that the driver keeps prepared; there are few.
    assert len(set(most)) <= 20
    store.close()


def test_what_is_written_in_a_transaction_that_nobody_began_is_taken_back_with_it(
    store: DecisionStore,
) -> None:
    with store.database.engine.connect() as connection:
        store.write(connection, [made(1)])
        connection.rollback()
        store.write(connection, [made(2)])
        connection.commit()
    assert recorded(store) == {"d-2"}
    assert waiting(store) == ["d-2"]


def test_one_that_cannot_be_recorded_leaves_none(store: DecisionStore) -> None:
    store.record(made(1))
    with pytest.raises(StoreUnavailable):
        store.record_all([made(2, "a"), made(1), made(3)])
    assert recorded(store) == {"d-1"}
    assert waiting(store) == ["d-1"]
    assert store.record(made(4, "a")).decision_id == "d-4"  # its key is free again


def test_a_key_and_the_same_record_get_the_decision_that_stands(store_url: str, store: DecisionStore) -> None:
    first = store.record(made(1, "a", score=0.25))
    assert first.decision_id == "d-1"
    again = store.record(made(2, "a", score=0.75, decided_at="2026-03-02T10:00:00.000000+00:00"))
    assert again == first
    restarted = DecisionStore(store_url)
    assert restarted.record(made(3, "a")) == first
    restarted.close()
    assert recorded(store) == {"d-1"}
    assert waiting(store) == ["d-1"]


def test_a_key_and_another_record_are_a_conflict(store: DecisionStore) -> None:
    store.record(made(1, "a"))
    with pytest.raises(IdempotencyConflict) as told:
        store.record(made(2, "a", record={**MADE.record, "dryness": 99.0}))
    assert (told.value.key, told.value.decision_id) == ("a", "d-1")
    assert "99" not in str(told.value)
    assert recorded(store) == {"d-1"}


def test_twice_in_one_batch_is_decided_once(store: DecisionStore) -> None:
    other = {**MADE.record, "dryness": 1.0}
    found = store.record_all([made(1, "a"), made(2), made(3, "a"), made(4, "a", record=other), made(5, "b")])
    conflict = found[3]
    assert isinstance(conflict, IdempotencyConflict)
    assert conflict.decision_id == "d-1"
    names = [each.decision_id for each in found]
    assert names == ["d-1", "d-2", "d-1", "d-1", "d-5"]
    assert recorded(store) == {"d-1", "d-2", "d-5"}
    assert waiting(store) == ["d-1", "d-2", "d-5"]


def test_the_order_of_a_records_fields_is_no_other_record(store: DecisionStore) -> None:
    store.record(made(1, "a"))
    turned = dict(reversed(MADE.record.items()))
    assert store.record(made(2, "a", record=turned)).decision_id == "d-1"


def test_a_key_whose_decision_is_gone_is_never_decided_anew(store: DecisionStore) -> None:
    store.record(made(1, "a"))
    with store.database.writing("", "") as connection:
        connection.execute(sa.text("delete from decisions"))
    with pytest.raises(IdempotencyConflict):
        store.record(made(2, "a"))


def test_no_key_is_no_key(store: DecisionStore) -> None:
    store.record_all([made(1), made(2), made(3, "")])
    assert recorded(store) == {"d-1", "d-2", "d-3"}
    with store.database.connected() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(keys)).scalar() == 1


def test_processes_that_offer_the_same_keys_at_once_agree(store_url: str, python: Start) -> None:
    DecisionStore(store_url).close()
    started = [python(OFFER, store_url, json.dumps(asdict(MADE)), number) for number in range(4)]
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    told: dict[str, set[str]] = {}
    for process in started:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        for line in output.splitlines():
            for key, name in json.loads(line).items():
                told.setdefault(key, set()).add(name)
    assert {key: len(names) for key, names in told.items()} == {f"key-{n}": 1 for n in range(28)}
    store = DecisionStore(store_url)
    assert recorded(store) == {name for names in told.values() for name in names}
    assert set(waiting(store)) == recorded(store)
    store.close()


def test_reasons_that_are_pending_are_found_and_given_once(store: DecisionStore) -> None:
    store.record_all(
        [made(1), made(2, reasons=[], reasons_pending=True), made(3), made(4, reasons_pending=True)]
    )
    assert [each.decision_id for each in store.pending(10)] == ["d-2", "d-4"]
    assert [each.decision_id for each in store.pending(1)] == ["d-2"]
    assert store.pending(1)[0].reasons_pending
    given = [{"feature": "dryness", "value": None, "effect": 0.5}]
    assert store.reasons_given("d-2", given)
    found = store.get("d-2")
    assert found is not None
    assert (found.reasons, found.reasons_pending) == (given, False)
    assert not store.reasons_given("d-2", [])
    assert not store.reasons_given("nobody", [])
    assert store.get("d-2") == found
    assert [each.decision_id for each in store.pending(10)] == ["d-4"]


def test_looking_for_pending_reasons_reads_no_decision_that_has_them(tmp_path: Any) -> None:
    store = DecisionStore(f"sqlite:///{tmp_path}/decisions.db")
    seen: list[tuple[str, Any]] = []

    @sa.event.listens_for(store.database.engine, "before_cursor_execute")
    def see(_c: Any, _cu: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    store.pending(10)
    statement, parameters = seen[-1]
    with store.database.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"explain query plan {statement}", parameters).fetchall()
    store.close()
    assert any("decisions_pending" in str(step) for step in plan), plan
