"""JSON that a service writes with every decision: by orjson, and by Python's own encoder whatever is unusual.

Python's own takes two to nine times as long, which was a tenth of a decision. orjson writes NaN as null, and
takes types that JSON does not have; so what it would write differently is left to Python's. Members of
enumerations and UUIDs alone are written as orjson has them, by their value and as text.
"""

from __future__ import annotations

import json
from datetime import date
from math import isfinite
from typing import Any

import orjson

_NO_NUMBER = frozenset({str, int, bool, type(None), date})
_PLAIN_ONLY = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


class Encoder:
    """Writes JSON.

    Args:
        exactly: Whose doing is the rule in every unusual case: NaN and infinity, types that JSON does not
            have, integers of more than 64 bits, names that are no text, half a surrogate pair. A plain date,
            which is written in ISO 8601, is none of them.
    """

    def __init__(self, exactly: json.JSONEncoder) -> None:
        self._exactly = exactly.encode

    def __call__(self, value: Any) -> bytes:
        """The value as JSON in UTF-8.

        Raises:
            TypeError, ValueError: What the exact encoder raises, and where its text has no UTF-8.
        """
        found = _quickly(value)
        return self._exactly(value).encode() if found is None else found

    def text(self, value: Any) -> str:
        """The value as JSON, in which half a surrogate pair may stand.

        Raises:
            TypeError, ValueError: What the exact encoder raises.
        """
        found = _quickly(value)
        return self._exactly(value) if found is None else found.decode()


def _quickly(value: Any) -> bytes | None:
    """As orjson writes it; None where that may be something else than what the exact encoder does."""
    try:
        found = orjson.dumps(value, _day, _PLAIN_ONLY)
    except TypeError:
        return None
    # What may be NaN or infinity: orjson writes null for both.
    return None if b"null" in found and not _finite(value) else found


def _day(value: object) -> str:
    if type(value) is date:
        return value.isoformat()
    raise TypeError


def _finite(value: Any) -> bool:
    found = [value]
    for each in found:
        kind = type(each)
        if kind is float:
            if not isfinite(each):
                return False
        elif kind is dict:
            found.extend(each.values())
        elif kind is list or kind is tuple:
            found.extend(each)
        elif kind not in _NO_NUMBER:  # what it holds is not known here
            return False
    return True
