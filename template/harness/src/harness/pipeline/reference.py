"""What the held-back records look like: what live decisions are compared with.

It holds counts and no record. The package carries it, so that the digest which names a model names its
reference as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import Inconclusive, PilotError
from harness.pilot import Amount, Choice, Contract, Field
from harness.pipeline.manifest import REFERENCE

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from ibis.backends.duckdb import Backend

    from harness.data.tally import Bins, Sums, Tally

# Columns beside the record's own; the blank keeps them apart from fields, which are called in one word.
SCORE, DECIDED, BY_FALLBACK, TRUTH = "the score", "the decision", "the fallback's decision", "the outcome"
QUANTILES = tuple(number / 10 for number in range(1, 10))
# A text with more values than that, or with fewer records a value, is no category: it names, or tells.
MOST_VALUES = 50
RECORDS_A_VALUE = 10


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Profile(Strict):
    """A column of the held-back records, counted.

    Attributes:
        kind: A number has edges, a category has values.
        edges: As harness.data.tally.Bins has them.
        values: As harness.data.tally.Bins has them.
        counts: Records a bin.
        missing: Records without a value.
    """

    kind: Literal["number", "category"]
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    counts: tuple[int, ...]
    missing: int

    @property
    def bins(self) -> Bins:
        """How the column is counted."""
        from harness.data.tally import Bins

        return Bins(self.edges) if self.kind == "number" else Bins(values=self.values)

    @property
    def tally(self) -> Tally:
        """What was counted."""
        from harness.data.tally import Tally

        return Tally(self.counts, self.missing)


class Decided(Strict):
    """What is decided.

    Attributes:
        kind: One of two answers, or a number.
        above: The answer that counts as 1; empty for a number.
        compared_by: The figure by which model and fallback are compared.
    """

    kind: Literal["choice", "amount"]
    above: str = ""
    compared_by: str


class Figures(Strict):
    """harness.data.tally.Sums, written down."""

    decisions: int
    amount: float
    squares: float
    outcomes: int
    errors: float
    error_squares: float
    hits: int
    alarms: int
    misses: int

    @property
    def sums(self) -> Sums:
        """The same, to reckon with."""
        from harness.data.tally import Sums

        return Sums(**self.model_dump())


class Reference(Strict):
    """The whole file.

    Attributes:
        schema_version: The layout of the file.
        records: How many held-back records there are.
        fields: The record's fields that can be compared, by name.
        left_out: The fields that cannot, and why.
        scores: The model's scores.
        decided: What is decided.
        model: The model's decisions.
        fallback: The fallback's decisions on the same records.
        groups: For each field of the contract's groups, the model's decisions by the group.
    """

    schema_version: Literal[1] = 1
    records: int
    fields: dict[str, Profile]
    left_out: dict[str, str]
    scores: Profile
    decided: Decided
    model: Figures
    fallback: Figures
    groups: dict[str, dict[str, Figures]]


def load_reference(package: Path) -> Reference:
    """Read a package's reference.

    Raises:
        Inconclusive: The package was made before there were references.
        PilotError: It is not a reference of a layout that this version knows.
    """
    file = package / REFERENCE
    try:
        return Reference.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise Inconclusive(
            f"model {package.name[:12]} was packaged without a reference to compare live decisions with",
            where=str(file),
            mend="Run `pilot run`: it packages the model anew, with one.",
        ) from error
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise PilotError(
            f"not a reference: {said}", where=str(file), mend="Run `pilot run` again."
        ) from error


def build_reference(backend: Backend, records: ir.Table, contract: Contract, compared_by: str) -> Reference:
    """Count the held-back records: one aggregate for edges and cardinalities, one for everything else.

    Args:
        backend: The engine.
        records: The contract's fields, and the columns that this module names.
        contract: Says what a record is.
        compared_by: The figure by which model and fallback are compared.
    """
    from harness.data import tally

    found, left_out = _bins(backend, records, contract)
    groups = {name: found[name] for name in contract.groups if name in found}
    wanted: dict[str, Any] = {"records": records.count()}
    columns = {name: comparable(records, name, bins) for name, bins in found.items()}
    for name, bins in found.items():
        wanted |= tally.count(columns[name], bins, f"bin.{name}")
    truth = records[TRUTH]
    wanted |= tally.add_up(records[DECIDED], truth, "model")
    wanted |= tally.add_up(records[BY_FALLBACK], truth, "fallback")
    for name, bins in groups.items():
        for label, inside in bins.conditions(columns[name]).items():
            wanted |= tally.add_up(records[DECIDED], truth, f"group.{name}.{label}", inside)
    row = backend.to_pyarrow(records.aggregate(**wanted)).to_pylist()[0]
    profiles = {name: _profile(bins, tally.counted(row, bins, f"bin.{name}")) for name, bins in found.items()}
    choice = contract.decision if isinstance(contract.decision, Choice) else None
    return Reference(
        records=row["records"],
        scores=profiles.pop(SCORE),
        fields=profiles,
        left_out=left_out,
        decided=Decided(
            kind="choice" if choice else "amount",
            above=choice.above if choice else "",
            compared_by=compared_by,
        ),
        model=_figures(row, "model"),
        fallback=_figures(row, "fallback"),
        groups={
            name: {label: _figures(row, f"group.{name}.{label}") for label in bins.conditions(columns[name])}
            for name, bins in groups.items()
        },
    )


def as_numbers(decision: Choice | Amount, answers: list[str | float]) -> list[float]:
    """Decisions as this module counts them: 1 and 0 for a choice, else the number."""
    if isinstance(decision, Choice):
        return [1.0 if answer == decision.above else 0.0 for answer in answers]
    return [float(answer) for answer in answers]


def comparable(records: ir.Table, name: str, bins: Bins) -> ir.Column:
    """A column as it is counted: a double, or a text."""
    column = records[name]
    return column.cast("float64") if bins.values is None else column.cast("string")


def _bins(backend: Backend, records: ir.Table, contract: Contract) -> tuple[dict[str, Bins], dict[str, str]]:
    from harness.data.tally import Bins

    candidates: dict[str, Field] = {}
    left_out: dict[str, str] = {}
    for field in contract.fields:
        if field.name in (contract.key, contract.entity):
            left_out[field.name] = "it says whom or what the decision is about"
        elif field.type == "date":
            left_out[field.name] = "a date moves on by itself; what matters in it belongs in a number"
        else:
            candidates[field.name] = field
    numbers = [name for name, field in candidates.items() if field.type in ("integer", "number")]
    texts = [name for name, field in candidates.items() if field.type == "text" and not field.categories]
    shape = backend.to_pyarrow(records.aggregate(**_shape(records, [*numbers, SCORE], texts))).to_pylist()[0]
    found: dict[str, Bins] = {}
    for name, field in candidates.items():
        if name in numbers:
            found[name] = Bins(_edges(shape, name))
        elif field.type == "boolean":
            found[name] = Bins(values=("false", "true"))
        elif field.categories:
            found[name] = Bins(values=field.categories)
        elif _is_category(shape[f"values.{name}"], shape[f"present.{name}"]):
            distinct = records.filter(records[name].notnull()).select(name).distinct().order_by(name)
            found[name] = Bins(values=tuple(backend.to_pyarrow(distinct)[name].to_pylist()))
        else:
            left_out[name] = f"a text of {shape[f'values.{name}']:,} values in {shape['records']:,} records"
    return {**found, SCORE: Bins(_edges(shape, SCORE))}, left_out


def _shape(records: ir.Table, numbers: list[str], texts: list[str]) -> dict[str, Any]:
    wanted: dict[str, Any] = {"records": records.count()}
    for name in numbers:
        column = records[name].cast("float64")
        wanted |= {f"edges.{name}": column.quantile(list(QUANTILES)), f"high.{name}": column.max()}
    for name in texts:
        wanted |= {f"values.{name}": records[name].nunique(), f"present.{name}": records[name].count()}
    return wanted


def _edges(shape: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """Quantiles, each once. Where all values are the same, a bin below, one for it and one above."""
    high = shape[f"high.{name}"]
    if high is None:
        return ()
    edges = sorted({float(edge) for edge in shape[f"edges.{name}"]})
    return tuple(edge for edge in edges if edge < high) or (math.nextafter(high, -math.inf), float(high))


def _is_category(values: int, present: int) -> bool:
    return values <= MOST_VALUES and values * RECORDS_A_VALUE <= present


def _profile(bins: Bins, counted: Tally) -> Profile:
    if bins.values is None:
        return Profile(kind="number", edges=bins.edges, counts=counted.counts, missing=counted.missing)
    return Profile(kind="category", values=bins.values, counts=counted.counts, missing=counted.missing)


def _figures(row: Mapping[str, Any], name: str) -> Figures:
    from harness.data.tally import added_up

    return Figures(**asdict(added_up(row, name)))
