"""Which decisions by a model are under way: what a stop waits for.

A decision counts from just before the permission is asked for the last time until its answer was sent. So
whoever sees the stop first and then counts nothing knows that no model's decision will come any more: one
that began to count later has seen the stop too.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Message = MutableMapping[str, Any]
Application = Callable[[Any, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]


@dataclass(frozen=True)
class Count:
    """What is under way at one moment.

    Attributes:
        under_way: How many decisions may still be a model's.
        last: When the last one by a model was answered, ISO 8601, UTC; None since the process began.
    """

    under_way: int
    last: str | None


class Underway:
    """Counts the decisions of one process that may be a model's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._last: str | None = None

    def passage(self) -> Passage:
        """One decision's. Within `Answering` it counts until the answer was sent."""
        return Passage(self, _answer.get())

    def count(self) -> Count:
        """What is under way now."""
        with self._lock:
            return Count(self._count, self._last)

    def _change(self, by: int, *, decided: bool = False) -> None:
        with self._lock:
            self._count += by
            if decided:
                self._last = datetime.now(UTC).isoformat(timespec="milliseconds")


class Passage:
    """One decision's way, from its last permission to its answer.

    Args:
        underway: What counts it.
        answer: The answer that will tell it; None where there is none to wait for.
    """

    def __init__(self, underway: Underway, answer: Answer | None) -> None:
        self._underway = underway
        self._answer = answer
        self._counted = self._told = False

    def enter(self) -> None:
        """The permission is asked for the last time: from now on the decision may be the model's."""
        if not self._counted:
            self._counted = True
            self._underway._change(+1)

    def leave(self) -> None:
        """It is no model's decision: the fallback's, or none."""
        self.end(decided=False)

    def decided(self) -> None:
        """It is on record; it counts until its answer was sent."""
        if self._told:
            return
        self._told = True
        # The answer will point at it: two that point at each other are not freed at once.
        answer, self._answer = self._answer, None
        if answer is None:
            self.end(decided=True)
        else:
            answer.take(self)

    def end(self, *, decided: bool) -> None:
        """It is over."""
        if self._counted:
            self._counted = False
            self._underway._change(-1, decided=decided)


class Answer:
    """The decisions that one answer tells, while it is ``with``; one that comes later ends by itself."""

    __slots__ = ("_lock", "_passages", "_sent", "_token")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passages: list[Passage] = []
        self._sent = False

    def __enter__(self) -> None:
        self._token = _answer.set(self)

    def __exit__(self, *_: object) -> None:
        """It was sent, or cannot be: its decisions end."""
        _answer.reset(self._token)
        with self._lock:
            self._sent = True
        for passage in self._passages:
            passage.end(decided=True)

    def take(self, passage: Passage) -> None:
        """A decision that it tells."""
        with self._lock:
            if not self._sent:
                self._passages.append(passage)
                return
        passage.end(decided=True)


_answer: ContextVar[Answer | None] = ContextVar("answer", default=None)


class Answering:
    """Around an application: the decisions of a request end when its answer was sent, or cannot be."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        with Answer():
            await self._app(scope, receive, send)
