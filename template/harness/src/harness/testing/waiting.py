"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(happened: Callable[[], T], *, within_s: float = 30.0, otherwise: Callable[[], str] = str) -> T:
    """Ask again and again, and give the first answer that counts as true.

    Args:
        happened: The question.
        within_s: How long it is asked, in seconds; generous, because a test is not about time.
        otherwise: What to say when time is up.

    Raises:
        AssertionError: It did not happen in time.
    """
    deadline = time.monotonic() + within_s
    while True:
        found = happened()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(otherwise() or f"it did not happen within {within_s:g} s")
        time.sleep(0.02)
