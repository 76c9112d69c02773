"""The store as Parquet: a file a table and day, whole or not there, with its digest, and read as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from delivering import MADE
from harness.errors import PilotError
from harness.store import DecisionStore, Outcome, OutcomeStore, StoreUnavailable
from harness.store.export import SUMS, export

DAYS = ("2026-03-01", "2026-03-02", "2026-03-03")
NIGHT = datetime(2026, 3, 4, 0, 5, tzinfo=UTC)


@pytest.fixture
def store(store_url: str) -> Iterator[DecisionStore]:
    opened = DecisionStore(store_url)
    yield opened
    opened.close()


def fill(store: DecisionStore) -> None:
    for number, day in enumerate(DAYS):
        moments = ("00:00:00.000000", "23:59:59.999999")
        store.record_all(
            [
                replace(MADE, decision_id=f"d-{number}-{n}", decided_at=f"{day}T{moment}+00:00")
                for n, moment in enumerate(moments)
            ]
        )


def read(to: Path, what: str) -> list[Any]:
    files = f"{to}/decisions/*/*.parquet"
    return duckdb.sql(f"SELECT {what} FROM read_parquet('{files}', hive_partitioning = true)").fetchall()


def test_days_that_are_over_are_written_and_read_as_one_table(store: DecisionStore, tmp_path: Path) -> None:
    fill(store)
    OutcomeStore(store.database).add([Outcome("r-1", True)], source="a file")
    done = export(store.database, tmp_path, at=NIGHT)
    assert done.written == tuple(f"decisions/date={day}/part.parquet" for day in DAYS[:2])
    assert done.rows == 4
    assert [str(day) for (day,) in sorted(read(tmp_path, "DISTINCT date"))] == list(DAYS[:2])
    record, score, sandbox = read(tmp_path, "record, score, sandbox")[0]
    assert (json.loads(record), score, sandbox) == (MADE.record, MADE.score, True)
    for line in (tmp_path / SUMS).read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_a_second_run_writes_only_what_is_new(store: DecisionStore, tmp_path: Path) -> None:
    fill(store)
    export(store.database, tmp_path, at=NIGHT)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}
    done = export(store.database, tmp_path, at=NIGHT.replace(hour=1))
    assert (done.written, done.kept) == ((f"decisions/date={DAYS[2]}/part.parquet",), 2)
    assert {file: file.stat().st_mtime_ns for file in times} == times


def test_a_run_that_breaks_off_leaves_whole_days_and_is_taken_up(
    store: DecisionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.store import export as module

    fill(store)
    rows = module._rows

    def broken(database: Any, table: Any, moment: Any, day: str) -> Iterator[Any]:
        yield from rows(database, table, moment, day)
        if day == DAYS[1]:
            raise StoreUnavailable("gone", where="here", mend="")

    monkeypatch.setattr(module, "_rows", broken)
    with pytest.raises(StoreUnavailable):
        export(store.database, tmp_path, at=NIGHT)
    assert [file.parent.name for file in tmp_path.rglob("*.parquet*")] == [f"date={DAYS[0]}"]
    monkeypatch.setattr(module, "_rows", rows)
    assert export(store.database, tmp_path, at=NIGHT).written == (f"decisions/date={DAYS[1]}/part.parquet",)
    assert len(read(tmp_path, "decision_id")) == 4


def test_a_file_that_was_changed_is_told(store: DecisionStore, tmp_path: Path) -> None:
    fill(store)
    export(store.database, tmp_path, at=NIGHT)
    (tmp_path / f"decisions/date={DAYS[0]}/part.parquet").write_bytes(b"something else")
    with pytest.raises(PilotError, match="not what was written there"):
        export(store.database, tmp_path, at=NIGHT)


def test_the_command_exports(tiny: Any, pilot_here: Callable[..., Any], tmp_path: Path) -> None:
    store = DecisionStore(tiny.settings().sqlite_url(tiny.settings().store.url))
    fill(store)
    store.close()
    done = json.loads(pilot_here("store", "export", "--to", str(tmp_path / "out"), "--json").stdout)
    assert (len(done["written"]), done["rows"]) == (3, 6)
    (tmp_path / "a file").write_text("")
    assert pilot_here("store", "export", "--to", str(tmp_path / "a file" / "out")).returncode == 2
    assert asdict(MADE)["record"] == json.loads(read(tmp_path / "out", "record")[0][0])
