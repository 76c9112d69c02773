"""Records that nobody has, made from the contract: each value at an edge of what the contract accepts.

Real records seldom stand at an edge, and a model in production sooner or later meets one that does. The same
contract gives the same records.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from harness.contract import Contract, Field

SEED = 7
# Each edge value stands beside so many different choices of all other values, and so many are mixed freely.
EACH, MIXED = 3, 300
# A rule of the contract may refuse a combination: how often another one is tried.
TRIES = 20
LONGEST = 1_000
# Letters of one to four bytes; marks that combine; what looks blank and is not; what other programs take for
# a number, for nothing or for a command; and the longest text that a request may hold. Not among them are
# capital letters whose small letter is disputed (the Greek sigma at the end of a word, the dotted I).
TEXTS = (
    *(
        "a",
        "A",
        " a",
        "a ",
        "a  b",
        "ab" * 10,
        "ä",
        "Ä",
        "ß",
        "é",
        "e\u0301",
        "я",
        "中文",
        "👩\u200d🔬",
        "\u202eabc",
    ),
    *("\u00a0a", "\u200ba", "a\tb", "a\nb", "a'b", 'a"b', "a\\b", "a%b_c", "a;b", "${a}", "{a}", "[a]", "-a"),
    *("0", "00", "-1", "1e309", "1,5", "nan", "NaN", "null", "NULL", "None", "true", "2026-01-31"),
    *("x" * LONGEST, "ü" * LONGEST),
)
DATES = (
    *(date(1, 1, 1), date(1582, 10, 4), date(1582, 10, 15), date(1899, 12, 31), date(1900, 3, 1)),
    *(date(1969, 12, 31), date(1970, 1, 1), date(2000, 2, 29), date(2026, 1, 31), date(2038, 1, 20)),
    date(9999, 12, 31),
)
INTEGERS = (0, 1, -1, 2, 10, -10, 2**31 - 1, -(2**31), 2**31)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 0.1, 1 / 3, -2.5, 1e-9, 1e-150, 1e9, -1e9, 1e15, 1e150)


def make(contract: Contract, seed: int = SEED) -> list[dict[str, Any]]:
    """Records that the contract accepts.

    Every edge value of every field is in one at least, unless a rule refuses it in each of many combinations.

    Args:
        contract: Says what a record is.
        seed: Another one gives other combinations.

    Returns:
        Values by field, as a request has them once it was accepted.
    """
    draw = random.Random(seed)
    edges = {field.name: list(values(field)) for field in contract.fields}
    wanted = [(name, value) for name, some in edges.items() for value in some for _ in range(EACH)]
    found = []
    for name, value in [*wanted, *[("", None)] * MIXED]:
        for _ in range(TRIES):
            record = {each: draw.choice(some) for each, some in edges.items()}
            if name:
                record[name] = value
            if not contract.breaks(record):
                found.append(record)
                break
    return found


def values(field: Field) -> Iterator[Any]:
    """The values of a field that stand at an edge of what is accepted."""
    if not field.required:
        yield None
    if field.categories:
        yield from field.categories
    elif field.type == "text":
        yield from TEXTS
    elif field.type == "boolean":
        yield from (True, False)
    elif field.type == "date":
        yield from DATES
    elif field.type == "integer":
        low = [] if field.low is None else [math.ceil(field.low), math.ceil(field.low) + 1]
        high = [] if field.high is None else [math.floor(field.high), math.floor(field.high) - 1]
        yield from _accepted(field, [*low, *high, *INTEGERS])
    else:
        yield from _accepted(field, [*_ends(field), *NUMBERS])


def _ends(field: Field) -> Iterator[float]:
    """Both ends of a number's range, what is next to them, and its middle."""
    low, high = field.low, field.high
    if low is not None:
        yield from (float(low), math.nextafter(low, math.inf))
    if high is not None:
        yield from (float(high), math.nextafter(high, -math.inf))
    if low is not None and high is not None:
        yield low + (high - low) / 2


def _accepted(field: Field, some: Sequence[float]) -> list[float]:
    low = -math.inf if field.low is None else field.low
    high = math.inf if field.high is None else field.high
    # By their text: zero and minus zero are equal, and not the same.
    return list({repr(value): value for value in some if low <= value <= high}.values())
