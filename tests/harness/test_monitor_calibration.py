"""A window in which nothing has changed breaches no more often than is stated, whatever its size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from harness.data.tally import Sums, Tally
from harness.governance.monitoring import Signal
from harness.monitor import measures
from harness.monitor.judge import _window

WINDOWS = 2_000
HELD_BACK = 3_000
FALSE_ALARMS = 0.01
# How many false alarms chance brings at most once in a thousand tests, if the stated rate is kept.
ALLOWED = float(stats.binom.ppf(0.999, WINDOWS, FALSE_ALARMS)) / WINDOWS
FIELDS = 6
# One frequent, some rare: the bins that break a chi-square.
RARE = np.array([0.6, 0.2, 0.1, 0.05, 0.03, 0.01, 0.005, 0.003, 0.0015, 0.0005])


def signal(measure: str, threshold: float) -> Signal:
    return Signal(
        id="a-signal",
        category="drift",
        measure=measure,  # type: ignore[arg-type]
        threshold=threshold,
        min_samples=1,
        action="notify",
        runbook="a-signal",
    )


def rate(found: list[list[measures.Comparison]], measure: str) -> float:
    """The share of windows that breach, with a threshold so low that chance alone has to hold."""
    watched = signal(measure, 1e-9)
    return sum(_window(watched, FALSE_ALARMS, 10**9, each).state == "breached" for each in found) / len(found)


# A small window breaches by chance the soonest.
SIZES = [100, *(pytest.param(size, marks=pytest.mark.slow) for size in (1_000, 10_000))]


def numbers(draw: np.random.Generator, size: int) -> tuple[Tally, Tally]:
    """A number between the deciles of a held-back sample, whose distances are Dirichlet's."""
    shares = draw.dirichlet(np.full(10, HELD_BACK / 10))
    return Tally((HELD_BACK // 10,) * 10, 0), Tally(tuple(draw.multinomial(size, shares)), 0)


def categories(draw: np.random.Generator, size: int) -> tuple[Tally, Tally]:
    """A category with rare values, and a last bin for values that nobody knows."""
    before, now = draw.multinomial(HELD_BACK, RARE), draw.multinomial(size, RARE)
    return Tally((*before, 0), 0), Tally((*now, 0), 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("measure", [measures.psi, measures.jensen_shannon])
@pytest.mark.parametrize("column", [numbers, categories])
def test_distances_of_several_fields(column: Any, measure: Any, size: int) -> None:
    draw = np.random.default_rng(size)
    found = [[measure(f"f{at}", *column(draw, size)) for at in range(FIELDS)] for _ in range(WINDOWS)]
    assert rate(found, "psi") <= ALLOWED


def test_deciles_of_real_records_are_as_those_that_are_drawn_here() -> None:
    draw = np.random.default_rng(8)
    found = []
    for _ in range(WINDOWS):
        held_back, live = draw.lognormal(size=HELD_BACK), draw.lognormal(size=100)
        edges = np.quantile(held_back, np.arange(1, 10) / 10)
        before, now = (np.bincount(np.searchsorted(edges, each), minlength=10) for each in (held_back, live))
        found.append([measures.psi("x", Tally(tuple(before), 0), Tally(tuple(now), 0))])
    assert rate(found, "psi") <= ALLOWED


def test_a_fixed_threshold_alone_would_fire_on_most_small_windows() -> None:
    draw = np.random.default_rng(5)
    above = [measures.psi("x", *numbers(draw, 100)).value > 0.1 for _ in range(1_000)]
    assert np.mean(above) > 0.3


@pytest.mark.parametrize("size", SIZES)
def test_shares_and_rates(size: int) -> None:
    draw = np.random.default_rng(size + 1)
    missing, unknown, gone, rates, failures, accuracy = [], [], [], [], [], []
    for _ in range(WINDOWS):
        before, now = draw.binomial(HELD_BACK, 0.02), draw.binomial(size, 0.02)
        held_back, live = Tally((HELD_BACK - before,), before), Tally((size - now,), now)
        missing.append([measures.missing_share("x", held_back, live)])
        known = draw.multinomial(HELD_BACK, RARE)
        seen = draw.multinomial(size, RARE)
        # What the held-back records do not hold is new, as in the engine's last bin.
        reference = Tally((*known, 0), 0)
        fresh = Tally((*np.where(known > 0, seen, 0), int(seen[known == 0].sum())), 0)
        unknown.append([measures.new_category_share("x", reference, fresh)])
        labels = tuple(str(at) for at in range(len(RARE) + 1))
        gone.append([measures.vanished_category_share("x", labels, reference, fresh)])
        yes, also = draw.binomial(HELD_BACK, 0.3), draw.binomial(size, 0.3)
        rates.append([measures.decision_rate(Sums(HELD_BACK, yes, yes), Sums(size, also, also), choice=True)])
        failures.append([measures.model_failure_share(draw.binomial(size, 0.02), size, 0.02)])
        wrong, bad = draw.binomial(HELD_BACK, 0.15), draw.binomial(size, 0.15)
        accuracy.append(
            [
                measures.performance_drop(
                    Sums(outcomes=HELD_BACK, errors=wrong), Sums(outcomes=size, errors=bad), "accuracy"
                )
            ]
        )
    for name, found in [
        ("missing_share", missing),
        ("new_category_share", unknown),
        ("vanished_category_share", gone),
        ("decision_rate", rates),
        ("model_failure_share", failures),
        ("performance_drop", accuracy),
    ]:
        assert rate(found, name) <= ALLOWED, name


@pytest.mark.parametrize("size", [100, 1_000, 10_000])
def test_f1_amounts_and_groups(size: int) -> None:
    draw = np.random.default_rng(size + 2)
    outcome = np.array([0.2, 0.1, 0.1, 0.6])  # hits, alarms, misses, rest
    f1, mean, mae, gaps = [], [], [], []

    def figures(count: int) -> Sums:
        hits, alarms, misses, _ = draw.multinomial(count, outcome)
        return Sums(outcomes=count, hits=hits, alarms=alarms, misses=misses)

    def amounts(count: int) -> Sums:
        values, errors = draw.gamma(2, 3, count), np.abs(draw.normal(0, 2, count))
        return Sums(count, values.sum(), (values**2).sum(), count, errors.sum(), (errors**2).sum())

    def groups(count: int) -> dict[str, Sums]:
        sizes = draw.multinomial(count, [0.5, 0.3, 0.2])
        yes = [draw.binomial(each, 0.3) for each in sizes]
        return {name: Sums(each, one, one) for name, each, one in zip("abc", sizes, yes, strict=True)}

    windows = 500 if size == 10_000 else WINDOWS
    for _ in range(windows):
        f1.append([measures.performance_drop(figures(HELD_BACK), figures(size), "f1")])
        before, now = amounts(HELD_BACK), amounts(size)
        mean.append([measures.decision_rate(before, now, choice=False)])
        mae.append([measures.performance_drop(before, now, "mae")])
        gaps.append(measures.fairness_gaps("g", groups(HELD_BACK), groups(size), spread=1.0))
    allowed = float(stats.binom.ppf(0.999, windows, FALSE_ALARMS)) / windows
    gaps = [each for each in gaps if each]
    for name, found in [("f1", f1), ("mean", mean), ("mae", mae), ("gaps", gaps)]:
        # The normal distribution is an approximation at 100 records: half as much again is let pass there.
        assert rate(found, "performance_drop") <= allowed * (1.5 if size == 100 else 1), name


def test_psi_and_js_are_scipys() -> None:
    draw = np.random.default_rng(3)
    for _ in range(50):
        counts = draw.integers(20, 400, (2, 10))
        before, now = (Tally(tuple(each), 0) for each in counts)
        p, q = (each / each.sum() for each in counts)
        jeffreys = stats.entropy(p, q) + stats.entropy(q, p)
        assert measures.psi("x", before, now).value == pytest.approx(jeffreys, rel=1e-12)
        assert measures.jensen_shannon("x", before, now).value == pytest.approx(jensenshannon(p, q, base=2))


def test_an_empty_bin_counts_as_half_a_record() -> None:
    found = measures.psi("x", Tally((500, 500), 0), Tally((100, 0), 0))
    p, q = np.array([0.5, 0.5]), np.array([100, 0.5]) / 100.5
    assert found.value == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p))


def test_the_variance_of_f1_is_what_is_drawn() -> None:
    draw = np.random.default_rng(4)
    drawn = draw.multinomial(2_000, [0.2, 0.1, 0.1, 0.6], 20_000)
    found = [Sums(outcomes=2_000, hits=h, alarms=a, misses=m) for h, a, m, _ in drawn]
    assert measures.f1_variance(found[0]) == pytest.approx(
        np.var([measures.f1(each) for each in found]), rel=0.15
    )


def test_what_has_changed_is_found_also_in_small_windows() -> None:
    draw = np.random.default_rng(6)
    held_back = draw.lognormal(size=HELD_BACK)
    edges = np.quantile(held_back, np.arange(1, 10) / 10)
    reference = Tally(tuple(np.bincount(np.searchsorted(edges, held_back), minlength=10)), 0)
    for size in (100, 1_000):
        live = draw.lognormal(1.0, 1.0, size)
        found = measures.psi(
            "x", reference, Tally(tuple(np.bincount(np.searchsorted(edges, live), minlength=10)), 0)
        )
        assert found.value > 0.2
        assert found.chance < FALSE_ALARMS / FIELDS
