"""The model: gradient boosted trees, small enough to explain every decision while the caller waits.

Kept in LightGBM's own text format, which is data and runs no code when it is read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from harness.pilot import Reason, importing_without

with importing_without("pandas", "sklearn"):
    import lightgbm

FILE = "model.txt"
FIXED: dict[str, Any] = {"objective": "binary", "verbosity": -1, "deterministic": True, "num_threads": 1}


def train(features: pl.DataFrame, label: np.ndarray, params: Mapping[str, Any]) -> lightgbm.Booster:
    """Fit; the same rows and parameters give the same model."""
    options = {**FIXED, **params}
    rounds = options.pop("rounds")
    data = lightgbm.Dataset(features.to_numpy(), label=label, feature_name=features.columns)
    return lightgbm.train(options, data, num_boost_round=rounds)


def save(model: lightgbm.Booster, folder: Path) -> None:
    """Write the model as text."""
    model.save_model(folder / FILE)


def load(folder: Path) -> lightgbm.Booster:
    """Read the model as text."""
    return lightgbm.Booster(model_file=folder / FILE)


def predict(model: lightgbm.Booster, features: pl.DataFrame) -> np.ndarray:
    """The probability of rain, shape (n,)."""
    return np.asarray(model.predict(features.to_numpy(), num_threads=1))


def reasons(model: lightgbm.Booster, features: pl.DataFrame, count: int) -> list[list[Reason]]:
    """Each row's strongest contributions to the log-odds (TreeSHAP; Lundberg et al., 2020)."""
    contributions = np.asarray(model.predict(features.to_numpy(), pred_contrib=True, num_threads=1))[:, :-1]
    names = features.columns
    explained = []
    for row, effects in zip(features.iter_rows(), contributions, strict=True):
        strongest = np.argsort(-np.abs(effects), kind="stable")[:count]
        explained.append([Reason(names[at], row[at], round(float(effects[at]), 4)) for at in strongest])
    return explained
