"""Which stretches of time are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class Span:
    """A stretch of time, from its start to before its end, UTC.

    Attributes:
        start: Its first moment.
        end: The first moment after it.
    """

    start: datetime
    end: datetime

    @property
    def first(self) -> str:
        """The start as the store writes moments, which sort as text."""
        return written(self.start)

    @property
    def after(self) -> str:
        """The end as the store writes moments."""
        return written(self.end)


def trailing(now: datetime, hours: float, count: int, since: datetime | None = None) -> list[Span]:
    """The last ``count`` windows, the newest first and ending at ``now``.

    Args:
        now: The end of the newest, UTC.
        hours: How long each is.
        count: How many.
        since: Nothing before it counts: the windows that it lies in or after are shortened, down to nothing.
    """
    length = timedelta(hours=hours)
    found = []
    for number in range(count):
        end = now - number * length
        start = end - length
        if since is not None:
            start, end = max(start, since), max(end, since)
        found.append(Span(start, end))
    return found


def written(moment: datetime) -> str:
    """A moment as the store writes it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def whole(spans: Sequence[Span]) -> Span:
    """From the first moment of all to the last."""
    return Span(min(span.start for span in spans), max(span.end for span in spans))
