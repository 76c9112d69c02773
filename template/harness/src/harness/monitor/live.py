"""Live decisions and outcomes, window by window, counted into the reference's bins by one aggregate each.

The store is read in batches through SQLAlchemy and handed to the engine as a stream of Arrow batches, so that
a million decisions take no more memory than a batch of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from harness.control import Why
from harness.data import tally
from harness.data.tally import Bins, Sums, Tally
from harness.monitor.windows import Span, whole
from harness.pipeline.reference import Reference
from harness.store import DecisionStore, OutcomeStore

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from ibis.backends.duckdb import Backend

WINDOW, SCORE, DECIDED, TRUTH, FAILED = (
    "the window",
    "the score",
    "the decision",
    "the outcome",
    "the model failed",
)
# The model was to decide, the fallback did, and the model is not to blame.
NO_FAILURE = (Why.ASSIGNED.value, Why.REAL_DATA_IN_SANDBOX.value, Why.MODEL_REPLACED.value)


@dataclass(frozen=True)
class Counted:
    """One window, counted.

    Attributes:
        span: From when to when.
        fields: The record's fields that the reference has.
        scores: The model's scores; missing where the fallback decided.
        decisions: The decisions that the model was to make.
        failed: For how many of them it failed.
        groups: The same decisions by group.
        outcomes: The decisions whose outcome was received in the outcomes' window of the same number.
        received: From when to when that is.
    """

    span: Span
    received: Span
    fields: Mapping[str, Tally]
    scores: Tally
    decisions: Sums = field(default_factory=Sums)
    failed: int = 0
    groups: Mapping[str, Mapping[str, Sums]] = field(default_factory=dict)
    outcomes: Sums = field(default_factory=Sums)


def count_windows(
    backend: Backend,
    store: DecisionStore,
    reference: Reference,
    digest: str,
    spans: Sequence[Span],
    received: Sequence[Span],
) -> list[Counted]:
    """Count every window.

    Args:
        backend: The engine.
        store: The decisions, and in the same database the outcomes.
        reference: Says what is counted.
        digest: The model whose decisions count.
        spans: The windows of decisions, by the time at which they were made.
        received: As many windows of outcomes, by the time at which they were received.

    Raises:
        StoreUnavailable: The store does not answer.
    """
    over = whole(spans)
    made = store.made(digest, over.first, over.after)
    decided = _rows(backend, "live", _decisions(made, reference, spans), _wanted(reference))
    later = whole(received)
    matched = OutcomeStore(store.database).matched(digest, later.first, later.after)
    known = _rows(backend, "known", _outcomes(matched, reference, received), _wanted_of_outcomes)
    return [
        _counted(reference, span, other, decided.get(at), known.get(at))
        for at, (span, other) in enumerate(zip(spans, received, strict=True))
    ]


def decision_value(written: pl.Expr, reference: Reference) -> pl.Expr:
    """Decisions as numbers, from the JSON that the store has: 1 and 0 for a choice."""
    if reference.decided.kind == "choice":
        return (written == json.dumps(reference.decided.above, ensure_ascii=False)).cast(pl.Float64)
    return written.cast(pl.Float64, strict=False)


def window_number(moment: pl.Expr, spans: Sequence[Span]) -> pl.Expr:
    """The window that each moment lies in; absent outside all of them."""
    number = pl.lit(None, pl.Int32)
    for place, span in enumerate(spans):
        number = pl.when((moment >= span.first) & (moment < span.after)).then(place).otherwise(number)
    return number.cast(pl.Int32)


def unpacked(record: pl.Expr, names: Sequence[str]) -> pl.Expr:
    """The records' fields, as text whatever their type: the store has JSON."""
    return record.str.json_decode(pl.Struct({name: pl.String for name in names}))


def _decisions(
    made: Iterable[list[Any]], reference: Reference, spans: Sequence[Span]
) -> Iterator[pl.DataFrame]:
    schema = {"at": pl.String, "record": pl.String, "decision": pl.String, "score": pl.Float64}
    schema |= {"served_by": pl.String, "why": pl.String}
    yield _decoded(pl.DataFrame(schema=schema), "at", reference, spans).with_columns(_failed(), _score())
    for rows in made:
        taken = [(r.decided_at, r.record, r.decision, r.score, r.served_by, r.why) for r in rows]
        frame = pl.DataFrame(taken, schema=schema, orient="row")
        yield _decoded(frame, "at", reference, spans).with_columns(_failed(), _score())


def _failed() -> pl.Expr:
    by_fallback = pl.col("served_by beside") == "fallback"
    return (by_fallback & ~pl.col("why beside").is_in(NO_FAILURE)).alias(FAILED)


def _score() -> pl.Expr:
    return pl.col("score beside").alias(SCORE)


def _outcomes(
    matched: Iterable[list[Any]], reference: Reference, spans: Sequence[Span]
) -> Iterator[pl.DataFrame]:
    schema = {"at": pl.String, "record": pl.String, "decision": pl.String, "outcome": pl.String}
    truth = (
        pl.col("outcome beside")
        .replace({"true": "1", "false": "0"})
        .cast(pl.Float64, strict=False)
        .alias(TRUTH)
    )
    yield _decoded(pl.DataFrame(schema=schema), "at", reference, spans).with_columns(truth)
    for rows in matched:
        taken = [(r.received_at, r.record, r.decision, r.outcome) for r in rows]
        yield _decoded(pl.DataFrame(taken, schema=schema, orient="row"), "at", reference, spans).with_columns(
            truth
        )


def _decoded(frame: pl.DataFrame, at: str, reference: Reference, spans: Sequence[Span]) -> pl.DataFrame:
    beside = [name for name in frame.columns if name not in (at, "record", "decision")]
    kinds = {
        name: pl.Float64 if profile.kind == "number" else pl.String
        for name, profile in reference.fields.items()
    }
    # In two steps, so that a record is unpacked once and not for each of its fields.
    return frame.with_columns(unpacked(pl.col("record"), list(kinds))).select(
        window_number(pl.col(at), spans).alias(WINDOW),
        decision_value(pl.col("decision"), reference).alias(DECIDED),
        *(pl.col("record").struct.field(name).cast(kind, strict=False) for name, kind in kinds.items()),
        *(pl.col(name).alias(f"{name} beside") for name in beside),
    )


def _rows(
    backend: Backend, name: str, frames: Iterator[pl.DataFrame], wanted: Any
) -> dict[int, dict[str, Any]]:
    """Each window's row of the one aggregate over all batches."""
    tables = (frame.to_arrow(compat_level=pl.CompatLevel.oldest()) for frame in frames)
    first = next(tables)
    stream = pa.RecordBatchReader.from_batches(
        first.schema, (batch for table in tables for batch in table.to_batches())
    )
    # Ibis would read the whole stream into memory; DuckDB reads it batch by batch.
    backend.con.register(name, stream)
    try:
        table = backend.table(name)
        inside = table.filter(table[WINDOW].notnull())
        rows = backend.to_pyarrow(inside.group_by(WINDOW).agg(**wanted(inside))).to_pylist()
    finally:
        backend.con.unregister(name)
    return {row[WINDOW]: row for row in rows}


def _wanted(reference: Reference) -> Any:
    def wanted(table: ir.Table) -> dict[str, Any]:
        found: dict[str, Any] = {"failed": table[FAILED].sum()}
        for name, profile in reference.fields.items():
            found |= tally.count(table[name], profile.bins, f"bin.{name}")
        found |= tally.count(table[SCORE], reference.scores.bins, "scores")
        found |= tally.add_up(table[DECIDED], None, "model")
        for name in reference.groups:
            for label, inside in reference.fields[name].bins.conditions(table[name]).items():
                found |= tally.add_up(table[DECIDED], None, f"group.{name}.{label}", inside)
        return found

    return wanted


def _wanted_of_outcomes(table: ir.Table) -> dict[str, Any]:
    return tally.add_up(table[DECIDED], table[TRUTH], "known")


def _counted(
    reference: Reference,
    span: Span,
    received: Span,
    row: dict[str, Any] | None,
    known: dict[str, Any] | None,
) -> Counted:
    outcomes = tally.added_up(known, "known") if known else Sums()
    if row is None:
        empty = {name: _none(profile.bins) for name, profile in reference.fields.items()}
        return Counted(span, received, empty, _none(reference.scores.bins), outcomes=outcomes)
    groups = {
        name: {label: tally.added_up(row, f"group.{name}.{label}") for label in labels}
        for name, labels in reference.groups.items()
    }
    return Counted(
        span=span,
        received=received,
        fields={
            name: tally.counted(row, profile.bins, f"bin.{name}")
            for name, profile in reference.fields.items()
        },
        scores=tally.counted(row, reference.scores.bins, "scores"),
        decisions=tally.added_up(row, "model"),
        failed=int(row["failed"] or 0),
        groups=groups,
        outcomes=outcomes,
    )


def _none(bins: Bins) -> Tally:
    return Tally((0,) * len(bins.labels), 0)
