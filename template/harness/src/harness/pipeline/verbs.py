"""What features may be written with: the verbs that every engine was seen to compute alike.

A feature is computed on the engine for training and on Polars for serving. A verb on which the two differ
makes a model that was trained on other numbers than it is asked with, and a sample need not show it: `round`
goes to the even neighbour on one side and away from zero on the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import narwhals as nw

from harness.errors import PilotError

TESTED = frozenset(
    {
        *("col", "lit", "alias", "when_then", "coalesce", "cast"),
        *("__add__", "__sub__", "__mul__", "__truediv__", "__pow__", "__invert__", "__and__", "__or__"),
        *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
        *("abs", "sqrt", "exp", "log", "floor", "ceil", "clip"),
        *("is_null", "is_in", "is_between", "is_finite", "fill_null", "replace_strict"),
        *("min_horizontal", "max_horizontal", "sum_horizontal"),
        *("any_horizontal", "all_horizontal", "concat_str"),
        *("str.len_chars", "str.to_lowercase", "str.starts_with", "str.ends_with"),
        *("str.contains", "str.replace_all", "str.slice"),
    }
)
_DATES = "Let sources.py turn dates into numbers."
_ROWS = "A feature is made of one row: look across rows in sources.py."
INSTEAD = {
    "round": "Write (value + 0.5).floor().",
    "__floordiv__": "Write (a / b).floor().",
    "__mod__": "Write a - b * (a / b).floor().",
    "mean_horizontal": "Divide a sum_horizontal(): of nothing, one engine says null and one NaN.",
    "is_nan": "Turn NaN into null in sources.py, and ask is_null().",
    "fill_nan": "Turn NaN into null in sources.py, and use fill_null().",
    "str.strip_chars": "Engines differ in what is blank: strip in sources.py.",
    "str.to_uppercase": "Compare in small letters: str.to_lowercase().",
    **dict.fromkeys(("over", "mean", "sum", "min", "max", "std", "rank", "shift", "diff", "cum_sum"), _ROWS),
}


def untested(expression: nw.Expr) -> Iterator[str]:
    """The verbs of an expression that are not among the tested ones, innermost last."""
    # Narwhals has no public way to look into an expression; the pinned version's way is held by tests.
    for node in expression._nodes:
        if node.name not in TESTED:
            yield node.name
        for part in node.exprs:
            if isinstance(part, nw.Expr):
                yield from untested(part)


def reads(expression: nw.Expr) -> tuple[str, ...]:
    """The fields that an expression is made of, each once; none where it is made of none by name."""
    found: dict[str, None] = {}
    for node in expression._nodes:
        if node.name == "col":
            found |= dict.fromkeys(node.kwargs["names"])
        for part in node.exprs:
            if isinstance(part, nw.Expr):
                found |= dict.fromkeys(reads(part))
            elif isinstance(part, str) and not node.str_as_lit:
                found[part] = None
    return tuple(found)


def check(wanted: Mapping[str, Any]) -> None:
    """Refuse features that are written with anything else.

    Raises:
        PilotError: The first such feature, its verb, and what to write in its place.
    """
    for name, expression in wanted.items():
        for verb in untested(expression) if isinstance(expression, nw.Expr) else ():
            mend = INSTEAD.get(verb) or (_DATES if verb.startswith("dt.") else "Compute it in sources.py.")
            raise PilotError(
                f"the feature '{name}' uses {verb.strip('_')}, which engines were not seen to compute alike",
                where="features.py",
                mend=f"{mend} harness/src/harness/pipeline/verbs.py lists what may be used.",
            )
