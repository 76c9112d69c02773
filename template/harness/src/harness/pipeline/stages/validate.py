"""Records → records that keep the contract; the others are set aside with their reasons."""

from __future__ import annotations

from dataclasses import asdict

from harness import pilot
from harness.data import checks, engine
from harness.errors import CheckFailed
from harness.pipeline import layout
from harness.progress import Report
from harness.settings import Settings


def run(settings: Settings, report: Report) -> str:
    """Records → records that keep the contract; the others are set aside with their reasons.

    Raises:
        CheckFailed: More records break the contract than [data] max_bad_share allows.
    """
    contract = pilot.load_contract(settings.pilot.package)
    backend = engine.connect(settings)
    records = backend.read_parquet(settings.path(layout.RECORDS), table_name="records")
    checks.check_schema(records, contract)
    report("rules", 0.1)
    quality, kept, set_aside = checks.check(records, contract)
    report("writing", 0.6)
    engine.write_parquet(backend, kept, settings.path(layout.VALID), order_by=[contract.key])
    engine.write_parquet(backend, set_aside, settings.path(layout.QUARANTINE), order_by=[contract.key])
    layout.write_json(
        settings.path(layout.QUALITY),
        {**asdict(quality), "bad_share": quality.bad_share, "allowed_share": settings.data.max_bad_share},
    )
    if quality.bad_share > settings.data.max_bad_share:
        worst = max(quality.rules, key=lambda rule: quality.rules[rule])
        raise CheckFailed(
            f"{quality.bad:,} of {quality.rows:,} records ({quality.bad_share:.1%}) break the contract, most "
            f"often '{worst}' ({quality.rules[worst]:,}); {settings.data.max_bad_share:.1%} are allowed",
            where=str(layout.QUALITY),
            mend=f"{layout.QUARANTINE} has the rows: mend the source, sources.py or the rule.",
        )
    broken = ", ".join(f"{rule} {count:,}" for rule, count in quality.rules.items() if count)
    aside = f"{quality.bad:,} set aside in {layout.QUARANTINE} ({broken})" if broken else "none set aside"
    return f"{quality.rows - quality.bad:,} records keep the contract, {aside}"
