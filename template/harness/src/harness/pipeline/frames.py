"""The columns that stand beside the features, and how to tell the two apart."""

from __future__ import annotations

from collections.abc import Mapping

import narwhals as nw
import numpy as np
import polars as pl

from harness.pilot import Contract
from harness.pipeline import layout


def beside(contract: Contract) -> dict[str, nw.Expr]:
    """The columns that stand beside the features: key, label and event time."""
    return {
        layout.KEY: nw.col(contract.key),
        layout.LABEL: nw.col(contract.label).cast(nw.Float64),
        layout.TIME: nw.col(contract.event_time),
    }


def served(records: pl.DataFrame, wanted: Mapping[str, nw.Expr]) -> pl.DataFrame:
    """The features of records as a service computes them, whether of one or of a batch.

    Args:
        records: The contract's fields, as ``frame_schema`` types them.
        wanted: Each feature, a double.
    """
    return nw.to_native(nw.from_native(records).select(**wanted))


def only_features(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame without the columns that stand beside the features."""
    return frame.drop(layout.KEY, layout.LABEL, layout.TIME)


def label(frame: pl.DataFrame) -> np.ndarray:
    """The outcomes, shape (n,), as doubles."""
    return frame[layout.LABEL].to_numpy()
