"""Snapshot and records → what all of it looks like, as evidence."""

from __future__ import annotations

import json

from harness import pilot
from harness.data import engine, snapshot
from harness.data.profile import build_profile
from harness.data.profiled import RECORDS, Profile
from harness.pipeline import layout
from harness.progress import Report
from harness.settings import Settings


def run(settings: Settings, report: Report) -> str:
    """Snapshot and records → what all of it looks like, as evidence.

    Raises:
        PilotError: The declared population speaks of fields that the contract does not have.
    """
    package = settings.pilot.package
    contract, sources = pilot.load_contract(package), pilot.load_sources(package)
    backend = engine.connect(settings)
    found = build_profile(
        snapshot.tables(backend, sources.tables, settings.path(layout.SNAPSHOT)),
        backend.read_parquet(settings.path(layout.RECORDS), table_name="records"),
        contract,
        settings.data,
        package=package,
        origin=json.loads(settings.path(layout.ORIGIN).read_text(encoding="utf-8")),
        report=report,
    )
    layout.write_json(settings.path(layout.PROFILE), found.document())
    return summary(found)


def summary(profile: Profile) -> str:
    """What was found, in one line."""
    rows = sum(table.rows for name, table in profile.tables.items() if name != RECORDS)
    columns = sum(len(table.columns) for table in profile.tables.values())
    cycle = "a whole cycle" if profile.coverage.covers_cycle else "no whole cycle"
    apart = [name for name, each in profile.population.items() if not each.alike]
    told = f"{rows:,} source rows and {profile.tables[RECORDS].rows:,} records, {columns} columns; {cycle}"
    return f"{told}; not like the population: {', '.join(apart)}" if apart else told
