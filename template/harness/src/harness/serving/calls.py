"""A call of a model, and what becomes of one that finds no place or no end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from harness.serving.breaker import Ticket
from harness.serving.scored import Scored


class Busy(Exception):
    """Every place is taken, or none became free within the budget."""


class TooSlow(Exception):
    """The call was not done within the budget."""


class Overloaded(Exception):
    """More is asked than can be answered in time, so this one is not begun."""


Told: TypeAlias = "Callable[[Sequence[tuple[Call, Scored | BaseException]]], None]"


class Call:
    """One record that a model is asked about; whoever claims the call says what becomes of it, once.

    Args:
        record: The record.
        told: What hears of the answer, with those of other calls that were answered at the same moment.
        about: Whatever the asker wants to find again.
        besides_s: Seconds that it has waited and will wait besides, whatever the model does.

    Attributes:
        taken: Whether it was handed to the model.
        began: When it was, on the clock that only grows; 0 for never.
        ticket: The breaker's.
    """

    __slots__ = ("_once", "about", "began", "besides_s", "record", "taken", "ticket", "told")

    def __init__(
        self, record: Mapping[str, Any], told: Told, about: Any = None, besides_s: float = 0.0
    ) -> None:
        self.record = record
        self.told = told
        self.about = about
        self.besides_s = besides_s
        self.taken = False
        self.began = 0.0
        self.ticket = Ticket()
        self._once = threading.Lock()

    def claim(self) -> bool:
        """Take it; False when somebody has."""
        return self._once.acquire(blocking=False)

    @property
    def over(self) -> bool:
        """Whether somebody has claimed it."""
        return self._once.locked()
