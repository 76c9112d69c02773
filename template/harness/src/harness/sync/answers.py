"""What a flag service may answer: a share, no, or nothing at all."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from harness.errors import CheckFailed, Inconclusive

T = TypeVar("T")

# Longer than any sound service takes, and short beside the default of [remote] max_stale_s.
ASK_WITHIN_S = 5.0


class Refused(CheckFailed):
    """The service answered, and its answer is no share: a wrong token, a flag that we do not understand."""


class Unreachable(Inconclusive):
    """The service did not answer, or what came does not prove that it is the present answer."""


@dataclass(frozen=True)
class Answer:
    """What the service says at this moment.

    Attributes:
        pct: The share of entities, 0 to 100, for which a model may decide.
        killed: Whether no model may.
        proof: What shows that it is the present answer.
        note: What somebody has to know about it; nothing when all is as it should be.
    """

    pct: int
    killed: bool
    proof: str
    note: str = ""


class Source(Protocol):
    """A flag service."""

    @property
    def named(self) -> str:
        """Its kind and address, without a password."""
        ...

    @property
    def flag(self) -> str:
        """The flag's name there."""
        ...

    def ask(self, group: str) -> Answer:
        """Ask it now.

        Args:
            group: The group that the share has to be drawn from.

        Raises:
            Refused: It says no, or something that cannot be understood.
            Unreachable: No answer that proves to be the present one came in time.
        """
        ...

    def stop(self, reason: str) -> None:
        """Switch the flag off for everybody.

        Raises:
            Refused: It says no.
            Unreachable: It did not answer in time.
        """
        ...


def in_time(question: Coroutine[Any, Any, T], *, within_s: float, where: str) -> T:
    """The answer to a question, or an error when the whole of it takes too long.

    A time-out for each read is not enough: a service that sends a byte a second never runs into one.

    Raises:
        Unreachable: It took longer.
    """

    async def limited() -> T:
        return await asyncio.wait_for(question, within_s)

    try:
        return asyncio.run(limited())
    except TimeoutError as error:
        raise Unreachable(
            f"no answer within {within_s:g} s",
            where=where,
            mend="See whether the flag service runs; what it said last holds until it is too old.",
        ) from error
