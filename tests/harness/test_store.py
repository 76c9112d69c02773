"""A decision that `record` took is on the disk; what cannot be recorded is told, and nothing is lost."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from harness.errors import PilotError
from harness.settings import without_password
from harness.store import Decision, DecisionStore, StoreUnavailable, database

Start = Callable[..., subprocess.Popen[str]]
MADE = Decision(
    decision_id="00000000-0000-4000-8000-000000000001",
    decided_at="2026-03-01T10:00:00.000001+00:00",
    record_key="r-1",
    entity="Äcker-7 \u2028 🌾 \"'; drop table decisions; --",
    record={"plot": "Äcker-7", "note": None, "dryness": 0.1 + 0.2, "depth_cm": 2**60, "covered": True},
    decision="water",
    score=0.1 + 0.2,
    reasons=[{"feature": "Größe", "value": None, "effect": -1e-300}],
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
PRAGMAS = {"synchronous": 2, "journal_mode": "wal", "busy_timeout": 5000}
RECORD = """
import json, sys
from harness.store import Decision, DecisionStore

store = DecisionStore(sys.argv[1])
made = json.loads(sys.argv[2])
for number in range(int(sys.argv[4])):
    name = f"{sys.argv[3]}-{number}"
    store.record(Decision(**{**made, "decision_id": name}))
    print(name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/a folder/decisions.db"


@pytest.fixture
def store(url: str) -> Iterator[DecisionStore]:
    opened = DecisionStore(url)
    yield opened
    opened.close()


def numbered(number: int, **changes: Any) -> Decision:
    return replace(MADE, decision_id=f"id-{number}", **changes)


def as_json() -> str:
    return json.dumps(asdict(MADE))


def test_what_was_recorded_is_read_back_to_the_last_bit(store: DecisionStore, url: str) -> None:
    store.record(MADE)
    assert store.get(MADE.decision_id) == MADE
    again = DecisionStore(url)
    assert again.get(MADE.decision_id) == MADE
    again.close()


def test_nulls_and_numbers_as_decisions_are_read_back(store: DecisionStore) -> None:
    bare = numbered(
        2, decision=12.5, score=None, reasons=[], model_digest=None, bucket=None, sandbox=False, entity=""
    )
    store.record(bare)
    assert store.get("id-2") == bare


def test_dates_in_a_record_are_kept_as_iso_text(store: DecisionStore) -> None:
    store.record(numbered(3, record={"measured_on": date(2026, 3, 1)}))
    found = store.get("id-3")
    assert found is not None
    assert found.record == {"measured_on": "2026-03-01"}


def test_a_decision_that_was_never_made_is_none(store: DecisionStore) -> None:
    assert store.get("nobody") is None
    assert store.latest(5) == []
    assert store.counts() == {}
    assert store.last_model_decision() is None


def test_the_latest_come_first_and_counts_are_by_who_and_why(store: DecisionStore) -> None:
    for number in range(5):
        store.record(numbered(number, decided_at=f"2026-03-01T10:00:0{number}"))
    store.record(numbered(5, served_by="fallback", why="killed", decided_at="2026-03-01T10:00:05"))
    assert [made.decision_id for made in store.latest(3)] == ["id-5", "id-4", "id-3"]
    assert store.counts() == {("model", "assigned"): 5, ("fallback", "killed"): 1}
    assert store.last_model_decision() == "2026-03-01T10:00:04"


def test_one_name_is_one_decision(store: DecisionStore) -> None:
    store.record(MADE)
    with pytest.raises(StoreUnavailable, match="could not be recorded"):
        store.record(replace(MADE, decision="skip"))
    found = store.get(MADE.decision_id)
    assert found is not None
    assert found.decision == "water"


def test_every_connection_is_durable(store: DecisionStore) -> None:
    engine = store.database.engine
    connections = [engine.connect() for _ in range(12)]  # more than the pool keeps
    for connection in connections:
        asked = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in PRAGMAS}
        assert asked == PRAGMAS
    for connection in connections:
        connection.close()


def test_a_process_that_is_killed_right_after_a_record_has_recorded_it(url: str, python: Start) -> None:
    for round_ in range(3):
        process = python(RECORD, url, as_json(), f"round{round_}", 1000)
        assert process.stdout is not None
        names = [process.stdout.readline().strip() for _ in range(5 + round_ * 7)]
        process.kill()
        names += process.stdout.read().split()  # what it had told before it died
        process.wait(timeout=20)
        store = DecisionStore(url)
        assert [name for name in names if store.get(name) is None] == []
        store.close()


def test_several_processes_write_at_once_and_nothing_is_lost(url: str, python: Start) -> None:
    processes = [python(RECORD, url, as_json(), f"writer{number}", 60) for number in range(4)]
    told: list[str] = []
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        told += output.split()
    store = DecisionStore(url)
    assert len(told) == 240
    assert {made.decision_id for made in store.latest(1000)} == set(told)
    store.close()


@pytest.mark.parametrize("trouble", ["a folder", "no database", "a file as its folder"])
def test_a_database_that_cannot_be_opened_is_told(tmp_path: Path, trouble: str) -> None:
    file = tmp_path / "decisions.db"
    if trouble == "a folder":
        file.mkdir()
    elif trouble == "no database":
        file.write_text("this is no database " * 100)
    else:
        file.write_text("")
        file = file / "below.db"
    with pytest.raises(StoreUnavailable) as told:
        DecisionStore(f"sqlite:///{file}")
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "postgresql://gardener:hush@127.0.0.1:port/fields",
        "mysql://gardener:hush@127.0.0.1/fields",
        "postgresql+psycopg://gardener:hush@127.0.0.1:1/fields?connect_timeout=2",
        "postgresql+psycopg://127.0.0.1:1/fields?user=gardener&password=hush&connect_timeout=2",
    ],
)
def test_an_address_that_leads_nowhere_is_told_without_its_password(url: str) -> None:
    with pytest.raises(PilotError) as told:
        DecisionStore(url)
    assert isinstance(told.value, StoreUnavailable)
    assert "hush" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/decisions.db", "sqlite:////var/decisions.db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("postgresql://user:hush@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:hu@sh@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:hu/sh@host/db", "postgresql://user:***@host/db"),
        ("postgresql://host/db?password=hush&user=u", "postgresql://host/db?password=***&user=u"),
        ("postgresql://host/db?user=u&sslpassword=hush", "postgresql://host/db?user=u&sslpassword=***"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_read_only_folder_is_told(open_folder: Path, unprivileged: Callable[..., Any]) -> None:
    open_folder.chmod(0o555)

    def attempt() -> str:
        try:
            DecisionStore(f"sqlite:///{open_folder}/decisions.db")
        except StoreUnavailable as error:
            return str(error)
        return "opened"

    assert "cannot be opened" in unprivileged(attempt)


def test_a_database_that_is_damaged_under_way_is_told_by_every_question(
    store: DecisionStore, tmp_path: Path
) -> None:
    store.record(MADE)
    store.close()
    for name in ("decisions.db", "decisions.db-wal", "decisions.db-shm"):
        file = tmp_path / "a folder" / name
        if file.exists():
            file.write_bytes(b"no longer a database " * 500)
    for question in (
        lambda: store.record(numbered(9)),
        lambda: store.get("id-1"),
        lambda: store.latest(1),
        store.counts,
        store.last_model_decision,
        store.ping,
    ):
        with pytest.raises(StoreUnavailable):
            question()


def test_a_database_that_another_process_keeps_locked_is_told(
    store: DecisionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(tmp_path / "a folder" / "decisions.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    connection = store.database.engine.connect()  # the only idle one: the next question gets it back
    connection.exec_driver_sql("PRAGMA busy_timeout=50")
    connection.close()
    with pytest.raises(StoreUnavailable, match="locked"):
        store.record(MADE)
    other.execute("ROLLBACK")
    other.close()
    store.record(MADE)
    assert store.get(MADE.decision_id) == MADE


def test_a_number_that_is_no_json_is_never_kept(store: DecisionStore) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.record(numbered(4, record={"dryness": float("nan")}))
    assert store.latest(1) == []


def test_a_writer_that_waits_too_long_for_the_others_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    store = DecisionStore(f"sqlite:///{tmp_path}/decisions.db")
    other = DecisionStore(f"sqlite:///{tmp_path}/decisions.db")
    with other.database.writing("", ""), pytest.raises(StoreUnavailable, match="the database is busy"):
        store.record(MADE)
    assert store.latest(1) == []
    store.record(MADE)
    assert len(store.latest(2)) == 1
