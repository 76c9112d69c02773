"""What a guardrail says: breached, quiet, or too little to say; and whether it is shown to hold.

Quiet is enough to let a model go on deciding. To go on to the next stage it has to be shown that the
guardrail holds: nothing seen in three decisions is quiet, and shows nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.governance.rollout import Guardrail
from harness.rollout.statistics import Sample, difference, evidence_above, upper_bound
from harness.store.arms import Arms, Counted

Verdict = Literal["breached", "inconclusive", "quiet"]
VERDICTS: tuple[Verdict, ...] = ("breached", "inconclusive", "quiet")
"""The gravest first."""

LEAST_ENTITIES = 100
"""In each arm, before two are compared: with fewer, an asymptotic sequence is not what it says."""


@dataclass(frozen=True)
class Judged:
    """What a guardrail says.

    Attributes:
        name: Its name.
        measure: What is measured.
        verdict: What came of it.
        shown: Whether it is shown to hold, which a promotion asks for.
        why: In words, with the figures.
        treated: The share where the model was assigned; None where nothing is known.
        control: The share where it was not; None where it is not compared.
        decisions: How many decisions of the model it rests on.
    """

    name: str
    measure: str
    verdict: Verdict
    shown: bool
    why: str
    treated: float | None = None
    control: float | None = None
    decisions: int = 0


def judge(guardrail: Guardrail, arms: Arms, alpha: float) -> Judged:
    """Ask one guardrail.

    Args:
        guardrail: What is asked.
        arms: What was counted.
        alpha: How often it may ever be breached by a model that is no worse.
    """
    if guardrail.bound is not None:
        return _bounded(guardrail, arms.treated, guardrail.bound, alpha)
    assert guardrail.margin is not None  # a signal is no figure of an arm, and never comes here
    return _compared(guardrail, arms, guardrail.margin, alpha)


def _bounded(guardrail: Guardrail, found: Counted, bound: float, alpha: float) -> Judged:
    if not found.decisions:
        return Judged(
            guardrail.name, guardrail.measure, "inconclusive", False, "no decisions of the model yet"
        )
    events, rate = round(found.events), found.events / found.decisions
    breached = evidence_above(events, found.decisions, bound) >= math.log(1 / alpha)
    at_most = upper_bound(events, found.decisions, alpha)
    shown = not breached and at_most <= bound
    said = f"{events:,} of {found.decisions:,} decisions ({rate:.1%})"
    if breached:
        why = f"{said}, more than {bound:.1%}"
    elif shown:
        why = f"{said}, at most {at_most:.1%}"
    else:
        why = f"{said}; that it is at most {bound:.1%} is not shown yet (at most {at_most:.1%})"
    verdict: Verdict = "breached" if breached else "quiet"
    return Judged(guardrail.name, guardrail.measure, verdict, shown, why, rate, None, found.decisions)


def _compared(guardrail: Guardrail, arms: Arms, margin: float, alpha: float) -> Judged:
    treated, control = arms.treated, arms.control
    fewest = min(treated.entities, control.entities)
    if fewest < LEAST_ENTITIES:
        which = "with the model" if treated.entities == fewest else "without it"
        why = f"{fewest:,} entities {which}, and {LEAST_ENTITIES} are needed"
        return Judged(
            guardrail.name, guardrail.measure, "inconclusive", False, why, decisions=treated.decisions
        )
    found = difference(_sample(treated), _sample(control), alpha)
    left, right = _sample(treated).mean, _sample(control).mean
    said = f"{left:.1%} of {treated.entities:,} entities with the model"
    said += f", {right:.1%} of {control.entities:,} without"
    breached, shown = found.lower > 0, found.upper < margin
    if breached:
        why = f"{said}: worse, by {_points(found.lower)} at least"
    elif shown:
        why = f"{said}: worse by {_points(found.upper)} at most"
    else:
        open_ = f"that it is worse by less than {_points(margin)} is not shown yet"
        why = f"{said}; {open_} ({_points(found.upper)} at most)"
    verdict: Verdict = "breached" if breached else "quiet"
    shown = shown and not breached
    return Judged(guardrail.name, guardrail.measure, verdict, shown, why, left, right, treated.decisions)


def _sample(counted: Counted) -> Sample:
    return Sample(counted.entities, counted.total, counted.squares)


def _points(share: float) -> str:
    return f"{max(share, 0.0) * 100:.1f} points"
