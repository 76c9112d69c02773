"""What the stage in force has to have shown before the next. Too little never passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from harness.control import STAGES
from harness.errors import PilotError
from harness.governance.rollout import Leave
from harness.governance.rules import GATES, Problem
from harness.pipeline.record import TREES
from harness.readiness import drilled
from harness.readiness.case import Case, Requirement, Unknown
from harness.rollout.guardrails import LEAST_ENTITIES, both
from harness.rollout.shadowed import Summary
from harness.rollout.standing import SLACK, SPANNED, Unclear
from harness.rollout.statistics import at_least, refuted
from harness.rollout.trial import Since, Trial

DRILL_AGAIN = "Run `pilot drill {name}`, and commit what it wrote."
DRILLS = (
    ("trial.drilled", "kill", "platform", "whether a kill stops the model"),
    ("trial.drilled_data", "data-quality", "data", "whether bad data is set aside or stops the pipeline"),
    ("trial.drilled_integration", "integration", "platform", "whether each decision reaches its consumer"),
    ("trial.drilled_load", "load", "platform", "whether it sheds what is too much"),
)
DRILL_EVERY = timedelta(days=30)
RECENT = timedelta(days=4)
"""Longer without a decision than over a long weekend, and the figures are of the past."""


def _leaving(case: Case) -> tuple[Trial, Leave]:
    """The trial that the gate looks back on, and what it has to have shown."""
    before = STAGES[GATES.index(case.gate) - 1]
    if case.stage != before:
        told = f"what the stage '{before}' has shown: the pilot is in '{case.stage}'"
        raise Unknown(told, "Go on from stage to stage.")
    leave: Leave = getattr(case.documents.rollout.stages, before).leave
    return case.trial, leave


def _lasted(case: Case) -> Iterator[Problem]:
    trial, leave = _leaving(case)
    wanted, lasted = timedelta(days=leave.days), trial.standing.lasted(case.now)
    if lasted < wanted:
        armed = ", when it was armed" if trial.standing.judged != trial.standing.revision else ""
        since = f"{trial.standing.judged_at:%Y-%m-%d %H:%M} UTC{armed}"
        counted = f"{_days(lasted)} count, an hour left off for clocks"
        yield Problem("", f"it is in force since {since} ({counted}), and {leave.days} days are wanted")


def _spanned(case: Case) -> Iterator[Problem]:
    trial, leave = _leaving(case)
    if trial.standing.stage == "shadow":
        counts = _shadowed(trial, "judged")
        count, days, first, last = counts.pairs, counts.days, counts.first_at, counts.last_at
        what = "pairs of decisions"
    else:
        spread = trial.spread()
        count, days, first, last = spread.treated, spread.days, spread.first_at, spread.last_at
        what = "decisions to which the model was assigned"
    if count < leave.decisions or first is None or last is None:
        told = f"whether it does well: {count:,} {what}, and {leave.decisions:,} are wanted"
        raise Unknown(told, "Wait for more; look whether the service decides.")
    begin, end = datetime.fromisoformat(first), datetime.fromisoformat(last)
    if end > case.now + SLACK or begin < trial.standing.judged_at - SLACK:
        raise Unknown(
            "how long decisions were made: their times do not fit this host's clock", "Set the clocks."
        )
    if case.now - end > RECENT:
        raise Unknown(
            f"how it does now: it has said nothing since {last[:10]}", "Look whether the service decides."
        )
    wanted = math.ceil(round(leave.days * SPANNED, 6))
    if days < wanted:
        since = f"{trial.standing.judged_at:%Y-%m-%d}"
        yield Problem("", f"it has decisions on {days} days since {since}, and {wanted} are wanted")


def _agreement(case: Case) -> Iterator[Problem]:
    if case.gate != "early":
        return
    trial, leave = _leaving(case)
    counts = _shadowed(trial)
    entities = counts.by_entity
    if not counts.pairs or not entities.paired:
        raise Unknown(f"whether it agrees in {leave.agreement:.0%}: there are no pairs", "Wait for more.")
    asked = both(counts.agreeing, counts.pairs, entities.agreeing, entities.paired)
    shown, few = at_least(asked, trial.rollout.alpha), entities.paired < LEAST_ENTITIES
    if shown > leave.agreement and not few:
        return
    share, of_entities = counts.agreeing / counts.pairs, entities.agreeing / entities.paired
    said = f"{counts.agreeing:,} of {counts.pairs:,} pairs agree ({share:.1%}), "
    said += f"{of_entities:.1%} over {entities.paired:,} entities"
    said += f", and {LEAST_ENTITIES} are needed" if few else f", shown is {shown:.1%}"
    if few or min(share, of_entities) > leave.agreement:
        raise Unknown(f"whether it agrees in {leave.agreement:.0%}: {said}", "Wait for more.")
    yield Problem("", f"{said}, and above {leave.agreement:.0%} is wanted")


def _errors(case: Case) -> Iterator[Problem]:
    if case.gate != "early":
        return
    trial, leave = _leaving(case)
    counts = _shadowed(trial)
    runs = counts.pairs + counts.errors
    if not runs:
        raise Unknown("how often it fails in shadow: it was never run", "Look whether the service decides.")
    asked = both(counts.errors, runs, counts.by_entity.failing, counts.by_entity.run)
    if refuted(asked, leave.error_rate, trial.rollout.alpha):
        yield Problem(
            "", f"it failed in {counts.errors:,} of {runs:,} runs, more than {leave.error_rate:.0%}"
        )


def _dropped(case: Case) -> Iterator[Problem]:
    if case.gate != "early":
        return
    trial, leave = _leaving(case)
    counts = _shadowed(trial)
    total = counts.pairs + counts.errors + counts.dropped
    if not total:
        raise Unknown(
            "how often it was not run in shadow: it was never run", "Look whether the service decides."
        )
    share = counts.dropped / total
    if share >= leave.drop_rate:
        told = f"it was not run beside {share:.1%} of decisions, and below {leave.drop_rate:.0%} is wanted"
        yield Problem("", told)


def _guarded(case: Case) -> Iterator[Problem]:
    if case.gate == "early":
        return
    trial, _ = _leaving(case)
    found = trial.guarded("entered")
    breached = [each for each in found if each.verdict == "breached"]
    yield from (Problem(each.name, each.why) for each in breached)
    open_ = [each for each in found if each.verdict == "inconclusive" or not each.shown]
    if not breached and (open_ or not found):
        told = "; ".join(f"{each.name}: {each.why}" for each in open_) or "there are no guardrails"
        raise Unknown(
            f"whether every guardrail holds. {told}", "Wait for more, or look why there is nothing."
        )


def _shares(case: Case) -> Iterator[Problem]:
    if case.gate == "early":
        return
    trial, _ = _leaving(case)
    try:
        evidence, (treated, control) = trial.other_shares()
    except Unclear as error:
        raise Unknown(error.what, error.mend) from error
    if not treated or not control:
        raise Unknown(
            "whether entities fall into the arms as they should: one arm has none", "Wait for more."
        )
    if evidence >= math.log(1 / trial.rollout.alpha):
        share = treated / (treated + control)
        counted = f"{treated:,} of {treated + control:,} entities"
        yield Problem("", f"{counted} have the model ({share:.1%}), and it is to be {trial.percent}%")


def _quiet(case: Case) -> Iterator[Problem]:
    trial, leave = _leaving(case)
    try:
        raised, unknown = trial.quiet(leave.quiet)
    except Unclear as error:
        raise Unknown(error.what, error.mend) from error
    yield from (Problem("", each) for each in raised)
    if unknown and not raised:
        raise Unknown(
            f"whether signals are quiet. {'; '.join(unknown)}", "Wait for more, then `pilot monitor`."
        )


def _drilled(name: str, question: str) -> Callable[[Case], Iterator[Problem]]:
    """Asks whether a drill passed lately, with the code that is there and the model on trial."""
    where = drilled.path(name).as_posix()

    def ask(case: Case) -> Iterator[Problem]:
        try:
            found = drilled.read(case.root, name)
        except PilotError as error:
            raise Unknown(f"{question}: {where}: {error.what}", DRILL_AGAIN.format(name=name)) from error
        slot = case.state.challenger if case.state else None
        on_trial = slot.digest if slot else ""
        other = [name for name, tree in found.trees.items() if tree != case.committed_tree(name)]
        if not found.passed:
            yield Problem(where, f"the last drill came out {found.verdict}")
        elif found.produced_at > case.now + SLACK:
            yield Problem(where, f"it is dated {found.produced_at:%Y-%m-%d}, which has not come yet")
        elif case.now - found.produced_at > DRILL_EVERY:
            told = f"it is of {found.produced_at:%Y-%m-%d}, longer ago than {DRILL_EVERY.days} days"
            yield Problem(where, told)
        elif other or set(found.trees) != set(TREES):
            yield Problem(where, f"it was drilled with other code: {', '.join(other) or 'not said which'}")
        elif found.model != on_trial:
            told = f"model {found.model[:12]} was drilled, and {on_trial[:12] or 'none'} is on trial"
            yield Problem(where, told)

    return ask


def _shadowed(trial: Trial, since: Since = "entered") -> Summary:
    try:
        return trial.shadowed(since)
    except Unclear as error:
        raise Unknown(error.what, error.mend) from error


def _days(span: timedelta) -> str:
    return f"{max(span / timedelta(days=1), 0):.1f} days"


WORSE = "Stay, or take it back: `pilot rollback`."
REQUIREMENTS = (
    Requirement("trial.lasted", "early", "accountable", "Wait.", _lasted),
    Requirement(
        "trial.spanned", "early", "platform", "Wait, and look whether the service decides.", _spanned
    ),
    Requirement("trial.agreement", "early", "model", "`pilot shadow` shows where it differs.", _agreement),
    Requirement("trial.errors", "early", "model", "`pilot shadow` shows them; mend the model.", _errors),
    Requirement("trial.dropped", "early", "platform", "Give the service more room.", _dropped),
    Requirement("trial.guardrails", "broad", "model", WORSE, _guarded),
    Requirement("trial.shares", "broad", "platform", "Find out which entities are missing.", _shares),
    Requirement("trial.quiet", "early", "model", "docs/runbook.md says what to do.", _quiet),
    *(
        Requirement(check, "early", role, DRILL_AGAIN.format(name=name), _drilled(name, question))
        for check, name, role, question in DRILLS
    ),
)
