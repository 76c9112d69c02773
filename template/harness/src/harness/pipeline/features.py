"""Features in bulk: the split by time, and the proof that the engine and Polars agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import ibis
import ibis.expr.types as ir
import narwhals as nw
import numpy as np
import polars as pl

from harness.errors import CheckFailed, PilotError
from harness.pilot import Contract, FeaturesFile
from harness.pipeline import layout

PARITY_ROWS = 10_000
PARITY_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Split:
    """Records divided by time.

    Attributes:
        train: Records whose outcome was known on the day before the cut.
        test: Records from the cut on.
        cut: The first day of the test records.
    """

    train: ir.Table
    test: ir.Table
    cut: date


def expressions(file: FeaturesFile) -> dict[str, nw.Expr]:
    """The team's features, each a double; absent values stay absent.

    Raises:
        PilotError: A feature's name is not an identifier, or there are none.
    """
    found = dict(file.features())
    if not found:
        raise PilotError("features() gives none", where="features.py", mend="Return at least one feature.")
    for name in found:
        if not name.isidentifier():
            raise PilotError(
                f"'{name}' is no name for a feature",
                where="features.py",
                mend="Use letters, digits and underscores.",
            )
    return {name: expression.cast(nw.Float64) for name, expression in found.items()}


def beside(contract: Contract) -> dict[str, nw.Expr]:
    """The columns that stand beside the features: key, label and event time."""
    return {
        layout.KEY: nw.col(contract.key),
        layout.LABEL: nw.col(contract.label).cast(nw.Float64),
        layout.TIME: nw.col(contract.event_time),
    }


def split(records: ir.Table, contract: Contract, test_share: float) -> Split:
    """Divide labelled records by time, the latest ``test_share`` of them for the test.

    Training stops ``label_arrives_after_days`` before the cut: later outcomes were not known on that day,
    and a model trained on them would have known the future.

    Raises:
        CheckFailed: One side would be empty.
    """
    known = records.filter(records[contract.label].notnull())
    days = known.group_by(day=contract.event_time).agg(rows=ibis._.count()).order_by("day")
    counted = [(row["day"], row["rows"]) for row in days.to_pyarrow().to_pylist()]
    total = sum(rows for _, rows in counted)
    seen = 0
    cut: date | None = None
    for day, rows in counted:
        if seen >= total * (1 - test_share):
            cut = day
            break
        seen += rows
    if cut is None:
        raise CheckFailed(
            f"{total} records with a known outcome on {len(counted)} days cannot be divided by time",
            where="params.yaml split.test_share",
            mend="Bring more history, or a larger share.",
        )
    last = cut - timedelta(days=contract.label_arrives_after_days)
    if counted[0][0] >= last:
        raise CheckFailed(
            f"no record is older than {last}, when the last outcome known on {cut} was decided",
            where="params.yaml split.test_share",
            mend=f"Bring more than {contract.label_arrives_after_days} days of history before the test records.",
        )
    time = known[contract.event_time]
    return Split(known.filter(time < ibis.date(last.isoformat())), known.filter(time >= ibis.date(cut.isoformat())), cut)


def only_features(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame without the columns that stand beside the features."""
    return frame.drop(layout.KEY, layout.LABEL, layout.TIME)


def label(frame: pl.DataFrame) -> np.ndarray:
    """The outcomes, shape (n,), as doubles."""
    return frame[layout.LABEL].to_numpy()


def check_parity(
    records: Path, features: Path, contract: Contract, wanted: Mapping[str, nw.Expr]
) -> None:
    """Compute features of the first records on Polars, as serving does, and compare with the engine's.

    Raises:
        CheckFailed: A value differs by more than 1e-9 of its size, or is absent on one side only.
    """
    native = pl.read_parquet(records, n_rows=PARITY_ROWS)
    served = nw.to_native(nw.from_native(native).select(**wanted))
    trained = pl.read_parquet(features, n_rows=PARITY_ROWS)
    if native[contract.key].to_list() != trained[layout.KEY].to_list():
        raise CheckFailed(
            "records and features are not in the same order",
            where=str(features),
            mend="Make the key unique and comparable as text.",
        )
    for name in wanted:
        left, right = served[name].to_numpy(), trained[name].to_numpy()
        if not np.allclose(left, right, rtol=PARITY_TOLERANCE, atol=PARITY_TOLERANCE, equal_nan=True):
            row = int(np.argmax(~np.isclose(left, right, rtol=PARITY_TOLERANCE, equal_nan=True)))
            raise CheckFailed(
                f"'{name}' is {left[row]} when served and {right[row]} when trained, for {contract.key} "
                f"{native[contract.key][row]}",
                where="features.py",
                mend="Write it with expressions that both engines compute alike.",
            )
