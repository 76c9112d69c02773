"""Every kind of source gives its rows or says by name why not: files, stores, SQLite, DuckDB, any address."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.data import databases
from harness.data.snapshot import Counts
from harness.errors import CheckFailed, PilotError
from harness.pilot import Table
from harness.source_kinds import DuckdbSource, SqliteSource
from ingesting import Plant, reading, sqlite_table

CSV = (Table("readings", "plant", files="readings_*.csv"),)
PARQUET = (Table("readings", "plant", key="reading", watermark="at", files="readings_*.parquet"),)
LINES = "reading,heat\nr1,20\nr2,30\n"
FRAME = pa.table({"reading": ["r1", "r2"], "at": [datetime(2026, 3, 1), datetime(2026, 3, 2)]})


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop"


@pytest.fixture
def plant(tmp_path: Path, drop: Path) -> Plant:
    return Plant(tmp_path, 'kind = "files"\npath = "drop"', CSV)


@pytest.mark.parametrize("kind", ["csv", "files"])
def test_csv_in_a_folder_is_text_with_its_file_and_place(tmp_path: Path, drop: Path, kind: str) -> None:
    plant = Plant(tmp_path, f'kind = "{kind}"\npath = "drop"', CSV)
    (drop / "readings_1.csv").write_text(LINES)
    (drop / "readings_2.csv").write_text("reading;warmth\nr3;40,5\n")
    plant.ingest()
    assert plant.received() == [
        ("readings_1.csv", 1, "20", "r1", None),
        ("readings_1.csv", 2, "30", "r2", None),
        ("readings_2.csv", 3, None, "r3", "40,5"),
    ]


def in_memory(name: str, content: bytes) -> str:
    store = fsspec.filesystem("memory")
    with store.open(f"/bucket/drop/{name}", "wb") as stream:
        stream.write(content)
    return "memory://bucket/drop"


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_files_behind_an_address_are_read_through_fsspec(tmp_path: Path, drop: Path, scheme: str) -> None:
    pq.write_table(FRAME, drop / "readings_1.parquet")
    in_memory("readings_1.parquet", (drop / "readings_1.parquet").read_bytes())
    address = f"file://{drop}" if scheme == "file" else "memory://bucket/drop"
    plant = Plant(tmp_path, f'kind = "files"\npath = "{address}"', PARQUET)
    plant.ingest()
    assert [row[1:] for row in plant.received()] == [
        (datetime(2026, 3, 1), "r1"),
        (datetime(2026, 3, 2), "r2"),
    ]
    plant.tables = CSV
    in_memory("readings_1.csv", LINES.encode())
    (drop / "readings_1.csv").write_text(LINES)
    plant.ingest()
    assert [row[2] for row in plant.received()] == ["20", "30"]


def test_an_object_store_whose_package_is_missing_is_named_with_it(tmp_path: Path) -> None:
    plant = Plant(tmp_path, 'kind = "files"\npath = "gs://bucket/drop"', CSV)
    with pytest.raises(PilotError, match=r"needs a package that is not installed: .*gcsfs") as caught:
        plant.ingest()
    assert caught.value.where == "pilot.toml [sources.plant] path"


def test_an_address_of_no_known_store_is_refused(tmp_path: Path) -> None:
    plant = Plant(tmp_path, 'kind = "files"\npath = "fax://bucket/drop"', CSV)
    with pytest.raises(PilotError, match="cannot be opened: Protocol not known: fax"):
        plant.ingest()


def test_new_files_bring_new_and_changed_rows_and_the_old_ones_are_repeated(plant: Plant, drop: Path) -> None:
    plant.tables = (Table("readings", "plant", key="reading", watermark="at", files="readings_*.csv"),)
    (drop / "readings_1.csv").write_text("reading,heat,at\nr1,20,2026-03-01\nr2,30,2026-03-02T10:00:00\n")
    plant.ingest()
    # The same row again in the file of the next day, one corrected, one new.
    (drop / "readings_2.csv").write_text(
        "reading,heat,at\nr2,30,2026-03-02T10:00:00\nr1,21,2026-03-03\nr3,1,2026-03-02 11:00\n"
    )
    plant.ingest()
    assert plant.last() == Counts(read=4, new=1, changed=1, repeated=2)
    assert {row[3]: row[2] for row in plant.received()} == {"r1": "21", "r2": "30", "r3": "1"}


def test_parquet_is_read_from_the_watermark_on(plant: Plant, drop: Path) -> None:
    plant.tables = PARQUET
    pq.write_table(FRAME, drop / "readings_1.parquet")
    plant.ingest()
    more = FRAME.append_column("heat", pa.array([None, 3.5]))
    more = more.set_column(1, "at", pa.array([datetime(2026, 3, 2), datetime(2026, 3, 3)]))
    pq.write_table(more, drop / "readings_2.parquet")
    assert "plant: PLACE: new since the last read: heat" in [
        note.replace(f"{drop}/readings_*.parquet", "PLACE") for note in plant.ingest().notes
    ]
    # From 1 March on: r1 and r2 as they were, and both anew.
    assert plant.last() == Counts(read=4, changed=2, repeated=2, late=0)
    assert {row[-1] for row in plant.received()} == {"r1", "r2"}


def damaged(name: str, content: bytes | str) -> Callable[[Path], Any]:
    content = content.encode() if isinstance(content, str) else content
    return lambda drop: (drop / name).write_bytes(content)


MANY = "reading,heat,machine\n" + "r1,20,m1\n" * 30_000


@pytest.mark.parametrize(
    ("damage", "said", "where"),
    [
        (
            damaged("readings_2.csv", "reading,heat,machine\nr3,20,m1\nr4,3"),
            "the 3 columns",
            "readings_2.csv",
        ),
        (
            damaged("readings_2.csv", 'reading,heat,machine\nr3,20,m1\nr4,"3'),
            "the 3 columns",
            "readings_2.csv",
        ),
        (
            damaged("readings_2.csv", "reading,heat\nr3,20,9\nr4,3,9,9\n"),
            "the 2 columns|as CSV",
            "readings_2.csv",
        ),
        (damaged("readings_2.csv", MANY + "r4,3"), "cannot be read as CSV", "readings_2.csv"),
        (damaged("readings_2.csv", MANY + "r4,3,m1,m2\n"), "cannot be read as CSV", "readings_2.csv"),
        (damaged("readings_2.csv", ""), "the file is empty, without even", "readings_2.csv"),
        (
            damaged("readings_2.csv", "reading,heat\nr3,warm: 20°\n".encode() + b"r4,k\xfchl\n"),
            "line 3 is not UTF-8: the file is in another encoding, or in two",
            "readings_2.csv",
        ),
        (
            damaged("readings_2.csv", (MANY + "r4,kühl,m1\n").encode("latin-1")),
            "is not UTF-8",
            "readings_2.csv",
        ),
        (damaged("readings_2.csv", LINES.encode("utf-16")), "is not UTF-8", "readings_2.csv"),
        (damaged("readings_2.csv", gzip.compress(b"reading")), "is not UTF-8|as CSV", "readings_2.csv"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "files"])
def test_a_file_that_is_cut_off_or_written_otherwise_is_named(
    tmp_path: Path, drop: Path, damage: Callable[[Path], Any], said: str, where: str, kind: str
) -> None:
    plant = Plant(tmp_path, f'kind = "{kind}"\npath = "drop"', CSV)
    (drop / "readings_1.csv").write_text(LINES)
    plant.ingest()
    before = plant.bytes()
    damage(drop)
    with pytest.raises(PilotError, match=said) as caught:
        plant.ingest()
    assert caught.value.where.endswith(where)
    # What a line says may be about a person.
    assert "r4," not in str(caught.value)
    assert plant.bytes() == before


def test_csv_that_is_compressed_quoted_or_of_one_column_is_read(plant: Plant, drop: Path) -> None:
    (drop / "readings_1.csv").write_text('reading,"heat, in C"\nr1,"a, b\nc"\n')
    plant.ingest()
    assert plant.received() == [("readings_1.csv", 1, "a, b\nc", "r1")]
    (drop / "readings_1.csv").write_text("reading\nr1\n")
    plant.ingest(full=True)
    assert plant.received() == [("readings_1.csv", 1, "r1")]
    plant.tables = (Table("readings", "plant", files="*.csv.gz"),)
    (drop / "readings.csv.gz").write_bytes(gzip.compress(LINES.encode()))
    plant.ingest()
    assert len(plant.received()) == 2


def test_parquet_that_is_cut_off_is_named(plant: Plant, drop: Path) -> None:
    plant.tables = PARQUET
    pq.write_table(FRAME, drop / "readings_1.parquet")
    whole = (drop / "readings_1.parquet").read_bytes()
    (drop / "readings_1.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PilotError, match="the files cannot be read as Parquet"):
        plant.ingest()


@pytest.mark.parametrize(
    "column", [pa.array([1, 2], pa.timestamp("us", "UTC")), pa.array(["a", "b"]), pa.array([1, 2])]
)
def test_files_that_hold_a_column_in_different_types_are_not_cast_into_one(
    plant: Plant, drop: Path, column: pa.Array
) -> None:
    plant.tables = PARQUET
    pq.write_table(FRAME, drop / "readings_1.parquet")
    pq.write_table(FRAME.set_column(1, "at", column), drop / "readings_2.parquet")
    with pytest.raises(PilotError, match="the column 'at' has another type in some files"):
        plant.ingest()


def test_a_sqlite_file_is_opened_for_reading_only(tmp_path: Path) -> None:
    sqlite_table(tmp_path, [reading(1, 1)])
    plant = Plant(tmp_path)
    with databases.sqlite(
        plant.settings, "plant", SqliteSource(kind="sqlite", path=Path("plant.db"))
    ) as opened:
        connection: Any = opened.backend.con  # type: ignore[attr-defined]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("delete from readings")
    assert plant.ingest().evidence["credentials"] == {"plant": {"may_write": []}}


def test_a_duckdb_file_is_opened_for_reading_only(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "plant.duckdb")) as connection:
        connection.execute("create table readings as select 'r1' as reading, timestamp '2026-03-01' as at")
    plant = Plant(tmp_path, 'kind = "duckdb"\npath = "plant.duckdb"')
    plant.ingest()
    assert plant.received() == [(datetime(2026, 3, 1), "r1")]
    source = DuckdbSource(kind="duckdb", path=Path("plant.duckdb"))
    with databases.duckdb_file(plant.settings, "plant", source) as opened:
        backend: Any = opened.backend
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            backend.raw_sql("delete from readings")
    with duckdb.connect(str(tmp_path / "plant.duckdb")) as connection:
        connection.execute("insert into readings values ('r2', timestamp '2026-03-02')")
    plant.ingest()
    assert plant.last() == Counts(read=2, new=1, repeated=1)


def test_any_address_that_ibis_takes_is_read(tmp_path: Path) -> None:
    sqlite_table(tmp_path, [reading(1, 1)])
    plant = Plant(tmp_path, f'kind = "ibis"\nurl = "sqlite://{tmp_path}/plant.db"')
    said = plant.ingest()
    sqlite_table(tmp_path, [reading(1, 1), reading(2, 2)])
    plant.ingest()
    assert plant.last() == Counts(read=2, new=1, repeated=1)
    # Nobody can be asked.
    assert said.evidence["credentials"] == {"plant": {"may_write": None}}


@pytest.mark.parametrize(
    ("source", "said", "mend"),
    [
        ('kind = "ibis"\nurl = "snowflake://me:secret@acme/db"', "its backend is not installed", "snowflake"),
        ('kind = "ibis"\nurl = "fax://me:secret@acme/db"', "Ibis cannot connect: .*fax", "Check that"),
        ('kind = "ibis"\nurl = "duckdb://plant.db"', "a DuckDB file has a kind of its", "Write kind"),
        ('kind = "sqlite"\npath = "nowhere.db"', "no such file", "Correct the path"),
        ('kind = "duckdb"\npath = "nowhere.db"', "no such file", "Correct the path"),
        ('kind = "sqlite"\npath = "pilot.toml"', "it cannot be opened as SQLite", "Check that it is one"),
        ('kind = "duckdb"\npath = "pilot.toml"', "it cannot be opened as DuckDB", "Check that it is one"),
    ],
)
def test_a_source_that_cannot_be_opened_is_named(tmp_path: Path, source: str, said: str, mend: str) -> None:
    with pytest.raises(PilotError, match=said) as caught:
        Plant(tmp_path, source).ingest()
    assert mend in caught.value.mend
    assert "secret" not in str(caught.value)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    sqlite_table(tmp_path, [])
    for source in (
        'kind = "sqlite"\npath = "plant.db"',
        f'kind = "ibis"\nurl = "sqlite://{tmp_path}/plant.db"',
    ):
        plant = Plant(tmp_path, source, (Table("repairs", "plant"),))
        with pytest.raises(PilotError, match="the table does not exist") as caught:
            plant.ingest()
        assert caught.value.where == "plant.repairs"


def test_a_text_in_a_column_of_numbers_stops_the_reading_and_is_never_a_null(tmp_path: Path) -> None:
    sqlite_table(tmp_path, [reading(1, 1), ("r2", "m1", "warm", datetime(2026, 3, 1))])
    with pytest.raises((PilotError, CheckFailed), match="a value cannot be taken over as it is"):
        Plant(tmp_path).ingest()
