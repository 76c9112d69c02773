"""One column of the pilot's data beside the same column of production's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from harness.data.population import distance
from harness.data.profile import QUANTILES
from harness.data.profiled import RECORDS, Column
from harness.settings import Gap as Bounds

Severity = Literal["high", "medium", "low"]
# How much a difference of a kind hurts, all else equal. What is not there breaks; what is new misleads quietly.
WEIGHTS = {
    "table.gone": 10.0,
    "column.gone": 9.0,
    "type.changed": 9.0,
    "formats.new": 6.0,
    "missing.grew": 6.0,
    "missing.unseen": 5.0,
    "label.rate": 5.0,
    "categories.new": 5.0,
    "keys.repeated": 5.0,
    "range.centre": 4.0,
    "range.beyond": 4.0,
    "duplicates.grew": 3.0,
    "time.cycle": 4.0,
    "time.unseen_months": 3.0,
    "time.gaps": 3.0,
    "categories.mix": 3.0,
    "formats.mix": 2.0,
    "volume": 2.0,
}
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
        hurts: What it will do.
        mend: What to do about it.
    """

    kind: str
    table: str
    column: str
    value: float
    bound: float
    pilot: str
    production: str
    what: str
    hurts: str
    mend: str

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
        return WEIGHTS.get(self.kind, 1.0) * place * (1 + math.log10(max(self.times, 0.1)))

    @property
    def severity(self) -> Severity:
        """The same in a word."""
        if not self.worse:
            return "low"
        return "high" if self.weight >= HEAVY else "medium"


def noted(
    kind: str, table: str, column: str, value: float, bound: float, pilot: str, production: str,
    *, what: str, hurts: str, mend: str,
) -> Finding:  # fmt: skip
    """A finding whose figure is rounded, so that it reads well in a document."""
    return Finding(
        kind, table, column, round(float(value), 9), float(bound), pilot, production, what, hurts, mend
    )


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
            "type.changed", table, name, 1, 0, before.type, now.type,
            what=f"it is {now.type}, and was {before.type} in the pilot",
            hurts="It is read wrongly, or not at all.", mend="Cast it in sources.py, and test both.",
        )  # fmt: skip
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
            "missing.unseen", table, name, shares[1], UNSEEN_SHARE, *figures,
            what=f"{shares[1]:.2%} are missing{also}, and the pilot never met one",
            hurts="Code that never saw a missing value fails, or decides from a default.",
            mend="Say in contract.py whether it may be absent, and test features and fallback without it.",
        )  # fmt: skip
        return
    yield noted(
        "missing.grew", table, name, growth, bounds.missing_share, *figures,
        what=f"{shares[1]:.1%} are missing{also}, {shares[0]:.1%} in the pilot",
        hurts="The model decides so many cases without it, and was hardly ever judged that way."
        if table == RECORDS
        else "What sources.py makes of it is missing as often, or is a guess.",
        mend="Judge the model on records without it, mend the source, or do without the feature.",
    )  # fmt: skip


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
            "keys.repeated", table, name, shares[1] - shares[0], bounds.duplicate_share,
            f"{shares[0]:.1%}", f"{shares[1]:.1%}",
            what=f"{shares[1]:.1%} of its values are repetitions, {shares[0]:.1%} in the pilot",
            hurts="It names rows: two rows of one name are two truths, and a join takes both.",
            mend="Say in sources.py which of them holds, the newest as a rule, and ask the owner for the key.",
        )  # fmt: skip


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
            "categories.new", table, name, share, bounds.new_category_share, "never", f"{share:.2%}",
            what=f"{share:.2%} fall into what the pilot never saw: {', '.join(named[:6])}",
            hurts="The model was never trained on it, and its score there means nothing.",
            mend="Declare it in contract.py if it is right, train with it, and let the fallback decide until then.",
        )  # fmt: skip
    values = sorted({*before.categories, *now.categories})
    apart = distance(
        [before.categories.get(value, 0) / present[0] for value in values],
        [now.categories.get(value, 0) / present[1] for value in values],
    )
    yield noted(
        "categories.mix", table, name, apart, bounds.distance, "", f"{apart:.1%}",
        what=f"{apart:.1%} of the records would have to be of another category to be mixed as in the pilot",
        hurts="The pilot's figures are an average over other people than production's.",
        mend="Judge by category, and declare the population in pilot.toml [data.population].",
    )  # fmt: skip


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
            "formats.new", table, name, share, bounds.new_format_share, f"{len(seen)} ways", f"{len(new)} new",
            what=f"{share:.1%} are written in ways that the pilot never saw: {told}",
            hurts="What cannot be parsed becomes null, and what is parsed wrongly becomes a wrong number or day.",
            mend="Parse them in sources.py, and let what cannot be read become null, never a guess.",
        )  # fmt: skip
    shapes = sorted({each.shape for each in (*before.shapes, *now.shapes)})
    counts = [{each.shape: each.rows for each in one.shapes} for one in (before, now)]
    apart = distance(
        *(
            [count.get(shape, 0) / size for shape in shapes]
            for count, size in zip(counts, present, strict=True)
        )
    )
    yield noted(
        "formats.mix", table, name, apart, bounds.distance, f"{len(before.shapes)} ways", f"{len(now.shapes)} ways",
        what=f"{apart:.1%} are written in another way than in the pilot",
        hurts="A way that was rare, and whose mistakes were too, is now common.",
        mend="Check how many of each way are parsed, and test the common ones in tests/.",
    )  # fmt: skip


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
            "range.beyond", table, name, above + below, bounds.beyond_share,
            f"{low:g} to {high:g}", f"{float(now.low):g} to {float(now.high):g}",
            what=f"at least {above + below:.1%} are beyond what the pilot saw, {low:g} to {high:g}",
            hurts="A model does not extrapolate: beyond what it saw, it repeats its last answer.",
            mend="Check the unit and the parsing first; then train on the whole range, or bound it in contract.py.",
        )  # fmt: skip
    middle = points[len(points) // 2]
    usual = float(before.quantiles[2]), float(before.quantiles[-3])
    if not usual[0] <= middle <= usual[1]:
        yield noted(
            "range.centre", table, name, 1, 0, f"{float(before.quantiles[4]):g}", f"{middle:g}",
            what=f"the median is {middle:g}, outside the middle 90% of the pilot ({usual[0]:g} to {usual[1]:g})",
            hurts="Another unit, another currency or another business: scores there mean nothing.",
            mend="Ask the owner for the unit; convert it in sources.py.",
        )  # fmt: skip
