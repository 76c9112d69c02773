"""The pipeline on Spark says what it says on DuckDB; what Spark lacks is told before it starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from harness.data import engine, spark
from harness.data_settings import Spark
from harness.errors import CheckFailed, PilotError
from harness.pipeline import layout, stages, verbs
from harness.settings import Settings, load_settings
from machines import pilot_folder, quiet, run, write_readings
from mistakes.planted import PACKAGE, Pilot
from rendering import copy_template, render
from tests.harness.test_verbs import EACH, SOME, TYPES
from tests.harness.test_verbs import same as alike

__all__ = ["pilot_folder"]

ROWS = "3000"
# For a process that lives for a minute.
BRIEF = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
SMALL = """
[data]
engine = "spark"
[data.spark]
master = "local[1]"
[data.spark.config]
"spark.driver.memory" = "512m"
"spark.driver.extraJavaOptions" = "{java}"
"spark.sql.shuffle.partitions" = 1
"""
CLUSTER = """
[data.spark]
master = "local-cluster[2,1,1024]"
[data.spark.config]
"spark.driver.memory" = "768m"
"spark.driver.extraJavaOptions" = "{java}"
"spark.executor.memory" = "768m"
"spark.executor.extraJavaOptions" = "{java}"
"spark.sql.shuffle.partitions" = 2
"""


def without_java() -> str:
    """Why Spark cannot be tried here; empty where it can."""
    try:
        spark.refuse_java(os.environ)
    except PilotError as error:
        return str(error)
    return ""


@pytest.fixture
def on_java() -> Iterator[None]:
    """Java for Spark, and no session of it left at the end. In CI, a Java that is there has to do."""
    why = without_java()
    if why and os.environ.get("CI") and shutil.which("java"):
        pytest.fail(f"CI has a Java, and not the one that Spark needs: {why}")
    if why:
        pytest.skip(why)
    ended()
    yield
    ended()


def ended() -> None:
    """End the session of this process, and Java with it."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    if (session := SparkSession.getActiveSession()) is not None:
        session.stop()
    gateway = SparkContext._gateway
    if gateway is not None:
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait(timeout=60)
        SparkContext._gateway = SparkContext._jvm = None


def executable(file: Path, said: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    file.chmod(0o755)
    return file


def test_no_java_is_told_with_the_mend() -> None:
    with pytest.raises(PilotError) as refused:
        spark.refuse_java({"PATH": "/nonexistent"})
    assert "PATH: Spark needs Java 17, and there is no java. Install Java 17" in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('openjdk version "1.8.0_392"', "is Java 8"),
        ('openjdk version "11.0.24" 2024-07-16', "is Java 11"),
        ('openjdk version "24.0.1" 2025-04-15', "is Java 24"),
        ("Error: could not find libjvm.so", "does not say its version"),
    ],
)
def test_a_java_that_spark_does_not_run_on_is_told_before_spark_starts(
    tmp_path: Path, said: str, told: str
) -> None:
    java = executable(tmp_path / "bin" / "java", said)
    for environment, where in (
        ({"JAVA_HOME": str(tmp_path)}, "JAVA_HOME"),
        ({"PATH": str(java.parent)}, "PATH"),
    ):
        with pytest.raises(PilotError) as refused:
            spark.refuse_java(environment)
        assert f"{where}: Spark needs Java 17 to 21, and {java} {told}." in str(refused.value)


def test_java_home_counts_before_the_path_and_may_be_wrong(tmp_path: Path) -> None:
    good = executable(tmp_path / "good" / "bin" / "java", 'openjdk version "17.0.15" 2025-04-15')
    spark.refuse_java({"PATH": str(good.parent)})
    spark.refuse_java({"PATH": "/nonexistent", "JAVA_HOME": str(tmp_path / "good")})
    with pytest.raises(PilotError, match="does not run"):
        spark.refuse_java({"PATH": str(good.parent), "JAVA_HOME": str(tmp_path / "gone")})


def test_java_is_asked_before_a_session_is_made(pilot_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_DATA__ENGINE", "spark")
    monkeypatch.setenv("JAVA_HOME", "/nonexistent")
    with pytest.raises(PilotError, match="JAVA_HOME: Spark needs Java 17"):
        engine.connect(load_settings(pilot_folder))


def test_a_missing_pyspark_is_told_with_the_mend(pilot_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_DATA__ENGINE", "spark")
    for name in [name for name in sys.modules if name.startswith(("pyspark", "ibis.backends.pyspark"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "harness.data.spark_backend", raising=False)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(PilotError) as refused:
        engine.connect(load_settings(pilot_folder))
    assert "needs pyspark, which is not installed" in str(refused.value)
    assert "pilot-template-harness[spark]" in refused.value.mend


def test_a_folder_that_spark_takes_for_a_pattern_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PilotError, match="for a pattern"):
        spark.connect(Spark(), tmp_path / "data[1]", "p")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('master = "sc://host:15002"', "Connect has other types and no driver here"),
        ('config = {"driver.memory" = "1g"}', "their names begin with spark."),
        ('config = {"spark.jars.packages" = "a:b:1"}', "fetches code when a session starts"),
        ('config = {"spark.sql.session.timeZone" = "Europe/Berlin"}', "results hang on it"),
        ('config = {"spark.sql.ansi.enabled" = false}', "results hang on it"),
        ('masters = "local[1]"', "Did you mean 'master'?"),
    ],
)
def test_what_cannot_be_set_is_refused(pilot_folder: Path, lines: str, said: str) -> None:
    with (pilot_folder / "pilot.toml").open("a") as file:
        file.write(f"\n[data.spark]\n{lines}\n")
    with pytest.raises(PilotError) as refused:
        load_settings(pilot_folder)
    assert said in str(refused.value)


def test_packages_in_the_environment_are_refused() -> None:
    spark.refuse_packages({"PYSPARK_SUBMIT_ARGS": "--conf a=b pyspark-shell"})
    with pytest.raises(PilotError, match="PYSPARK_SUBMIT_ARGS: it has Spark fetch packages"):
        spark.refuse_packages({"PYSPARK_SUBMIT_ARGS": "--packages a:b:1 pyspark-shell"})


def test_the_standards_settings_are_last_and_the_teams_before_the_usual_ones(tmp_path: Path) -> None:
    given = Spark(master="local[1]", config={"spark.ui.enabled": True, "spark.executor.cores": 2})
    found = spark.configuration(given, tmp_path)
    assert found["spark.ui.enabled"] == "true"
    assert found["spark.executor.cores"] == "2"
    assert found["spark.sql.session.timeZone"] == "UTC"
    assert found["spark.jars.packages"] == ""
    assert found["spark.driver.bindAddress"] == "127.0.0.1"
    assert "spark.driver.bindAddress" not in spark.configuration(Spark(master="yarn"), tmp_path)


def same_profile(left: Any, right: Any, where: str = "profile") -> None:
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert set(left) == set(right), where
        for name in left:
            same_profile(left[name], right[name], f"{where}.{name}")
    elif isinstance(left, list):
        assert len(left) == len(right), where
        for number, pair in enumerate(zip(left, right, strict=True)):
            same_profile(*pair, f"{where}[{number}]")
    elif isinstance(left, float):
        assert left == pytest.approx(right, rel=1e-9, abs=0), where
    else:
        assert left == right, where


FRAMES = (layout.RECORDS, layout.VALID, layout.QUARANTINE, layout.TRAIN, layout.TEST, layout.TEST_RECORDS)
FINDINGS = (layout.INGEST, layout.ORIGIN, layout.QUALITY, layout.PROFILE, layout.PROBES, layout.METRICS)


def same(one: Settings, other: Settings) -> None:
    """Row counts, what was set aside and why, checks, profile, features and model of two runs."""
    for file in FRAMES:
        left, right = (pl.read_parquet(each.path(file)) for each in (one, other))
        assert left.schema == right.schema, file
        assert left.height == right.height, file
        assert_frame_equal(left, right, rel_tol=1e-9, abs_tol=0)
    for file in FINDINGS:
        found = [json.loads(each.path(file).read_text()) for each in (one, other)]
        same_profile(*found, str(file))


def untidy(row: dict[str, str]) -> dict[str, str]:
    """Heat that is no number, out of range, or infinite; a key that comes twice."""
    number = int(row["reading"][2:])
    odd = {3: "NaN", 5: "900", 7: "inf", 11: "-1", 13: "warm"}.get(number)
    row |= {"heat": odd} if odd else {}
    return row | ({"reading": "r00001"} if number == 17 and row["reading"].startswith("r0") else {})


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_spark_reads_writes_and_computes_values_as_duckdb_and_polars_do(
    pilot_folder: Path, on_java: None
) -> None:
    settings = on_spark(pilot_folder)
    values_stay_what_they_are(settings)
    verbs_are_computed_as_on_polars(settings)


def on_spark(root: Path) -> Settings:
    with (root / "pilot.toml").open("a") as file:
        file.write(SMALL.format(java=BRIEF))
    (root / "data").mkdir(exist_ok=True)
    return load_settings(root)


def values_stay_what_they_are(settings: Settings) -> None:
    """Absent is not NaN, large whole numbers stay whole, days before 1582 stay, nanoseconds are refused."""
    backend = engine.connect(settings)
    rows = {
        "number": [float("nan"), None, float("-inf")],
        "whole": pa.array([2**60 + 1, None, 3]),
        "day": [date(1, 1, 1), None, date(9999, 12, 31)],
        "at": pa.array([datetime(1500, 1, 1, 2, 3, 4, 5), None, datetime(2026, 7, 1)], pa.timestamp("us")),
        "Name": ["a", "ä", None],
        "name": ["b", "", None],
    }
    file = settings.path("data", "odd rows.parquet")
    pq.write_table(pa.table(rows), file)
    table = backend.read_parquet(file, table_name="odd")
    assert str(table.to_pyarrow().to_pylist()) == str(pa.table(rows).to_pylist())
    number = table.number
    seen = {
        "absent": number.isnull(),
        "there": number.notnull(),
        "odd": number.isnan(),
        "end": number.isinf(),
    }
    counted = table.aggregate(**{name: each.sum() for name, each in seen.items()}).to_pyarrow()
    assert counted.to_pylist() == [{"absent": 1, "there": 2, "odd": 1, "end": 1}]
    again = settings.path("data", "again.parquet")
    engine.write_parquet(backend, table, again, order_by=["whole"])
    assert pq.read_table(again)["whole"].to_pylist() == [3, 2**60 + 1, None]
    assert [path.name for path in settings.path("data").rglob("*.parts")] == []
    pq.write_table(pa.table({"at": pa.array([1], pa.timestamp("ns"))}), file)
    with pytest.raises(PilotError, match="'at' has times in nanoseconds"):
        backend.read_parquet(file)


def verbs_are_computed_as_on_polars(settings: Settings) -> None:
    """Each verb that features may be written with, on awkward values."""
    file = settings.path("data", "awkward.parquet")
    rows = pl.DataFrame(SOME, schema=TYPES).with_row_index("row").cast({"row": pl.Int64})
    rows.write_parquet(file)
    wanted = {name.strip("_").replace(".", "_"): make() for name, make in EACH.items()}
    table = engine.connect(settings).read_parquet(file, table_name="awkward")
    trained = nw.from_native(table).select("row", **wanted).to_native().order_by("row").to_pyarrow()
    served = nw.from_native(rows).select("row", **wanted).to_native()
    differing = {
        name for name in wanted if not all(map(alike, served[name].to_list(), trained[name].to_pylist()))
    }
    assert differing == set()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_stages_of_a_small_pilot_say_the_same_on_both_engines(
    pilot_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    on_java: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_readings(pilot_folder, untidy)
    other = tmp_path_factory.mktemp("other") / "pilot"
    shutil.copytree(pilot_folder, other)
    both = load_settings(pilot_folder), on_spark(other)
    said = [run(settings, *stages.NAMES[:-2]) for settings in both]
    assert said[1] == said[0]
    same(*both)
    reasons = pl.read_parquet(both[1].path(layout.QUARANTINE))["_reasons"]
    assert reasons.value_counts().sort("_reasons").rows() == [
        ("heat.not_finite heat.too_high", 4),
        ("heat.too_high", 2),
        ("heat.too_low", 2),
        ("reading.repeated", 2),
    ]
    faults_stop_the_stage(both[1], monkeypatch)


def faults_stop_the_stage(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb on which Spark and Polars differ, and a division by zero; each by its feature's name."""
    monkeypatch.setattr(verbs, "check", lambda wanted: None)
    file = sys.modules["wear.features"]
    monkeypatch.setattr(file, "features", lambda: {"steps": nw.col("heat").round(0)})
    with pytest.raises(CheckFailed, match="when trained on pyspark, for a made record with heat="):
        stages.load("features").run(settings, quiet)
    monkeypatch.setattr(file, "features", lambda: {"share": 1 / (nw.col("heat") - nw.col("heat"))})
    with pytest.raises(CheckFailed, match="the feature 'share' cannot be computed for every record"):
        stages.load("features").run(settings, quiet)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_says_the_same_on_a_cluster_of_two_executors(
    tmp_path: Path, on_java: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    Pilot(render(copy_template(tmp_path / "template"), one)).works("simulate", "--rows", ROWS)
    # With owners, which PostgreSQL looks at.
    subprocess.run(["cp", "-a", str(one), str(other)], check=True)
    Pilot(other).edit("pilot.toml", 'engine = "duckdb"', 'engine = "spark"')
    with (other / "pilot.toml").open("a") as file:
        file.write(CLUSTER.format(java=BRIEF))
    monkeypatch.syspath_prepend(str(one / "src"))
    both = load_settings(one), load_settings(other)
    said = [run(settings, *stages.NAMES[:-2]) for settings in both]
    assert said[1] == said[0]
    same(*both)
    assert pl.read_parquet(both[1].path(layout.QUARANTINE)).height > 0
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
