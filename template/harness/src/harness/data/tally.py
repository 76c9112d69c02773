"""Counting values into bins and adding decisions up: the expressions of one aggregate, and reading its row.

The reference is counted once, on the held-back records; the monitor counts live decisions into the same bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import ibis
import ibis.expr.types as ir


@dataclass(frozen=True)
class Bins:
    """How one column is counted: a number between edges, or a category by its value.

    Attributes:
        edges: The upper ends, inclusive, of all bins of a number but the last, ascending.
        values: The categories, one bin each; a further bin takes every other value. None for a number.
    """

    edges: tuple[float, ...] = ()
    values: tuple[str, ...] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """What each bin holds, for people."""
        if self.values is not None:
            return (*self.values, "(new)")
        if not self.edges:
            return ("all",)
        if len(self.edges) == 2 and self.edges[0] == math.nextafter(self.edges[1], -math.inf):
            return (f"< {self.edges[1]:.4g}", f"{self.edges[1]:.4g}", f"> {self.edges[1]:.4g}")
        inner = (f"{low:.4g} – {high:.4g}" for low, high in pairwise(self.edges))
        return (f"≤ {self.edges[0]:.4g}", *inner, f"> {self.edges[-1]:.4g}")

    def conditions(self, column: ir.Column) -> dict[str, ir.BooleanValue]:
        """For each label but a category's last: whether a value is in the bin."""
        if self.values is not None:
            return {value: column == value for value in self.values}
        found: dict[str, ir.BooleanValue] = {}
        for number, label in enumerate(self.labels):
            inside = column.notnull()
            if number > 0:
                inside &= column > self.edges[number - 1]
            if number < len(self.edges):
                inside &= column <= self.edges[number]
            found[label] = inside
        return found


@dataclass(frozen=True)
class Tally:
    """How many values of a column fell into each bin.

    Attributes:
        counts: Records a bin.
        missing: Records without a value.
    """

    counts: tuple[int, ...]
    missing: int

    @property
    def present(self) -> int:
        """Records with a value."""
        return sum(self.counts)

    @property
    def total(self) -> int:
        """All records."""
        return self.present + self.missing


@dataclass(frozen=True)
class Sums:
    """Decisions added up, and what came of them. A decision is 1 or 0 for a choice, else the number decided.

    Attributes:
        decisions: How many.
        amount: Their sum.
        squares: The sum of their squares.
        outcomes: For how many the outcome is known.
        errors: The sum of the distances between decision and outcome; for a choice, how many were wrong.
        error_squares: The sum of the squares of those distances.
        hits: Decided 1, and so it came.
        alarms: Decided 1, and it came otherwise.
        misses: Decided 0, and it came otherwise.
    """

    decisions: int = 0
    amount: float = 0.0
    squares: float = 0.0
    outcomes: int = 0
    errors: float = 0.0
    error_squares: float = 0.0
    hits: int = 0
    alarms: int = 0
    misses: int = 0

    @property
    def mean(self) -> float:
        """The mean decision; the share of 1 for a choice."""
        return self.amount / self.decisions if self.decisions else 0.0

    @property
    def variance(self) -> float:
        """The variance of the decisions."""
        return max(self.squares / self.decisions - self.mean**2, 0.0) if self.decisions else 0.0

    @property
    def error(self) -> float:
        """The mean distance between decision and outcome."""
        return self.errors / self.outcomes if self.outcomes else 0.0

    @property
    def error_variance(self) -> float:
        """The variance of those distances."""
        return max(self.error_squares / self.outcomes - self.error**2, 0.0) if self.outcomes else 0.0


def count(column: ir.Column, bins: Bins, name: str) -> dict[str, ir.IntegerScalar]:
    """The aggregate's columns that count ``column``, each beginning with ``name``."""
    found = {f"{name}.present": column.count(), f"{name}.missing": column.isnull().sum()}
    if bins.values is not None:
        parts = [column == value for value in bins.values]
    else:
        parts = [column <= edge for edge in bins.edges]  # cumulative: one comparison a bin
    return found | {f"{name}.{number}": part.sum() for number, part in enumerate(parts)}


def counted(row: Mapping[str, Any], bins: Bins, name: str) -> Tally:
    """What ``count`` found."""
    present = int(row[f"{name}.present"] or 0)
    size = len(bins.edges if bins.values is None else bins.values)
    parts = [int(row[f"{name}.{number}"] or 0) for number in range(size)]
    if bins.values is None:
        counts = [high - low for low, high in pairwise([0, *parts, present])]
    else:
        counts = [*parts, present - sum(parts)]
    return Tally(tuple(counts), int(row[f"{name}.missing"] or 0))


def add_up(
    decided: ir.FloatingColumn,
    truth: ir.FloatingColumn | None,
    name: str,
    where: ir.BooleanValue | None = None,
) -> dict[str, ir.Scalar]:
    """The aggregate's columns that add decisions up, each beginning with ``name``.

    Args:
        decided: What was decided, a double.
        truth: What came of it, a double; null while unknown. None where nothing of it is known.
        name: The beginning of the columns' names.
        where: Which records count; all when left out.
    """
    if where is not None:
        decided = ibis.ifelse(where, decided, ibis.null("float64"))
    found = {"decisions": decided.count(), "amount": decided.sum(), "squares": (decided * decided).sum()}
    if truth is None:
        return {f"{name}.{part}": value for part, value in found.items()}
    distance = (decided - truth).abs()
    yes, came = decided > 0.5, truth > 0.5
    found |= {
        "outcomes": distance.count(),
        "errors": distance.sum(),
        "error_squares": (distance * distance).sum(),
        "hits": (yes & came).sum(),
        "alarms": (yes & ~came).sum(),
        "misses": (~yes & came).sum(),
    }
    return {f"{name}.{part}": value for part, value in found.items()}


def added_up(row: Mapping[str, Any], name: str) -> Sums:
    """What ``add_up`` found."""
    return Sums(**{part.name: row.get(f"{name}.{part.name}") or 0 for part in fields(Sums)})
