"""Ingest reads what is new, and what it keeps is what a whole read gives: nothing lost, nothing twice."""

from __future__ import annotations

import random
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from harness.data import snapshot
from harness.data.origin import MANIFEST, origin
from harness.data.snapshot import Counts
from harness.errors import CheckFailed, PilotError
from harness.pilot import Table
from harness.simulate import Manifest, Parameters, fingerprint
from ingesting import HOUR, READINGS, START, Plant, change, reading, sqlite_table


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    sqlite_table(tmp_path, [reading(number, number / 10) for number in range(100)])
    return Plant(tmp_path)


def test_what_has_not_changed_is_read_and_adds_nothing(plant: Plant) -> None:
    said = plant.ingest()
    before = plant.bytes()
    assert list(before) == ["readings/part-000000.parquet"]
    assert plant.last() == Counts(read=100, new=100)
    assert plant.ingest().evidence == said.evidence
    assert plant.bytes() == before


def test_only_what_is_newer_than_the_last_read_less_the_lookback_is_read(plant: Plant) -> None:
    plant.tables = (Table("readings", "plant", key="reading", watermark="at", lookback=HOUR),)
    plant.ingest()
    sqlite_table(plant.root, [reading(number, number / 10) for number in range(103)])
    said = plant.ingest()
    # The newest was at 9.9 hours; from 8.9 on there are 11 old rows and three new ones.
    assert plant.last() == Counts(read=14, new=3, repeated=11)
    assert said.notes == ["plant.readings from 2026-03-01 20:54:00 on: 3 new, 11 repeated"]
    assert len(plant.received()) == 103
    assert [part.rows for part in plant.parts()] == [100, 3]


def test_changed_late_and_repeated_rows_are_told_apart_and_the_newest_version_counts(plant: Plant) -> None:
    plant.ingest()
    change(
        plant.root,
        "update readings set heat = 99, at = '2026-03-02 00:00:00' where reading = 'r0007'",
        "insert into readings values ('r9000', 'm1', 1, '2026-03-01 13:00:00')",
        "insert into readings values ('r9001', 'm1', 1, '2026-03-03 13:00:00')",
        "insert into readings select * from readings where reading = 'r0050'",
    )
    plant.ingest()
    assert plant.last() == Counts(read=103, new=2, changed=1, late=1, repeated=100)
    received = {row[3]: row[1] for row in plant.received()}
    assert received["r0007"] == 99
    assert len(received) == len(plant.received()) == 102
    # The earlier version stays in the snapshot.
    assert plant.kept() == 103


def test_a_row_that_changed_without_a_newer_watermark_is_taken_as_it_was_read_last(plant: Plant) -> None:
    plant.ingest()
    for heat in (30, 20, 30):  # there and back, and there again
        change(plant.root, f"update readings set heat = {heat} where reading = 'r0099'")
        assert "1 without a newer at" in plant.ingest().notes[0]
        assert {row[3]: row[1] for row in plant.received()}["r0099"] == heat
    assert [part.about.counts.unmarked for part in plant.parts()] == [0, 1, 1, 1]


def test_an_older_version_that_comes_back_does_not_replace_a_newer_one(plant: Plant) -> None:
    plant.ingest()
    change(plant.root, "update readings set heat = 99, at = '2026-03-02 00:00:00' where reading = 'r0099'")
    plant.ingest()
    change(plant.root, f"update readings set heat = 20, at = '{START + 9.9 * HOUR}' where reading = 'r0099'")
    plant.ingest()
    assert {row[3]: row[1] for row in plant.received()}["r0099"] == 99
    assert len(plant.parts()) == 2


def test_a_row_that_the_source_deleted_stays_and_is_counted_until_a_full_read(plant: Plant) -> None:
    plant.ingest()
    change(
        plant.root,
        "delete from readings where reading = 'r0000'",  # the first that is read again
        "insert into readings values ('r9001', 'm1', 1, '2026-03-02 13:00:00')",
    )
    assert "1 new, 99 repeated, 1 gone, and kept" in plant.ingest().notes[0]
    assert len(plant.received()) == 101
    plant.ingest(full=True)
    assert len(plant.received()) == 100
    assert list(plant.bytes()) == ["readings/part-000000.parquet"]


def test_rows_that_come_twice_in_a_whole_read_are_kept_once(plant: Plant) -> None:
    change(
        plant.root,
        "insert into readings select * from readings where reading < 'r0010'",
        "insert into readings select reading, machine, 77, '2026-03-02 00:00:00' from readings"
        " where reading = 'r0001' limit 1",
    )
    plant.ingest()
    assert plant.last() == Counts(read=111, new=100, changed=1, repeated=10)
    received = {row[3]: row[1] for row in plant.received()}
    assert len(received) == len(plant.received()) == 100
    assert received["r0001"] == 77


@pytest.mark.parametrize("seed", range(2))
def test_many_reads_give_what_one_whole_read_gives(tmp_path: Path, seed: int) -> None:
    """Rows are added and changed, some of them late but within the lookback."""
    chance = random.Random(seed)
    rows: dict[int, Any] = {}
    plant = Plant(tmp_path)
    other = Plant(tmp_path / "other", 'kind = "sqlite"\npath = "../plant.db"')
    other.root.mkdir()
    for step in range(8):
        for _ in range(30):
            number = chance.randrange(120)
            late = chance.choice([0, 0, 0, 5, 20])
            moment = step * 4 + chance.random() - late
            # A row's watermark grows; a new row's may be anything that is not older than the lookback.
            if number in rows and rows[number][3] >= START + moment * HOUR:
                continue
            rows[number] = reading(number, moment, chance.choice([1.0, 2.0, None]))
        sqlite_table(tmp_path, chance.sample(list(rows.values()), len(rows)))
        plant.ingest()
    other.ingest()
    assert plant.received() == other.received()
    assert (
        origin(plant.settings, plant.tables, plant.folder).digest
        == origin(other.settings, other.tables, other.folder).digest
    )
    counts = [part.about.counts for part in plant.parts()]
    assert sum(each.new for each in counts) == len(rows)
    assert any(each.changed for each in counts)
    assert any(each.late for each in counts)


def test_data_is_simulated_as_long_as_it_is_what_the_simulator_made(plant: Plant, tmp_path: Path) -> None:
    change(plant.root, "insert into readings select * from readings limit 5")
    whole = Plant(tmp_path / "whole", 'kind = "sqlite"\npath = "../plant.db"', (Table("readings", "plant"),))
    whole.root.mkdir()
    whole.ingest()
    made = fingerprint(duckdb.connect(), f"'{whole.parts()[0].file}'")
    plant.settings.path(MANIFEST).parent.mkdir(parents=True)
    Manifest(parameters=Parameters(), tables={"readings": made}).write(plant.settings.path(MANIFEST))

    def kind() -> str:
        return origin(plant.settings, plant.tables, plant.folder).kind

    for _ in range(2):
        plant.ingest()
        assert kind() == "simulated"
    change(plant.root, "insert into readings values ('r9001', 'm1', 1, '2026-03-02 13:00:00')")
    for full in (False, True):
        plant.ingest(full=full)
        assert kind() == "real"


def test_the_same_reads_give_the_same_bytes_in_whatever_order_the_rows_come(tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        rows = [reading(number, number % 7) for number in range(50)]
        random.Random(seed).shuffle(rows)
        sqlite_table(tmp_path, rows)
        plant = Plant(tmp_path)
        plant.ingest(full=True)
        sqlite_table(tmp_path, [*rows, reading(99, 8), reading(98, 8)])
        plant.ingest()
        found.append(plant.bytes())
    assert list(found[0]) == ["readings/part-000000.parquet", "readings/part-000001.parquet"]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("declared", "columns", "first", "second"),
    [
        ({}, "reading integer, at date", [(1, "2026-03-01")], [(2, "2026-03-02")]),
        ({"lookback": 2}, "reading integer, at integer", [(1, 5)], [(2, 6)]),
        ({}, "reading integer, at text", [(1, "2026-03-01T10:00:00+02:00")], [(2, "2026-03-01T10:00:00Z")]),
        ({"key": ("reading", "at")}, "reading integer, at date", [(1, "2026-03-01")], [(1, "2026-03-02")]),
    ],
)
def test_a_watermark_is_a_date_a_number_or_a_text_and_a_key_several_columns(
    tmp_path: Path, declared: dict[str, Any], columns: str, first: list[Any], second: list[Any]
) -> None:
    table = Table("readings", "plant", **{"key": "reading", "watermark": "at", **declared})
    plant = Plant(tmp_path, tables=(table,))
    sqlite_table(tmp_path, first, columns=columns)
    plant.ingest()
    sqlite_table(tmp_path, first + second, columns=columns)
    plant.ingest()
    assert plant.last() == Counts(read=2, new=1, repeated=1)
    assert len(plant.received()) == 2


def test_a_table_without_a_watermark_is_read_whole_each_time(tmp_path: Path) -> None:
    plant = Plant(tmp_path, tables=(Table("readings", "plant"),))
    sqlite_table(tmp_path, [reading(1, 1), reading(1, 1)])
    plant.ingest()
    assert len(plant.received()) == 2
    sqlite_table(tmp_path, [reading(2, 1)])
    assert plant.ingest().notes == []
    assert [row[3] for row in plant.received()] == ["r0002"]
    assert list(plant.bytes()) == ["readings/part-000000.parquet"]


def test_another_source_key_or_watermark_is_read_whole_and_nothing_is_mixed(plant: Plant) -> None:
    plant.ingest()
    sqlite_table(plant.root, [reading(500, 1)])
    (plant.root / "plant.db").rename(plant.root / "other.db")
    plant.source = plant.source.replace("plant.db", "other.db")
    assert "read whole, because it is another source" in plant.ingest().notes[0]
    assert [row[3] for row in plant.received()] == ["r0500"]
    plant.tables = (Table("readings", "plant", key=("reading", "machine"), watermark="at"),)
    assert "read whole" in plant.ingest().notes[0]


def test_what_belongs_to_no_table_is_taken_away(plant: Plant) -> None:
    (plant.folder / "given_up").mkdir(parents=True)
    (plant.folder / "readings.parquet").write_bytes(b"as version 0.1.0 left it")
    plant.ingest()
    (plant.folder / "readings" / "stray").write_text("x")
    plant.ingest()
    assert list(plant.bytes()) == ["readings/part-000000.parquet"]
    assert not (plant.folder / "given_up").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_a_part_that_is_damaged_or_missing_is_named(plant: Plant, number: int) -> None:
    for extra in range(3):
        plant.ingest()
        change(plant.root, f"insert into readings values ('x{extra}', 'm1', 1, '2026-03-0{2 + extra}')")
    file = snapshot.part_file(plant.folder / "readings", number)
    kept = file.read_bytes()
    file.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(PilotError, match="a part of the snapshot is damaged") as caught:
        plant.ingest()
    assert caught.value.where == str(file)
    assert "dvc checkout" in caught.value.mend
    file.unlink()
    with pytest.raises(PilotError, match="a part of the snapshot is missing"):
        plant.ingest()
    plant.ingest(full=True)
    assert len(plant.received()) == 103


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"watermark": "at"}, "a watermark without a key"),
        ({"key": "reading", "lookback": 3}, "a lookback without a watermark"),
        ({"key": "reading", "watermark": "at", "lookback": timedelta(days=-1)}, "a lookback below zero"),
    ],
)
def test_a_table_that_is_declared_by_halves_is_refused(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(PilotError, match=said) as caught:
        Table("readings", "plant", **declared)
    assert caught.value.where == "sources.py"


def test_a_number_needs_a_lookback_of_its_own(tmp_path: Path) -> None:
    sqlite_table(tmp_path, [(1, 5)], columns="reading integer, at integer")
    plant = Plant(tmp_path)
    plant.ingest()
    with pytest.raises(PilotError, match="is a number, and the lookback is none"):
        plant.ingest()


def refused(plant: Plant, said: str, *, where: str = "plant.readings") -> None:
    """Ingest says no, and the snapshot stays as it was, byte for byte."""
    before = plant.bytes()
    with pytest.raises(CheckFailed, match=said) as caught:
        plant.ingest()
    assert where in caught.value.where
    assert caught.value.mend
    assert plant.bytes() == before
    assert not list(plant.root.rglob("*.part"))


@pytest.mark.parametrize("watermark", ["", "at"])
def test_an_empty_extract_is_an_outage(plant: Plant, watermark: str) -> None:
    plant.tables = (Table("readings", "plant", key="reading", watermark=watermark),)
    plant.ingest()
    change(plant.root, "delete from readings")
    refused(plant, "gives no rows.*and had 100: an outage")
    with pytest.raises(CheckFailed, match="and had 100: an outage"):
        plant.ingest(full=True)
    shutil.rmtree(plant.folder / "readings")  # what the mend says
    plant.ingest()
    assert plant.received() == []
    assert plant.ingest().notes == ["plant.readings: nothing"] * bool(watermark)
    change(plant.root, "insert into readings values ('r1', 'm1', 1, '2026-03-01 13:00:00')")
    plant.ingest()
    assert len(plant.received()) == 1


@pytest.mark.parametrize("watermark", ["", "at"])
@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("reading text, machine text, at timestamp", r"no longer has heat\b"),
        (
            "reading text, machine text, at timestamp, warmth real",
            "no longer has heat; new since then: warmth",
        ),
        ("reading text, machine text, heat text, at timestamp", "'heat' was double and is string now"),
    ],
)
def test_a_column_that_is_gone_renamed_or_retyped_is_refused_by_name(
    plant: Plant, watermark: str, columns: str, said: str
) -> None:
    plant.tables = (Table("readings", "plant", key="reading", watermark=watermark),)
    plant.ingest()
    values = ("r1", "m1", "2026-03-02", "2026-03-02" if "heat" in columns else 3.0)
    sqlite_table(plant.root, [values[: columns.count(",") + 1]], columns=columns)
    refused(plant, said)
    plant.ingest(full=True)  # what the mend says
    assert len(plant.received()) == 1


def test_a_new_column_is_taken_and_said(plant: Plant) -> None:
    plant.ingest()
    change(
        plant.root,
        "alter table readings add column wet boolean",
        "insert into readings values ('r9001', 'm1', 1, '2026-03-02 13:00:00', true)",
    )
    assert "plant.readings: new since the last read: wet" in plant.ingest().notes
    assert plant.last() == Counts(read=101, new=1, repeated=100)
    assert [row[-1] for row in plant.received()].count(True) == 1


def test_a_date_of_9999_would_end_all_reading_and_is_refused(plant: Plant) -> None:
    plant.ingest()
    change(plant.root, "update readings set at = '9999-12-31' where reading in ('r0001', 'r0002')")
    refused(plant, "2 rows are dated in the future, up to 9999-12-31 00:00:00", where="plant.readings.at")


def test_a_date_of_9999_that_is_no_watermark_is_kept_as_it_is(tmp_path: Path) -> None:
    columns = "reading text, until timestamp, at timestamp"
    sqlite_table(tmp_path, [("r1", "9999-12-31", "2026-03-01")], columns=columns)
    plant = Plant(tmp_path)
    plant.ingest()
    assert plant.received() == [(datetime(2026, 3, 1), "r1", datetime(9999, 12, 31))]


@pytest.mark.parametrize(
    ("column", "said"), [("at", "1 rows have no at that is a moment"), ("reading", "1 rows have no reading")]
)
def test_a_row_that_could_not_be_found_again_is_refused(plant: Plant, column: str, said: str) -> None:
    plant.ingest()
    change(plant.root, f"update readings set {column} = null where reading = 'r0099'")
    refused(plant, said)


def test_a_duplicate_key_with_two_truths_is_refused(plant: Plant) -> None:
    change(plant.root, "insert into readings select reading, machine, heat + 1, at from readings limit 3")
    refused(plant, "3 rows come twice with the same reading and the same at, and differ")


@pytest.mark.parametrize("hours", [2, -5, 12])
def test_a_time_zone_that_changed_is_told_from_changed_rows(plant: Plant, hours: int) -> None:
    plant.ingest()
    change(plant.root, f"update readings set at = datetime(at, '{hours:+} hours')")
    refused(
        plant, rf"(80|100) rows .* have moved by \{hours:+} hours: the time zone", where="plant.readings.at"
    )


def test_rows_that_were_all_touched_at_once_have_not_changed_their_zone(plant: Plant) -> None:
    plant.ingest()
    # The first time from a hundred moments to one, then from that one by whole hours, as a nightly load does.
    for hours in (10, 16):
        change(plant.root, f"update readings set at = '{START + hours * HOUR}'")
        plant.ingest()
        assert plant.last() == Counts(read=100, changed=100)


def test_a_column_that_the_table_is_read_by_is_missed_by_name(tmp_path: Path) -> None:
    sqlite_table(tmp_path, [("r1", 3.0)], columns="reading text, heat real")
    refused(Plant(tmp_path), "there is no column at, which the table is read by")
    assert READINGS.incremental


def test_a_watermark_of_another_kind_is_refused(tmp_path: Path) -> None:
    sqlite_table(tmp_path, [("r1", 3.0)], columns="reading text, at real")
    refused(Plant(tmp_path), "'at' is double, which is no watermark")
