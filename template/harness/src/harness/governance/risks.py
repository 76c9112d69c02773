"""governance/risks.yaml: what could go wrong, who accepted it, and what the pilot takes for granted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Literal

from harness.governance.document import Document
from harness.governance.rules import Problem, Rule
from harness.governance.values import Part, Pending, Text, is_placeholder

if TYPE_CHECKING:
    from harness.governance.documents import Documents


class Acceptance(Part):
    """Who accepted a risk: a role of owners.yaml, and the day."""

    role: Text
    on: Pending[date]


class Risk(Part):
    """Something that could go wrong.

    Attributes:
        what: What.
        level: How bad it would be, given how likely it is.
        mitigation: What is done about it.
        evidence: A file of the repository that shows it is done.
        accepted: By whom; a high risk needs it.
    """

    what: Text
    level: Pending[Literal["low", "medium", "high"]]
    mitigation: Text
    evidence: Text
    accepted: Acceptance | None = None


class Assumption(Part):
    """Something that is taken for granted.

    Attributes:
        what: What.
        falsified_by: What would show that it is wrong.
        check: What looks for that: a signal of monitoring.yaml, or a file of the repository.
    """

    what: Text
    falsified_by: Text
    check: Text


class Risks(Document):
    """The whole file."""

    risks: tuple[Risk, ...]
    assumptions: tuple[Assumption, ...]


def _named(documents: Documents) -> Iterator[Problem]:
    if not documents.risks.risks:
        yield Problem("risks", "no risk is named")
    if not documents.risks.assumptions:
        yield Problem("assumptions", "no assumption is named")


def _accepted(documents: Documents) -> Iterator[Problem]:
    for number, risk in enumerate(documents.risks.risks):
        if risk.level == "high" and risk.accepted is None:
            yield Problem(f"risks.{number}.accepted", "a high risk that nobody accepted")
        if risk.accepted and not documents.owners.holder(risk.accepted.role):
            told = f"nobody holds the role '{risk.accepted.role}' in owners.yaml"
            yield Problem(f"risks.{number}.accepted.role", told, "Name a role of owners.yaml that is held.")
        day = risk.accepted.on if risk.accepted else None
        if isinstance(day, date) and day > documents.facts.today:
            told = f"{day} has not come yet"
            yield Problem(f"risks.{number}.accepted.on", told, "Write the day on which it was accepted.")


def _evidence(documents: Documents) -> Iterator[Problem]:
    for number, risk in enumerate(documents.risks.risks):
        if not is_placeholder(risk.evidence) and not documents.facts.has(risk.evidence):
            yield Problem(f"risks.{number}.evidence", f"there is no file '{risk.evidence}'")


def _checks(documents: Documents) -> Iterator[Problem]:
    for number, assumption in enumerate(documents.risks.assumptions):
        said = assumption.check
        if is_placeholder(said) or said in documents.signals or documents.facts.has(said):
            continue
        yield Problem(f"assumptions.{number}.check", f"'{said}' is neither a signal nor a file")


RULES = (
    Rule("risks.named", "shadow", "Name at least one.", _named),
    Rule("risks.accepted", "shadow", "Write `accepted: {role: …, on: …}`, or lower the risk.", _accepted),
    Rule("risks.evidence", "shadow", "Name a file of this repository, as tests/test_example.py.", _evidence),
    Rule("risks.checks", "shadow", "Name a signal of monitoring.yaml, or a file.", _checks),
)
