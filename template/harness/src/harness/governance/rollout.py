"""governance/rollout.yaml: the stages, what each must show before the next, and who signed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from harness.governance.document import Document
from harness.governance.rules import Problem, Rule
from harness.governance.values import Filled, Part

if TYPE_CHECKING:
    from harness.governance.documents import Documents

LEFT = ("shadow", "early", "broad")
LEAST_DAYS = 1
LEAST_DECISIONS = 1_000
MOST_ALPHA = 0.2

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Measure = Literal["error_rate", "late_rate", "fallback_rate", "loss", "signal"]
# What every rollout is held to whose file, of an earlier version, says nothing about it.
AGREEMENT, DROP_RATE, ERROR_RATE, ALPHA = 0.8, 0.05, 0.05, 0.05


class Leave(Part):
    """What a stage must show before the next.

    Attributes:
        days: How long it lasted, at least, since somebody last armed; on four fifths of these days the model
            decided.
        decisions: How many decisions the model on trial saw, at least; in shadow, pairs of its decision and
            the one in
            force.
        quiet: Signals of monitoring.yaml that are not raised.
        agreement: In shadow: the share of pairs that has to agree, shown by a bound that holds at any time.
        drop_rate: In shadow: the share of decisions beside which the model was not run has to be below this.
        error_rate: In shadow: the share of its runs that may fail at most.
    """

    days: int = Field(ge=0)
    decisions: int = Field(ge=0)
    quiet: tuple[Filled, ...]
    agreement: Share = AGREEMENT
    drop_rate: Share = DROP_RATE
    error_rate: Share = ERROR_RATE


class Guardrail(Part):
    """Something that may not get worse while the model decides, or it is taken back to shadow.

    Attributes:
        name: Its name, as alerts and the audit call it.
        measure: What is measured; the guide in rollout.yaml says what each is.
        bound: The share that it may reach at most.
        margin: By how much it may be worse than where the model on trial does not decide, to go on to the
            next stage.
        over_ms: For late_rate: from how many milliseconds on an answer is late.
        signal: For signal: which one of monitoring.yaml.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    measure: Measure
    bound: Share | None = None
    margin: Share | None = None
    over_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    signal: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Guardrail:
        if (self.measure == "late_rate") != (self.over_ms is not None):
            raise ValueError("'over_ms' belongs to the measure late_rate, and has to be there")
        if (self.measure == "signal") != bool(self.signal):
            raise ValueError("'signal' belongs to the measure signal, and has to be there")
        wanted = 0 if self.measure == "signal" else 1
        if (self.bound is not None) + (self.margin is not None) != wanted:
            told = (
                "either 'bound' or 'margin' is wanted"
                if wanted
                else "a signal has its threshold in monitoring.yaml"
            )
            raise ValueError(told)
        if self.measure == "loss" and self.bound is not None:
            raise ValueError("a loss is compared: 'margin' is wanted")
        return self


SEEDED = (
    Guardrail(name="errors", measure="error_rate", bound=0.02),
    Guardrail(name="late-answers", measure="late_rate", over_ms=1_000, bound=0.05),
    Guardrail(name="fallbacks", measure="fallback_rate", bound=0.05),
    Guardrail(name="wrong-decisions", measure="loss", margin=0.05),
)
"""What holds where a rollout.yaml of an earlier version names no guardrails."""


class Stage(Part):
    """A stage: the share of entities, in percent, for which the model decides."""

    percent: int = Field(ge=0, le=100)
    leave: Leave


class Last(Part):
    """The last stage."""

    percent: int = Field(ge=0, le=100)


class Stages(Part):
    """The four stages after the sandbox."""

    shadow: Stage
    early: Stage
    broad: Stage
    full: Last


class SignOff(Part):
    """A signature.

    Attributes:
        gate: The gate that is signed.
        role: In which role, one of owners.yaml.
        name: By whom, as owners.yaml names the role's holder.
        on: When.
        evidence: The evidence lock that was looked at: `pilot governance lock` prints its 64 digits.
    """

    gate: Literal["shadow", "early", "broad", "full"]
    role: Filled
    name: Filled
    on: date
    evidence: str = Field(pattern=r"^[0-9a-f]{64}$")


class Rollout(Document):
    """The whole file.

    Attributes:
        stages: The stages, in order.
        alpha: The chance that a model which is no worse is ever taken back, all guardrails together.
        dead_after_s: After so many seconds without any decision, somebody is told; left out, nobody is.
        guardrails: What may not get worse.
        sign_offs: Who signed.
    """

    stages: Stages
    alpha: Annotated[float, Field(gt=0, le=MOST_ALPHA)] = ALPHA
    dead_after_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    guardrails: tuple[Guardrail, ...] = SEEDED
    sign_offs: tuple[SignOff, ...] = ()

    def percent(self, stage: str) -> int:
        """The model's share in a stage."""
        found: int = getattr(self.stages, stage).percent
        return found


def standard() -> Rollout:
    """What a controller guards by that cannot read the pilot's own file. No gate ever asks it."""
    never = {"days": 10**6, "decisions": 10**9, "quiet": ()}
    stages = {
        name: {"percent": percent, "leave": never} for name, percent in zip(LEFT, (0, 10, 50), strict=True)
    }
    return Rollout.model_validate(
        {
            "owner": "standard",
            "last_reviewed": "TODO",
            "review_by": "TODO",
            "stages": {**stages, "full": {"percent": 100}},
        }
    )


def _order(documents: Documents) -> Iterator[Problem]:
    percent = {name: documents.rollout.percent(name) for name in ("shadow", "early", "broad", "full")}
    if percent["shadow"] != 0:
        yield Problem(
            "stages.shadow.percent", f"{percent['shadow']}, and in shadow the model decides nothing"
        )
    if percent["full"] != 100:
        yield Problem("stages.full.percent", f"{percent['full']}, and full means 100")
    for (before, low), (after, high) in pairwise(percent.items()):
        if high <= low:
            yield Problem(f"stages.{after}.percent", f"{high} is not above the {low} of {before}")


def _signals(documents: Documents) -> Iterator[Problem]:
    for name in LEFT:
        for number, signal in enumerate(getattr(documents.rollout.stages, name).leave.quiet):
            if signal not in documents.signals:
                told = f"monitoring.yaml has no signal '{signal}'"
                yield Problem(f"stages.{name}.leave.quiet.{number}", told)


def _minima(documents: Documents) -> Iterator[Problem]:
    for name in LEFT:
        leave: Leave = getattr(documents.rollout.stages, name).leave
        if leave.days < LEAST_DAYS:
            yield Problem(f"stages.{name}.leave.days", f"{leave.days} is below {LEAST_DAYS}")
        if leave.decisions < LEAST_DECISIONS:
            yield Problem(f"stages.{name}.leave.decisions", f"{leave.decisions} is below {LEAST_DECISIONS:,}")
        if not leave.quiet:
            yield Problem(f"stages.{name}.leave.quiet", "no signal has to be quiet")


def _guarded(documents: Documents) -> Iterator[Problem]:
    rollout = documents.rollout
    names = [each.name for each in rollout.guardrails]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("guardrails", f"the guardrail '{name}' is declared twice")
    for number, each in enumerate(rollout.guardrails):
        if each.signal and each.signal not in documents.signals:
            yield Problem(f"guardrails.{number}.signal", f"monitoring.yaml has no signal '{each.signal}'")


def _measured(documents: Documents) -> Iterator[Problem]:
    measures = {each.measure for each in documents.rollout.guardrails}
    for wanted, told in (("error_rate", "how often it fails"), ("loss", "how good its decisions are")):
        if wanted not in measures:
            yield Problem("guardrails", f"none watches {told} ({wanted})")


def _of_shadow(documents: Documents) -> Iterator[Problem]:
    for name in ("early", "broad"):
        leave: Leave = getattr(documents.rollout.stages, name).leave
        for field in ("agreement", "drop_rate", "error_rate"):
            if field in leave.model_fields_set:
                told = "it says something to the stage shadow only"
                yield Problem(f"stages.{name}.leave.{field}", told, "Remove it; guardrails watch this stage.")


RULES = (
    Rule(
        "rollout.guardrails",
        "pilot",
        "Give each a name of its own, and signals of monitoring.yaml.",
        _guarded,
    ),
    Rule("rollout.measured", "early", "Add one to guardrails.", _measured),
    Rule("rollout.of_shadow", "pilot", "Remove it.", _of_shadow),
    Rule("rollout.order", "pilot", "Let the shares grow from 0 to 100.", _order),
    Rule("rollout.signals", "pilot", "Name signals of monitoring.yaml.", _signals),
    Rule("rollout.minima", "pilot", "A shorter look shows nothing: write at least that.", _minima),
)
