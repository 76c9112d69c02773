"""By what a request can be followed: its name, and its place in a trace."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextvars import ContextVar
from dataclasses import dataclass

NAME = "X-Request-ID"
TRACEPARENT = "traceparent"
# Deliveries follow within moments, unless the consumer is away.
REMEMBERED = 10_000


@dataclass(frozen=True)
class Followed:
    """What a request can be followed by.

    Attributes:
        request_id: Its name.
        traceparent: Its place in a trace, as W3C Trace Context writes it; empty for none.
    """

    request_id: str = ""
    traceparent: str = ""

    @property
    def trace_id(self) -> str:
        """The trace, 32 hexadecimal digits; empty for none."""
        return self.traceparent[3:35]

    def headers(self) -> dict[str, str]:
        """What is sent on with what came of it."""
        told = {NAME: self.request_id, TRACEPARENT: self.traceparent}
        return {name: value for name, value in told.items() if value}


NOBODY = Followed()
_now: ContextVar[Followed] = ContextVar("followed", default=NOBODY)
_decisions: OrderedDict[str, Followed] = OrderedDict()
_lock = threading.Lock()


def begin(by: Followed) -> None:
    """From here on, in this context, a request is answered that can be followed so."""
    _now.set(by)


class on:
    """For as long as the block lasts, this thread works on a request that can be followed so."""

    __slots__ = ("_by", "_token")

    def __init__(self, by: Followed) -> None:
        self._by = by

    def __enter__(self) -> None:
        self._token = _now.set(self._by)

    def __exit__(self, *_: object) -> None:
        _now.reset(self._token)


def followed() -> Followed:
    """By what the request that is answered here can be followed; empty outside one."""
    return _now.get()


def remember(decision_id: str) -> None:
    """Keep by what a decision can be followed until it is delivered, in this process and for a while."""
    now = _now.get()
    if now is NOBODY:
        return
    with _lock:
        _decisions[decision_id] = now
        if len(_decisions) > REMEMBERED:
            _decisions.popitem(last=False)


def recall(decision_id: str) -> Followed:
    """By what a decision can be followed; nothing where another process made it, or it was long ago."""
    with _lock:
        return _decisions.get(decision_id, NOBODY)
