"""governance/owners.yaml: who holds each role, who decides what, and who is called at night."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import Field

from harness.governance.document import Document
from harness.governance.rules import GATES, Gate, Problem, Rule
from harness.governance.values import Filled, Part, Pending, Text, Unfilled, is_placeholder

if TYPE_CHECKING:
    from harness.governance.documents import Documents

ROLES = ("accountable", "business", "data", "model", "platform", "risk")


class Decision(Part):
    """A decision that somebody has to take.

    Attributes:
        decider: The one role that takes it.
        signs: Further roles whose signature it needs.
    """

    decider: Filled
    signs: tuple[Filled, ...] = ()


class Step(Part):
    """A step of the escalation.

    Attributes:
        after_minutes: Minutes without an answer after which this step is taken.
        call: A role, or `on_call`.
    """

    after_minutes: int = Field(ge=0)
    call: Filled


class OnCall(Part):
    """Two people or rotas, so that one may be ill."""

    primary: Text
    secondary: Text


class Year(Part):
    """Who answers for what in a calendar year."""

    year: Pending[int]
    business: Text
    data: Text
    model: Text
    platform: Text


class Owners(Document):
    """The whole file.

    Attributes:
        team: The team that owns the pilot.
        roles: Each role's holder, and how they are reached.
        decisions: Each gate, and whatever else has to be decided.
        escalation: Whom to call, in order.
        on_call: Who is called first.
        tenure: Who holds the roles in the years to come.
    """

    team: Text
    roles: dict[str, Text]
    decisions: dict[str, Decision]
    escalation: tuple[Step, ...]
    on_call: OnCall
    tenure: tuple[Year, ...] = ()

    def holder(self, role: str) -> str:
        """Who holds a role, empty where nobody does yet."""
        held = self.on_call.primary if role == "on_call" else self.roles.get(role, "")
        return "" if is_placeholder(held) else held


def _roles(documents: Documents) -> Iterator[Problem]:
    owners = documents.owners
    known = {*owners.roles, "on_call"}
    for role in ROLES:
        if role not in owners.roles:
            yield Problem("roles", f"the role '{role}' is missing", f"Add `{role}:` with who holds it.")
    said = [(f"decisions.{name}.decider", decision.decider) for name, decision in owners.decisions.items()]
    said += [
        (f"decisions.{name}.signs.{number}", role)
        for name, decision in owners.decisions.items()
        for number, role in enumerate(decision.signs)
    ]
    said += [(f"escalation.{number}.call", step.call) for number, step in enumerate(owners.escalation)]
    for field, role in said:
        if role not in known:
            yield Problem(field, f"'{role}' is no role; exactly one of {', '.join(sorted(known))} is wanted")


def _gates(documents: Documents) -> Iterator[Problem]:
    for gate in GATES[1:]:
        if gate not in documents.owners.decisions:
            yield Problem(
                "decisions", f"nobody decides on the gate '{gate}'", f"Add `{gate}:` with its decider."
            )


def _escalation(documents: Documents) -> Iterator[Problem]:
    steps = documents.owners.escalation
    if len(steps) < 2:
        yield Problem("escalation", "it has fewer than two steps", "Say whom to call when nobody answers.")
    for number, (before, after) in enumerate(pairwise(steps), start=1):
        if after.after_minutes <= before.after_minutes:
            told = f"it comes after {before.after_minutes} minutes and says {after.after_minutes}"
            yield Problem(f"escalation.{number}.after_minutes", told)


def _pair(documents: Documents) -> Iterator[Problem]:
    pair = documents.owners.on_call
    if pair.primary.casefold() == pair.secondary.casefold() and not is_placeholder(pair.primary):
        yield Problem("on_call.secondary", "it is the same as the primary")


def _tenure(years: int, documents: Documents) -> Iterator[Problem]:
    named = sorted({one.year for one in documents.owners.tenure if not isinstance(one.year, Unfilled)})
    wanted = range(documents.facts.today.year, documents.facts.today.year + years)
    missing = [str(year) for year in wanted if year not in named]
    if missing:
        told = f"nobody is named for {', '.join(missing)}; {years} years are wanted"
        yield Problem("tenure", told)


RULES = (
    Rule("owners.roles", "pilot", "Name one role of `roles`.", _roles),
    Rule("owners.gates", "pilot", "Add it.", _gates),
    Rule("owners.escalation", "pilot", "Put the steps in the order in which they are taken.", _escalation),
    Rule("owners.on_call", "early", "Name a second person or rota.", _pair),
    Rule("owners.two_years", "broad", "Add the year with its owners.", partial(_tenure, 2)),
    Rule("owners.three_years", "full", "Add the year with its owners.", partial(_tenure, 3)),
)
LATER: Mapping[str, Gate] = {"on_call": "early", "tenure": "broad"}
