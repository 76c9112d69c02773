"""What the store has of a person leaves it, its copies and its pages; what is past its time is deleted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from delivering import MADE
from harness.control.audit import AUDIT
from harness.store import (
    DecisionStore,
    Outbox,
    Outcome,
    OutcomeStore,
    Shadowed,
    ShadowStore,
    database,
    erasure,
    put,
)
from harness.store.database import metadata
from harness.store.outbox import DELIVERED

PERSON = "Jane-Fieldwright-77"
RECORD = {**MADE.record, "plot": PERSON, "note": "allergic to secrets"}


@pytest.fixture
def store(store_url: str) -> Iterator[DecisionStore]:
    opened = DecisionStore(store_url, alongside=(put,))
    yield opened
    opened.close()


def fill(store: DecisionStore) -> None:
    """Three decisions about the person, one of them delivered, and one about somebody else."""
    for number in range(3):
        store.record(
            replace(
                MADE,
                decision_id=f"d-{number}",
                record_key=f"{PERSON}/{number}",
                entity=PERSON,
                record=RECORD,
                reasons=[{"feature": "note", "value": RECORD["note"], "effect": 1.0}],
                idempotency_key=f"key-of-{PERSON}-{number}",
            )
        )
    store.record(replace(MADE, decision_id="d-9", record_key="r-9", idempotency_key="k-9"))
    outbox = Outbox(store.database)
    outbox.settle([outbox.first(1)[0].sequence], DELIVERED)
    results = [Outcome(f"{PERSON}/0", True), Outcome(f"{PERSON}/1", False), Outcome("r-9", True)]
    OutcomeStore(store.database).add(results, source="a file")
    beside = Shadowed("2026-03-01", "b" * 64, False, "ok", decision_id="d-0", score=0.5)
    ShadowStore(store.database).add([beside])


def everything(store: DecisionStore) -> str:
    with store.database.connected() as connection:
        return "\n".join(
            str(tuple(row))
            for table in metadata.tables.values()
            for row in connection.execute(sa.select(table))
        )


def test_what_is_decided_while_it_goes_on_is_erased_too(store: DecisionStore) -> None:
    fill(store)
    said = [replace(MADE, decision_id="d-7", entity=PERSON, record=RECORD)]

    def meanwhile(_doing: str, _share: float) -> None:
        if said:
            store.record(said.pop())

    assert erasure.erase(store.database, PERSON, meanwhile).decisions == 4
    assert PERSON not in everything(store)


def test_what_an_upgrade_takes_away_leaves_no_name_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite keeps the pages of an index that is dropped, unless it was built to overwrite them."""
    file = tmp_path / "decisions.db"
    before = DecisionStore(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE INDEX ix_decisions_entity ON decisions (entity)")
        connection.execute("UPDATE pilot_store_version SET version_num = '0004'")
        connection.commit()
    others = [replace(MADE, decision_id=f"o-{number}", entity=f"{number}") for number in range(5_000)]
    about = replace(MADE, entity=PERSON, record=RECORD)
    before.record_all([*others, *(replace(about, decision_id=f"d-{number}") for number in range(200))])
    before.close()
    durable = database._durable

    def careless(connection: Any, entry: Any) -> None:
        durable(connection, entry)
        connection.execute("PRAGMA secure_delete=OFF")

    monkeypatch.setattr(database, "_durable", careless)
    after = DecisionStore(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection:
        assert not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'ix_decisions_entity'"
        ).fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        assert free, "or there is nothing in which it could be left"
    erasure.erase(after.database, PERSON)
    after.close()
    assert PERSON.encode() not in file.read_bytes()


def test_whoever_is_asked_about_all_the_time_is_erased_in_the_end(
    store: DecisionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    look, looked = erasure._about, list[int]()

    def asked_about(database: Any, entity: str, since: int = 0) -> Any:
        looked.append(since)
        store.record(replace(MADE, decision_id=f"m-{len(looked)}", entity=PERSON, record=RECORD))
        return look(database, entity, since)

    monkeypatch.setattr(erasure, "_about", asked_about)
    assert erasure.erase(store.database, PERSON).decisions == 5
    assert looked == [0, 1]
    assert PERSON not in everything(store)


def test_more_than_a_transaction_takes_is_counted_and_erased_once(
    store: DecisionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    store.record(replace(MADE, decision_id="d-3", record_key=f"{PERSON}/0", entity=PERSON, record=RECORD))
    monkeypatch.setattr(erasure, "A_TRANSACTION", 2)
    shares = list[float]()
    assert erasure.found(store.database, PERSON) == erasure.Erased(4, 2, 3, 3, 1)
    done = erasure.erase(store.database, PERSON, lambda _, share: shares.append(share))
    assert done == erasure.Erased(4, 2, 3, 3, 1)
    assert shares == [0.5, 1.0]
    assert PERSON not in everything(store)


def test_nobody_waits_while_it_is_looked_for(store: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is looked for is found by going through all decisions, which takes as long as there are many."""
    fill(store)
    look, writes, looked = erasure._about, list[str](), list[int]()

    def watched(*arguments: Any) -> Any:
        assert not writes, "and would wait for it"
        looked.append(1)
        return look(*arguments)

    writing = store.database.writing

    @contextmanager
    def seen(what: str, mend: str) -> Iterator[Any]:
        with writing(what, mend) as connection:
            writes.append(what)
            yield connection
        writes.clear()

    monkeypatch.setattr(erasure, "_about", watched)
    monkeypatch.setattr(store.database, "writing", seen)
    erasure.erase(store.database, PERSON)
    assert len(looked) == 2


def test_nothing_of_the_person_is_left_and_what_was_counted_is(store: DecisionStore) -> None:
    fill(store)
    counted = store.counts()
    assert erasure.found(store.database, PERSON) == erasure.Erased(3, 2, 3, 2, 1)
    assert erasure.erase(store.database, PERSON) == erasure.Erased(3, 2, 3, 2, 1)
    left = everything(store)
    assert PERSON not in left
    assert "secrets" not in left
    assert store.counts() == counted
    others = store.get("d-9")
    assert others is not None
    assert others.record == MADE.record
    blank = [store.get(f"d-{number}") for number in range(3)]
    assert {each.entity for each in blank if each} != {MADE.entity}
    assert len({each.entity for each in blank if each}) == 1
    assert [(each.decision, each.record, each.reasons) for each in blank if each] == [("water", {}, [])] * 3
    matched = [each for part in OutcomeStore(store.database).matched("a" * 64, "2", "9") for each in part]
    assert sorted(each.outcome for each in matched) == ["false", "true", "true"]
    assert [each.decision_id for each in Outbox(store.database).first(9)] == ["d-9"]
    assert erasure.erase(store.database, PERSON) == erasure.Erased()


def test_a_run_that_was_broken_off_is_taken_up(store: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    monkeypatch.setattr(erasure, "A_TRANSACTION", 1)

    def stop(_doing: str, _share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        erasure.erase(store.database, PERSON, stop)
    assert erasure.found(store.database, PERSON).decisions == 2
    assert erasure.erase(store.database, PERSON).decisions == 2
    assert PERSON not in everything(store)


def test_no_page_of_the_file_and_no_copy_has_it_any_more(tiny: Any, pilot_here: Callable[..., Any]) -> None:
    url = tiny.settings().sqlite_url(tiny.settings().store.url)
    store = DecisionStore(url, alongside=(put,))
    fill(store)
    file = store.database.file
    assert file is not None
    copy = file.with_name(f"{file.name}.before-0002")
    with sqlite3.connect(file) as source, sqlite3.connect(copy) as target:
        source.backup(target)
        target.execute("DROP TABLE idempotency_keys")
    store.close()
    refused = pilot_here("store", "erase", "--entity", PERSON)
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert PERSON.encode() in file.read_bytes() + copy.read_bytes()
    done = pilot_here("store", "erase", "--entity", PERSON, "--yes", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["decisions"], found["delivered"]) == (0, 3, 1)
    assert found["copies"] == [str(copy)]
    assert "1 decisions that the consumer has" in found["beyond_reach"]
    for each in sorted(file.parent.glob(f"{file.name}*")):
        assert PERSON.encode() not in each.read_bytes(), each
        assert b"secrets" not in each.read_bytes(), each
    (line,) = (tiny.control / AUDIT).read_text().splitlines()
    assert json.loads(line)["action"] == "erase"
    assert PERSON not in line
    assert pilot_here("audit", "verify").returncode in (0, 2)


def test_what_is_past_its_time_is_deleted_with_all_that_hangs_on_it(store: DecisionStore) -> None:
    fill(store)
    young = datetime.now(UTC).isoformat(timespec="microseconds")
    store.record(replace(MADE, decision_id="d-young", record_key="r-young", decided_at=young))
    limit = (datetime.now(UTC) + timedelta(seconds=-1)).isoformat(timespec="microseconds")
    outbox = Outbox(store.database)
    outbox.settle([parcel.sequence for parcel in outbox.first(9) if parcel.decision_id != "d-9"], DELIVERED)
    with store.database.writing("", "") as connection:
        connection.execute(sa.text("UPDATE outcomes SET received_at = '2026-03-01'"))
    counted = erasure.prune(store.database, limit, apply=False)
    assert counted == erasure.Pruned(3, 2, 1)
    assert store.get("d-0") is not None
    assert erasure.prune(store.database, limit, apply=True) == counted
    assert PERSON not in everything(store)
    assert {each.decision_id for each in store.latest(9)} == {"d-9", "d-young"}
    assert ShadowStore(store.database).models() == []
    assert erasure.prune(store.database, limit, apply=True) == erasure.Pruned(0, 0, 1)


def test_the_command_deletes_nothing_unless_it_is_told_to(tiny: Any, pilot_here: Callable[..., Any]) -> None:
    store = DecisionStore(tiny.settings().sqlite_url(tiny.settings().store.url))
    store.record(replace(MADE, decided_at="2020-01-01T10:00:00.000000+00:00"))
    store.close()
    assert pilot_here("store", "prune").returncode == 2
    tiny.toml.write_text(tiny.toml.read_text() + "\n[store]\nretention_days = 365\n")
    done = json.loads(pilot_here("store", "prune", "--json").stdout)
    assert (done["decisions"], done["applied"]) == (1, False)
    assert json.loads(pilot_here("store", "prune", "--json").stdout)["decisions"] == 1
    assert json.loads(pilot_here("store", "prune", "--apply", "--json").stdout)["decisions"] == 1
    assert json.loads(pilot_here("store", "prune", "--json").stdout)["decisions"] == 0
    assert json.loads((tiny.control / AUDIT).read_text())["action"] == "prune"
