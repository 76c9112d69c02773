"""Source systems → raw snapshot → records in the contract's shape."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from harness import pilot
from harness.data import checks, engine, expectations, snapshot
from harness.data.extract import extract
from harness.data.origin import origin
from harness.errors import CheckFailed
from harness.pipeline import layout, telling
from harness.pipeline.reproduce import INGEST_FULL
from harness.progress import Report
from harness.settings import Settings


def run(settings: Settings, report: Report) -> str:
    """Source systems → raw snapshot → records in the contract's shape.

    Raises:
        PilotError: A source fails; the last whole snapshot stays.
        CheckFailed: The join gives no records.
    """
    sources = pilot.load_sources(settings.pilot.package)
    contract = pilot.load_contract(settings.pilot.package)
    folder = settings.path(layout.SNAPSHOT)
    extracted = extract(settings, sources.tables, folder, report, whole=bool(os.environ.get(INGEST_FULL)))
    report("digest", 0.9)
    found = origin(settings, sources.tables, folder)
    backend = engine.connect(settings)
    tables = snapshot.tables(backend, sources.tables, folder)
    report("expectations", 0.93)
    met = expectations.meet(getattr(sources, "expectations", lambda tables: ())(tables))
    telling.tell_expectations(settings, met)
    expectations.refuse(met)
    report("records", 0.95)
    records = sources.records(tables)
    checks.check_schema(records, contract)
    records = engine.as_declared(backend, "joined", records)
    engine.write_parquet(backend, records, settings.path(layout.RECORDS), order_by=[contract.key])
    rows = int(backend.read_parquet(settings.path(layout.RECORDS)).count().execute())
    if rows == 0:
        raise CheckFailed(
            f"no records come out of {sum(found.tables.values())} source rows",
            where="sources.py records()",
            mend="Check the join and the filters; an empty extract is an outage, not a quiet day.",
        )
    if found.kind == "real":
        written = backend.read_parquet(settings.path(layout.RECORDS))
        expectations.refuse_stale(written, contract, datetime.now(UTC).date())
    settings.path(layout.CORRECTIONS).mkdir(exist_ok=True)
    layout.write_json(settings.path(layout.INGEST), extracted.evidence)
    layout.write_json(
        settings.path(layout.ORIGIN),
        {
            "origin": found.kind,
            "digest": found.digest,
            "rows": found.tables,
            "against": {each.expected.name: each.rows for each in met},
        },
    )
    said = f"{rows:,} records from {sum(found.tables.values()):,} source rows ({found.kind} data)"
    return "\n    ".join([said, *extracted.notes])
