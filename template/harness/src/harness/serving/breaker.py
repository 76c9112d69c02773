"""Leaving alone a model that fails: so many failures within a time, then one call tries it again."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


class BreakerOpen(Exception):
    """The model has failed too often of late, and is not asked."""


@dataclass(frozen=True)
class Rule:
    """When a breaker opens, and when it tries again.

    Attributes:
        failures: How many failures open it.
        window_s: Seconds within which they count.
        retry_s: Seconds after which one call tries the model again.
    """

    failures: int = 5
    window_s: float = 10.0
    retry_s: float = 5.0


@dataclass(frozen=True)
class Ticket:
    """The right to make one call; who holds it says what came of it.

    Attributes:
        probe: The number of the attempt to close an open breaker; 0 for an ordinary call.
    """

    probe: int = 0


class Breaker:
    """Counts a model's failures.

    Args:
        rule: When it opens and tries again.
        clock: Seconds that only grow.
    """

    def __init__(self, rule: Rule, clock: Callable[[], float] = time.monotonic) -> None:
        self._rule = rule
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: deque[float] = deque(maxlen=rule.failures)
        self._retry_s = rule.retry_s
        self._open_until: float | None = None
        self._probes = 0
        self._probing = 0

    @property
    def open(self) -> bool:
        """Whether ordinary calls are refused."""
        return self._open_until is not None

    def wait_at_least(self, seconds: float) -> None:
        """Let no probe come before a model that has to start again can have done so."""
        with self._lock:
            self._retry_s = max(self._rule.retry_s, seconds)

    def ask(self) -> Ticket:
        """The right to make a call.

        Raises:
            BreakerOpen: It is open, and it is not time to try again or somebody does so already.
        """
        with self._lock:
            if self._open_until is None:
                return Ticket()
            if self._probing or self._clock() < self._open_until:
                raise BreakerOpen
            self._probes += 1
            self._probing = self._probes
            return Ticket(self._probing)

    def check(self, ticket: Ticket) -> None:
        """Ask again before the call is made, which may have waited since.

        Raises:
            BreakerOpen: It has opened meanwhile.
        """
        with self._lock:
            if self._open_until is not None and not self._is_probe(ticket):
                raise BreakerOpen

    def told(self, ticket: Ticket, *, well: bool | None) -> bool:
        """Take note of what came of a call.

        Args:
            ticket: What ``ask`` gave.
            well: Whether the model gave a valid answer in time; None when it was not asked after all.

        Returns:
            Whether this opened or closed the breaker.
        """
        with self._lock:
            if self._open_until is None:
                return well is False and self._failed()
            # A call from before it opened says nothing about the model of now.
            if not self._is_probe(ticket):
                return False
            self._probing = 0
            if well:
                self._open_until = None
                self._failures.clear()
            elif well is False:
                self._open_until = self._clock() + self._retry_s
            return bool(well)

    def _is_probe(self, ticket: Ticket) -> bool:
        return bool(ticket.probe) and ticket.probe == self._probing

    def _failed(self) -> bool:
        now = self._clock()
        self._failures.append(now)
        if len(self._failures) < self._rule.failures or now - self._failures[0] > self._rule.window_s:
            return False
        self._open_until = now + self._retry_s
        return True
