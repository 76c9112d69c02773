"""Where this pilot lies, and records that its contract accepts."""

# This file is the standard's: `copier update` replaces it. Write tests of your own in tests/.
from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from harness.pilot import Contract, Field

ROOT = Path(__file__).resolve().parents[2]


def accepted(contract: Contract) -> st.SearchStrategy[dict[str, Any]]:
    """Any record that the contract accepts."""
    drawn = st.fixed_dictionaries({field.name: _values(field) for field in contract.fields})
    return drawn.filter(lambda record: not contract.breaks(record))


def _values(field: Field) -> st.SearchStrategy[Any]:
    low, high = field.low, field.high
    found: st.SearchStrategy[Any]
    if field.categories:
        found = st.sampled_from(field.categories)
    elif field.type == "text":
        # What a request may hold: a NUL and half a surrogate pair cannot be recorded, and are refused. Left
        # out: capitals whose small letter is disputed, and letters that not every engine's Unicode has.
        letters = st.characters(exclude_characters="\0\u0130\u03a3", exclude_categories=("Cs", "Cn"))
        found = st.text(letters, min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
    elif field.type == "integer":
        found = st.integers(-(2**40) if low is None else int(low), 2**40 if high is None else int(high))
    elif field.type == "number":
        found = st.floats(low, high, allow_nan=False, allow_infinity=False)
    elif field.type == "boolean":
        found = st.booleans()
    else:
        found = st.dates()
    return found if field.required else st.none() | found
