"""The stages, one after the other, on a pilot about machines: the harness knows nothing of the example."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.data import extract
from harness.data.databases import Database
from harness.data.origin import MANIFEST, origin
from harness.errors import CheckFailed, PilotError
from harness.pilot import Table
from harness.pipeline import frames, layout, stages
from harness.pipeline.manifest import keep
from harness.pipeline.params import load_params
from harness.serving.proof import prove
from harness.settings import Settings, load_settings
from harness.simulate import Manifest, Parameters, fingerprint
from machines import FILES, PACKAGE, SETTINGS, pilot_folder, run, write_readings

__all__ = ["pilot_folder"]

BEFORE_PUBLISHING = stages.NAMES[:-1]


def test_a_regression_goes_from_files_to_a_package(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    run(settings, *BEFORE_PUBLISHING)
    figures = json.loads(settings.path(layout.METRICS).read_text())
    assert figures["compared_by"] == "mae"
    assert figures["model_beats_fallback"] is True
    assert figures["model"]["mae"] < figures["fallback"]["mae"]
    package = settings.path(layout.PACKAGE)
    assert {path.name for path in (package / "code").iterdir()} == set(FILES) - {"sources.py"}
    assert json.loads((package / "manifest.json").read_text())["features"] == ["heat", "hot"]


def test_the_same_sources_give_the_same_package(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    run(settings, *BEFORE_PUBLISHING)
    first = {path: path.read_bytes() for path in settings.path("data").rglob("*") if path.is_file()}
    run(settings, *BEFORE_PUBLISHING)
    assert {path: path.read_bytes() for path in settings.path("data").rglob("*") if path.is_file()} == first


def test_training_stops_where_outcomes_were_not_yet_known_at_the_cut(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    run(settings, "ingest", "validate", "features")
    train = pl.read_parquet(settings.path(layout.TRAIN))[layout.TIME]
    test = pl.read_parquet(settings.path(layout.TEST))[layout.TIME]
    assert (test.min() - train.max()).days > 7
    assert test.max() == date(2025, 10, 27)
    assert len(test) == pytest.approx(600 * 0.25, abs=3)


def test_a_bad_share_over_the_bound_stops_the_pipeline_and_says_which_rule(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    write_readings(pilot_folder, lambda row: row | ({"heat": "900"} if row["reading"].endswith("3") else {}))
    with pytest.raises(CheckFailed, match=r"60 of 600 records \(10\.0%\).*'heat\.too_high' \(60\)"):
        run(settings, "ingest", "validate")
    assert json.loads(settings.path(layout.QUALITY).read_text())["bad"] == 60
    assert pl.read_parquet(settings.path(layout.QUARANTINE)).height == 60


def test_a_few_bad_records_are_set_aside_and_the_rest_goes_on(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    write_readings(pilot_folder, lambda row: row | ({"heat": "900"} if row["reading"].endswith("33") else {}))
    run(settings, "ingest", "validate")
    assert pl.read_parquet(settings.path(layout.QUARANTINE)).height == 6
    assert pl.read_parquet(settings.path(layout.VALID)).height == 594


def test_no_records_is_an_outage_and_not_a_quiet_day(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    for file in (pilot_folder / "var" / "sources" / "plant").iterdir():
        file.write_text("reading,machine,day,heat,life\n", encoding="utf-8")
    with pytest.raises(CheckFailed, match="no records come out of 0 source rows"):
        run(settings, "ingest")


def test_too_little_history_cannot_be_divided(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    write_readings(pilot_folder, lambda row: row | {"day": "2025-01-01"})
    with pytest.raises(CheckFailed, match="cannot be divided by time"):
        run(settings, "ingest", "validate", "features")
    write_readings(pilot_folder, lambda row: row | {"day": f"2025-01-0{1 + int(row['reading'][-1]) % 6}"})
    with pytest.raises(CheckFailed, match="no record is older than"):
        run(settings, "ingest", "validate", "features")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("model.py", "np.clip(heat", "np.array([float('nan')] * len(heat)) + 0 * (heat", "which is no score"),
        (
            "model.py",
            'return np.clip(heat * model["slope"] + model["start"], 0, 1000)',
            "return heat[:3]",
            "shape",
        ),
        (
            "model.py",
            '(folder / "model.json").write_text(json.dumps(model))',
            "pass",
            "save\\(\\) wrote nothing",
        ),
        ("fallback.py", "100.0", "'soon'", "no number"),
        ("features.py", 'return {"heat"', 'return {} if 1 else {"heat"', "features\\(\\) gives none"),
        ("features.py", '"hot":', '"is hot":', "'is hot' is no name"),
    ],
)
def test_a_team_file_that_breaks_the_protocol_is_named(
    pilot_folder: Path, file: str, old: str, new: str, said: str
) -> None:
    path = pilot_folder / "src" / PACKAGE / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new).replace(", 0, 1000)", ")"), encoding="utf-8")
    with pytest.raises(PilotError, match=said) as caught:
        run(load_settings(pilot_folder), *BEFORE_PUBLISHING)
    assert file in caught.value.where


def test_data_is_real_until_its_digest_says_otherwise(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    tables = (Table("readings", system="plant", files="readings_*.csv"),)
    run(settings, "ingest")
    snapshot = settings.path(layout.SNAPSHOT)
    found = origin(settings, tables, snapshot)
    assert (found.kind, found.tables) == ("real", {"readings": 600})
    sampled = pilot_folder / "pilot.toml"
    sampled.write_text(f'{SETTINGS}\n[sandbox]\nsamples = ["{found.digest}"]\n', encoding="utf-8")
    assert origin(load_settings(pilot_folder), tables, snapshot).kind == "sample"
    write_readings(pilot_folder, lambda row: row | ({"heat": "1"} if row["reading"] == "r00000" else {}))
    changed = load_settings(pilot_folder)
    run(changed, "ingest")
    assert origin(changed, tables, snapshot).kind == "real"


def test_data_is_simulated_when_every_table_is_what_the_simulator_made(pilot_folder: Path) -> None:
    import duckdb

    settings = load_settings(pilot_folder)
    tables = (Table("readings", system="plant", files="readings_*.csv"),)
    run(settings, "ingest")
    pattern = str(pilot_folder / "var" / "sources" / "plant" / "readings_*.csv")
    made = fingerprint(duckdb.connect(), f"read_csv('{pattern}', all_varchar = true, union_by_name = true)")
    Manifest(parameters=Parameters(), tables={"readings": made}).write(settings.path(MANIFEST))
    assert origin(settings, tables, settings.path(layout.SNAPSHOT)).kind == "simulated"
    write_readings(pilot_folder, lambda row: row | ({"heat": "1"} if row["reading"] == "r00000" else {}))
    run(settings, "ingest")
    assert origin(settings, tables, settings.path(layout.SNAPSHOT)).kind == "real"


def test_a_source_that_dies_half_way_leaves_the_last_snapshot(
    pilot_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(pilot_folder)
    run(settings, "ingest")
    snapshot = settings.path(layout.SNAPSHOT)
    before = {path: path.read_bytes() for path in snapshot.rglob("*.parquet")}
    assert before

    schema = pq.read_schema(snapshot / "readings" / "part-000000.parquet").remove_metadata()

    class Dying:
        name = "postgres"

        def table(self, _name: str, database: str | None) -> str:
            return "readings"

        def to_pyarrow_batches(self, _expression: str, chunk_size: int) -> pa.RecordBatchReader:
            def batches() -> Iterator[pa.RecordBatch]:
                yield pa.RecordBatch.from_pylist([dict.fromkeys(schema.names)], schema=schema)
                raise psycopg.OperationalError("server closed the connection unexpectedly")

            return pa.RecordBatchReader.from_batches(schema, batches())

    def opened(_settings: Settings, system: str, _source: object) -> Any:
        return contextlib.nullcontext(Database(system, Dying()))  # type: ignore[arg-type]

    monkeypatch.setattr(extract, "_opened", opened)
    with pytest.raises(PilotError, match="reading stopped: server closed the connection") as caught:
        run(settings, "ingest")
    assert "plant.readings" in caught.value.where
    assert {path: path.read_bytes() for path in snapshot.rglob("*.parquet")} == before
    assert not list(snapshot.parent.glob("*.part"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('kind = "csv"\npath = "nowhere"', "no such file"),
        ('kind = "postgres"\nurl = "embedded"', "the simulated database was never filled"),
        (
            'kind = "postgres"\nurl = "postgresql://someone:geheim@127.0.0.1:1/plant"',
            "the database does not answer",
        ),
        ('kind = "postgres"\nurl = "mongo:/x"', "not a database URL|does not answer"),
    ],
)
def test_a_source_that_is_not_there_is_named_with_its_mend(
    pilot_folder: Path, source: str, said: str
) -> None:
    text = SETTINGS.replace('kind = "csv"\npath = "var/sources/plant"', source)
    (pilot_folder / "pilot.toml").write_text(text, encoding="utf-8")
    with pytest.raises(PilotError, match=said) as caught:
        run(load_settings(pilot_folder), "ingest")
    assert "geheim" not in str(caught.value)
    assert "plant" in caught.value.where


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("split: [", "not valid YAML"),
        ("split:\n  test_share: 2\n", "less than 1"),
        ("splitt: {}\n", "'splitt'"),
        ("7", "valid dictionary"),
    ],
)
def test_a_wrong_params_file_is_named(pilot_folder: Path, text: str, said: str) -> None:
    (pilot_folder / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(PilotError, match=said) as caught:
        load_params(pilot_folder)
    assert caught.value.where.startswith("params.yaml")


def test_frames_tell_features_from_what_stands_beside_them(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    run(settings, "ingest", "validate", "features")
    frame = pl.read_parquet(settings.path(layout.TRAIN))
    assert frames.only_features(frame).columns == ["heat", "hot"]
    assert frames.label(frame).shape == (frame.height,)


def stage(root: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a stage as DVC does."""
    return subprocess.run(
        [sys.executable, "-m", "harness.pipeline", name],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "src")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_error_in_the_teams_code_is_one_line_that_names_it(pilot_folder: Path) -> None:
    sources = pilot_folder / "src" / PACKAGE / "sources.py"
    sources.write_text(sources.read_text().replace("t.day.", "t.dya."), encoding="utf-8")
    done = stage(pilot_folder, "ingest")
    assert done.returncode == 2
    assert "sources.py line 7: AttributeError" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "Traceback" in stage(pilot_folder, "ingest", PILOT_DEBUG="1").stderr


def test_a_stage_notes_how_it_ended_for_the_one_who_started_dvc(pilot_folder: Path) -> None:
    protocol = pilot_folder / "protocol"
    assert stage(pilot_folder, "ingest", PILOT_STAGE_PROTOCOL=str(protocol)).returncode == 0
    (pilot_folder / "params.yaml").write_text("split: 1", encoding="utf-8")
    stage(pilot_folder, "validate", PILOT_STAGE_PROTOCOL=str(protocol))
    assert stage(pilot_folder, "features", PILOT_STAGE_PROTOCOL=str(protocol)).returncode == 2
    noted = [json.loads(line) for line in protocol.read_text().splitlines()]
    ended = [(entry["stage"], entry["exit_code"]) for entry in noted]
    assert ended == [("ingest", 0), ("validate", 0), ("features", 2)]
    assert noted[-1]["where"] == "params.yaml"


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ('nw.col("hat")', "not found|hat"),
        ('nw.col("heat").shift(1)', "one row"),
        ('nw.col("day")', "cast|DATE"),
        ('nw.col("machine")', "[Cc]onver|cast"),
    ],
)
def test_a_feature_that_cannot_be_computed_is_named(pilot_folder: Path, expression: str, said: str) -> None:
    file = pilot_folder / "src" / PACKAGE / "features.py"
    file.write_text(file.read_text().replace('return {"heat"', f'return {{"odd": {expression}, "heat"'))
    settings = load_settings(pilot_folder)
    with pytest.raises(PilotError, match=said) as caught:
        run(settings, "ingest", "validate", "features")
    assert "the feature 'odd' " in str(caught.value)
    assert caught.value.where == "features.py"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('Reason("heat", value', 'Reason("heat", [value]', "which is no|for a value"),
        ('Reason("heat", value, model["slope"])', "value", "gave a (float|NoneType)"),
        ("for value in features", "for value in features[:2]", "2 lists for 5 rows"),
    ],
)
def test_reasons_that_nobody_could_read_stop_the_evaluation(
    pilot_folder: Path, old: str, new: str, said: str
) -> None:
    file = pilot_folder / "src" / PACKAGE / "model.py"
    assert old in file.read_text()
    file.write_text(
        file.read_text().replace(old, new).replace('features[:2]["heat"]', 'features["heat"][:2]')
    )
    with pytest.raises(PilotError, match=said) as caught:
        run(load_settings(pilot_folder), *BEFORE_PUBLISHING)
    assert caught.value.where == "model.py"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"from {PACKAGE}.contract import contract", "by name"),
        (f"import {PACKAGE}.contract", "by name"),
        ("from .sources import tables", "not packaged"),
        ("from . import sources", "not packaged"),
    ],
)
def test_an_import_that_would_leave_the_package_is_refused(pilot_folder: Path, line: str, said: str) -> None:
    file = pilot_folder / "src" / PACKAGE / "features.py"
    file.write_text(f"{line}\n{file.read_text()}", encoding="utf-8")
    with pytest.raises(PilotError, match=said) as caught:
        run(load_settings(pilot_folder), *BEFORE_PUBLISHING)
    assert caught.value.where == f"{PACKAGE}/features.py line 1"


def test_hidden_files_are_not_packaged(pilot_folder: Path) -> None:
    (pilot_folder / "src" / PACKAGE / ".env").write_text("PASSWORD=1", encoding="utf-8")
    settings = load_settings(pilot_folder)
    run(settings, *BEFORE_PUBLISHING)
    assert not list(settings.path(layout.PACKAGE).rglob(".*"))


def test_the_packaged_model_must_score_in_serving_as_it_did_in_the_pipeline(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    run(settings, *BEFORE_PUBLISHING)
    manifest = keep(settings.path(layout.PACKAGE), settings.path(settings.serving.models))
    prove(settings, manifest)
    features = settings.path(layout.TEST)
    pl.read_parquet(features).with_columns(heat=pl.col("heat") + 1).write_parquet(features)
    with pytest.raises(CheckFailed, match="in serving and"):
        prove(settings, manifest)


def test_a_model_that_depends_on_the_moment_is_refused(pilot_folder: Path) -> None:
    file = pilot_folder / "src" / PACKAGE / "model.py"
    text = file.read_text(encoding="utf-8")
    moved = text.replace('model["start"], 0', 'model["start"] + time.monotonic() % 7, 0')
    file.write_text(f"import time\n{moved}", encoding="utf-8")
    settings = load_settings(pilot_folder)
    run(settings, *BEFORE_PUBLISHING)
    manifest = keep(settings.path(layout.PACKAGE), settings.path(settings.serving.models))
    with pytest.raises(CheckFailed, match="no time, chance, file or work tree"):
        prove(settings, manifest)
