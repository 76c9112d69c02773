"""What becomes of a call that finds no place or no end."""

from __future__ import annotations


class Busy(Exception):
    """Every place was taken for as long as the budget allowed to wait."""


class TooSlow(Exception):
    """The call was not done within the budget."""
