"""A linear model by least squares, kept as JSON: the harness needs no particular library."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from harness.pilot import Reason


def train(features: pl.DataFrame, label: np.ndarray, params: Mapping[str, Any]) -> dict[str, Any]:
    """Fit; absent values count as the column's mean."""
    means = {name: features[name].mean() for name in features.columns}
    columns = _filled(features, means)
    weights, *_ = np.linalg.lstsq(np.column_stack([columns, np.ones(len(columns))]), label, rcond=None)
    return {"means": means, "weights": weights.tolist()}


def save(model: dict[str, Any], folder: Path) -> None:
    """Write it as JSON."""
    (folder / "model.json").write_text(json.dumps(model), encoding="utf-8")


def load(folder: Path) -> dict[str, Any]:
    """Read it as JSON."""
    return json.loads((folder / "model.json").read_text(encoding="utf-8"))


def predict(model: dict[str, Any], features: pl.DataFrame) -> np.ndarray:
    """Days, kept within what the contract allows, shape (n,)."""
    *weights, start = model["weights"]
    return np.clip(_filled(features, model["means"]) @ np.array(weights) + start, 0, 1_000)


def reasons(model: dict[str, Any], features: pl.DataFrame, count: int) -> list[list[Reason]]:
    """What moves each row furthest from the mean row, in days."""
    *weights, _ = model["weights"]
    names = features.columns
    average = np.array(list(model["means"].values()))
    effects = (_filled(features, model["means"]) - average) * np.array(weights)
    explained = []
    for row, moved in zip(features.iter_rows(), effects, strict=True):
        strongest = np.argsort(-np.abs(moved), kind="stable")[:count]
        explained.append([Reason(names[at], row[at], float(moved[at])) for at in strongest])
    return explained


def _filled(features: pl.DataFrame, means: Mapping[str, float]) -> np.ndarray:
    return np.column_stack([features[name].fill_null(mean).to_numpy() for name, mean in means.items()])
