"""What a guardrail says: breached, quiet, or too little to say; and whether it is shown to hold.

Quiet is enough to let a model go on deciding. To go on to the next stage it has to be shown that the
guardrail holds: nothing seen in three decisions is quiet, and shows nothing.

The unit is the entity, because it is what the rollout draws: its bucket never changes, and its decisions
are alike. A unit of analysis finer than that of randomisation makes intervals too narrow (Deng, Knoblich
and Lu, "Applying the Delta Method in Metric Analytics", KDD 2018; Kohavi, Tang and Xu, "Trustworthy Online
Controlled Experiments", 2020, chapter 14). So what is shown is shown of the mean over entities, of each its
own mean, and of the decisions besides; one entity that asks all day shows nothing. A stop asks for less: a
bound is breached by entities or by decisions, however few entities they are about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.governance.rollout import Guardrail
from harness.rollout.statistics import Count, Sample, at_most, difference, refuted
from harness.store.arms import Arms, Counted

Verdict = Literal["breached", "inconclusive", "quiet"]
VERDICTS: tuple[Verdict, ...] = ("breached", "inconclusive", "quiet")
"""The gravest first."""

LEAST_ENTITIES = 100
"""Before anything is shown, and in each arm before two are compared: with fewer, an asymptotic sequence is
not what it says, and a few entities are not everybody."""


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
        model: The digest of the model that is judged, where more than one is.
    """

    name: str
    measure: str
    verdict: Verdict
    shown: bool
    why: str
    treated: float | None = None
    control: float | None = None
    decisions: int = 0
    model: str = ""


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
    counts = both(found.events, found.decisions, found.total, found.entities)
    breached = refuted(counts, bound, alpha)
    most = at_most(counts, alpha)
    few = found.entities < LEAST_ENTITIES
    shown = not breached and not few and most <= bound
    said = f"{events:,} of {found.decisions:,} decisions ({rate:.1%})"
    said += f", {found.total / found.entities:.1%} over {found.entities:,} entities"
    if breached:
        why = f"{said}, more than {bound:.1%}"
    elif shown:
        why = f"{said}, at most {most:.1%}"
    elif few:
        why = f"{said}, and {LEAST_ENTITIES} are needed"
    else:
        why = f"{said}; that it is at most {bound:.1%} is not shown yet (at most {most:.1%})"
    verdict: Verdict = "breached" if breached else "quiet"
    return Judged(guardrail.name, guardrail.measure, verdict, shown, why, rate, None, found.decisions)


def both(events: float, trials: int, total: float, entities: int) -> tuple[Count, Count]:
    """The two counts that a rate is judged by: its trials, and its entities by their means.

    Args:
        events: How many trials were one.
        trials: How many there were.
        total: The sum of the entities' means.
        entities: How many entities the trials are about.
    """
    # The database adds up floating point: a sum of ones may come out a hair above their number.
    return (round(events), trials), (min(total, float(entities)), entities)


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
