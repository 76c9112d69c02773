"""Ingest on a real PostgreSQL: killed at any moment, with rights that are asked for, and odd values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.data import databases
from harness.data.snapshot import Counts
from harness.errors import CheckFailed, PilotError
from harness.simulate.embedded import server
from harness.source_kinds import PostgresSource
from ingesting import TWO_TABLES, Plant, Row, reading

HERE = Path(__file__).parent
CREATE = "create table {} (reading text, machine text, heat double precision, at timestamp)"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture
def database(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        for name in ("readings", "repairs"):
            connection.execute(f"drop table if exists {name} cascade")  # type: ignore[call-overload]
            connection.execute(CREATE.format(name))  # type: ignore[call-overload]
        yield connection


@pytest.fixture
def plant(tmp_path: Path, url: str) -> Plant:
    return Plant(tmp_path, f'kind = "postgres"\nurl = "{url}"')


def add(database: psycopg.Connection, table: str, rows: list[Row]) -> None:
    with database.cursor() as cursor:
        cursor.executemany(f"insert into {table} values (%s, %s, %s, %s)", rows)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def killing() -> Iterator[Callable[..., int]]:
    """Starts an ingest that is killed with SIGKILL; says how it ended."""
    path = os.environ.get("PYTHONPATH", "")
    process = subprocess.Popen(
        [sys.executable, str(HERE / "killed_ingest.py")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([path, str(HERE.parent)])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout

    def kill(plant: Plant, what: str, number: int, *, full: bool = False) -> int:
        wanted = {
            "root": str(plant.root),
            "source": plant.source,
            "what": what,
            "number": number,
            "full": full,
        }
        process.stdin.write(json.dumps(wanted) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return int(process.stdout.readline())  # type: ignore[union-attr]

    yield kill
    process.stdin.close()
    process.wait(30)


POINTS = [
    ("a batch", 1),  # half of the first table is there
    ("a batch", 2),
    ("a sync", 1),  # everything is read, and nothing renamed
    ("a rename", 1),  # the first table has its part, the second one not
    ("a sync", 2),
    ("a rename", 2),
    ("a sync", 4),
]


def test_an_ingest_that_is_killed_at_any_moment_loses_and_doubles_nothing(
    plant: Plant, database: psycopg.Connection, killing: Callable[..., int], tmp_path: Path
) -> None:
    plant.tables = TWO_TABLES
    for step, (what, number) in enumerate(POINTS):
        first = step * 40
        for table in ("readings", "repairs"):
            add(database, table, [reading(each, each / 10) for each in range(first, first + 40)])
            database.execute(
                f"update {table} set heat = {step}, at = at + interval '4 hours'"  # type: ignore[arg-type]
                f" where reading like 'r%3'"
                f" and at >= timestamp '2026-03-01 10:00' + interval '{step * 4} hours'"
            )
        assert killing(plant, what, number) == -9, (what, number)
        if step % 2:
            plant.ingest()
    plant.ingest()
    same_as_a_whole_read(plant, tmp_path / "whole")


def test_a_full_read_that_is_killed_leaves_an_earlier_state_to_go_on_from(
    plant: Plant, database: psycopg.Connection, killing: Callable[..., int], tmp_path: Path
) -> None:
    plant.tables = TWO_TABLES
    for step in range(3):
        for table in ("readings", "repairs"):
            add(database, table, [reading(each, each) for each in range(step * 40, step * 40 + 40)])
        plant.ingest()
    # The deletions of a full read are those of the later parts: the last one first.
    for number in (1, 2, 3):
        assert killing(plant, "a deletion", 2 + number, full=True) == -9
        plant.ingest()
        same_as_a_whole_read(plant, tmp_path / f"whole{number}")
    assert [part.number for part in plant.parts()] == list(range(len(plant.parts())))


def same_as_a_whole_read(plant: Plant, folder: Path) -> None:
    folder.mkdir()
    other = Plant(folder, plant.source, plant.tables)
    other.ingest()
    for table in plant.tables:
        assert plant.received(table.name) == other.received(table.name)
        rows = plant.received(table.name)
        assert len({row[3] for row in rows}) == len(rows)
    assert not list(plant.root.rglob("*.part"))


def account(database: psycopg.Connection, url: str, *grants: str) -> str:
    """The address for an account that may do what is granted, and no more."""
    database.execute("drop owned by visitor" if _exists(database) else "create role visitor login")
    for grant in grants:
        database.execute(f"grant {grant} to visitor")  # type: ignore[call-overload]
    return url.replace("postgres:@", "visitor:@")


def _exists(database: psycopg.Connection) -> bool:
    return bool(database.execute("select 1 from pg_roles where rolname = 'visitor'").fetchone())


@pytest.mark.parametrize(
    ("grants", "may_write"),
    [
        (["select on readings, repairs"], []),
        (["select on readings, repairs", "insert on repairs"], ["repairs"]),
        (
            ["select on readings, repairs", "truncate on readings", "update on repairs"],
            ["readings", "repairs"],
        ),
    ],
)
def test_whether_the_account_may_write_is_asked_and_said(
    plant: Plant, database: psycopg.Connection, url: str, grants: list[str], may_write: list[str]
) -> None:
    plant.tables = TWO_TABLES
    plant.source = f'kind = "postgres"\nurl = "{account(database, url, *grants)}"'
    said = plant.ingest()
    assert said.evidence["credentials"] == {"plant": {"may_write": may_write}}
    warned = [note for note in said.notes if "may write" in note]
    listed = ", ".join(may_write)
    assert warned == [f"plant: this account may write in {listed}; give it one that only reads"] * bool(
        may_write
    )


def test_a_session_cannot_write_whatever_the_account_may(plant: Plant, url: str) -> None:
    source = PostgresSource(kind="postgres", url=url)
    with databases.postgres(plant.settings, "plant", source) as opened:
        connection: Any = opened.backend.con  # type: ignore[attr-defined]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("create table mine (a int)")


def test_an_account_that_may_not_read_is_told_so(
    plant: Plant, database: psycopg.Connection, url: str
) -> None:
    plant.source = f'kind = "postgres"\nurl = "{account(database, url)}"'
    with pytest.raises(PilotError, match="this account may not read it: permission denied") as caught:
        plant.ingest()
    assert caught.value.where == "plant.readings"


def test_a_value_that_no_other_system_has_is_refused_by_name(
    plant: Plant, database: psycopg.Connection
) -> None:
    database.execute("alter table readings add column until date")
    database.execute("insert into readings values ('r1', 'm1', 1, '2026-03-01', 'infinity')")
    with pytest.raises(PilotError, match="a value cannot be taken over as it is: date too large") as caught:
        plant.ingest()
    assert caught.value.where == "plant.readings"
    database.execute("update readings set until = '9999-12-31'")
    plant.ingest()


def test_a_timestamp_column_that_gets_a_time_zone_is_retyped(
    plant: Plant, database: psycopg.Connection
) -> None:
    add(database, "readings", [reading(1, 1)])
    plant.ingest()
    database.execute("alter table readings alter column at type timestamptz")
    said = r"'at' was timestamp\[us\] and is timestamp\[us, tz=UTC\] now"
    with pytest.raises(CheckFailed, match=said):
        plant.ingest()
    plant.ingest(full=True)
    database.execute("insert into readings values ('r2', 'm1', 1, '2026-03-01 15:00:00+01')")
    plant.ingest()
    assert plant.last() == Counts(read=2, new=1, repeated=1)
