"""What a store does when its disk is full, its file read-only or locked, or its database goes away: all or
nothing, a word about it, and on again as soon as that is mended."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from delivering import MADE
from harness.store import Decision, DecisionStore, Outbox, StoreUnavailable, database, put

LARGE = {**MADE.record, "note": "x" * 400_000}


def numbered(number: int, **changes: Any) -> Decision:
    return replace(MADE, decision_id=f"d-{number}", **changes)


def whole(store: DecisionStore, *names: str) -> None:
    """These decisions are on record, each with its delivery, and nothing else is."""
    assert {each.decision_id for each in store.latest(100)} == set(names)
    assert {each.decision_id for each in Outbox(store.database).first(100)} == set(names)


@pytest.fixture
def postgres_decisions(postgres_store: str) -> Iterator[DecisionStore]:
    opened = DecisionStore(postgres_store, alongside=(put,))
    yield opened
    opened.close()


def test_a_full_database_takes_nothing_by_half_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    store = DecisionStore(f"sqlite:///{tmp_path}/decisions.db", alongside=(put,))
    store.record(numbered(1))
    limit = {"pages": 40}

    @sa.event.listens_for(store.database.engine, "begin")
    def full(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={limit['pages']}")

    with pytest.raises(StoreUnavailable, match="database or disk is full"):
        store.record_all([numbered(2, idempotency_key="a"), numbered(3, record=LARGE)])
    whole(store, "d-1")
    limit["pages"] = 1_000_000
    store.record_all([numbered(4, idempotency_key="a"), numbered(5, record=LARGE)])
    whole(store, "d-1", "d-4", "d-5")
    store.close()


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("INSERT INTO keyed (name) VALUES (?)", (None,)),
        ("INSERT INTO nowhere (name) VALUES (?)", ("secret",)),
        ("INSERT INTO keyed (name) VALUES (?)", (object(),)),
        ("INSERT INTO keyed (name) VALUES (?)", ("secret", 2)),
        ("INSERT INTO keyed (name) VALUES (?)", ("\ud800",)),
        ("INSERT INTO keyed (name) VALUES (?)", (2**80,)),
    ],
)
def test_what_the_driver_refuses_is_told_as_sqlalchemy_does_and_quotes_nothing(
    tmp_path: Path, statement: str, values: tuple[Any, ...]
) -> None:
    opened = database.Database(f"sqlite:///{tmp_path}/decisions.db", upgrade=False)
    told = []
    with opened.engine.connect() as connection, connection.begin():
        database.directly(connection, "CREATE TABLE keyed (name TEXT NOT NULL)")
        for asked in (database.directly, sa.Connection.exec_driver_sql):
            with pytest.raises((sa.exc.DBAPIError, ValueError, OverflowError)) as error:
                asked(connection, statement, values)
            told.append((type(error.value), str(getattr(error.value, "orig", error.value))))
            assert "secret" not in str(error.value)
    assert told[0] == told[1]
    opened.close()


def test_a_disk_that_takes_no_more_is_told_and_used_again(
    tmp_path: Path, in_child: Callable[[Callable[[], Any]], Any]
) -> None:
    def attempt() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = DecisionStore(f"sqlite:///{tmp_path}/decisions.db", alongside=(put,))
        store.record(numbered(1))
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, most))
        try:
            store.record(numbered(2, record=LARGE))
        except StoreUnavailable as error:
            told = error.what
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        whole(store, "d-1")
        store.record(numbered(3, record=LARGE))
        whole(store, "d-1", "d-3")
        return told

    assert "could not be recorded" in in_child(attempt)


def test_a_file_that_may_not_be_written_is_told_and_used_again(
    open_folder: Path, unprivileged: Callable[..., Any]
) -> None:
    url = f"sqlite:///{open_folder}/decisions.db"
    open_folder.chmod(0o777)

    def attempt() -> str:
        made = DecisionStore(url, alongside=(put,))
        made.record(numbered(1))
        made.close()
        file = open_folder / "decisions.db"
        file.chmod(0o444)
        store = DecisionStore(url, alongside=(put,))
        try:
            store.record(numbered(2))
        except StoreUnavailable as error:
            told = error.what
        whole(store, "d-1")
        for each in open_folder.glob("decisions.db*"):  # SQLite gives those beside the same mode
            each.chmod(0o644)
        with suppress(StoreUnavailable):  # a connection that was opened meanwhile cannot write; it is let go
            store.record(numbered(3))
            store.record(numbered(4))
        store.record(numbered(5))
        assert store.get("d-5") is not None
        assert store.get("d-2") is None
        return told

    assert "readonly" in unprivileged(attempt)


def test_a_connection_that_breaks_under_way_leaves_nothing_and_the_next_is_recorded(
    postgres: str, postgres_decisions: DecisionStore, wait: Callable[..., Any]
) -> None:
    store = postgres_decisions
    breaking, gone = True, "SELECT 1 FROM pg_stat_activity WHERE pid = %s"

    def cut(connection: sa.Connection, _made: Any) -> None:
        if not breaking:
            return
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
            wait(lambda: other.execute(gone, [pid]).fetchone() is None)

    store._alongside = (put, cut)
    with pytest.raises(StoreUnavailable, match="could not be recorded"):
        store.record(numbered(1, idempotency_key="a"))
    breaking = False
    whole(store)
    store.record(numbered(3, idempotency_key="a"))
    whole(store, "d-3")


def test_connections_that_broke_while_nobody_used_them_cost_no_decision(
    postgres: str, postgres_decisions: DecisionStore
) -> None:
    store = postgres_decisions
    store.record(numbered(1))
    with psycopg.connect(postgres, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    store.record(numbered(2))
    whole(store, "d-1", "d-2")


def test_a_table_that_somebody_keeps_locked_is_given_up_in_time(
    postgres_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    DecisionStore(postgres_store).close()
    monkeypatch.setattr(database, "BUSY_S", 0.2)
    store = DecisionStore(postgres_store, alongside=(put,))
    with psycopg.connect(postgres_store) as other:
        other.execute("LOCK TABLE outbox IN EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            store.record(numbered(1))
        other.rollback()
    whole(store)
    store.record(numbered(2))
    whole(store, "d-2")
    store.close()
