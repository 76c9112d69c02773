"""Statistics that may be looked at as often as anybody likes.

Every figure of a rollout is looked at again and again, and acted on the first time that it looks bad. A test
that is right once is wrong then: looked at often enough, it finds something in any pair of equals. What is
here holds at every moment at once: the chance that it *ever* says something false is at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

# The number of units, both arms together, at which a confidence sequence is tuned to be narrowest. It changes
# how soon what is seen, never how often something false is.
TUNED_AT = 1_000


Count = tuple[float, int]
"""The sum of some units' values, each from 0 to 1, and how many units there are."""


@dataclass(frozen=True)
class Sample:
    """One arm: units that are independent of each other, each with a value from 0 to 1.

    Attributes:
        units: How many.
        total: The sum of their values.
        squares: The sum of their values' squares.
    """

    units: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        """Their mean; NaN without units."""
        return self.total / self.units if self.units else math.nan

    @property
    def variance(self) -> float:
        """Their variance, as if one more unit had been 0 and one more 1.

        Ten units without a single event do not show that events cannot be: without the two, the interval
        around nothing seen would have no width. (Agresti and Caffo 2000, who add as many to two samples.)
        """
        units, total, squares = self.units + 2, self.total + 1.0, self.squares + 1.0
        return max(squares / units - (total / units) ** 2, 0.0)


@dataclass(frozen=True)
class Difference:
    """How much higher the treated arm's mean is.

    Attributes:
        estimate: The difference of the means.
        lower: It is above this, at every moment at once, with probability 1 - alpha.
        upper: It is below this, at every moment at once, with probability 1 - alpha.
    """

    estimate: float
    lower: float
    upper: float


def difference(treated: Sample, control: Sample, alpha: float, *, tuned_at: int = TUNED_AT) -> Difference:
    """Two one-sided asymptotic confidence sequences for the difference of two means.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic
    confidence sequences" (Annals of Statistics 2024): Theorem 2.2 for a mean, its one-sided form in the
    appendix, and section 3.2 for a difference under randomisation, whose estimating variance, with the arms'
    means as the regression, is t (s1²/n1 + s0²/n0) at t = n1 + n0 units.

    Args:
        treated: The arm on trial.
        control: The other.
        alpha: How often each of the two bounds may ever be wrong.
        tuned_at: At how many units in all they are narrowest.
    """
    if not treated.units or not control.units:
        return Difference(math.nan, -math.inf, math.inf)
    units = treated.units + control.units
    variance = units * (treated.variance / treated.units + control.variance / control.units)
    radius = _radius(units, math.sqrt(variance), alpha, tuned_at)
    estimate = treated.mean - control.mean
    return Difference(estimate, estimate - radius, estimate + radius)


def _radius(units: int, deviation: float, alpha: float, tuned_at: int) -> float:
    # The paper's closed form for the best rho, at twice alpha because one side only is asked about.
    wanted = -2 * math.log(2 * alpha)
    squared = (wanted + math.log(wanted + 1)) / tuned_at if wanted > 0 else 1 / tuned_at
    within = units * squared + 1
    odds = math.log1p(math.sqrt(within) / (2 * alpha))
    return deviation * math.sqrt(2 * within / (units**2 * squared) * odds)


def evidence_above(events: float, trials: int, rate: float) -> float:
    """The logarithm of an e-value against "each trial is an event with probability ``rate`` at most".

    A trial may be an event in part, with a value x from 0 to 1: the null then speaks of its mean. For a bet
    on q, the factor (q/m)^x ((1-q)/(1-m))^(1-x) is at most x q/m + (1-x) (1-q)/(1-m), by the means'
    inequality, whose mean is 1 at most: the mixture stays a supermartingale, and grows more slowly.

    A bet on every rate above, mixed evenly over them: Waudby-Smith and Ramdas, "Estimating means of bounded
    random variables by betting" (JRSS B 2024), whose wealth is for events the beta-binomial mixture of
    Robbins (1970), cut off at the rate. It is a supermartingale whatever ties the trials together, as long as
    each one's chance given all before it is at most the rate; so one entity may have many of them. Ville:
    the chance that it ever reaches log(1/alpha) is at most alpha.

    Args:
        events: How many trials were one, parts added up.
        trials: How many there were.
        rate: The rate that is to be refuted, above 0 and below 1.
    """
    misses = trials - events
    mixed = special.betaln(events + 1, misses + 1) + _log_above(events + 1, misses + 1, rate)
    return float(mixed - math.log1p(-rate) - events * math.log(rate) - misses * math.log1p(-rate))


def _log_above(first: float, second: float, rate: float) -> float:
    """The logarithm of a beta distribution's part above a rate, where it is too small to be a number too."""
    part = float(special.betaincc(first, second, rate))
    if part > 1e-250:
        return math.log(part)
    # Far above its mean the part falls as its density does: the first term of its continued fraction.
    density = (first - 1) * math.log(rate) + second * math.log1p(-rate)
    return float(density - special.betaln(first, second) - math.log(second))


def lower_bound(events: float, trials: int, alpha: float) -> float:
    """A rate that the true one is above, at every moment at once, with probability 1 - alpha.

    The rates that ``evidence_above`` refutes all lie below it.

    Args:
        events: How many trials were one, parts added up.
        trials: How many there were.
        alpha: How often it may ever be wrong.
    """
    if not events or not trials:
        return 0.0
    wanted = math.log(1 / alpha)

    def missing(rate: float) -> float:
        return evidence_above(events, trials, rate) - wanted

    low, high = 1e-12, min(events / trials, 1 - 1e-12)
    if missing(low) <= 0:
        return 0.0
    if missing(high) > 0:
        return high  # nothing but events, and more of them than numbers can tell apart
    return float(optimize.brentq(missing, low, high))


def upper_bound(events: float, trials: int, alpha: float) -> float:
    """A rate that the true one is below, at every moment at once, with probability 1 - alpha."""
    return 1.0 - lower_bound(trials - events, trials, alpha) if trials else 1.0


def refuted(counts: Sequence[Count], rate: float, alpha: float) -> bool:
    """Whether a rate is exceeded by one of several counts of the same thing, at any look.

    The mean of their e-values is one too, so the chance that it is ever said of a rate that holds in every
    count is ``alpha`` at most; counts that are the same lose nothing.
    """
    found = [evidence_above(events, trials, rate) for events, trials in counts]
    return float(special.logsumexp(found)) - math.log(len(found)) >= math.log(1 / alpha)


def at_most(counts: Sequence[Count], alpha: float) -> float:
    """A rate that is shown to hold in every one of several counts: the highest of their upper bounds."""
    return max(upper_bound(events, trials, alpha) for events, trials in counts)


def at_least(counts: Sequence[Count], alpha: float) -> float:
    """A rate that is shown to be reached in every one of several counts: the lowest of their lower bounds."""
    return min(lower_bound(events, trials, alpha) for events, trials in counts)


def evidence_of_other_shares(counts: tuple[int, ...], shares: tuple[float, ...]) -> float:
    """The logarithm of an e-value against "each unit falls into the arms with these shares".

    Lindon and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022): the
    Dirichlet-multinomial mixture over the stated shares, here with as many units' weight as makes the rarest
    arm's parameter one.

    Args:
        counts: How many units each arm has.
        shares: Each arm's share, above 0; together 1.
    """
    found, expected = np.asarray(counts, dtype=float), np.asarray(shares, dtype=float)
    prior = expected / expected.min()
    mixed = special.gammaln(prior.sum()) - special.gammaln(prior.sum() + found.sum())
    mixed += (special.gammaln(prior + found) - special.gammaln(prior)).sum()
    return float(mixed - (found * np.log(expected)).sum())
