"""Always-valid statistics are what they say, however often they are looked at: measured.

Each rate is counted over many runs; what is allowed is the promise and what chance adds to such a count.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.governance.rollout import Guardrail
from harness.rollout.guardrails import LEAST_ENTITIES, both, judge
from harness.rollout.statistics import (
    Sample,
    at_most,
    difference,
    evidence_above,
    evidence_of_other_shares,
    lower_bound,
    refuted,
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


def shown_in_spite(
    draw: np.random.Generator, mean: float, *, entities: int, rounds: int, by_entity: bool
) -> bool:
    """Whether a rate at its bound is shown to be below it at some look, while entities come and decide on."""
    rates = draw.beta(0.1, 0.1 / mean - 0.1, entities)
    events, decisions = np.zeros(entities), np.zeros(entities)
    for number in range(rounds):
        here = slice(0, entities * (number + 1) // rounds)
        asked = draw.integers(1, 6, events[here].size)
        events[here] += draw.binomial(asked, rates[here])
        decisions[here] += asked
        seen = decisions > 0
        total, units = float((events[seen] / decisions[seen]).sum()), int(seen.sum())
        counted = Counted(int(decisions.sum()), float(events.sum()), units, total, 0.0)
        counts = both(counted.events, counted.decisions, counted.total, counted.entities)
        if at_most(counts if by_entity else counts[:1], ALPHA) <= mean:
            return True
    return False


def test_24_entities_that_ask_on_and_on_show_no_more_than_they_are() -> None:
    """Each has a rate of its own, and their mean is the bound; looked at after every round."""
    draw = np.random.default_rng(30)
    runs = 300
    fired = sum(shown_in_spite(draw, 0.05, entities=200, rounds=40, by_entity=True) for _ in range(runs))
    assert fired <= allowed(ALPHA, runs)


def test_24_by_decisions_alone_they_would_show_far_more() -> None:
    draw = np.random.default_rng(30)
    runs = 100
    fired = sum(shown_in_spite(draw, 0.05, entities=200, rounds=40, by_entity=False) for _ in range(runs))
    assert fired > 2 * allowed(ALPHA, runs)


def test_one_entity_asked_a_thousand_times_shows_nothing() -> None:
    found = judge(ERRORS, Arms(Counted(100_000, 0.0, 1, 0.0, 0.0), Counted()), ALPHA)
    assert (found.verdict, found.shown) == ("quiet", False)
    assert "0.0% over 1 entities, and 100 are needed" in found.why
    loose = Guardrail(name="loose", measure="error_rate", bound=0.5)
    almost = judge(loose, Arms(Counted(990, 0.0, 99, 0.0, 0.0), Counted()), ALPHA)
    assert (almost.verdict, almost.shown) == ("quiet", False)
    assert judge(loose, Arms(Counted(1_000, 0.0, 100, 0.0, 0.0), Counted()), ALPHA).shown


def test_few_entities_are_enough_to_be_taken_back() -> None:
    assert judge(ERRORS, Arms(Counted(60, 60.0, 3, 3.0, 3.0), Counted()), ALPHA).verdict == "breached"


def test_a_breach_by_entities_counts_as_one_by_decisions_does() -> None:
    hidden = Counted(100_000, 900.0, 1_001, 900.0, 900.0)
    assert judge(ERRORS, Arms(hidden, Counted()), ALPHA).verdict == "breached"
    repeated = Counted(100_000, 90_000.0, 1_001, 1.0, 1.0)
    assert judge(ERRORS, Arms(repeated, Counted()), ALPHA).verdict == "breached"


def test_counts_that_are_the_same_lose_nothing_and_others_keep_to_alpha() -> None:
    for events in range(20):
        once = evidence_above(events, 100, 0.05) >= math.log(1 / ALPHA)
        assert refuted([(events, 100)] * 2, 0.05, ALPHA) == once
    # Far above in one count and at its mean in the other, the mean of both e-values is half of the first.
    above = next(k for k in range(100) if evidence_above(k, 100, 0.05) >= math.log(1 / ALPHA))
    assert not refuted([(above, 100), (0, 100)], 0.05, ALPHA)
    assert refuted([(above + 2, 100), (0, 100)], 0.05, ALPHA)


def test_the_evidence_of_parts_is_one_on_average_at_most() -> None:
    """Ten units that are 0, a half or 1, whose mean is the rate: summed over all that they can bring."""
    for rate, half in ((0.1, 0.1), (0.3, 0.2), (0.5, 0.6)):
        ones = rate - half / 2
        mean = sum(
            stats.multinomial.pmf([k, h, 10 - k - h], 10, [ones, half, 1 - ones - half])
            * math.exp(evidence_above(k + h / 2, 10, rate))
            for k in range(11)
            for h in range(11 - k)
        )
        assert 0 < mean <= 1


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
    for open_ in (arms(2, 150, 0, 0), Arms(Counted(100_000, 200.0, 120, 2.0, 2.0), Counted())):
        found = judge(ERRORS, open_, ALPHA)
        assert (found.verdict, found.shown) == ("quiet", False)
        assert "is not shown yet" in found.why
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
