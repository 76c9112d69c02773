"""Domain rules over one record, written once and used on the bulk data and on a single request alike.

A rule is a function of the record that uses operators only. On bulk data the record is a table of the engine
and the result an expression; on a request it is that one record and the result true, false or unknown. Both
follow SQL: whatever is compared with an absent value is unknown, and a rule is broken only where it is false.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, get_args

from harness.errors import PilotError

Severity = Literal["quarantine", "stop", "warn"]


@dataclass(frozen=True)
class Rule:
    """What holds over several values of a record, or over one in a way that a field cannot say.

    Attributes:
        name: An identifier; reports, the quarantine and refused requests name it.
        holds: Takes the record, whose values are ``record["name"]``, and gives what has to be true. It may
            compare (``==``, ``<``, ...), add, subtract and multiply numbers, join with ``&``, ``|`` and
            ``~``, and call ``isnull()``, ``notnull()`` and ``isin(values)``. Where a value is absent, the
            rule does not speak, unless it asks for that.
        meaning: What it says, in the expert's words.
        severity: What a record that breaks it leads to. ``quarantine``: it is set aside, and a request
            refused. ``stop``: the pipeline stops at the first one too, and a request is refused. ``warn``: it
            is counted and told; a request is answered.
        vouched_by: The role or person who answers for the rule.
        mend: What to do about a record that breaks it.
    """

    name: str
    holds: Callable[[Any], Any]
    meaning: str
    severity: Severity = "quarantine"
    vouched_by: str = ""
    mend: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise PilotError(
                f"'{self.name}' is no name for a rule",
                where="contract.py",
                mend="Use letters, digits and underscores.",
            )
        if self.severity not in get_args(Severity):
            raise PilotError(
                f"the rule '{self.name}' has the unknown severity '{self.severity}'",
                where="contract.py",
                mend=f"Use one of {', '.join(get_args(Severity))}.",
            )

    def broken_by(self, record: Mapping[str, Any]) -> bool:
        """Whether a single record breaks it.

        Args:
            record: Values as the contract types them; one that is not there counts as absent.
        """
        found = self.holds(One(record))
        return (found.value if isinstance(found, Known) else found) is False

    def check(self, example: Mapping[str, Any]) -> None:
        """Refuse a rule that cannot be computed, before data or a request meets it.

        Args:
            example: A value of the right type for each field.

        Raises:
            PilotError: It fails on the example, or gives something else than a truth.
        """
        try:
            found = self.holds(One(example))
        except Exception as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PilotError(
                f"the rule '{self.name}' cannot be computed: {said}",
                where="contract.py",
                mend='Write it with record["field"], comparisons, + - *, & | ~, isnull(), notnull(), isin().',
            ) from error
        if not isinstance(found, Known) or not isinstance(found.value, bool | None):
            raise PilotError(
                f"the rule '{self.name}' gives no truth",
                where="contract.py",
                mend='Return a comparison of values of the record, such as record["a"] <= record["b"].',
            )


class One:
    """One record, for a rule to look at.

    Args:
        values: Its values by name.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Known:
        """The value of that name.

        Raises:
            KeyError: No field has that name.
        """
        if name not in self._values:
            raise KeyError(f"there is no field '{name}'")
        return Known(self._values[name])


class Known:
    """One value, or that it is absent; true, false or unknown once it was compared.

    Args:
        value: A text, number, date or truth, or None.
    """

    __hash__ = None  # type: ignore[assignment]
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def isnull(self) -> Known:
        """Whether the value is absent."""
        return Known(self.value is None)

    def notnull(self) -> Known:
        """Whether there is a value."""
        return Known(self.value is not None)

    def isin(self, values: Collection[Any]) -> Known:
        """Whether it is one of these."""
        return Known(None if self.value is None else self.value in values)

    def __eq__(self, other: object) -> Known:  # type: ignore[override]
        return self._compared(other, operator.eq)

    def __ne__(self, other: object) -> Known:  # type: ignore[override]
        return self._compared(other, operator.ne)

    def __lt__(self, other: object) -> Known:
        return self._compared(other, operator.lt)

    def __le__(self, other: object) -> Known:
        return self._compared(other, operator.le)

    def __gt__(self, other: object) -> Known:
        return self._compared(other, operator.gt)

    def __ge__(self, other: object) -> Known:
        return self._compared(other, operator.ge)

    def __add__(self, other: object) -> Known:
        return self._counted(other, operator.add)

    def __radd__(self, other: object) -> Known:
        return Known(other) + self

    def __sub__(self, other: object) -> Known:
        return self._counted(other, operator.sub)

    def __rsub__(self, other: object) -> Known:
        return Known(other) - self

    def __mul__(self, other: object) -> Known:
        return self._counted(other, operator.mul)

    def __rmul__(self, other: object) -> Known:
        return Known(other) * self

    def __neg__(self) -> Known:
        return Known(0) - self

    def __and__(self, other: object) -> Known:
        one, two = self._truth(), _known(other)._truth()
        return Known(False if one is False or two is False else None if one is None or two is None else True)

    def __or__(self, other: object) -> Known:
        one, two = self._truth(), _known(other)._truth()
        return Known(True if one is True or two is True else None if one is None or two is None else False)

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> Known:
        truth = self._truth()
        return Known(None if truth is None else not truth)

    def __bool__(self) -> bool:
        raise TypeError("a rule is written with & | ~, and without and, or, not, if")

    def _truth(self) -> bool | None:
        if self.value is not None and not isinstance(self.value, bool):
            raise TypeError(f"{self.value!r} is neither true nor false")
        return self.value

    def _compared(self, other: object, by: Callable[[Any, Any], bool]) -> Known:
        left, right = self.value, _known(other).value
        if left is None or right is None:
            return Known(None)
        if type(left) is not type(right) and _kind(left) != _kind(right):
            raise TypeError(f"{_kind(left)} and {_kind(right)} cannot be compared")
        return Known(by(left, right))

    def _counted(self, other: object, by: Callable[[Any, Any], Any]) -> Known:
        left, right = self.value, _known(other).value
        for side in (left, right):
            if side is not None and _kind(side) != "a number":
                raise TypeError("only numbers are added, subtracted and multiplied; sources.py makes them")
        return Known(None if left is None or right is None else by(left, right))


def _known(value: object) -> Known:
    return value if isinstance(value, Known) else Known(value)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "a truth"
    if isinstance(value, int | float):
        return "a number"
    return "a date" if isinstance(value, date) else "a text" if isinstance(value, str) else "nothing known"
