"""What a command does before it imports anything large."""

from __future__ import annotations

import gc

# Python's own are 700, 10 and 10 (2,000 from 3.12 on): made for programs whose objects come and go.
THRESHOLDS = 20_000, 50, 50


def collect_rarely() -> None:
    """Look for garbage less often than Python does by itself.

    A command imports libraries of some hundred thousand objects, none of which is garbage, and looking
    through them time and again is a tenth of its time. What is not part of a cycle is freed at once as ever.
    """
    gc.set_threshold(*THRESHOLDS)
