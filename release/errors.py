"""What stops a release."""

from __future__ import annotations


class ReleaseError(Exception):
    """A check failed; each argument is a line that says what is wrong, where, and the mend."""


class WrongUse(Exception):
    """The command cannot be meant like that."""
