"""What a document must say beside being well-formed: rules as data, each with its first gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from harness.governance.documents import Documents

Gate = Literal["pilot", "shadow", "early", "broad", "full"]
GATES: tuple[Gate, ...] = ("pilot", "shadow", "early", "broad", "full")
"""In order. ``pilot`` holds always: a document that contradicts itself is mended before it is committed."""


def reached(since: Gate, gate: Gate) -> bool:
    """Whether what holds from one gate on is asked at another."""
    return GATES.index(since) <= GATES.index(gate)


@dataclass(frozen=True)
class Problem:
    """Something that a rule found.

    Attributes:
        field: The dotted path in the document, empty for the whole file.
        what: What is wrong or missing, in one clause.
        mend: What to do about it; the rule's own when empty.
    """

    field: str
    what: str
    mend: str = ""


@dataclass(frozen=True)
class Rule:
    """One check of the documents.

    Attributes:
        id: Its name, which never changes: ``<document>.<what>``.
        gate: The first gate at which it is asked; every later one asks it too.
        mend: What to do where it finds something.
        ask: Finds the problems, none when all is well.
    """

    id: str
    gate: Gate
    mend: str
    ask: Callable[[Documents], Iterable[Problem]]

    @property
    def document(self) -> str:
        """The document that it speaks of."""
        return self.id.partition(".")[0]


class NotRead(Exception):
    """A rule needs a document that is missing or wrong; what is wrong is told elsewhere."""
