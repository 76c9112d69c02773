"""Whether the records are like the population that the team declared: whom the system will decide about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ibis.expr.types as ir

from harness.data.profiled import Represented
from harness.data.tally import Bins, count, counted
from harness.data_settings import Population
from harness.errors import PilotError
from harness.pilot import Contract

WHERE = "pilot.toml [data.population"
# A share of nothing has no logarithm: an empty one counts as half a record.
EMPTY_RECORDS = 0.5


def represented(records: ir.Table, contract: Contract, declared: Population) -> dict[str, Represented]:
    """Each declared field's shares beside those of the population; one aggregate.

    Raises:
        PilotError: A field or a category is declared that the contract does not know.
    """
    _check(contract, declared)
    bins = {name: Bins(values=tuple(shares)) for name, shares in declared.shares.items()}
    bins |= {name: Bins(tuple(band.edges)) for name, band in declared.bands.items()}
    if not bins:
        return {}
    wanted: dict[str, Any] = {}
    for name, each in bins.items():
        column = records[name].cast("float64" if each.values is None else "string")
        wanted |= count(column, each, name)
    row = records.aggregate(**wanted).to_pyarrow().to_pylist()[0]
    found = {}
    for name, each in bins.items():
        shares = declared.parts(name)
        labels = each.labels if each.values is None else (*each.values, "(others)")
        found[name] = compare(labels, shares, counted(row, each, name).counts, declared.max_distance)
    return found


def compare(
    labels: Sequence[str], shares: Sequence[float], counts: Sequence[int], max_distance: float
) -> Represented:
    """Counts beside the shares that they should have."""
    total = sum(counts)
    found = [number / total if total else 0.0 for number in counts]
    least = EMPTY_RECORDS / max(total, 1)
    pairs = [(max(p, least), max(q, least)) for p, q in zip(shares, found, strict=True) if p or q]
    return Represented(
        labels=tuple(labels),
        declared=tuple(shares),
        found=tuple(round(share, 9) for share in found),
        distance=round(distance(shares, found), 9),
        psi=round(sum((p - q) * math.log(p / q) for p, q in pairs), 9),
        max_distance=max_distance,
    )


def distance(left: Sequence[float], right: Sequence[float]) -> float:
    """The total variation distance of two distributions, 0 to 1; 1 where one of them is of nothing."""
    if not sum(left) or not sum(right):
        return 1.0
    return sum(abs(p - q) for p, q in zip(left, right, strict=True)) / 2


def _check(contract: Contract, declared: Population) -> None:
    fields = {field.name: field for field in contract.fields}
    for part, names in (("shares", declared.shares), ("bands", declared.bands)):
        for name in names:
            where = f"{WHERE}.{part}.{name}]"
            if name not in fields:
                mend = f"Use one of {', '.join(fields)}."
                raise PilotError(f"the contract has no field '{name}'", where=where, mend=mend)
            number = fields[name].type in ("integer", "number")
            if number != (part == "bands"):
                mend = "Declare bands for numbers, and shares for texts and truth values."
                raise PilotError(f"'{name}' is a {fields[name].type}", where=where, mend=mend)
    for name, shares in declared.shares.items():
        known = fields[name].categories or (("false", "true") if fields[name].type == "boolean" else ())
        unknown = [value for value in shares if known and value not in known]
        if not known or unknown:
            said = f"'{unknown[0]}' is no category of it" if unknown else "it has no categories"
            mend = "Declare them in contract.py, or correct the name here."
            raise PilotError(said, where=f"{WHERE}.shares.{name}]", mend=mend)
