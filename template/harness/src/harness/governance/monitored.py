"""What governance/monitoring.yaml must hold beside being well-formed; ``monitoring`` says what it is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from harness.governance.rules import Problem, Rule

if TYPE_CHECKING:
    from harness.governance.documents import Documents

FROM_SHADOW = ("performance", "drift", "data_quality")
FROM_EARLY = ("bias", "security")


def _categories(wanted: tuple[str, ...], documents: Documents) -> Iterator[Problem]:
    watched = {signal.category for signal in documents.monitoring.signals}
    for name in wanted:
        if name not in watched:
            yield Problem("signals", f"no signal watches {name.replace('_', ' ')}")


def _anchors(documents: Documents) -> Iterator[Problem]:
    for number, signal in enumerate(documents.monitoring.signals):
        if signal.runbook not in documents.runbook.sections:
            told = f"docs/runbook.md has no section '{signal.runbook}'"
            yield Problem(f"signals.{number}.runbook", told, f"Add `## {signal.runbook}` there.")


def _owners(documents: Documents) -> Iterator[Problem]:
    known = {"", "on_call", *documents.owners.roles}
    for number, signal in enumerate(documents.monitoring.signals):
        if signal.owner not in known:
            yield Problem(f"signals.{number}.owner", f"'{signal.owner}' is no role of owners.yaml")


RULES = (
    Rule("monitoring.runbook", "pilot", "Add the section.", _anchors),
    Rule("monitoring.owners", "pilot", "Name one of its roles.", _owners),
    Rule("monitoring.watched", "shadow", "Declare one.", partial(_categories, FROM_SHADOW)),
    Rule("monitoring.watched_at_early", "early", "Declare one.", partial(_categories, FROM_EARLY)),
)
