"""How many records each group has, and how often the outcome is true there, with a confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from harness.data.finding import Finding
from harness.data_settings import Probes
from harness.pilot import Choice, Contract, Field

# Two-sided, 95%.
DEVIATIONS = 1.96
MISSING = "(missing)"


@dataclass(frozen=True)
class Group:
    """One group of the records whose outcome is known.

    Attributes:
        name: The category; a number of its own where the contract does not declare categories.
        records: How many.
        share: Their share.
        rate: How often the outcome is true; the mean outcome where a number is decided. None without records.
        low: The lower end of its 95% interval (Wilson's, for a share).
        high: The upper end.
        elsewhere: The same figure of all other records.
        gap: ``rate`` less ``elsewhere``; for a number, in standard deviations of the outcome.
        apart: Whether the interval leaves ``elsewhere`` out.
    """

    name: str
    records: int
    share: float
    rate: float | None = None
    low: float | None = None
    high: float | None = None
    elsewhere: float | None = None
    gap: float | None = None
    apart: bool = False


def by_group(records: ir.Table, contract: Contract, field: Field) -> tuple[Group, ...]:
    """Count a field's groups, the largest first; a declared category without a record is a group of none."""
    label = records[contract.label].cast("float64")
    rows = (
        records.filter(label.notnull())
        .group_by(value=records[field.name].cast("string"))
        .agg(
            records=ibis._.count(),
            total=ibis._[contract.label].cast("float64").sum(),
            squares=(ibis._[contract.label].cast("float64") * ibis._[contract.label].cast("float64")).sum(),
        )
        .order_by(ibis.desc("records"), "value")
        .to_pyarrow()
        .to_pylist()
    )
    everything, total = sum(row["records"] for row in rows), sum(row["total"] for row in rows)
    variance = (
        sum(row["squares"] for row in rows) / everything - (total / everything) ** 2 if everything else 0.0
    )
    choice = isinstance(contract.decision, Choice)
    known = field.categories or (("false", "true") if field.type == "boolean" else ())
    found = []
    for number, row in enumerate(rows, start=1):
        name = MISSING if row["value"] is None else row["value"]
        # A name that contract.py does not declare may be somebody's.
        name = name if known or name == MISSING else f"group {number}"
        found.append(_group(name, row["records"], row["total"], everything, total, variance, choice))
    found += [
        Group(name, 0, 0.0) for name in known if name not in {each.name for each in found} and everything
    ]
    return tuple(found)


def _group(
    name: str, records: int, total: float, everything: int, sum_: float, variance: float, choice: bool
) -> Group:
    rate = total / records
    low, high = wilson(total, records) if choice else _interval(rate, variance, records)
    others = everything - records
    if not others:
        return Group(name, records, 1.0, rate, low, high)
    elsewhere = (sum_ - total) / others
    spread = 1.0 if choice else math.sqrt(max(variance, 0.0))
    gap = (rate - elsewhere) / spread if spread else 0.0
    apart = not low <= elsewhere <= high
    return Group(name, records, records / everything, rate, low, high, elsewhere, gap, apart)


def wilson(successes: float, records: int) -> tuple[float, float]:
    """The 95% confidence interval of a share (Wilson, 1927)."""
    share, z = successes / records, DEVIATIONS
    middle = (share + z * z / (2 * records)) / (1 + z * z / records)
    half = z * math.sqrt(share * (1 - share) / records + z * z / (4 * records**2)) / (1 + z * z / records)
    return max(0.0, middle - half), min(1.0, middle + half)


def _interval(mean: float, variance: float, records: int) -> tuple[float, float]:
    half = DEVIATIONS * math.sqrt(max(variance, 0.0) / records)
    return mean - half, mean + half


def imbalance(name: str, groups: tuple[Group, ...], bounds: Probes, *, choice: bool) -> list[Finding]:
    """Groups that have too little to judge the model by, or another outcome than all others."""
    found = []
    for each in groups:
        if each.share < bounds.min_group_share:
            found.append(
                Finding(
                    "group_share",
                    f"{name}={each.name}",
                    "warn",
                    f"{each.records:,} records with a known outcome ({each.share:.2%}) are of this group",
                    f"contract.py groups, {name}",
                    "Bring more of its records, or let the fallback decide there: nobody can say how good "
                    "the model is.",
                    each.share,
                    bounds.min_group_share,
                )
            )
        elif each.gap is not None and abs(each.gap) > bounds.max_base_rate_gap and each.apart:
            unit = "" if choice else " standard deviations"
            found.append(
                Finding(
                    "group_rate",
                    f"{name}={each.name}",
                    "warn",
                    f"the outcome is {each.rate:.3g} here ({each.low:.3g} to {each.high:.3g}) and "
                    f"{each.elsewhere:.3g} elsewhere, {abs(each.gap):.3g}{unit} apart",
                    f"contract.py groups, {name}",
                    "Judge the model in each group, and ask whether history was fair: a model repeats it.",
                    abs(each.gap),
                    bounds.max_base_rate_gap,
                )
            )
    return found
