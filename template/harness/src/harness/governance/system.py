"""governance/system.yaml: what the system is worth, what the law makes of it, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from harness.governance.document import Document
from harness.governance.rules import Gate, Problem, Rule
from harness.governance.values import Filled, NotApplicable, OrNotApplicable, Part, Pending, Text, Unfilled

if TYPE_CHECKING:
    from harness.governance.documents import Documents

# Regulation (EU) 2024/1689 as changed by (EU) 2026/1744; three secondary sources agree.
EU_AS_OF = date(2026, 7, 27)
EU_APPLIES_FROM = {"annex_iii": date(2027, 12, 2), "annex_i": date(2028, 8, 2)}


class Value(Part):
    """What the pilot is to change, and against what.

    Attributes:
        kpi: What is measured.
        unit: In what unit.
        baseline: What it is today, without the pilot.
        target: What makes the pilot worth its cost.
        measured_by: Who measures, and how.
        alternative: What could be done without a model, and why that is not enough.
    """

    kpi: Text
    unit: Text
    baseline: Pending[Decimal]
    target: Pending[Decimal]
    measured_by: Text
    alternative: Text


class EuAiAct(Part):
    """What the EU AI Act makes of the system.

    Attributes:
        role: Who you are to it.
        risk_class: The class, ``out_of_scope`` where it touches nobody in the EU.
        reasoning: Why that class; who judged it.
        basis: For high risk: the annex that makes it so.
        point: For high risk: the point of that annex.
        ready_by: For high risk: the day by which the duties of Articles 8 to 27 are met.
    """

    role: Pending[Literal["provider", "deployer", "both", "none"]]
    risk_class: Pending[Literal["prohibited", "high", "limited", "minimal", "out_of_scope"]]
    reasoning: Text
    basis: Literal["annex_iii", "annex_i"] | None = None
    point: str = ""
    ready_by: date | None = None


class Impact(Part):
    """What a wrong decision does, to whom, and how they object."""

    who: Text
    harm: Text
    redress: Text


class Oversight(Part):
    """How people stay in charge.

    Attributes:
        override: Who may decide otherwise than the model, and where they do it.
        off_switch: Who may stop it, and how.
    """

    override: Text
    off_switch: Text


class Notice(Part):
    """How people are told that a model is involved."""

    text: Text
    where: Text


class Retirement(Part):
    """When the system is taken out of use, and what happens to decisions, data and models then."""

    when: Text
    how: Text


class System(Document):
    """The whole file."""

    purpose: Filled
    value: Value
    eu_ai_act: EuAiAct
    impact: OrNotApplicable[Impact]
    oversight: OrNotApplicable[Oversight]
    notice: OrNotApplicable[Notice]
    retirement: Retirement


def _target(documents: Documents) -> Iterator[Problem]:
    value = documents.system.value
    if not isinstance(value.target, Unfilled) and value.target == value.baseline:
        yield Problem("value.target", "the target is what there is today")


def _allowed(documents: Documents) -> Iterator[Problem]:
    if documents.system.eu_ai_act.risk_class == "prohibited":
        yield Problem("eu_ai_act.risk_class", "a prohibited practice (Article 5) cannot go on")


def _high_risk(documents: Documents) -> Iterator[Problem]:
    act = documents.system.eu_ai_act
    if act.risk_class != "high":
        return
    if documents.facts.risk_tier != "high":
        told = f"high risk by law, and risk_tier in pilot.toml says {documents.facts.risk_tier}"
        yield Problem("eu_ai_act.risk_class", told, 'Write risk_tier = "high" in pilot.toml.')
    for name in ("basis", "point", "ready_by"):
        if not getattr(act, name):
            yield Problem(f"eu_ai_act.{name}", "it is missing, and the class is high")
    if act.basis and act.ready_by and act.ready_by > EU_APPLIES_FROM[act.basis]:
        told = f"the duties hold from {EU_APPLIES_FROM[act.basis]} on (as of {EU_AS_OF})"
        yield Problem("eu_ai_act.ready_by", told, "Be ready before.")


def _notice(documents: Documents) -> Iterator[Problem]:
    system = documents.system
    if system.eu_ai_act.risk_class in ("limited", "high") and isinstance(system.notice, NotApplicable):
        told = f"people must be told (Article 50): the class is {system.eu_ai_act.risk_class}"
        yield Problem("notice", told)


RULES = (
    Rule("system.target", "shadow", "Name a target that differs from the baseline.", _target),
    Rule("system.allowed", "shadow", "Stop here, and ask counsel.", _allowed),
    Rule("system.high_risk", "shadow", "Add it, with counsel.", _high_risk),
    Rule("system.notice", "early", "Write the notice in place of `not_applicable`.", _notice),
)
LATER: Mapping[str, Gate] = {"notice": "early", "retirement": "broad"}
