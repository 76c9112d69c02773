"""A packaged model in memory: features, score and reasons, all from the package's own code."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from harness import pilot
from harness.errors import PilotError
from harness.pilot import Reason
from harness.pipeline.manifest import CODE, MODEL, Manifest, verify
from harness.serving.schema import frame_schema


@dataclass(frozen=True)
class Scored:
    """What a model says of one record.

    Attributes:
        score: A finite number that the contract's decision can take.
        reasons: The strongest reasons, strongest first.
    """

    score: float
    reasons: tuple[Reason, ...]


class ScoreInvalid(Exception):
    """The model gave something that is no valid score."""


class Scorer:
    """Loads a package by digest and scores records with it.

    Raises:
        PilotError: The package is missing, damaged, or cannot be loaded.
    """

    def __init__(self, folder: Path, digest: str, reasons: int) -> None:
        self.manifest: Manifest = verify(folder, digest)
        self.digest = digest
        self._reasons = reasons
        # Beside the work tree's package, under a name that carries the digest: champion and challenger may
        # hold different versions of the same file.
        # A package holds the bytes of its manifest and no others; a compiled file beside them would be one
        # more. The team's code may also import while it predicts, so the process goes on without bytecode.
        sys.dont_write_bytecode = True
        name = pilot.mount(folder / CODE, f"packaged_{digest}")
        # The package's own contract: a threshold edited in the work tree was never evaluated with this model.
        contract = pilot.load_contract(name)
        self.decision = contract.decision
        self._schema = frame_schema(contract)
        self._optional = {declared.name for declared in contract.fields if not declared.required}
        self._model_file = pilot.load_model(name)
        features = pilot.load_features(name).features()
        self._model = self._model_file.load(folder / MODEL)
        self._expressions = {
            feature: features[feature].cast(nw.Float64) for feature in self.manifest.features
        }

    def score(self, record: Mapping[str, Any]) -> Scored:
        """Score one record.

        Raises:
            KeyError: The record lacks a field that the packaged contract requires.
            ScoreInvalid: The score is NaN, infinite, out of range, or not one number.
        """
        values = {
            name: [record.get(name) if name in self._optional else record[name]] for name in self._schema
        }
        frame = pl.DataFrame(values, schema=self._schema)
        features = nw.to_native(nw.from_native(frame).select(**self._expressions))
        scores = self._model_file.predict(self._model, features)
        if len(scores) != 1:
            raise ScoreInvalid(f"{len(scores)} scores for one record")
        score = float(scores[0])
        if not math.isfinite(score) or not self.decision.valid(score):
            raise ScoreInvalid(f"score {score}")
        reasons = self._model_file.reasons(self._model, features, self._reasons)[0] if self._reasons else []
        return Scored(score, tuple(plain(reason) for reason in reasons))


def plain(reason: Reason) -> Reason:
    """A reason as it can be kept and sent: NumPy's numbers made Python's, NaN and infinity made None."""
    effect = None if reason.effect is None else _plain(float(reason.effect))
    return Reason(str(reason.feature), _plain(reason.value), effect)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def load_scorer(models: Path, digest: str, reasons: int) -> Scorer:
    """Load the package of that digest from the folder that keeps them.

    Raises:
        PilotError: It is missing or damaged, or the team's code in it raises.
    """
    try:
        return Scorer(models / digest, digest, reasons)
    except PilotError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PilotError(
            f"the packaged model cannot be loaded: {type(error).__name__}: {error}",
            where=str(models / digest),
            mend="Correct model.py or features.py and run `pilot run`.",
        ) from error
