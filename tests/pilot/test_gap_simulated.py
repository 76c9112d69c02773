"""The first failure mode in figures: 10,000 rows with 2% missing beside production's mess."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import duckdb
import ibis
import pytest
import yaml

from harness.data.filedrops import read_files
from harness.data.gap import compare
from harness.data.profile import build_profile
from harness.data.profiled import Profile
from harness.data_settings import Gap
from harness.settings import Data
from harness.simulate import Parameters, Target, simulate

TEMPLATE = Path(__file__).parents[2] / "template"
EXAMPLE = TEMPLATE / "src" / "{{ package_name }}"


def of_the_example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def profiled(folder: Path, kind: str, **changes: Any) -> Profile:
    """What the stage makes of a simulation, with files for both systems."""
    targets = {name: Target("csv", str(folder / name)) for name in ("erp", "crm")}
    spec = folder.with_suffix(".yaml")
    world = yaml.safe_load((TEMPLATE / "simulation.yaml").read_text(encoding="utf-8"))
    # In one file, which takes no database; what hangs on the invoices then has to go.
    world["tables"]["invoices"]["files"] = {"name": "invoices_{year}.csv", "since": 2026}
    del world["tables"]["payments"]
    spec.write_text(yaml.safe_dump(world, sort_keys=False), encoding="utf-8")
    simulate(spec, Parameters.of(kind, **changes), targets, lambda what, share: None)
    database = folder / "all.db"
    with duckdb.connect(str(database)) as connection:
        for table, pattern in (("invoices", "erp/invoices_*.csv"), ("accounts", "crm/accounts_*.csv")):
            connection.execute(
                f"CREATE TABLE {table} AS {read_files(sorted(map(str, folder.glob(pattern))))}"
            )
    backend = ibis.duckdb.connect(str(database))
    tables = {name: backend.table(name) for name in ("invoices", "accounts")}
    sources = of_the_example("sources")
    bills = sources.billed(tables["invoices"])
    known = sources.customers(tables["accounts"], bills.select("due_year").distinct())
    joined = bills.left_join(known, ("account_no", "due_year")).drop("account_no_right", "due_year_right")
    records = backend.create_table("records", joined)
    origin = {"origin": "simulated", "digest": "d"}
    contract = of_the_example("contract").contract
    return build_profile(tables, records, contract, Data(), package="example", origin=origin)


def test_production_is_told_apart_from_the_pilot(tmp_path: Path) -> None:
    pilot = profiled(tmp_path / "pilot", "pilot")
    production = profiled(tmp_path / "production", "production", rows=20_000)
    accounts = [each.tables["raw.accounts"] for each in (pilot, production)]
    missing = [table.columns["country"].absent / table.rows for table in accounts]
    assert pilot.tables["records"].rows == 10_000
    assert missing[0] == pytest.approx(0.02, abs=0.01)
    assert 0.15 <= missing[1] <= 0.30
    found = compare(pilot, production, Gap())
    worse = {each.id: each for each in found.worse}
    assert "missing.grew:records:country" in worse
    assert "missing.source:raw.accounts:country" in worse
    assert "formats.mix:raw.invoices:due_on" in worse
    assert "formats.mix:raw.invoices:issued_on" in worse
    assert "formats.new:raw.accounts:segment" in worse
    assert found.worse[0].kind == "missing.grew"
    assert compare(pilot, pilot, Gap()).worse == ()
