"""Systems are filled as declared: reproducibly, all or nothing, and recognisably simulated."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import duckdb
import ibis
import psycopg
import pytest

from harness.errors import PilotError
from harness.simulate import Manifest, Parameters, Target, csv_relation, fingerprint, simulate
from harness.simulate.embedded import server

# Nothing of the template's example: what a machine's bearing will read tomorrow, a regression.
MACHINES = """
tables:
  machines:
    rows: 40
    columns:
      serial: "'M' || row"
      wear: u('wear')
      installed: since() - whole('age', 1, 3000)
  readings:
    system: historian
    rows: rows()
    lookup:
      machine: {table: machines, at: u('machine')}
    columns:
      reading: row
      serial: machine.serial
      load: {sql: 50 + 20 * normal('load'), missing: 0.15-0.30}
      note: {sql: "pick('note', ['', 'ok, so far', 'said \\"no\\"', null])", blanks: true}
      count: case when chance('counted', 0.9) then whole('count', 1, 6) end
      hot: chance('hot', 0.1)
      on_day: cast(moment as date)
      taken_at: moment
      temperature: 40 + 30 * machine.wear + 0.2 * load + 8 * drift() + 2 * normal('temperature')
    duplicates:
      exact: 0.05
      near: {share: 0.1, change: {temperature: temperature + 0.5}}
  service:
    system: workshop
    each: machines
    files: {name: "service_{year}.csv", since: 2023, where: "chance('seen ' || year, 0.8)"}
    columns:
      serial: {sql: machines.serial, casing: true, names: {2023: serial, 2025: SerialNo}}
      cost: {sql: "round(900 * u('cost ' || year), 2)", money: {styles: [code_last_german, symbol]}}
      installed: {sql: machines.installed, missing: usual, dates: [german, iso]}
"""
SMALL = Parameters(rows=4000, months=12, missing=(0.1, 0.2), mess=0.6, drift=0.5, until=date(2026, 3, 31))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(tmp_path_factory.mktemp("database") / "pg") as url:
        yield url


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "simulation.yaml"
    path.write_text(MACHINES)
    return path


def silent(table: str, share: float) -> None:
    pass


def run(spec: Path, database: str, folder: Path, parameters: Parameters = SMALL) -> Manifest:
    targets = {"historian": Target("postgres", database), "workshop": Target("csv", str(folder))}
    return simulate(spec, parameters, targets, silent)


def read(database: str, table: str) -> duckdb.DuckDBPyConnection:
    """A table as ingest reads it: in Arrow batches through Ibis."""
    source = ibis.connect(database)
    try:
        connection = duckdb.connect()
        connection.register("batches", source.table(table).to_pyarrow_batches(chunk_size=1000))
        connection.execute(f"create table {table} as select * from batches")
        return connection
    finally:
        source.disconnect()


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.csv"))}


def rows(database: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(sql.encode()).fetchall()


def test_what_was_filled_is_recognised_both_ways_until_one_value_changes(
    spec: Path, database: str, tmp_path: Path
) -> None:
    manifest = run(spec, database, tmp_path / "drop")
    assert set(manifest.tables) == {"readings", "service"}
    assert fingerprint(read(database, "readings"), "readings") == manifest.tables["readings"]
    files = csv_relation(str(tmp_path / "drop" / "service_*.csv"))
    assert fingerprint(duckdb.connect(), files) == manifest.tables["service"]

    with psycopg.connect(database) as connection:
        connection.execute("update readings set load = load + 1e-9 where reading = 7 and load is not null")
    changed = fingerprint(read(database, "readings"), "readings")
    assert changed.rows == manifest.tables["readings"].rows
    assert changed.digest != manifest.tables["readings"].digest
    first = next((tmp_path / "drop").glob("*.csv"))
    first.write_text(first.read_text().replace("€", "EUR", 1))
    assert fingerprint(duckdb.connect(), files).digest != manifest.tables["service"].digest


def test_the_digest_forgets_order_and_threads_and_nothing_else() -> None:
    connection = duckdb.connect()
    ordered = "(select i as a, 'x' || i as b from range(50000) t(i))"
    expected = fingerprint(connection, ordered)
    connection.execute("set threads = 1")
    assert fingerprint(connection, f"(select b, a from {ordered} order by hash(a))") == expected
    for other in (
        "(values (1, null))",
        "(values (1, ''))",
        "(values (1, '-'))",
        "(values (1, null), (1, null))",
        "(values (null, '1'))",
        "(select 1 as col0, null as other)",
    ):
        assert fingerprint(connection, other) not in [expected, *seen_before(connection, other)]


def seen_before(connection: duckdb.DuckDBPyConnection, besides: str) -> list[object]:
    others = ["(values (1, null))", "(values (1, ''))", "(values (1, '-'))"]
    return [fingerprint(connection, other) for other in others if other != besides]


def test_values_cannot_pose_as_a_border() -> None:
    connection = duckdb.connect()
    assert fingerprint(connection, "(values ('a', '1:b'))") != fingerprint(
        connection, "(values ('a1:', 'b'))"
    )


def test_a_seed_gives_the_same_bytes_in_any_number_of_portions(
    spec: Path, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(spec, database, tmp_path / "one")
    before = rows(database, "select * from readings")
    monkeypatch.setattr("harness.simulate.deliver.PORTION", 777)
    monkeypatch.setattr("harness.simulate.world.PORTION", 999)
    assert run(spec, database, tmp_path / "two") == first
    assert rows(database, "select * from readings") == before
    assert content(tmp_path / "one") == content(tmp_path / "two")
    other = run(spec, database, tmp_path / "three", SMALL.model_copy(update={"seed": 2}))
    assert other.tables["readings"].digest != first.tables["readings"].digest


def test_the_declared_mess_arrives(spec: Path, database: str, tmp_path: Path) -> None:
    manifest = run(spec, database, tmp_path / "drop")
    assert manifest.tables["readings"].rows > 4000 * 1.05
    [(missing, notes, empty)] = rows(
        database,
        "select avg((load is null)::int), count(distinct note), count(*) filter (where note = '')"
        " from readings",
    )
    assert 0.13 < float(str(missing)) < 0.32
    assert int(str(notes)) > 3
    assert int(str(empty)) > 100
    text = {path.name: path.read_text().splitlines() for path in (tmp_path / "drop").glob("*.csv")}
    assert sorted(text) == [f"service_{year}.csv" for year in (2023, 2024, 2025, 2026)]
    assert text["service_2024.csv"][0] == '"serial","cost","installed"'
    assert text["service_2025.csv"][0] == '"SerialNo","cost","installed"'
    everything = "\n".join(line for lines in text.values() for line in lines[1:])
    assert " €" in everything
    assert '"€' in everything
    assert ',"' in everything
    assert ",\n" in everything


def test_a_tidy_system_has_one_format_and_nothing_twice(spec: Path, database: str, tmp_path: Path) -> None:
    tidy = SMALL.model_copy(update={"mess": 0.0, "missing": (0.0, 0.0)})
    manifest = run(spec, database, tmp_path / "drop", tidy)
    assert manifest.tables["readings"].rows == 4000
    everything = "".join(path.read_text() for path in (tmp_path / "drop").glob("*.csv"))
    assert '"€' not in everything
    assert "-" not in everything


def test_drift_moves_the_distribution_with_time(spec: Path, database: str, tmp_path: Path) -> None:
    late = (
        "select avg(temperature) filter (where taken_at > '2026-01-01')"
        " - avg(temperature) filter (where taken_at < '2025-07-01') from readings"
    )
    run(spec, database, tmp_path / "drop", SMALL.model_copy(update={"drift": 1.0}))
    assert float(str(rows(database, late)[0][0])) > 4
    run(spec, database, tmp_path / "drop", SMALL.model_copy(update={"drift": 0.0}))
    assert abs(float(str(rows(database, late)[0][0]))) < 1.5


def test_a_failure_leaves_every_system_as_it_was(spec: Path, database: str, tmp_path: Path) -> None:
    run(spec, database, tmp_path / "drop")
    before = content(tmp_path / "drop"), rows(database, "select sum(temperature), count(*) from readings")
    # The readings are copied when the last table turns out to be wrong.
    spec.write_text(MACHINES.replace("round(900 *", "cast('x' || row as integer) + round(800 *"))
    with pytest.raises(PilotError):
        run(spec, database, tmp_path / "drop", SMALL.model_copy(update={"seed": 3}))
    assert (
        content(tmp_path / "drop"),
        rows(database, "select sum(temperature), count(*) from readings"),
    ) == before
    assert not (tmp_path / "drop" / ".writing").exists()


def test_an_interrupt_leaves_every_system_as_it_was(spec: Path, database: str, tmp_path: Path) -> None:
    run(spec, database, tmp_path / "drop")
    before = content(tmp_path / "drop"), rows(database, "select sum(temperature), count(*) from readings")

    def interrupt(table: str, share: float) -> None:
        if table == "service" and share > 0:
            raise KeyboardInterrupt

    targets = {"historian": Target("postgres", database), "workshop": Target("csv", str(tmp_path / "drop"))}
    with pytest.raises(KeyboardInterrupt):
        simulate(spec, SMALL.model_copy(update={"seed": 4}), targets, interrupt)
    assert (
        content(tmp_path / "drop"),
        rows(database, "select sum(temperature), count(*) from readings"),
    ) == before


def test_ctrl_c_inside_a_query_is_an_interrupt(spec: Path, database: str, tmp_path: Path) -> None:
    spec.write_text(MACHINES.replace("rows: rows()", "rows: 50000000"))
    started = time.monotonic()
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    # Started with & by a script, the tests would ignore it and wait for the fifty million rows.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(spec, database, tmp_path / "drop")
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 20


def test_fewer_years_leave_no_file_of_before(spec: Path, database: str, tmp_path: Path) -> None:
    run(spec, database, tmp_path / "drop")
    spec.write_text(MACHINES.replace("since: 2023", "since: 2025"))
    run(spec, database, tmp_path / "drop")
    assert sorted(content(tmp_path / "drop")) == ["service_2025.csv", "service_2026.csv"]


def test_real_data_are_never_replaced(spec: Path, database: str, tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    (folder / "service_2020.csv").write_text("serial\nM1\n")
    with pytest.raises(PilotError, match="not simulated"):
        run(spec, database, folder)
    assert (folder / "service_2020.csv").read_text() == "serial\nM1\n"
    with psycopg.connect(database) as connection:
        connection.execute("drop table if exists readings; create table readings (mine int)")
    try:
        with pytest.raises(PilotError, match="not simulated"):
            run(spec, database, tmp_path / "other")
        assert rows(database, "select count(*) from readings where mine is null") == [(0,)]
    finally:
        with psycopg.connect(database) as connection:
            connection.execute("drop table readings")


def test_progress_is_told_for_each_table_and_never_goes_back(
    spec: Path, database: str, tmp_path: Path
) -> None:
    told: list[tuple[str, float]] = []
    targets = {"historian": Target("postgres", database), "workshop": Target("csv", str(tmp_path / "drop"))}
    simulate(spec, SMALL, targets, lambda table, share: told.append((table, share)))
    assert list(dict.fromkeys(table for table, _ in told)) == ["machines", "readings", "service"]
    for name in ("machines", "readings", "service"):
        shares = [share for table, share in told if table == name]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_systems_that_cannot_be_filled(spec: Path, database: str, tmp_path: Path) -> None:
    with pytest.raises(PilotError, match="'workshop' is not among"):
        simulate(spec, SMALL, {"historian": Target("postgres", database)}, silent)
    both = {"historian": Target("postgres", database), "workshop": Target("postgres", database)}
    with pytest.raises(PilotError, match="drops no files"):
        simulate(spec, SMALL, both, silent)
    with pytest.raises(PilotError, match="which"):
        simulate(spec, SMALL, {name: Target("csv", str(tmp_path / name)) for name in both}, silent)
    (tmp_path / "file").write_text("")
    with pytest.raises(PilotError, match="cannot be written"):
        run(spec, database, tmp_path / "file" / "drop")
    with pytest.raises(PilotError, match="cannot be reached"):
        run(spec, "postgresql://nobody@127.0.0.1:1/none", tmp_path / "drop")


def test_a_manifest_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "simulation.json"
    with pytest.raises(PilotError, match="missing"):
        Manifest.read(path)
    manifest = Manifest(parameters=SMALL, tables={"t": fingerprint(duckdb.connect(), "(values (1))")})
    manifest.write(path)
    assert Manifest.read(path) == manifest
    assert [entry.name for entry in tmp_path.iterdir()] == ["simulation.json"]
    path.write_text('{"parameters": {}, "tables": {}, "more": 1}')
    with pytest.raises(PilotError, match="cannot be read"):
        Manifest.read(path)
