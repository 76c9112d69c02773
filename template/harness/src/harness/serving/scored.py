"""What a model says of one record."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.pilot import Reason


@dataclass(frozen=True)
class Scored:
    """What a model says of one record.

    Attributes:
        score: A finite number that the contract's decision can take.
        reasons: The strongest reasons, strongest first.
        decision: What the packaged contract decides at that score.
        pending: Whether the reasons cost more time than there was, and are still to be computed.
    """

    score: float
    reasons: tuple[Reason, ...]
    decision: str | float
    pending: bool = False


class ScoreInvalid(Exception):
    """The model gave something that is no valid score."""


def plain(reason: Reason) -> Reason:
    """A reason as it can be kept and sent: NumPy's numbers made Python's, NaN and infinity made None."""
    effect = None if reason.effect is None else _plain(float(reason.effect))
    return Reason(str(reason.feature), _plain(reason.value), effect)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if type(value) not in _PLAIN:
        value = _exact(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _exact(value: Any) -> str | int | float:
    """What somebody has made of a text or a number may be written otherwise than it reads."""
    for kind, exact in _EXACT:
        if isinstance(value, kind):
            return exact(value)
    return str(value)


_PLAIN = frozenset({str, int, float, bool, type(None)})
_EXACT: tuple[tuple[type, Callable[[Any], str | int | float]], ...] = (
    (float, float.__float__),
    (int, int.__int__),
    (str, str.__str__),
)
