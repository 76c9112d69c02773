"""An object store is read by its own protocol; what goes wrong there is told by name, without a secret."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.data import filedrops
from harness.errors import PilotError
from harness.pilot import Table
from ingesting import Plant
from s3.server import REGION, Key, Store, running

PARQUET = (Table("readings", "plant", key="reading", watermark="at", files="readings_*.parquet"),)
WHOLE = (Table("readings", "plant", files="readings_*.parquet"),)
CSV = (Table("readings", "plant", files="readings_*.csv"),)


def parquet(first: int, rows: int) -> bytes:
    numbers = range(first, first + rows)
    frame = pa.table(
        {
            "reading": [f"r{number:07}" for number in numbers],
            "noise": [f"{number * 2654435761 % 2**32:08x}" * 20 for number in numbers],
            "at": [datetime(2026, 3, 1)] * rows,
        }
    )
    stream = io.BytesIO()
    pq.write_table(frame, stream, row_group_size=1000, compression="none")
    return stream.getvalue()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running(tmp_path_factory.mktemp("s3")) as store:
        store.files().create_dir("bucket")
        yield store


def plant_of(store: Store, root: Path, folder: str, tables: tuple[Table, ...]) -> Plant:
    options = f'options = {{endpoint_url = "{store.url}", region = "{REGION}"}}'
    return Plant(root, f'kind = "files"\npath = "s3://bucket/{folder}"\n{options}', tables)


@pytest.fixture
def as_reader(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    be(store.reader, monkeypatch)
    return store


def be(key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in key.environment().items():
        monkeypatch.setenv(name, value)


def refused(plant: Plant, key: Key) -> str:
    """What stops the ingest, as a person reads it; the snapshot is as it was, and no secret is told."""
    before = plant.bytes() if plant.folder.exists() else {}
    with pytest.raises(PilotError) as caught:
        plant.ingest()
    assert (plant.bytes() if plant.folder.exists() else {}) == before
    told = "".join(str(each) for each in (caught.value.what, caught.value.where, caught.value.mend))
    assert key.secret not in told
    return str(caught.value)


def test_parquet_is_listed_and_read_and_a_new_file_is_an_increment(as_reader: Store, tmp_path: Path) -> None:
    as_reader.put("bucket/parts/readings_1.parquet", parquet(0, 3))
    as_reader.put("bucket/parts/other.parquet", parquet(90, 3))
    as_reader.put("bucket/parts/deeper/readings_7.parquet", parquet(70, 3))
    plant = plant_of(as_reader, tmp_path, "parts", PARQUET)
    plant.ingest()
    as_reader.put("bucket/parts/readings_2.parquet", parquet(3, 2))
    plant.ingest()
    assert sorted(row[-1] for row in plant.received()) == [f"r{number:07}" for number in range(5)]
    assert (plant.last().new, plant.last().repeated) == (2, 3)


def test_csv_is_read_whatever_its_columns_are(as_reader: Store, tmp_path: Path) -> None:
    as_reader.put("bucket/texts/readings_1.csv", b"reading,heat\nr1,20\n")
    as_reader.put("bucket/texts/readings_2.csv", b"reading;warmth\nr3;40,5\n")
    plant = plant_of(as_reader, tmp_path, "texts", CSV)
    plant.ingest()
    assert plant.received() == [
        ("readings_1.csv", 1, "20", "r1", None),
        ("readings_2.csv", 2, None, "r3", "40,5"),
    ]


@pytest.mark.parametrize("folder", ["nothing", "beside"])
def test_a_folder_without_such_files_is_named(as_reader: Store, tmp_path: Path, folder: str) -> None:
    as_reader.put("bucket/beside/notes.txt", b"none")
    said = refused(plant_of(as_reader, tmp_path, folder, WHOLE), as_reader.reader)
    assert f"plant: s3://bucket/{folder}/readings_*.parquet: no such file" in said


@pytest.mark.parametrize("wrong", ["identity", "secret"])
def test_a_wrong_credential_is_no_empty_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    store.put("bucket/closed/readings_1.parquet", parquet(0, 3))
    given = (
        {"identity": "AKIAIOSFODNN7EXAMPLE"} if wrong == "identity" else {"secret": "wrong+secret/of/nobody"}
    )
    key = Key(given.get("identity", store.reader.identity), given.get("secret", store.reader.secret))
    be(key, monkeypatch)
    said = refused(plant_of(store, tmp_path, "closed", WHOLE), key)
    assert "the files cannot be listed: " in said
    assert ("INVALID_ACCESS_KEY_ID" if wrong == "identity" else "SIGNATURE_DOES_NOT_MATCH") in said


def test_a_bucket_that_is_not_there_is_named(as_reader: Store, tmp_path: Path) -> None:
    plant = plant_of(as_reader, tmp_path, "x", WHOLE)
    plant.source = plant.source.replace("s3://bucket/", "s3://bukket/")
    assert "s3://bukket/x/readings_*.parquet" in refused(plant, as_reader.reader)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], list[bytes]]:
    """Have something happen after so many blocks were read; gives what was read."""

    def happens(after: int, what: Callable[[], Any]) -> list[bytes]:
        read: list[bytes] = []
        really = filedrops.blocks

        def watched(stream: Any) -> Iterator[bytes]:
            for block in really(stream):
                read.append(block)
                if len(read) == after:
                    what()
                yield block

        monkeypatch.setattr(filedrops, "BLOCK", 100_000)
        monkeypatch.setattr(filedrops, "blocks", watched)
        return read

    return happens


def three_parts(store: Store, root: Path, folder: str) -> tuple[Plant, bytes]:
    """A plant that has read the first of three parts, and what each of the others holds."""
    store.put(f"bucket/{folder}/readings_1.parquet", parquet(0, 10))
    plant = plant_of(store, root, folder, WHOLE)
    plant.ingest()
    content = parquet(10, 4000)
    for number in (2, 3):
        store.put(f"bucket/{folder}/readings_{number}.parquet", content)
    return plant, content


@pytest.mark.parametrize(("after", "number"), [(1, 3), (3, 2)], ids=["before-its-turn", "half-way"])
def test_a_part_that_vanishes_while_it_is_read_stops_the_run(
    as_reader: Store, tmp_path: Path, meanwhile: Any, after: int, number: int
) -> None:
    plant, content = three_parts(as_reader, tmp_path, f"vanishes-{after}")
    gone = f"bucket/vanishes-{after}/readings_{number}.parquet"
    read = meanwhile(after, lambda: as_reader.files().delete_file(gone))
    said = refused(plant, as_reader.reader)
    assert after <= len(read) < 2 * len(content) // 100_000
    assert f"plant: s3://{gone}: reading stopped: " in said


def test_a_part_that_is_replaced_while_it_is_read_is_not_two_halves(
    as_reader: Store, tmp_path: Path, meanwhile: Any
) -> None:
    plant, _ = three_parts(as_reader, tmp_path, "replaced")
    meanwhile(3, lambda: as_reader.put("bucket/replaced/readings_2.parquet", parquet(10, 3999)))
    said = refused(plant, as_reader.reader)
    assert "plant: s3://bucket/replaced/readings_2.parquet: it was replaced while it was read" in said


def test_a_file_of_a_store_that_is_damaged_is_named_by_its_address(as_reader: Store, tmp_path: Path) -> None:
    as_reader.put("bucket/damaged/readings_1.parquet", parquet(0, 10)[:-20])
    said = refused(plant_of(as_reader, tmp_path, "damaged", WHOLE), as_reader.reader)
    assert "plant: s3://bucket/damaged/readings_1.parquet: the files cannot be read as Parquet" in said
    as_reader.put("bucket/damaged/readings_1.csv", b"reading,heat,machine\nr3,20,m1\nr4,3")
    said = refused(plant_of(as_reader, tmp_path, "damaged", CSV), as_reader.reader)
    assert "plant: s3://bucket/damaged/readings_1.csv: its lines do not have the 3 columns" in said


def test_an_option_that_there_is_not_is_refused_by_name(tmp_path: Path) -> None:
    plant = Plant(tmp_path, 'kind = "files"\npath = "s3://bucket/x"\noptions = {regoin = "x"}', WHOLE)
    assert "cannot be opened: " in (said := refused(plant, Key("", "-")))
    assert "regoin" in said


def test_a_store_that_dies_half_way_stops_the_run(
    tmp_path: Path, meanwhile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as store:
        be(store.reader, monkeypatch)
        store.files().create_dir("bucket")
        plant, content = three_parts(store, tmp_path, "dies")
        read = meanwhile(3, store.process.kill)
        said = refused(plant, store.reader)
    assert 3 <= len(read) < 2 * len(content) // 100_000
    assert "plant: s3://bucket/dies/readings_2.parquet: reading stopped: " in said
