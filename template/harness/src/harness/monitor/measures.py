"""How far live decisions are from the reference, and how likely chance alone is to bring them so far.

Every measure gives both. A fixed threshold alone fires on most small windows in which nothing has changed: at
100 records and ten bins, a PSI above 0.10 is what chance gives.

The chi-square distribution of a distance is an approximation, and too kind to small windows and rare values:
twice the false alarms that it promises. What it takes for a breach is therefore drawn anew from the pooled
counts (a permutation test; Phipson and Smyth, 2010).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from scipy import stats
from scipy.spatial.distance import jensenshannon

from harness.data.tally import Sums, Tally

# A share of nothing has no logarithm: a bin without a record counts as half a record.
EMPTY_BIN_RECORDS = 0.5
# Bins in which fewer records are expected are taken together: below that, chance is not chi-square.
EXPECTED_RECORDS = 5.0
# Draws of the permutation test, always the same ones; and the chance below which none is needed.
DRAWS, SEED, BEYOND_DOUBT = 20_000, 7, 1e-9
# Fewer say nothing of a group, and the normal distribution nothing of fewer.
GROUP_RECORDS = 30


@dataclass(frozen=True)
class Comparison:
    """One figure of one window.

    Attributes:
        name: What was compared: a field, two groups, a figure.
        value: How far live is from the reference, in the measure's own unit.
        chance: How likely it is to be at least so far when nothing has changed, 0 to 1.
        samples: On how many live records or outcomes it stands.
        detail: What was found, for people.
        confirm: Where ``chance`` is an approximation: gives it more exactly, and takes longer.
    """

    name: str
    value: float
    chance: float
    samples: int
    detail: str = ""
    confirm: Callable[[], float] | None = field(default=None, compare=False, repr=False)

    def confirmed(self, allowed: float) -> bool:
        """Whether chance explains it less often than is allowed, by more than an approximation."""
        if self.chance >= allowed:
            return False
        if self.confirm is None or self.chance < BEYOND_DOUBT:
            return True
        return self.confirm() < allowed


def shares(reference: Tally, live: Tally) -> tuple[np.ndarray, np.ndarray]:
    """Both distributions over the same bins, sparse ones taken together, empty ones filled."""
    left, right = _pooled(reference, live)
    return _filled(left), _filled(right)


def psi(name: str, reference: Tally, live: Tally) -> Comparison:
    """The population stability index, the sum of (p - q) ln(p / q).

    When nothing has changed, PSI / (1/n + 1/m) is about chi-square with one degree of freedom fewer than
    there are bins (Yurdakul and Naranjo, 2020).
    """
    return _distance(name, reference, live, _psi, lambda value: value)


def jensen_shannon(name: str, reference: Tally, live: Tally) -> Comparison:
    """The Jensen-Shannon distance to base 2, between 0 and 1 (SciPy's).

    For distributions close to each other the divergence in nats is an eighth of the PSI, so that eight times
    the divergence has the PSI's distribution when nothing has changed.
    """
    return _distance(name, reference, live, _jensen_shannon, lambda value: 8 * value**2 * math.log(2))


def missing_share(name: str, reference: Tally, live: Tally) -> Comparison:
    """By how much the share of absent values has risen; chance by Fisher's exact test."""
    before, now = _share(reference.missing, reference.total), _share(live.missing, live.total)
    chance = _at_least(live.missing, live.total, reference.missing, reference.total)
    return Comparison(name, now - before, chance, live.total, f"{before:.1%} → {now:.1%} missing")


def new_category_share(name: str, reference: Tally, live: Tally) -> Comparison:
    """The share of values that the reference does not know.

    Some values are rare enough to be missing from the reference by chance. How many records these make up is
    estimated by the number of values seen there exactly once (Good and Turing), and the two are compared by
    Fisher's exact test.
    """
    unknown, known = _new(reference, live)
    once = sum(1 for count in reference.counts if count == 1)
    value = _share(unknown, live.present)
    chance = _at_least(unknown, live.present, once, reference.present)
    return Comparison(name, value, chance, live.present, f"{unknown:,} of {unknown + known:,} values are new")


def vanished_category_share(name: str, labels: tuple[str, ...], reference: Tally, live: Tally) -> Comparison:
    """The reference's share of the most frequent category that is not there any more."""
    found = Comparison(name, 0.0, 1.0, live.present)
    candidates = [place for place, count in enumerate(reference.counts) if count]
    for place in candidates:
        value = _share(reference.counts[place], reference.present)
        if live.counts[place] or value <= found.value:
            continue
        # As unlikely as it is for one, times the number of those that might have vanished.
        chance = stats.hypergeom.cdf(
            0, reference.present + live.present, reference.counts[place], live.present
        )
        detail = f"'{labels[place]}' was {value:.1%} and is gone"
        found = Comparison(name, value, min(1.0, float(chance) * len(candidates)), live.present, detail)
    return found


def decision_rate(reference: Sums, live: Sums, *, choice: bool) -> Comparison:
    """By how much the share decided 1 has moved; for an amount the mean, in standard deviations."""
    if choice:
        value = abs(live.mean - reference.mean)
        up = _at_least(round(live.amount), live.decisions, round(reference.amount), reference.decisions)
        down = _at_least(
            round(live.decisions - live.amount),
            live.decisions,
            round(reference.decisions - reference.amount),
            reference.decisions,
        )
        detail = f"{reference.mean:.1%} → {live.mean:.1%}"
        return Comparison("decisions", value, min(1.0, 2 * min(up, down)), live.decisions, detail)
    spread = math.sqrt(reference.variance)
    moved = live.mean - reference.mean
    error = math.sqrt(_over(live.variance, live.decisions) + _over(reference.variance, reference.decisions))
    detail = f"mean {reference.mean:.4g} → {live.mean:.4g}"
    return Comparison(
        "decisions", abs(_ratio(moved, spread)), 2 * _beyond(abs(moved), error), live.decisions, detail
    )


def model_failure_share(failed: int, decisions: int, allowed: float) -> Comparison:
    """The share of its decisions that the model failed to make; chance if ``allowed`` were the truth."""
    value = _share(failed, decisions)
    chance = float(stats.binom.sf(failed - 1, decisions, min(allowed, 1.0)))
    return Comparison(
        "model", value, chance, decisions, f"{failed:,} of {decisions:,} decisions fell to the fallback"
    )


def performance_drop(reference: Sums, live: Sums, figure: str) -> Comparison:
    """By how much the model is worse than on the held-back records.

    Accuracy in points, by Fisher's exact test; F1 in points, its variance by the delta method; the mean
    absolute error relative to the reference's.
    """
    if figure == "accuracy":
        wrong, before = round(live.errors), round(reference.errors)
        chance = _at_least(wrong, live.outcomes, before, reference.outcomes)
        detail = f"{1 - reference.error:.1%} → {1 - live.error:.1%}"
        return Comparison(figure, live.error - reference.error, chance, live.outcomes, detail)
    if figure == "f1":
        before_f1, now_f1 = f1(reference), f1(live)
        error = math.sqrt(f1_variance(reference) + f1_variance(live))
        drop = before_f1 - now_f1
        return Comparison(
            figure, drop, _beyond(drop, error), live.outcomes, f"{before_f1:.3f} → {now_f1:.3f}"
        )
    rise = live.error - reference.error
    error = math.sqrt(
        _over(live.error_variance, live.outcomes) + _over(reference.error_variance, reference.outcomes)
    )
    detail = f"{reference.error:.4g} → {live.error:.4g}"
    return Comparison(figure, _ratio(rise, reference.error), _beyond(rise, error), live.outcomes, detail)


def f1(sums: Sums) -> float:
    """The harmonic mean of precision and recall; 0 where there is neither."""
    return _ratio(2 * sums.hits, 2 * sums.hits + sums.alarms + sums.misses)


def f1_variance(sums: Sums) -> float:
    """The variance of F1 by the delta method: 4pq(p + q) / (n (2p + q)^4), p hits and q mistakes a record."""
    if not sums.outcomes:
        return 0.0
    p, q = sums.hits / sums.outcomes, (sums.alarms + sums.misses) / sums.outcomes
    return _ratio(4 * p * q * (p + q), sums.outcomes * (2 * p + q) ** 4)


def fairness_gaps(
    field: str, reference: Mapping[str, Sums], live: Mapping[str, Sums], *, spread: float
) -> list[Comparison]:
    """For every two groups: by how much the difference of their mean decisions has grown.

    Args:
        field: The field that the groups are of.
        reference: The held-back decisions by group.
        live: A window's by group.
        spread: What a difference is divided by: 1 for a choice, the reference's standard deviation for an
            amount.
    """
    large = [
        name
        for name, sums in live.items()
        if sums.decisions >= GROUP_RECORDS and reference[name].decisions >= GROUP_RECORDS
    ]
    found = []
    for one, other in combinations(large, 2):
        before = reference[one].mean - reference[other].mean
        now = live[one].mean - live[other].mean
        parts = (live[one], live[other], reference[one], reference[other])
        error = math.sqrt(sum(_over(sums.variance, sums.decisions) for sums in parts))
        grown = abs(now) - abs(before)
        detail = f"{one} {live[one].mean:.3g}, {other} {live[other].mean:.3g}; the gap was {abs(before):.3g}"
        found.append(
            Comparison(
                f"{field}: {one}, {other}",
                _ratio(grown, spread),
                # The sign of a difference near zero is chance: both directions count.
                min(1.0, 2 * _beyond(grown, error)),
                live[one].decisions + live[other].decisions,
                detail,
            )
        )
    return found


_Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _psi(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.sum((p - q) * np.log(p / q), axis=-1)
    return found


def _jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.nan_to_num(jensenshannon(p, q, base=2, axis=-1))
    return found


def _distance(
    name: str, reference: Tally, live: Tally, distance: _Distance, as_psi: Callable[[float], float]
) -> Comparison:
    """A distance, its chance by the chi-square distribution, and the way to confirm that.

    Args:
        name: What is compared.
        reference: The held-back counts.
        live: A window's.
        distance: Of two sets of shares, bins along the last axis.
        as_psi: Turns the distance into what a PSI would be.
    """
    left, right = _pooled(reference, live)
    value = float(distance(_filled(left), _filled(right)))
    chance = _chi_square(as_psi(value), len(left), reference, live)
    return Comparison(
        name, value, chance, live.present, confirm=lambda: _permuted(left, right, distance, value)
    )


def _permuted(left: np.ndarray, right: np.ndarray, distance: _Distance, value: float) -> float:
    """How often records dealt out anew are as far apart, what was found counted as one of the deals."""
    both = (left + right).astype(np.int64)
    draw = np.random.default_rng(SEED)
    dealt = draw.multivariate_hypergeometric(both, int(right.sum()), size=DRAWS, method="marginals")
    as_far = distance(_filled(both - dealt), _filled(dealt)) >= value * (1 - 1e-12)
    return float((1 + as_far.sum()) / (DRAWS + 1))


def _pooled(reference: Tally, live: Tally) -> tuple[np.ndarray, np.ndarray]:
    """The counts of both, bins too sparse taken together. Which ones depends on the sum of both only."""
    left, right = np.array(reference.counts, dtype=float), np.array(live.counts, dtype=float)
    smaller = min(left.sum(), right.sum())
    expected = (left + right) / max(left.sum() + right.sum(), 1.0) * smaller
    sparse = expected < EXPECTED_RECORDS
    if sparse.sum() > 1:
        left = np.append(left[~sparse], left[sparse].sum())
        right = np.append(right[~sparse], right[sparse].sum())
    seen = (left + right) > 0
    return (left[seen], right[seen]) if seen.any() else (np.ones(1), np.ones(1))


def _filled(counts: np.ndarray) -> np.ndarray:
    filled = np.where(counts == 0, EMPTY_BIN_RECORDS, counts)
    shares: np.ndarray = filled / filled.sum(axis=-1, keepdims=True)
    return shares


def _chi_square(value: float, bins: int, reference: Tally, live: Tally) -> float:
    if bins < 2 or not reference.present or not live.present:
        return 1.0
    return float(stats.chi2.sf(value / (1 / live.present + 1 / reference.present), bins - 1))


def _new(reference: Tally, live: Tally) -> tuple[int, int]:
    known = sum(now for now, before in zip(live.counts, reference.counts, strict=True) if before)
    return live.present - known, known


def _at_least(count: int, size: int, other: int, other_size: int) -> float:
    """Fisher's exact test, one-sided: how likely chance is to bring ``count`` or more of ``size``."""
    return float(stats.hypergeom.sf(count - 1, size + other_size, count + other, size))


def _beyond(value: float, error: float) -> float:
    """How likely the normal distribution is to bring a value or more."""
    if error == 0:
        return 0.0 if value > 0 else 1.0
    return float(stats.norm.sf(value / error))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _over(value: float, size: int) -> float:
    return value / size if size else 0.0


def _ratio(value: float, unit: float) -> float:
    if unit:
        return value / unit
    return 0.0 if value == 0 else math.copysign(math.inf, value)
