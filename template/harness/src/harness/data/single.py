"""How well a single column tells the outcome on held-back records: a look-up learned on the training records.

A look-up and not a rank alone, so that a code, a U-shape or mere absence counts as well: each value, or each
of 128 parts of a number's range, or having none, stands for the mean outcome of the training records there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

MOST_VALUES, PARTS = 256, 128
# So many records of the mean outcome are added to each value: a value seen once proves nothing.
PRIOR_RECORDS = 10.0
# Of a choice: so many held-back records of either outcome; of a number: so many held-back records.
LEAST_OF_EACH, LEAST_RECORDS = 20, 100
# One-sided, 95%.
BELOW = 1.645
MOST_CORRELATION = 1 - 1e-9


@dataclass(frozen=True)
class Single:
    """How well a column tells the outcome.

    Attributes:
        measure: ``auc`` for a choice, ``rank_correlation`` (Spearman's) for a number.
        value: The figure on the held-back records; for both, 1 is a perfect order.
        at_least: What it is at least, with 95% confidence.
        records: The held-back records that it stands on.
    """

    measure: str
    value: float
    at_least: float
    records: int


def tells(
    train: pa.ChunkedArray,
    train_label: np.ndarray,
    test: pa.ChunkedArray,
    test_label: np.ndarray,
    *,
    choice: bool,
) -> Single | None:
    """Judge one column; None where there is too little to judge by, or a text has too many values.

    Args:
        train: The column's values in the training records; numbers, or texts.
        train_label: Their outcomes, shape (n,).
        test: The values in the held-back records.
        test_label: Their outcomes, shape (m,).
        choice: Whether the outcome is one of two.
    """
    if not _enough(test_label, choice) or not len(train_label):
        return None
    coded = _codes(train, test)
    if coded is None:
        return None
    left, right = coded
    there = ~np.isnan(right)
    found = [_judged(_looked_up(left, train_label, right), test_label, choice)]
    is_text = pa.types.is_string(train.type) or pa.types.is_large_string(train.type)
    if not is_text and _enough(test_label[there], choice):
        # The parts of the range are coarse: the rank itself, among those who have a value, is not.
        rank = _judged(right[there], test_label[there], choice)
        found.append(Single(rank.measure, *_turned(rank), rank.records))
    return max(found, key=lambda one: (one.at_least, one.value))


def _turned(found: Single) -> tuple[float, float]:
    """The figure without its direction: what ranks everything the wrong way round knows as much."""
    if found.measure == "auc":
        value = max(found.value, 1 - found.value)
        return value, value - BELOW * _error_of_auc(value, found.records)
    value = abs(found.value)
    return value, _correlation_at_least(value, found.records)


def _enough(label: np.ndarray, choice: bool) -> bool:
    if not choice:
        return len(label) >= LEAST_RECORDS and len(np.unique(label)) > 1
    ones = int((label > 0.5).sum())
    return min(ones, len(label) - ones) >= LEAST_OF_EACH


def _codes(train: pa.ChunkedArray, test: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray] | None:
    """Both as doubles, absent ones as NaN; a text by its place among the training records' values."""
    if pa.types.is_string(train.type) or pa.types.is_large_string(train.type):
        values = pc.unique(train.drop_null())
        if len(values) > MOST_VALUES:
            return None
        values = values.take(pc.sort_indices(values))
        train, test = (pc.index_in(each, values) for each in (train, test.cast(train.type)))
    left, right = (
        pc.cast(each, pa.float64()).to_numpy(zero_copy_only=False).astype(float) for each in (train, test)
    )
    return np.where(np.isfinite(left), left, np.nan), np.where(np.isfinite(right), right, np.nan)


def _looked_up(train: np.ndarray, label: np.ndarray, test: np.ndarray) -> np.ndarray:
    present = train[~np.isnan(train)]
    values = np.unique(present)
    if len(values) > MOST_VALUES:
        edges = np.unique(np.quantile(present, np.arange(1, PARTS) / PARTS))
        places = [np.searchsorted(edges, each, side="right") for each in (train, test)]
        size = len(edges) + 1
    else:
        places = [np.searchsorted(values, each) for each in (train, test)]
        size = len(values) + 1
        for place, each in zip(places, (train, test), strict=True):
            known = np.isin(each, values)
            place[~known] = len(values)  # nobody had that value: the mean of those without one
    for place, each in zip(places, (train, test), strict=True):
        place[np.isnan(each)] = size
    counts = np.bincount(places[0], minlength=size + 1)
    sums = np.bincount(places[0], weights=label, minlength=size + 1)
    means: np.ndarray = (sums + PRIOR_RECORDS * label.mean()) / (counts + PRIOR_RECORDS)
    return np.round(means, 12)[places[1]]


def _judged(score: np.ndarray, label: np.ndarray, choice: bool) -> Single:
    ranks = stats.rankdata(score)
    if not choice:
        others = stats.rankdata(label)
        if ranks.std() == 0 or others.std() == 0:
            return Single("rank_correlation", 0.0, 0.0, len(label))
        value = float(np.corrcoef(ranks, others)[0, 1])
        return Single("rank_correlation", value, _correlation_at_least(value, len(label)), len(label))
    ones = label > 0.5
    several = int(ones.sum())
    others_ = len(label) - several
    value = float((ranks[ones].sum() - several * (several + 1) / 2) / (several * others_))
    fewer = min(several, others_)
    return Single("auc", value, value - BELOW * _error_of_auc(value, fewer), fewer)


def _error_of_auc(value: float, fewer: int) -> float:
    """The standard error by Hanley and McNeil (1982), as if both outcomes were as rare as the rarer one."""
    first, second = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (fewer - 1) * (first - value**2 + second - value**2)
    return math.sqrt(max(spread, 0.0)) / fewer


def _correlation_at_least(value: float, records: int) -> float:
    """The lower end by Fisher's transformation, for ranks."""
    bounded = max(-MOST_CORRELATION, min(value, MOST_CORRELATION))
    return math.tanh(math.atanh(bounded) - BELOW * 1.03 / math.sqrt(max(records - 3, 1)))
