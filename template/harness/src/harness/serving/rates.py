"""How many requests a caller has: a token bucket for each, and the headers that tell of it.

The headers are those of the IETF's draft (draft-ietf-httpapi-ratelimit-headers-10): ``RateLimit-Policy`` says
what is allowed, ``RateLimit`` what is left. Each process counts for itself: a count that all share would cost
every decision a lock or a question over the network.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

# Whoever has not asked for longest is forgotten first, and begins with a full bucket.
MOST_CALLERS = 10_000


@dataclass(frozen=True)
class Left:
    """What a caller has left.

    Attributes:
        allowed: Whether this request was allowed.
        requests: How many more would be, now.
        wait_s: Seconds until one more is, if none is left; 0 otherwise.
        headers: What tells the caller so.
    """

    allowed: bool
    requests: int
    wait_s: float
    headers: dict[str, str]


class Rates:
    """Lets each caller have so many requests a second, and some of them at once.

    Args:
        per_s: Requests a second, on average.
        burst: How many may come at once; 0 for twice as many as a second brings.
        clock: Seconds that only go on.
    """

    def __init__(self, per_s: float, burst: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = max(1, burst or math.ceil(2 * per_s))
        self._clock = clock
        self._callers: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._policy = f'"caller";q={self._burst};w={max(1, math.ceil(self._burst / per_s))}'

    def take(self, caller: str) -> Left:
        """Take one request from a caller's bucket."""
        now = self._clock()
        held, since = self._callers.pop(caller, (float(self._burst), now))
        held = min(float(self._burst), held + (now - since) * self._per_s)
        allowed = held >= 1
        if allowed:
            held -= 1
        self._callers[caller] = (held, now)
        if len(self._callers) > MOST_CALLERS:
            self._callers.popitem(last=False)
        wait_s = 0.0 if held >= 1 else (1 - held) / self._per_s
        full_in_s = math.ceil((self._burst - held) / self._per_s)
        headers = {"RateLimit-Policy": self._policy, "RateLimit": f'"caller";r={int(held)};t={full_in_s}'}
        if not allowed:
            headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
        return Left(allowed, int(held), wait_s, headers)
