"""What the pipeline finds wrong with the data, told to whom [alerts] names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness import alerts
from harness.alerts import Alert, Outbox
from harness.contract import Contract
from harness.data.checks import Quality
from harness.data.expectations import Met
from harness.errors import CheckFailed
from harness.settings import Settings


def tell_quality(
    settings: Settings, contract: Contract, quality: Quality, trouble: CheckFailed | None
) -> None:
    """Alert of what stops the pipeline, and of what a rule warns of."""
    name = settings.pilot.name
    raised = []
    if trouble is not None:
        raised.append(Alert("data", f"{name}: the data stops the pipeline", str(trouble)))
    for rule in contract.rules:
        count = quality.rules.get(rule.name, 0)
        if rule.severity == "warn" and count:
            said = f"{count:,} of {quality.rows:,} records break it: {rule.meaning}. {rule.mend}"
            raised.append(Alert(f"data {rule.name}", f"{name}: '{rule.name}'", said.strip()))
    _tell(settings, raised, ["data", *(f"data {rule.name}" for rule in contract.rules)])


def tell_expectations(settings: Settings, met: Sequence[Met]) -> None:
    """Alert of what the source tables do not hold."""
    raised = []
    for each in met:
        if not each.met:
            asked = each.expected
            said = f"{each.rows:,} rows are against it: {asked.meaning}. {asked.mend}"
            title = f"{settings.pilot.name}: '{asked.name}'"
            raised.append(Alert(f"source {asked.name}", title, said.strip()))
    _tell(settings, raised, [f"source {each.expected.name}" for each in met])


def _tell(settings: Settings, raised: Sequence[Alert], possible: Iterable[str]) -> None:
    """What is over is told at once if it comes back."""
    told = {alert.trouble for alert in raised}
    ended = [name for name in possible if name not in told]
    if raised or settings.path(alerts.FOLDER).is_dir():
        Outbox(settings.alerts.target, settings.path(alerts.FOLDER)).raise_all(raised, ended=ended)
