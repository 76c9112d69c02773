"""Every rule over the documents: those that hold for each of them, and each one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any

from pydantic import BaseModel

from harness.governance.document import Document, placeholders
from harness.governance.documents import BY_NAME, KINDS, Documents, Kind
from harness.governance.explain import Finding
from harness.governance.markdown import Markdown, anchor, unfilled
from harness.governance.rules import GATES, Gate, NotRead, Problem, Rule
from harness.governance.values import NotApplicable

NO_SUM = Problem("", "its figures are too large to be added up", "Correct them.")
LONGEST_DAYS = 366
"""A review that is further away than a year will not be held."""

NEVER_EXCUSED = ("system.impact", "system.oversight", "monitoring", "risks", "runbook")
"""At high risk nothing in these may be called not applicable."""


def open_fields(kind: Kind, document: Document, gate: Gate) -> list[str]:
    """The fields and sections that are still the sentinel and have to be filled from that gate on."""
    if isinstance(document, Markdown):
        found = placeholders(document.model_copy(update={"sections": {}}))
        wanted = {anchor(heading): heading for heading in kind.sections}
        empty = [name for name, text in document.sections.items() if unfilled(text)]
        found += [f"“{wanted.get(name, name)}”" if name else "“above the first heading”" for name in empty]
    else:
        found = placeholders(document)
    return [path for path in found if kind.filled_from(path) == gate]


def _filled(kind: Kind, gate: Gate) -> Callable[[Documents], Iterator[Problem]]:
    def ask(documents: Documents) -> Iterator[Problem]:
        for path in open_fields(kind, documents.one(kind.name, kind.model), gate):
            yield Problem(path, "still TODO")

    return ask


def _dated(kind: Kind) -> Callable[[Documents], Iterator[Problem]]:
    def ask(documents: Documents) -> Iterator[Problem]:
        document, today = documents.one(kind.name, kind.model), documents.facts.today
        reviewed, until = document.last_reviewed, document.review_by
        if isinstance(reviewed, date) and reviewed > today:
            yield Problem(
                "last_reviewed", f"{reviewed} has not come yet", "Write the day of the last review."
            )
        if not isinstance(until, date):
            return
        if until < today:
            yield Problem("review_by", f"the review was due on {until}")
        elif isinstance(reviewed, date) and (until - reviewed).days > LONGEST_DAYS:
            yield Problem(
                "review_by", f"{until} is more than a year after the last review", "Come back sooner."
            )

    return ask


def _owned(kind: Kind) -> Callable[[Documents], Iterator[Problem]]:
    def ask(documents: Documents) -> Iterator[Problem]:
        owner = documents.one(kind.name, kind.model).owner
        if owner not in {*documents.owners.roles, "on_call"}:
            yield Problem("owner", f"'{owner}' is no role of owners.yaml")

    return ask


def _excused(kind: Kind) -> Callable[[Documents], Iterator[Problem]]:
    def ask(documents: Documents) -> Iterator[Problem]:
        for path, excuse in excuses(documents.one(kind.name, kind.model), kind.name):
            within = path.partition(".")[2]
            if not documents.owners.holder(excuse.approver):
                told = f"nobody holds the role '{excuse.approver}', which agreed to leave it out"
                yield Problem(
                    f"{within}.not_applicable.approver", told, "Name a role of owners.yaml that is held."
                )
            if documents.facts.risk_tier == "high" and path.startswith(NEVER_EXCUSED):
                yield Problem(within, "at high risk it always applies", "Fill it in.")

    return ask


def excuses(value: Any, path: str) -> Iterator[tuple[str, NotApplicable]]:
    """What a document calls not applicable, with its path."""
    if isinstance(value, NotApplicable):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from excuses(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from excuses(each, f"{path}.{name}")
    elif isinstance(value, tuple):
        for number, each in enumerate(value):
            yield from excuses(each, f"{path}.{number}")


def _rules(kind: Kind) -> Iterator[Rule]:
    """The rules of a document: those that every one has, and its own."""
    yield Rule(f"{kind.name}.owned", "pilot", "Name one of its roles.", _owned(kind))
    yield Rule(f"{kind.name}.filled", "shadow", "Fill it in.", _filled(kind, "shadow"))
    for gate in sorted(set(kind.later.values()), key=GATES.index):
        yield Rule(f"{kind.name}.filled_at_{gate}", gate, "Fill it in.", _filled(kind, gate))
    yield Rule(f"{kind.name}.reviewed", "shadow", "Review it, and write when and until when.", _dated(kind))
    yield Rule(f"{kind.name}.excused", "shadow", "Fill it in.", _excused(kind))
    yield from kind.rules


RULES: tuple[Rule, ...] = tuple(rule for kind in KINDS for rule in _rules(kind))
"""Every rule over the documents, in the order in which they are told."""


def contradictions(documents: Documents) -> list[Finding]:
    """What is wrong at any gate: the rules that hold from the first commit on."""
    found = []
    for rule in RULES:
        if rule.gate != "pilot":
            continue
        try:
            problems = list(rule.ask(documents))
        except NotRead:
            continue  # what is wrong with the document is a finding of its own
        except ArithmeticError:
            problems = [NO_SUM]
        path = BY_NAME[rule.document].path
        found += [Finding(path, each.field, each.what, each.mend or rule.mend) for each in problems]
    return found
