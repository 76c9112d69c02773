"""One column of the pilot's data beside the same column of production's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from harness.data.gap_kinds import KINDS
from harness.data.population import distance
from harness.data.profile import QUANTILES
from harness.data.profiled import RECORDS, Column
from harness.data_settings import Gap as Bounds

Severity = Literal["high", "medium", "low"]
IN_RECORDS = 1.5
# From how many times its bound on a difference hurts no more than it does already, and what weighs much.
MOST_TIMES, HEAVY = 10.0, 8.0
# Less than that part of its bound is not worth a line.
WORTH_A_LINE = 0.02
# Where the pilot had none at all, its code has never met one.
UNSEEN_SHARE = 0.001
# A column of so many different values names its rows, and repeats are two truths about one.
KEY_SHARE = 0.95


@dataclass(frozen=True)
class Finding:
    """One difference.

    Attributes:
        kind: What is different.
        table: Where: ``records``, or ``raw.<name>``.
        column: The column; empty for the table as a whole.
        value: How much.
        bound: From where on it is worse than stated.
        pilot: The pilot's figure, for people.
        production: Production's figure, for people.
        what: What was found.
    """

    kind: str
    table: str
    column: str
    value: float
    bound: float
    pilot: str
    production: str
    what: str

    @property
    def place(self) -> str:
        """The table, and the column where there is one."""
        return f"{self.table}.{self.column}" if self.column else self.table

    @property
    def hurts(self) -> str:
        """What it will do."""
        return KINDS[self.kind].hurts

    @property
    def mend(self) -> str:
        """What to do about it."""
        return KINDS[self.kind].mend

    @property
    def id(self) -> str:
        """Its name: the kind and the place."""
        return ":".join(part for part in (self.kind, self.table, self.column) if part)

    @property
    def worse(self) -> bool:
        """Whether it is beyond its bound."""
        return self.value > self.bound

    @property
    def times(self) -> float:
        """How many times its bound it is; where no such thing is allowed at all, as bad as can be."""
        return min(self.value / self.bound, MOST_TIMES) if self.bound else (MOST_TIMES if self.worse else 0.0)

    @property
    def weight(self) -> float:
        """How much it will hurt, beside the others."""
        place = IN_RECORDS if self.table == RECORDS else 1.0
        return KINDS[self.kind].weight * place * (1 + math.log10(max(self.times, 0.1)))

    @property
    def severity(self) -> Severity:
        """The same in a word."""
        if not self.worse:
            return "low"
        return "high" if self.weight >= HEAVY else "medium"


def noted(
    kind: str, place: tuple[str, str], size: tuple[float, float], figures: tuple[str, str], what: str
) -> Finding:
    """A finding whose figure is rounded, so that it reads well in a document.

    Args:
        kind: One of KINDS.
        place: The table and the column.
        size: How much, and from where on it is worse than stated.
        figures: The pilot's and production's, for people.
        what: What was found.
    """
    return Finding(kind, *place, round(float(size[0]), 9), float(size[1]), *figures, what)


def compare(
    table: str, name: str, before: Column, now: Column, rows: tuple[int, int], bounds: Bounds
) -> Iterator[Finding]:
    """Everything that differs about one column.

    Args:
        table: Its table.
        name: Its name.
        before: The pilot's.
        now: Production's.
        rows: The rows of both tables.
        bounds: From where on a difference is worse than stated.
    """
    if before.kind != now.kind:
        yield noted(
            "type.changed",
            (table, name),
            (1, 0),
            (before.type, now.type),
            f"it is {now.type}, and was {before.type} in the pilot",
        )
        return
    if not all(rows):
        return
    yield from _absent(table, name, before, now, rows, bounds)
    present = (rows[0] - before.missing, rows[1] - now.missing)
    if not all(present):
        return
    yield from _repeated(table, name, before, now, present, bounds)
    if before.kind == "text" and before.categories:
        yield from _categories(table, name, before, now, present, bounds)
    elif before.kind == "text":
        yield from _formats(table, name, before, now, present, bounds)
    if before.kind == "number" and name and before.quantiles and now.quantiles:
        yield from _range(table, name, before, now, bounds)


def _absent(
    table: str, name: str, before: Column, now: Column, rows: tuple[int, int], bounds: Bounds
) -> Iterator[Finding]:
    shares = before.absent / rows[0], now.absent / rows[1]
    growth = shares[1] - shares[0]
    if growth <= 0:
        return
    figures = f"{shares[0]:.1%}", f"{shares[1]:.1%}"
    hidden = now.blank + now.placeholders
    also = f" ({hidden:,} of them as blanks or words such as n/a)" if hidden else ""
    if before.absent == 0 and growth <= bounds.missing_share:
        yield noted(
            "missing.unseen",
            (table, name),
            (shares[1], UNSEEN_SHARE),
            figures,
            f"{shares[1]:.2%} are missing{also}, and the pilot never met one",
        )
        return
    kind = "missing.grew" if table == RECORDS else "missing.source"
    yield noted(
        kind,
        (table, name),
        (growth, bounds.missing_share),
        figures,
        f"{shares[1]:.1%} are missing{also}, {shares[0]:.1%} in the pilot",
    )


def _repeated(
    table: str, name: str, before: Column, now: Column, present: tuple[int, int], bounds: Bounds
) -> Iterator[Finding]:
    if not before.distinct or now.distinct is None or before.distinct < KEY_SHARE * present[0]:
        return
    if before.shapes and re.search("9[.,]9", before.shapes[0].shape):
        return  # an amount, which repeats as there are more of them
    shares = 1 - before.distinct / present[0], 1 - now.distinct / present[1]
    if before.kind == "text" and shares[1] > shares[0]:
        yield noted(
            "keys.repeated",
            (table, name),
            (shares[1] - shares[0], bounds.duplicate_share),
            (f"{shares[0]:.1%}", f"{shares[1]:.1%}"),
            f"{shares[1]:.1%} of its values are repetitions, {shares[0]:.1%} in the pilot",
        )


def _categories(
    table: str, name: str, before: Column, now: Column, present: tuple[int, int], bounds: Bounds
) -> Iterator[Finding]:
    unseen = {
        value: rows for value, rows in now.categories.items() if rows and not before.categories.get(value)
    }
    share = (sum(unseen.values()) + (now.undeclared if not before.undeclared else 0)) / present[1]
    if share:
        named = [*sorted(unseen, key=lambda value: (-unseen[value], value))]
        named += (
            ["values that contract.py does not declare"] if now.undeclared and not before.undeclared else []
        )
        yield noted(
            "categories.new",
            (table, name),
            (share, bounds.new_category_share),
            ("never", f"{share:.2%}"),
            f"{share:.2%} fall into what the pilot never saw: {', '.join(named[:6])}",
        )
    values = sorted({*before.categories, *now.categories})
    apart = distance(
        [before.categories.get(value, 0) / present[0] for value in values],
        [now.categories.get(value, 0) / present[1] for value in values],
    )
    yield noted(
        "categories.mix",
        (table, name),
        (apart, bounds.distance),
        ("", f"{apart:.1%}"),
        f"{apart:.1%} of the records would have to be of another category to be mixed as in the pilot",
    )


def _formats(
    table: str, name: str, before: Column, now: Column, present: tuple[int, int], bounds: Bounds
) -> Iterator[Finding]:
    whole = len({each.shape for each in before.shapes if _whole(each.shape)}) > 1
    seen = {_family(each.shape, whole) for each in before.shapes}
    new = [each for each in now.shapes if _family(each.shape, whole) not in seen]
    # What the pilot has among its rare shapes may be one of these.
    share = sum(each.rows for each in new) / present[1] - before.other_shapes / present[0]
    if new and share > 0:
        told = ", ".join(f"{each.shape.replace(' ', '␣')} {each.rows / present[1]:.1%}" for each in new[:4])
        yield noted(
            "formats.new",
            (table, name),
            (share, bounds.new_format_share),
            (f"{len(seen)} ways", f"{len(new)} new"),
            f"{share:.1%} are written in ways that the pilot never saw: {told}",
        )
    shapes = sorted({each.shape for each in (*before.shapes, *now.shapes)})
    counts = [{each.shape: each.rows for each in one.shapes} for one in (before, now)]
    apart = distance(
        *(
            [count.get(shape, 0) / size for shape in shapes]
            for count, size in zip(counts, present, strict=True)
        )
    )
    yield noted(
        "formats.mix",
        (table, name),
        (apart, bounds.distance),
        (f"{len(before.shapes)} ways", f"{len(now.shapes)} ways"),
        f"{apart:.1%} are written in another way than in the pilot",
    )


def _whole(shape: str) -> bool:
    return bool(re.fullmatch(r"9{1,4}|9\+", shape))


def _family(shape: str, whole: bool) -> str:
    """A whole number of more digits is no new way of writing, unless all had the same number of them."""
    return "whole number" if whole and _whole(shape) else shape


def _range(table: str, name: str, before: Column, now: Column, bounds: Bounds) -> Iterator[Finding]:
    if before.low is None or before.high is None or now.low is None or now.high is None:
        return
    low, high = float(before.low), float(before.high)
    points = [float(value) for value in now.quantiles]
    above = max((1 - at for at, value in zip(QUANTILES, points, strict=True) if value > high), default=0.0)
    below = max((at for at, value in zip(QUANTILES, points, strict=True) if value < low), default=0.0)
    if float(now.high) > high or float(now.low) < low:
        yield noted(
            "range.beyond",
            (table, name),
            (above + below, bounds.beyond_share),
            (f"{low:g} to {high:g}", f"{float(now.low):g} to {float(now.high):g}"),
            f"at least {above + below:.1%} are beyond what the pilot saw, {low:g} to {high:g}",
        )
    middle = points[len(points) // 2]
    usual = float(before.quantiles[2]), float(before.quantiles[-3])
    if not usual[0] <= middle <= usual[1]:
        yield noted(
            "range.centre",
            (table, name),
            (1, 0),
            (f"{float(before.quantiles[4]):g}", f"{middle:g}"),
            f"the median is {middle:g}, outside the middle 90% of the pilot ({usual[0]:g} to {usual[1]:g})",
        )
