"""A control table in a real PostgreSQL: read whole, counted there, and out of reach in many ways."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from harness.control import Arm, Why, settings_control
from harness.control.remote import REMOTE
from harness.simulate.embedded import server
from harness.sync import Refused, Unreachable, push_kill, sync_once
from harness.sync.once import source_of

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(tmp_path_factory.mktemp("control") / "postgres") as url:
        yield url.replace(":@", "@")


@pytest.fixture
def table(tiny: Any, database: str) -> Iterator[Callable[..., Any]]:
    """The tiny pilot with this database as its remote control; gives a way to run SQL there."""
    tiny.toml.write_text(tiny.toml.read_text() + f'\n[remote]\nsource = "postgres"\nurl = "{database}"\n')
    tiny.champion("a" * 64)

    def run(statement: str) -> Any:
        with psycopg.connect(database, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchone() if cursor.description else None

    run("DROP TABLE IF EXISTS pilot_control")
    yield run
    run("DROP TABLE IF EXISTS pilot_control")


def why(tiny: Any) -> Why:
    return settings_control(tiny.settings()).permission("plot 1").why


def synced(tiny: Any) -> Any:
    return sync_once(tiny.settings(), source_of(tiny.settings()))


def test_init_makes_a_row_for_nobody_and_sql_decides_from_there(
    tiny: Any, table: Any, pilot_command: Run
) -> None:
    with pytest.raises(Refused, match="no table pilot_control"):
        synced(tiny)
    assert pilot_command("sync", "once").returncode == 1
    for _ in range(2):  # again, nothing is overwritten
        done = pilot_command("sync", "init")
        assert done.returncode == 0, done.stderr
    assert synced(tiny).answer.pct == 0
    assert why(tiny) is Why.OUTSIDE_ROLLOUT
    table("UPDATE pilot_control SET pct = 100 WHERE flag = 'dryfield'")
    assert pilot_command("sync", "init").returncode == 0
    done = pilot_command("sync", "once")
    assert done.returncode == 0, done.stderr
    assert "a model may decide for 100% (version 2)" in done.stdout
    assert why(tiny) is Why.ASSIGNED
    table("UPDATE pilot_control SET killed = true WHERE flag = 'dryfield'")
    assert synced(tiny).answer.killed
    assert why(tiny) is Why.REMOTE_KILLED


def test_each_change_is_counted_dated_and_signed_by_the_database(tiny: Any, table: Any) -> None:
    source_of(tiny.settings()).create()  # type: ignore[attr-defined]
    first = table("SELECT version, updated_at, updated_by FROM pilot_control")
    table("UPDATE pilot_control SET pct = 10, version = 1, updated_by = 'somebody else'")
    second = table("SELECT version, updated_at, updated_by FROM pilot_control")
    assert (first[0], second[0]) == (1, 2)
    assert second[1] > first[1]
    assert second[2] == first[2] == "postgres"


@pytest.mark.parametrize("pct", ["-1", "101", "NULL"])
def test_a_share_that_cannot_be_is_refused_by_the_database(tiny: Any, table: Any, pct: str) -> None:
    source_of(tiny.settings()).create()  # type: ignore[attr-defined]
    with pytest.raises(psycopg.errors.IntegrityError):
        table(f"UPDATE pilot_control SET pct = {pct}")


@pytest.mark.parametrize("said", ["'x', false", "NULL, false", "50, NULL", "900, false", "-1, false"])
def test_a_table_of_somebody_elses_that_says_what_cannot_be_is_refused(
    tiny: Any, table: Any, said: str
) -> None:
    kind = "text" if "'" in said else "integer"
    table(f"CREATE TABLE pilot_control (flag text, pct {kind}, killed boolean, version bigint)")
    table(f"INSERT INTO pilot_control VALUES ('dryfield', {said}, 1)")
    with pytest.raises(Refused, match="says what cannot be"):
        synced(tiny)
    assert not (tiny.control / REMOTE).exists()


def test_a_row_that_is_gone_stops_and_says_so(tiny: Any, table: Any, pilot_command: Run) -> None:
    source_of(tiny.settings()).create()  # type: ignore[attr-defined]
    table("UPDATE pilot_control SET pct = 100")
    synced(tiny)
    assert why(tiny) is Why.ASSIGNED
    table("DELETE FROM pilot_control")
    done = pilot_command("sync", "once")
    assert done.returncode == 1
    assert "there is no such row" in done.stderr
    assert why(tiny) is Why.REMOTE_KILLED


def test_a_stop_is_pushed_with_its_reason(tiny: Any, table: Any) -> None:
    source_of(tiny.settings()).create()  # type: ignore[attr-defined]
    table("UPDATE pilot_control SET pct = 100")
    assert push_kill(tiny.settings(), "it declines everybody").done
    assert table("SELECT killed, reason FROM pilot_control") == (True, "it declines everybody")
    assert synced(tiny).answer.killed
    table("DELETE FROM pilot_control")
    assert "there is no such row" in push_kill(tiny.settings(), "a test").problem


def test_a_standby_is_refused(tiny: Any, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source_of(tiny.settings()).create()  # type: ignore[attr-defined]
    table("CREATE SCHEMA a_standby")
    table("CREATE FUNCTION a_standby.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'")
    try:
        monkeypatch.setenv("PGOPTIONS", "-csearch_path=a_standby,pg_catalog,public")
        with pytest.raises(Refused, match="it is a standby, which may be behind"):
            synced(tiny)
    finally:
        monkeypatch.delenv("PGOPTIONS")
        table("DROP SCHEMA a_standby CASCADE")
    assert not (tiny.control / REMOTE).exists()


def test_a_database_that_never_answers_is_given_up(tiny: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/control"
        tiny.toml.write_text(tiny.toml.read_text() + f'\n[remote]\nsource = "postgres"\nurl = "{url}"\n')
        tiny.champion("a" * 64)
        began = time.monotonic()
        with pytest.raises(Unreachable):
            sync_once(tiny.settings(), source_of(tiny.settings(), 1))
        assert time.monotonic() - began < 10
        assert not push_kill(tiny.settings(), "a test").done
    with pytest.raises(Unreachable):
        synced(tiny)  # nobody listens there now
    assert why(tiny) is Why.NO_REMOTE


def test_a_row_that_somebody_locks_holds_no_question_up(tiny: Any, table: Any, database: str) -> None:
    source_of(tiny.settings()).create()  # type: ignore[attr-defined]
    table("UPDATE pilot_control SET pct = 100")
    with psycopg.connect(database) as other:
        other.execute("UPDATE pilot_control SET pct = 5")  # not committed
        assert synced(tiny).answer.pct == 100
        began = time.monotonic()
        assert not push_kill(tiny.settings(), "a test").done
        assert time.monotonic() - began < 12
        other.execute("LOCK TABLE pilot_control IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unreachable, match="no answer within"):
            sync_once(tiny.settings(), source_of(tiny.settings(), 1))
    assert settings_control(tiny.settings()).permission("plot 1").arm is Arm.CHAMPION


@pytest.mark.parametrize("change", ["?user=nobody_at_all", "/no_such_database?"])
def test_a_wrong_account_or_database_is_a_no_and_never_shows_a_password(
    tiny: Any, database: str, pilot_command: Run, change: str
) -> None:
    base, query = database.split("?")
    url = f"{base}{change}&{query}" if change.startswith("?") else f"{base.rsplit('/', 1)[0]}{change}{query}"
    url = url.replace("postgres@", "postgres:very-secret@")
    tiny.toml.write_text(
        tiny.toml.read_text() + '\n[remote]\nsource = "postgres"\nurl = "postgresql:///control"\n'
    )
    tiny.champion("a" * 64)
    done = pilot_command("sync", "once", PILOT_REMOTE__URL=url)
    assert done.returncode == 1, done
    assert "does not exist" in done.stderr
    assert "very-secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (tiny.control / REMOTE).exists()
