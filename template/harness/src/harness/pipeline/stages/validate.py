"""Records → records that keep the contract; the others are set aside with their reasons."""

from __future__ import annotations

from dataclasses import asdict

from harness import pilot
from harness.contract import Contract, Field
from harness.data import card, checks, corrections, engine, volume
from harness.data.checks import Quality
from harness.data.volume import Counted
from harness.errors import CheckFailed
from harness.files import whole_file
from harness.pipeline import layout, telling
from harness.progress import Report
from harness.rules import Rule
from harness.settings import Settings


def run(settings: Settings, report: Report) -> str:
    """Records → records that keep the contract; the others are set aside with their reasons.

    What stops the pipeline, and what a rule warns of, is told to whom [alerts] names.

    Raises:
        CheckFailed: More records break the contract than [data] max_bad_share allows, one breaks a rule that
            stops, or there are too few.
    """
    contract = pilot.load_contract(settings.pilot.package)
    backend = engine.connect(settings)
    records = backend.read_parquet(settings.path(layout.RECORDS), table_name="records")
    checks.check_schema(records, contract)
    report("rules", 0.1)
    quality, kept, set_aside = corrections.check(
        backend, records, contract, settings.path(layout.CORRECTIONS)
    )
    counted = volume.count(records, contract)
    report("writing", 0.6)
    engine.write_parquet(backend, kept, settings.path(layout.VALID), order_by=[contract.key])
    engine.write_parquet(backend, set_aside, settings.path(layout.QUARANTINE), order_by=[contract.key])
    layout.write_json(settings.path(layout.QUALITY), _document(settings, contract, quality, counted))
    with whole_file(settings.path(layout.DATA_CARD)) as beside:
        beside.write_text(card.card(contract, quality), encoding="utf-8")
    trouble = _trouble(settings, contract, quality, counted)
    telling.tell_quality(settings, contract, quality, trouble)
    if trouble is not None:
        raise trouble
    broken = ", ".join(f"{rule} {count:,}" for rule, count in _set_aside(contract, quality).items())
    aside = f"{quality.bad:,} set aside in {layout.QUARANTINE} ({broken})" if broken else "none set aside"
    warned = ", ".join(f"{rule} {count:,}" for rule, count in quality.broken(contract, "warn").items())
    noted = f"; to look at: {warned}" if warned else ""
    noted += f"; {quality.corrected:,} corrected by hand" if quality.corrected else ""
    return f"{quality.rows - quality.bad:,} records keep the contract, {aside}{noted}"


def _set_aside(contract: Contract, quality: Quality) -> dict[str, int]:
    return {**quality.broken(contract, "quarantine"), **quality.broken(contract, "stop")}


def _document(
    settings: Settings, contract: Contract, quality: Quality, counted: Counted
) -> dict[str, object]:
    return {
        **asdict(quality),
        "bad_share": quality.bad_share,
        "allowed_share": settings.data.max_bad_share,
        "severities": {rule: contract.severity(rule) for rule in quality.rules},
        "newest": None if counted.newest is None else counted.newest.isoformat(),
        "newest_window": counted.last,
        "usual_window": counted.usual,
    }


def _trouble(
    settings: Settings, contract: Contract, quality: Quality, counted: Counted
) -> CheckFailed | None:
    """What stops the pipeline, if anything does."""
    look = f"{layout.QUARANTINE} has the rows (`pilot replay`): mend the source, sources.py or the rule."
    for rule, count in quality.broken(contract, "stop").items():
        return CheckFailed(
            f"{count:,} of {quality.rows:,} records break '{rule}', which stops at the first",
            where=str(layout.QUALITY),
            mend=_mend(contract, rule) or look,
        )
    if quality.bad_share > settings.data.max_bad_share:
        broken = _set_aside(contract, quality)
        worst = max(broken, key=lambda rule: broken[rule])
        return CheckFailed(
            f"{quality.bad:,} of {quality.rows:,} records ({quality.bad_share:.1%}) break the contract, most "
            f"often '{worst}' ({broken[worst]:,}); {settings.data.max_bad_share:.1%} are allowed",
            where=str(layout.QUALITY),
            mend=look,
        )
    if lacks := counted.lacks(contract):
        return CheckFailed(
            lacks,
            where=str(layout.QUALITY),
            mend="See whether the extract broke off; where business is that quiet, correct volume in "
            "contract.py.",
        )
    return None


def _mend(contract: Contract, broken: str) -> str:
    declared: list[Field | Rule] = [*contract.rules, *contract.fields]
    name = broken.partition(".")[0]
    return next((each.mend for each in declared if each.name == name), "")
