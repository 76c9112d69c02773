"""Known traps of the tools below: each has a setting, and a test here or elsewhere that fails without it.

docs/reference/traps.md is the list.
"""

from __future__ import annotations

import ast
import re
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pytest
import yaml

from harness import tracking
from harness.data import engine
from harness.settings import load_settings
from rendering import ROOT

TEMPLATE = ROOT / "template"
SOURCE = TEMPLATE / "harness" / "src" / "harness"
PAGE = ROOT / "docs" / "reference" / "traps.md"


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def importers(library: str) -> set[str]:
    return {
        file.relative_to(SOURCE).as_posix() for file in SOURCE.rglob("*.py") if library in set(imports(file))
    }


# MLflow


@pytest.fixture(scope="module")
def run_of_a_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tracking.Run]:
    folder = tmp_path_factory.mktemp("package")
    (folder / "manifest.json").write_text("{}")
    return lambda root: tracking.Run(
        digest="d" * 64, params={"a": 1}, metrics={"b": 0.5}, datasets=[], tags={"c": "x"}, package=folder
    )


def test_mlflow_keeps_one_database_and_its_files_wherever_it_is_started(
    tiny: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_of_a_package: Callable[[Path], tracking.Run],
) -> None:
    """mlflow#23525, mlflow#3144: a relative address is another database in another folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert tracking.publish(tiny.settings(), run_of_a_package(tiny.root)) == 1
    assert not list(elsewhere.iterdir()), "MLflow wrote into the folder that it was started in"
    place = tiny.root / "var" / "mlflow"
    with sqlite3.connect(place / "mlflow.db") as connection:
        found = connection.execute("select artifact_location from experiments where name = 'dryfield'")
        assert found.fetchall() == [((place / "artifacts").as_uri(),)]
    assert list((place / "artifacts").rglob("manifest.json"))
    assert "/var/" in (TEMPLATE / ".gitignore").read_text().splitlines(), "the database is never committed"


def test_mlflow_is_asked_with_little_patience_first_and_with_more_for_uploads(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, run_of_a_package: Callable[[Path], tracking.Run]
) -> None:
    """By default it tries eight times, for two minutes each."""
    from mlflow import environment_variables as known
    from mlflow.tracking import MlflowClient

    seen = {}

    def noting(name: str) -> None:
        original = getattr(MlflowClient, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            seen[name] = (
                known.MLFLOW_HTTP_REQUEST_TIMEOUT.get(),
                known.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(),
            )
            return original(*arguments, **options)

        monkeypatch.setattr(MlflowClient, name, noted)

    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    noting("get_experiment_by_name")
    noting("create_model_version")
    tracking.publish(tiny.settings(), run_of_a_package(tiny.root))
    timeout, retries = seen["get_experiment_by_name"]
    assert timeout * (retries + 1) <= 30
    timeout, retries = seen["create_model_version"]
    assert timeout >= 60
    assert timeout * (retries + 1) <= 400

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    tracking.publish(tiny.settings(), run_of_a_package(tiny.root))
    assert seen["get_experiment_by_name"][0] == 3, "what a team sets stays"


def test_mlflow_sends_no_telemetry() -> None:
    """DO_NOT_TRACK=1 does not switch it off, `true` does; the setting has to be there before the import."""
    line = "export MLFLOW_DISABLE_TELEMETRY := true"
    for makefile in (TEMPLATE / "Makefile", ROOT / "Makefile"):
        assert line in makefile.read_text().splitlines()
    text = (SOURCE / "tracking" / "mlflow.py").read_text()
    assert 'def _quiet() -> None:\n    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"' in text
    entrances = [
        [ast.unparse(line) for line in found.body]
        for found in ast.parse(text).body
        if isinstance(found, ast.FunctionDef) and not found.name.startswith("_")
    ]
    importing = [lines for lines in entrances if any(" mlflow" in line.splitlines()[0] for line in lines[1:])]
    assert len(importing) == 4
    for lines in importing:
        first = next(
            place for place, line in enumerate(lines) if line.startswith(("import mlflow", "from mlflow"))
        )
        assert lines[first - 1] == "_quiet()"
    code = (
        "import os; os.environ['MLFLOW_DISABLE_TELEMETRY'] = 'true'; from mlflow.telemetry.utils "
        "import is_telemetry_disabled as off; print(off())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


def test_only_one_file_knows_mlflow_and_only_publish_calls_it() -> None:
    assert importers("mlflow") == {"tracking/mlflow.py"}
    users = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        if re.search(r"tracking\.publish|import tracking", file.read_text())
    }
    asking = {"lineage/chain.py"}
    assert users == {"pipeline/stages/publish.py", "cli/monitor.py", "rollout/champion.py"} | asking


def test_nothing_is_unpickled() -> None:
    for file in [*SOURCE.rglob("*.py"), *(TEMPLATE / "src").rglob("*.py")]:
        assert not {"pickle", "cloudpickle", "joblib", "dill"} & set(imports(file)), file
        assert "log_model" not in file.read_text(), f"{file}: MLflow's model flavours are pickles"


# DVC


def stages() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((TEMPLATE / "dvc.yaml").read_text())["stages"]
    return found


def test_dvc_reports_to_nobody_and_stages_its_lock() -> None:
    lines = {line.strip() for line in (TEMPLATE / ".dvc" / "config").read_text().splitlines()}
    assert {"analytics = false", "check_update = false", "autostage = true"} <= lines
    assert '"DVC_NO_ANALYTICS": "1"' in (SOURCE / "pipeline" / "reproduce.py").read_text()


def test_no_run_id_can_come_back_from_dvcs_cache() -> None:
    """The stage that logs runs every time, and has no result that DVC could restore."""
    publish = stages()["publish"]
    assert publish["always_changed"] is True
    assert not {"outs", "metrics", "plots"} & set(publish)
    assert stages()["ingest"]["always_changed"] is True, "a source cannot be hashed without reading it"


def test_params_are_written_in_block_style() -> None:
    """`params: [params.yaml:]` is read as something else."""
    assert not re.search(r"^\s*params:\s*[\[{]", (TEMPLATE / "dvc.yaml").read_text(), re.MULTILINE)
    for stage in stages().values():
        for entry in stage.get("params", []):
            assert isinstance(entry, str) or all(isinstance(keys, list) for keys in entry.values())


def test_one_file_knows_dvc() -> None:
    """It has had mostly automated commits of late: whoever has to replace it changes one file."""
    assert importers("dvc") == {"pipeline/reproduce.py"}
    callers = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        if re.search(r"""["']-m["'], ["']dvc["']|["']dvc["'], ["']repro""", file.read_text())
    }
    assert callers == set()


# Ibis, DuckDB


def test_sqlglot_stays_below_30_where_ibis_can_write_tables() -> None:
    project = tomllib.loads((TEMPLATE / "harness" / "pyproject.toml").read_text())["project"]
    assert "sqlglot>=29,<30" in project["dependencies"]
    assert int(version("sqlglot").partition(".")[0]) < 30
    backend = ibis.duckdb.connect()
    backend.create_table("a", pa.table({"x": [1, 2]}))
    backend.create_table("a", pa.table({"x": [3]}), overwrite=True)
    assert backend.table("a").x.sum().execute() == 3
    backend.drop_table("a")
    assert backend.raw_sql("select count(*) from duckdb_tables()").fetchall() == [(0,)]


def test_duckdb_downloads_no_extension(tiny: Any) -> None:
    backend = engine.connect(load_settings(tiny.root))
    query = "select value from duckdb_settings() where name = 'autoinstall_known_extensions'"
    assert backend.raw_sql(query).fetchall() == [("false",)]
    for file in SOURCE.rglob("*.py"):
        text = file.read_text()
        for call in re.findall(r"duckdb\.connect\((.*)\)", text):
            known = ("config=NO_DOWNLOADS", "**NO_DOWNLOADS", "**options")
            assert any(each in call for each in known), file
        assert not re.search(r"(?i)\b(install|load)\s+(postgres|sqlite|httpfs|spatial)", text), file


def test_repeated_keys_are_found_by_an_aggregate_of_our_own() -> None:
    """pandera's Ibis backend passes them silently."""
    assert importers("pandera") == set()


# Pins


@pytest.mark.parametrize("name", ["mlflow-skinny", "dvc", "ibis-framework", "duckdb", "sqlglot", "alembic"])
def test_what_has_traps_is_pinned_to_the_version_that_was_tested(name: str) -> None:
    text = (TEMPLATE / "harness" / "constraints.txt").read_text()
    found = re.findall(rf"^{re.escape(name)}==(\S+)", text, re.MULTILINE)
    assert len(found) == 1
    assert version(name) == found[0]


# The page


def test_every_trap_on_the_page_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "::" in line]
    assert len(rows) >= 15
    for row in rows:
        for file, test in re.findall(r"`([\w/]+\.py)::(\w+)`", row):
            text = (ROOT / file).read_text()
            assert re.search(rf"^def {test}\b", text, re.MULTILINE), f"{file} has no {test}"


def test_every_test_of_this_file_is_on_the_page() -> None:
    page = PAGE.read_text()
    here = Path(__file__).read_text()
    for test in re.findall(r"^def (test_\w+)", here, re.MULTILINE):
        assert test in page or test.startswith("test_every_"), test
