"""What a model says of one record."""

from __future__ import annotations

import math
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
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
