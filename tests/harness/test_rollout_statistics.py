"""Always-valid statistics are what they say, however often they are looked at: measured.

Each rate is counted over many runs; what is allowed is the promise and what chance adds to such a count.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.governance.rollout import Guardrail
from harness.rollout.guardrails import LEAST_ENTITIES, judge
from harness.rollout.statistics import (
    Sample,
    difference,
    evidence_above,
    evidence_of_other_shares,
    lower_bound,
    upper_bound,
)
from harness.store.arms import Arms, Counted

ALPHA = 0.05
LOSS = Guardrail(name="loss", measure="loss", margin=0.05)
ERRORS = Guardrail(name="errors", measure="error_rate", bound=0.03)


def allowed(rate: float, runs: int) -> int:
    """How many of so many runs a rate brings, but for one time in a thousand."""
    return int(stats.binom.ppf(0.999, runs, rate))


def arms(events: int, units: int, others: int, control: int) -> Arms:
    return Arms(
        Counted(units, events, units, float(events), float(events)),
        Counted(control, others, control, float(others), float(others)),
    )


def first_breach(
    draw: np.random.Generator, treated: float, control: float, share: float, *, most: int, every: int
) -> float:
    """After how many units with the model a comparison is breached first, looked at again and again."""
    units = int(most / share)
    mine = draw.random(units) < share
    event = draw.random(units) < np.where(mine, treated, control)
    n, k = np.cumsum(mine), np.cumsum(mine & event)
    others, losses = np.cumsum(~mine), np.cumsum(~mine & event)
    for at in range(every - 1, units, every):
        found = arms(int(k[at]), int(n[at]), int(losses[at]), int(others[at]))
        if judge(LOSS, found, ALPHA).verdict == "breached":
            return float(n[at])
    return math.inf


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_24_peeking_at_equals_takes_a_model_back_no_more_often_than_alpha(share: float) -> None:
    draw = np.random.default_rng(24)
    runs, most = 1_000, 2_000 if share == 0.5 else 500
    fired = sum(
        math.isfinite(first_breach(draw, 0.03, 0.03, share, most=most, every=50)) for _ in range(runs)
    )
    assert fired <= allowed(ALPHA, runs)


def test_24_a_naive_test_would_have_fired_far_more_often() -> None:
    """What the test above measures is not trivial: a z test at every look fires in a third of the runs."""
    draw = np.random.default_rng(24)
    runs, units, fired = 300, 4_000, 0
    for _ in range(runs):
        mine = draw.random(units) < 0.5
        event = draw.random(units) < 0.03
        n, k = np.cumsum(mine), np.cumsum(mine & event)
        others, losses = np.cumsum(~mine), np.cumsum(~mine & event)
        at = np.arange(199, units, 50)
        left, right = k[at] / n[at], losses[at] / others[at]
        error = np.sqrt(left * (1 - left) / n[at] + right * (1 - right) / others[at])
        fired += bool(((left - right) / np.maximum(error, 1e-9) > stats.norm.ppf(1 - ALPHA)).any())
    assert fired > 2 * allowed(ALPHA, runs)


def test_24_peeking_at_a_rate_at_its_bound_takes_a_model_back_no_more_often_than_alpha() -> None:
    draw = np.random.default_rng(25)
    runs, fired, wanted = 1_000, 0, math.log(1 / ALPHA)
    for _ in range(runs):
        k = np.cumsum(draw.random(3_000) < 0.05)
        fired += any(evidence_above(int(k[at]), at + 1, 0.05) >= wanted for at in range(0, 3_000, 15))
    assert fired <= allowed(ALPHA, runs)
    assert fired > 0, "it is not simply deaf"


def test_24_entities_that_decide_often_and_alike_take_a_model_back_no_more_often() -> None:
    """Each entity has a rate of its own and decides on and on; looked at after every round."""
    draw = np.random.default_rng(26)
    runs, fired, entities = 400, 0, 600
    for _ in range(runs):
        rates = draw.beta(0.3, 9.7, entities)
        mine = draw.random(entities) < 0.5
        counts = np.zeros(entities)
        for rounds in range(1, 21):
            counts += draw.random(entities) < rates
            means = counts / rounds
            both = [means[mine], means[~mine]]
            treated, control = (Sample(len(x), float(x.sum()), float((x**2).sum())) for x in both)
            if difference(treated, control, ALPHA).lower > 0:
                fired += 1
                break
    assert fired <= allowed(ALPHA, runs)


@pytest.mark.parametrize(
    ("treated", "share", "most", "median"),
    [(0.10, 0.5, 2_000, 214), (0.06, 0.5, 4_000, 750), (0.10, 0.1, 1_000, 214)],
)
def test_a_fault_is_seen_within_the_measured_number_of_units(
    treated: float, share: float, most: int, median: int
) -> None:
    draw = np.random.default_rng(27)
    seen = [first_breach(draw, treated, 0.03, share, most=most, every=25) for _ in range(100)]
    assert sum(map(math.isfinite, seen)) == 100
    assert float(np.median(seen)) <= median


def test_an_improvement_is_no_breach_and_shows_itself_no_worse() -> None:
    found = judge(LOSS, arms(20, 2_000, 400, 4_000), ALPHA)
    assert (found.verdict, found.shown) == ("quiet", True)


def test_no_worse_is_shown_only_when_it_is_inside_the_margin() -> None:
    equal = judge(LOSS, arms(60, 2_000, 60, 2_000), ALPHA)
    assert (equal.verdict, equal.shown) == ("quiet", True)
    few = judge(LOSS, arms(4, 150, 4, 150), ALPHA)
    assert (few.verdict, few.shown) == ("quiet", False)
    assert "is not shown yet" in few.why


def test_nothing_seen_has_a_width() -> None:
    found = difference(Sample(100, 0.0, 0.0), Sample(900, 0.0, 0.0), ALPHA)
    assert found.estimate == 0
    assert found.upper > 0.025
    assert found.lower == -found.upper


@pytest.mark.parametrize("few", ["treated", "control"])
def test_too_few_entities_in_either_arm_say_nothing(few: str) -> None:
    units = LEAST_ENTITIES - 1
    counts = (units, units, 0, 5_000) if few == "treated" else (5_000, 5_000, 0, units)
    found = judge(LOSS, arms(*counts), ALPHA)
    assert (found.verdict, found.shown) == ("inconclusive", False)
    assert f"{units} entities {'with the model' if few == 'treated' else 'without it'}" in found.why


def test_a_bound_without_decisions_is_inconclusive_and_with_few_is_not_shown() -> None:
    nothing = judge(ERRORS, Arms(Counted(), Counted()), ALPHA)
    assert (nothing.verdict, nothing.shown) == ("inconclusive", False)
    few = judge(ERRORS, arms(0, 20, 0, 0), ALPHA)
    assert (few.verdict, few.shown) == ("quiet", False)
    many = judge(ERRORS, arms(5, 3_000, 0, 0), ALPHA)
    assert (many.verdict, many.shown) == ("quiet", True)
    bad = judge(ERRORS, arms(60, 300, 0, 0), ALPHA)
    assert (bad.verdict, bad.shown) == ("breached", False)


def test_the_evidence_grows_with_events_and_falls_without() -> None:
    assert evidence_above(0, 0, 0.05) == pytest.approx(0.0)
    assert evidence_above(0, 100, 0.05) < 0 < evidence_above(20, 100, 0.05)
    assert evidence_above(5_000, 5_000, 0.02) == pytest.approx(5_000 * -math.log(0.02), rel=0.01)
    assert math.isfinite(evidence_above(1, 1_000_000, 0.9))


def test_the_evidence_is_one_on_average_where_the_rate_is_at_its_bound() -> None:
    """The definition of an e-value, summed over everything that ten trials can bring."""
    for rate in (0.02, 0.3, 0.9):
        mean = sum(
            stats.binom.pmf(events, 10, rate) * math.exp(evidence_above(events, 10, rate))
            for events in range(11)
        )
        assert mean == pytest.approx(1.0, rel=1e-6)
        below = sum(
            stats.binom.pmf(events, 10, rate / 2) * math.exp(evidence_above(events, 10, rate))
            for events in range(11)
        )
        assert below < 1


def test_a_lower_bound_is_wrong_at_some_look_no_more_often_than_alpha() -> None:
    draw = np.random.default_rng(28)
    runs, missed = 400, 0
    for _ in range(runs):
        k = np.cumsum(draw.random(3_000) < 0.9)
        missed += any(lower_bound(int(k[at]), at + 1, ALPHA) > 0.9 for at in range(9, 3_000, 60))
    assert missed <= allowed(ALPHA, runs)


def test_bounds_close_in_and_never_cross() -> None:
    assert lower_bound(0, 0, ALPHA) == 0
    assert lower_bound(0, 50, ALPHA) == 0
    assert upper_bound(0, 0, ALPHA) == 1
    assert upper_bound(50, 50, ALPHA) == 1
    before = 0.0
    for size in (10, 100, 1_000, 100_000):
        low, high = lower_bound(size * 9 // 10, size, ALPHA), upper_bound(size * 9 // 10, size, ALPHA)
        assert before <= low < 0.9 < high
        before = low
    assert 0.87 < lower_bound(9_000, 10_000, ALPHA) < 0.9
    assert lower_bound(1_000_000, 1_000_000, ALPHA) > 0.9999


def test_shares_as_stated_are_refuted_at_some_look_no_more_often_than_alpha() -> None:
    draw = np.random.default_rng(29)
    runs, fired, wanted = 1_000, 0, math.log(1 / ALPHA)
    for _ in range(runs):
        k = np.cumsum(draw.random(4_000) < 0.1)
        fired += any(
            evidence_of_other_shares((int(k[at]), at + 1 - int(k[at])), (0.1, 0.9)) >= wanted
            for at in range(19, 4_000, 100)
        )
    assert fired <= allowed(ALPHA, runs)


def test_other_shares_are_refuted_and_the_evidence_is_one_on_average() -> None:
    assert evidence_of_other_shares((800, 9_200), (0.1, 0.9)) > math.log(1_000)
    mean = sum(
        stats.binom.pmf(k, 20, 0.1) * math.exp(evidence_of_other_shares((k, 20 - k), (0.1, 0.9)))
        for k in range(21)
    )
    assert mean == pytest.approx(1.0, rel=1e-9)
