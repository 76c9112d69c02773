"""A model in shadow held against what was decided, out of pairs that are read in partitions.

Of each pair a few numbers are kept, and of those that part, the furthest apart.
"""

from __future__ import annotations

import heapq
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
from scipy import stats

from harness.data.tally import Bins
from harness.monitor.live import unpacked
from harness.monitor.shadow import Compared, Deltas, Least, Parted, Segment, Share, Truth
from harness.pilot import Choice, Contract
from harness.pipeline.reference import Reference
from harness.store.shadow import Counts, Pair

WORST = 20
MISSING = "(missing)"
DECIDED, BY = "decision", "decided by"
PERCENTILES = (5.0, 50.0, 95.0)
GRID = 20


def compare(
    digest: str,
    counts: Counts,
    pairs: Iterable[Sequence[Pair]],
    contract: Contract,
    reference: Reference | None,
    least: Least,
    *,
    sandbox: bool,
    read: Callable[[int], None] = lambda _pairs: None,
) -> Compared:
    """Compare a model in shadow with what was decided.

    Args:
        digest: The model.
        counts: How often it gave what.
        pairs: The pairs, in partitions.
        contract: Says what is decided, and by which groups the pairs are divided.
        reference: The model's own, which says how a number is divided; None where it has none.
        least: How much there has to be.
        sandbox: Whether this is about decisions of the sandbox.
        read: Told how many pairs have been read.
    """
    bins, left_out = _bins(contract, reference)
    summed = _Summed(contract, bins)
    for number in _told(pairs, read):
        summed.add(number)
    return Compared(
        digest=digest,
        choice=isinstance(contract.decision, Choice),
        sandbox=sandbox,
        counts=counts,
        agreement=Share(counts.agreeing, counts.by_status["ok"]),
        elapsed_ms=summed.elapsed(),
        deltas=summed.deltas(),
        segments=summed.segments(),
        left_out=left_out,
        truth=summed.truth(),
        worst=summed.worst(),
        missing=least.missing(counts),
    )


def _told(pairs: Iterable[Sequence[Pair]], read: Callable[[int], None]) -> Iterator[Sequence[Pair]]:
    count = 0
    for part in pairs:
        yield part
        count += len(part)
        read(count)


def _bins(contract: Contract, reference: Reference | None) -> tuple[dict[str, Bins], dict[str, str]]:
    found: dict[str, Bins] = {}
    left_out: dict[str, str] = {}
    for name in contract.groups:
        field = contract.field(name)
        if reference is not None and name in reference.fields:
            found[name] = reference.fields[name].bins
        elif field.type == "boolean":
            found[name] = Bins(values=("false", "true"))
        elif field.categories:
            found[name] = Bins(values=field.categories)
        else:
            known = reference.left_out.get(name) if reference is not None else None
            left_out[name] = known or "the model was packaged without a reference that says how"
    return found, left_out


def _labels(values: pl.Series, bins: Bins) -> list[str]:
    """The part that each value belongs to, from the text that the store has."""
    if bins.values is not None:
        other = bins.labels[-1]
        known = set(bins.values)
        return [MISSING if each is None else each if each in known else other for each in values]
    numbers = values.cast(pl.Float64, strict=False)
    edges, labels = list(bins.edges), bins.labels
    return [
        MISSING if each is None else labels[int(np.searchsorted(edges, each, side="left"))]
        for each in numbers
    ]


class _Summed:
    """What is kept of the pairs."""

    def __init__(self, contract: Contract, bins: Mapping[str, Bins]) -> None:
        self._decision = contract.decision
        self._bins = bins
        self._parts: Counter[tuple[str, str]] = Counter()
        self._agreeing: Counter[tuple[str, str]] = Counter()
        self._elapsed = array("d")
        self._served, self._beside = array("d"), array("d")
        self._errors_served, self._errors_beside = array("d"), array("d")
        self._worst: list[tuple[tuple[bool, float, str], Parted]] = []

    def add(self, pairs: Sequence[Pair]) -> None:
        columns = {name: self._column(name, pairs) for name in self._bins}
        columns[BY] = [each.assigned if each.served_score is not None else "fallback" for each in pairs]
        if isinstance(self._decision, Choice):
            columns[DECIDED] = [str(json.loads(each.served)) for each in pairs]
        for name, labels in columns.items():
            self._parts.update((name, label) for label in labels)
            self._agreeing.update(
                (name, label) for label, each in zip(labels, pairs, strict=True) if each.agrees
            )
        for each in pairs:
            self._pair(each)

    def _column(self, name: str, pairs: Sequence[Pair]) -> list[str]:
        records = pl.select(unpacked(pl.lit(pl.Series([each.record for each in pairs])), [name]))
        return _labels(records.to_series().struct.field(name), self._bins[name])

    def _pair(self, pair: Pair) -> None:
        self._elapsed.append(pair.elapsed_ms)
        if pair.served_score is not None:
            self._served.append(pair.served_score)
            self._beside.append(pair.shadow_score)
        better = None
        if pair.outcome is not None:
            truth = float(json.loads(pair.outcome))
            served, beside = (abs(self._number(each) - truth) for each in (pair.served, pair.shadow))
            self._errors_served.append(served)
            self._errors_beside.append(beside)
            better = None if served == beside else "served" if served < beside else "shadow"
        if not pair.agrees:
            at = self._number(pair.served) if pair.served_score is None else pair.served_score
            distance = abs(pair.shadow_score - at)
            kept = (better is not None, distance, pair.decision_id), Parted(pair, distance, better)
            (heapq.heappush if len(self._worst) < WORST else heapq.heappushpop)(self._worst, kept)

    def _number(self, decision: str) -> float:
        said = json.loads(decision)
        if isinstance(self._decision, Choice):
            return 1.0 if said == self._decision.above else 0.0
        return float(said)

    def elapsed(self) -> tuple[float, float] | None:
        if not self._elapsed:
            return None
        median, high = np.percentile(np.frombuffer(self._elapsed), (50, 99))
        return float(median), float(high)

    def deltas(self) -> Deltas | None:
        if not self._served:
            return None
        served, beside = np.frombuffer(self._served), np.frombuffer(self._beside)
        apart = beside - served
        counts, edges = np.histogram(apart, bins=GRID * 2 + 1, range=_around(float(np.abs(apart).max())))
        low, high = float(min(served.min(), beside.min())), float(max(served.max(), beside.max()))
        if isinstance(self._decision, Choice):
            low, high = 0.0, 1.0
        grid, _, _ = np.histogram2d(served, beside, bins=GRID, range=((low, max(high, low + 1e-9)),) * 2)
        first, median, last = (float(each) for each in np.percentile(apart, PERCENTILES))
        return Deltas(
            pairs=len(apart),
            mean=float(apart.mean()),
            mean_distance=float(np.abs(apart).mean()),
            percentiles=(first, median, last),
            edges=tuple(float(each) for each in edges),
            counts=tuple(int(each) for each in counts),
            grid=tuple(tuple(int(each) for each in row) for row in grid),
            low=low,
            high=high,
        )

    def segments(self) -> tuple[Segment, ...]:
        order = [DECIDED, BY, *self._bins]
        found = [
            Segment(name, label, Share(self._agreeing[name, label], count))
            for (name, label), count in self._parts.items()
        ]
        return tuple(sorted(found, key=lambda each: (order.index(each.field), self._place(each), each.label)))

    def _place(self, segment: Segment) -> int:
        labels = self._bins[segment.field].labels if segment.field in self._bins else ()
        return labels.index(segment.label) if segment.label in labels else len(labels)

    def truth(self) -> Truth | None:
        if not self._errors_served:
            return None
        served, beside = np.frombuffer(self._errors_served), np.frombuffer(self._errors_beside)
        for_served, for_beside = int((served < beside).sum()), int((beside < served).sum())
        parted = for_served + for_beside
        return Truth(
            outcomes=len(served),
            served_error=float(served.mean()),
            shadow_error=float(beside.mean()),
            served_better=for_served,
            shadow_better=for_beside,
            chance=float(stats.binomtest(for_beside, parted).pvalue) if parted else 1.0,
        )

    def worst(self) -> tuple[Parted, ...]:
        return tuple(kept for _, kept in sorted(self._worst, key=lambda each: each[0], reverse=True))


def _around(distance: float) -> tuple[float, float]:
    """A range around nothing that holds a distance to both sides."""
    half = max(distance, 1e-9)
    return -half, half
