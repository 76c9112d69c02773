"""governance/monitoring.yaml: what is watched, from when on it is too much, and what happens then."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from harness.governance.document import Document
from harness.governance.values import Part

FILE = "governance/monitoring.yaml"

Category = Literal["drift", "data_quality", "performance", "bias", "security"]
Action = Literal["notify", "hold", "rollback", "kill"]
Measure = Literal[
    "psi",
    "js",
    "missing_share",
    "new_category_share",
    "vanished_category_share",
    "score_psi",
    "score_js",
    "decision_rate",
    "model_failure_share",
    "performance_drop",
    "fairness_gap",
    "own",
]
Figure = Literal["accuracy", "f1", "mae"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]

Hours = Annotated[float, Field(gt=0, le=2_160, allow_inf_nan=False)]

# Measures that look at fields of the record one by one; only with these does `over` mean anything.
BY_FIELD: frozenset[str] = frozenset(
    {"psi", "js", "missing_share", "new_category_share", "vanished_category_share", "fairness_gap"}
)


class Signal(Part):
    """One thing that is watched.

    Attributes:
        id: Its name, as alerts and the runbook call it.
        category: What kind of trouble it tells of.
        measure: What is measured; the guide in monitoring.yaml says what each is. ``own`` comes from
            monitors.py.
        over: ``all``, or the record's fields that are looked at.
        without: Fields that are not looked at where ``over`` says all: those that move with the calendar,
            such as a month. Naming one that the record does not have changes nothing.
        figure: For performance_drop: which figure; left out, accuracy for a choice and mae for an amount.
        threshold: A window breaches when its measure is above it, and further off than chance explains.
        min_samples: Fewer in a window say nothing.
        breaches: In how many of the windows it takes a breach.
        windows: How many windows, back from now, are looked at.
        action: What happens: nothing but an alert, no promotion, back to shadow, or a stop.
        runbook: The heading's anchor in docs/runbook.md.
        owner: The role that is told, if it is not the document's owner.
    """

    id: Name
    category: Category
    measure: Measure
    over: Literal["all"] | tuple[str, ...] = "all"
    without: tuple[str, ...] = ()
    figure: Figure | None = None
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    min_samples: Annotated[int, Field(ge=1)]
    breaches: Annotated[int, Field(ge=1)] = 1
    windows: Annotated[int, Field(ge=1, le=90)] = 1
    action: Action
    runbook: Name
    owner: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Signal:
        if self.breaches > self.windows:
            raise ValueError(f"{self.breaches} breaches cannot come out of {self.windows} windows")
        if self.figure is not None and self.measure != "performance_drop":
            raise ValueError(
                f"'figure' says nothing to the measure {self.measure}; it is for performance_drop"
            )
        if self.over != "all" and self.measure not in BY_FIELD:
            raise ValueError(f"'over' says nothing to the measure {self.measure}, which looks at no field")
        both = [name for name in self.without if name in self.over and self.over != "all"]
        if both:
            raise ValueError(f"'over' names {both[0]} and 'without' takes it out")
        if self.without and self.measure not in BY_FIELD:
            raise ValueError(f"'without' says nothing to the measure {self.measure}, which looks at no field")
        return self


class Monitoring(Document):
    """The whole file.

    Attributes:
        window_hours: How long a window is, in hours.
        outcome_window_hours: The same where outcomes are looked at, by the time at which they were received.
        false_alarms: Of windows in which nothing has changed, the share that a signal may breach by chance at
            most, all its fields together.
        signals: What is watched.
    """

    window_hours: Hours = 24.0
    outcome_window_hours: Hours = 168.0
    false_alarms: Annotated[float, Field(gt=0, le=0.1)] = 0.01
    signals: Annotated[tuple[Signal, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _once(self) -> Monitoring:
        names = [signal.id for signal in self.signals]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the signal '{twice[0]}' is declared twice")
        return self
