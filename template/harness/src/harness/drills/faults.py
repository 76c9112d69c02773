"""Faults for the pilot's own records, one for each rule that its contract declares.

Each names the rule by the id under which the checks have to set the record aside. What the contract does not
declare cannot be broken, and gives no fault.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from harness.contract import Choice, Contract, Field
from harness.rules import Rule

Row = dict[str, Any]
UNKNOWN = "no category of the contract"
VALUES, ROWS_TRIED, WAYS_TRIED = 6, 20, 4_000
MOST_EACH = 25
# No more than that part of the records is made faulty: the others show that nothing else is lost.
FAULTY_PART = 4
SEED = 20260301


@dataclass(frozen=True)
class Fault:
    """A way to break one rule.

    Attributes:
        rule: The rule's id, as the checks name it.
        kind: What sort of fault it is; checks of the drill are named by it.
        takes: How many records that keep the contract it is made of.
        broken: Makes faulty records of them; None where these do not lend themselves to it.
    """

    rule: str
    kind: str
    takes: int
    broken: Callable[[list[Row]], list[Row] | None]


@dataclass(frozen=True)
class Injected:
    """Records with faults in them.

    Attributes:
        records: All of them.
        untouched: Those that keep the contract.
        faulty: The others, each with its fault.
    """

    records: pl.DataFrame
    untouched: pl.DataFrame
    faulty: list[tuple[Row, Fault]]

    def of(self, kind: str) -> list[tuple[Row, Fault]]:
        """Those of one kind."""
        return [each for each in self.faulty if each[1].kind == kind]


def faults(contract: Contract, records: pl.DataFrame) -> tuple[list[Fault], list[str]]:
    """Every fault that the contract's rules allow, and the domain rules that nothing was found to break.

    Args:
        contract: Says what holds.
        records: Records that keep it.
    """
    found = [
        _of_field(f"{field.name}.{name}", kind, field.name, value)
        for field in contract.fields
        for name, kind, value in _values(contract, field, records.schema[field.name])
    ]
    found.append(Fault(f"{contract.key}.repeated", "repeated_key", 1, _two_truths(contract)))
    for names in contract.unique:
        found.append(Fault(f"{'+'.join(names)}.repeated", "repeated", 2, _alike(names)))
    unbroken = []
    fixed = {contract.key, *itertools.chain.from_iterable(contract.unique)}
    for rule in contract.rules:
        if rule.severity == "warn":
            continue
        ways = _Ways(rule, contract, records, fixed)
        if any(ways.broken([row]) for row in records.head(ROWS_TRIED).to_dicts()):
            found.append(Fault(rule.name, "domain_rule", 1, ways.broken))
        else:
            unbroken.append(rule.name)
    return found, unbroken


def inject(records: pl.DataFrame, wanted: list[Fault], each: int = 0) -> Injected:
    """Put faults into records, each into some of its own.

    Args:
        records: Records that keep the contract; they stay as they are.
        wanted: The faults.
        each: Into how many; 0 for what leaves most records untouched.
    """
    count = each or max(1, min(MOST_EACH, len(records) // (FAULTY_PART * max(1, len(wanted)))))
    order = list(range(len(records)))
    random.Random(SEED).shuffle(order)
    used: set[int] = set()
    faulty: list[tuple[Row, Fault]] = []
    for fault in wanted:
        made = 0
        left = [place for place in order if place not in used]
        for start in range(0, len(left) - fault.takes + 1, fault.takes):
            if made == count:
                break
            places = left[start : start + fault.takes]
            rows = fault.broken([records.row(place, named=True) for place in places])
            if rows is not None:
                used.update(places)
                faulty += [(row, fault) for row in rows]
                made += 1
    kept = [place for place in range(len(records)) if place not in used]
    untouched = records[kept]
    rows = [row for row, _ in faulty]
    return Injected(pl.concat([untouched, pl.DataFrame(rows, schema=records.schema)]), untouched, faulty)


def _of_field(rule: str, kind: str, name: str, value: Any) -> Fault:
    return Fault(rule, kind, 1, lambda rows: [{**rows[0], name: value}])


def _values(contract: Contract, field: Field, kind: pl.DataType) -> Iterator[tuple[str, str, Any]]:
    """Each rule that the field declares, what breaking it is called, and a value that does."""
    if field.required or field.name == contract.key:
        yield "missing", "missing", None
    wanted: list[tuple[str, str, Any]] = []
    if field.type == "number" and kind.is_float():
        wanted.append(("not_finite", "not_a_number", math.nan))
    if field.type in ("number", "integer"):
        if field.low is not None:
            wanted.append(("too_low", "out_of_range", math.floor(field.low) - 1))
        if field.high is not None:
            wanted.append(("too_high", "out_of_range", math.ceil(field.high) + 1))
    if field.categories:
        wanted.append(("unknown_category", "unknown_category", UNKNOWN))
    elif field.type == "text":
        wanted.append(("blank", "blank", " "))
    for rule, called, value in wanted:
        held = _held(value, kind)
        if held is not None:  # a column that cannot hold it needs no check
            yield rule, called, held


def _held(value: Any, kind: pl.DataType) -> Any:
    """The value as a column of that type holds it; None where it cannot."""
    try:
        held = pl.Series([value], dtype=kind, strict=True)[0]
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return None
    return held if isinstance(value, float) or held == value else None


def _two_truths(contract: Contract) -> Callable[[list[Row]], list[Row] | None]:
    def broken(rows: list[Row]) -> list[Row] | None:
        row, label = rows[0], rows[0][contract.label]
        if label is None:
            return None
        other = not label if isinstance(contract.decision, Choice) else label + 1
        return [row, {**row, contract.label: other}]

    return broken


def _alike(names: tuple[str, ...]) -> Callable[[list[Row]], list[Row] | None]:
    def broken(rows: list[Row]) -> list[Row] | None:
        first, second = rows
        same = {name: first[name] for name in names}
        return None if None in same.values() else [first, {**second, **same}]

    return broken


class _Seen(dict[str, Any]):
    """A record that remembers what was asked of it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> Any:
        if name not in self.asked:
            self.asked.append(name)
        return super().__getitem__(name)


class _Ways:
    """Breaks a domain rule by values that records have, or could have, in the fields that it speaks of."""

    def __init__(self, rule: Rule, contract: Contract, records: pl.DataFrame, fixed: set[str]) -> None:
        self._rule = rule
        seen = _Seen(records.row(0, named=True))
        _breaks(rule, seen)
        self._names = [name for name in seen.asked if name not in fixed]
        self._values = {name: _possible(contract.field(name), records[name]) for name in self._names}

    def broken(self, rows: list[Row]) -> list[Row] | None:
        """The record with as few values changed as it takes; None where none of the tries breaks the rule."""
        for changes in itertools.islice(self._changes(), WAYS_TRIED):
            changed = {**rows[0], **changes}
            if _breaks(self._rule, changed):
                return [changed]
        return None

    def _changes(self) -> Iterator[Row]:
        for count in range(1, len(self._names) + 1):
            for names in itertools.combinations(self._names, count):
                for values in itertools.product(*(self._values[name] for name in names)):
                    yield dict(zip(names, values, strict=True))


def _breaks(rule: Rule, row: Mapping[str, Any]) -> bool:
    try:
        return rule.broken_by(row)
    except TypeError:  # a value of a type that a request cannot have
        return False


def _possible(field: Field, column: pl.Series) -> list[Any]:
    there = column.drop_nulls().unique().sort()
    steps = sorted({round(number * (len(there) - 1) / (VALUES - 1)) for number in range(VALUES)})
    found = [there[step] for step in steps] if len(there) else []
    bounds = (field.low, field.high) if field.type in ("number", "integer") else ()
    held = (_held(value, column.dtype) for value in (*bounds, *field.categories) if value is not None)
    found += [value for value in held if value is not None]
    return found if field.required else [*found, None]
