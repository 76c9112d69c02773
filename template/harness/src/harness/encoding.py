"""JSON that a service writes with every decision: by orjson, and by Python's own encoder whatever is unusual.

Python's own takes six to twelve times as long, which was a tenth of a decision. orjson writes NaN as null,
and some types in a form of its own; so what it would write differently is left to Python's, and what is
written, refused and raised is the same.
"""

from __future__ import annotations

import json
from datetime import date
from math import isfinite
from typing import Any

import orjson

_PLAIN_ONLY = (
    orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
)


class Encoder:
    """Writes JSON in UTF-8.

    Args:
        exactly: Whose doing is the rule in every unusual case: NaN and infinity, types that JSON does not
            have, integers of more than 64 bits, names that are no text, half a surrogate pair. A plain date,
            which is written in ISO 8601, is none of them, nor is a member of an enumeration: its value is
            written.
    """

    def __init__(self, exactly: json.JSONEncoder) -> None:
        self._exactly = exactly.encode

    def __call__(self, value: Any) -> bytes:
        """The value as JSON.

        Raises:
            TypeError, ValueError: What the exact encoder raises.
        """
        try:
            found = orjson.dumps(value, _day, _PLAIN_ONLY)
        except TypeError:
            return self._exactly(value).encode()
        # What may be NaN or infinity: orjson writes null for both.
        if b"null" in found and not _finite(value):
            return self._exactly(value).encode()
        return found


def _day(value: object) -> str:
    if type(value) is date:
        return value.isoformat()
    raise TypeError


def _finite(value: Any) -> bool:
    found = [value]
    # Of the types themselves: orjson leaves those that are made of them to the exact encoder.
    for each in found:
        kind = type(each)
        if kind is float:
            if not isfinite(each):
                return False
        elif kind is dict:
            found.extend(each.values())
        elif kind is list or kind is tuple:
            found.extend(each)
    return True
