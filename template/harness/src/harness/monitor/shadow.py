"""What is known of a model's time in shadow: agreement, scores, time, outcomes, and where the two part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from scipy import stats

from harness.store.shadow import Counts, Pair, Status

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """A share with its interval (Wilson, 95%).

    Attributes:
        count: How many.
        of: Of how many.
    """

    count: int
    of: int

    @property
    def value(self) -> float | None:
        """The share, 0 to 1; None of nothing."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """From where to where it may lie; None of nothing."""
        if not self.of:
            return None
        found = stats.binomtest(self.count, self.of).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class Segment:
    """A part of the pairs.

    Attributes:
        field: What the pairs are divided by.
        label: Which part it is.
        agreement: In how many of its pairs both decide the same.
    """

    field: str
    label: str
    agreement: Share


@dataclass(frozen=True)
class Deltas:
    """The score in shadow less the score that decided, over the pairs in which both are a model's.

    Attributes:
        pairs: How many these are.
        mean: The mean difference.
        mean_distance: The mean of the differences without their signs.
        percentiles: The 5th, 50th and 95th percentile of the differences.
        edges: The ends of the histogram's bins, one more than there are counts.
        counts: Differences in each bin.
        grid: Pairs by both scores; a row for a stretch of the score that decided, a column for the other's.
        low: The lowest score of the grid.
        high: The highest.
    """

    pairs: int
    mean: float
    mean_distance: float
    percentiles: tuple[float, float, float]
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    grid: tuple[tuple[int, ...], ...]
    low: float
    high: float


@dataclass(frozen=True)
class Truth:
    """Both, held against what came of it. An error is 0 or 1 for a choice, else the distance to the outcome.

    Attributes:
        outcomes: Pairs whose outcome is known.
        served_error: The mean error of what was decided.
        shadow_error: The mean error of the model in shadow.
        served_better: In how many the error of what was decided is the smaller one.
        shadow_better: In how many that of the model in shadow is.
        chance: How likely so lopsided a division of these is when neither is better (sign test; for a choice,
            McNemar's exact one).
    """

    outcomes: int
    served_error: float
    shadow_error: float
    served_better: int
    shadow_better: int
    chance: float


@dataclass(frozen=True)
class Parted:
    """A pair in which the two decide differently.

    Attributes:
        pair: The pair.
        distance: How far apart they are, in scores; a decision without a score counts as the score's end.
        better: Which of the two the outcome shows right, or closer; None while it shows neither.
    """

    pair: Pair
    distance: float
    better: str | None


@dataclass(frozen=True)
class Compared:
    """Everything that is known of a model's time in shadow.

    Attributes:
        digest: The model.
        choice: Whether an answer is decided, and not an amount.
        sandbox: Whether this is about decisions of the sandbox, which no gate counts.
        counts: How often it gave what.
        agreement: In how many pairs both decide the same.
        elapsed_ms: The median and the 99th percentile of the milliseconds it took; None without a pair.
        deltas: The scores; None where there is no pair of two models.
        segments: Agreement in parts of the pairs.
        left_out: Groups of the contract by which they could not be divided, and why.
        truth: What the outcomes say; None while none is known.
        worst: Where they are furthest apart; first where the outcome shows one of the two better.
        missing: What there is too little of, in words; nothing when there is enough.
    """

    digest: str
    choice: bool
    sandbox: bool
    counts: Counts
    agreement: Share
    elapsed_ms: tuple[float, float] | None
    deltas: Deltas | None
    segments: tuple[Segment, ...]
    left_out: Mapping[str, str]
    truth: Truth | None
    worst: tuple[Parted, ...]
    missing: tuple[str, ...]

    def rate(self, *statuses: Status) -> float | None:
        """The share of decisions beside which it came to one of these; None without any."""
        total = self.counts.total
        return sum(self.counts.by_status[each] for each in statuses) / total if total else None


@dataclass(frozen=True)
class Least:
    """How much there has to be before a comparison says something.

    Attributes:
        pairs: Pairs.
        hours: Hours from the first to the last of them.
    """

    pairs: int
    hours: float

    def missing(self, counts: Counts) -> tuple[str, ...]:
        """What there is too little of."""
        pairs, hours = counts.by_status["ok"], 0.0
        if counts.first_at and counts.last_at:
            stretch = datetime.fromisoformat(counts.last_at) - datetime.fromisoformat(counts.first_at)
            hours = stretch.total_seconds() / 3600
        found = []
        if pairs < self.pairs:
            found.append(f"{self.pairs - pairs:,} of {self.pairs:,} pairs are missing")
        if hours < self.hours:
            found.append(f"{self.hours - hours:.1f} of {self.hours:g} hours are missing")
        return tuple(found)
