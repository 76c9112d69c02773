"""A packaged model in memory: features, score and reasons, all from the package's own code."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from harness import pilot
from harness.errors import PilotError
from harness.pipeline import frames
from harness.pipeline.columns import frame_schema
from harness.pipeline.manifest import CODE, MODEL, Manifest, verify
from harness.serving.scored import Scored, ScoreInvalid, plain


class CodeFailed(PilotError):
    """The package is whole, and what it holds cannot be loaded."""


class Scorer:
    """Scores records with a package that was verified.

    Attributes:
        decision: What the packaged contract decides.
        dates: The fields that are dates.
    """

    def __init__(self, folder: Path, manifest: Manifest, digest: str, reasons: int) -> None:
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
        self.dates = {declared.name for declared in contract.fields if declared.type == "date"}
        self._optional = {declared.name for declared in contract.fields if not declared.required}
        self._model_file = pilot.load_model(name)
        features = pilot.load_features(name).features()
        self._model = self._model_file.load(folder / MODEL)
        self._expressions = {feature: features[feature].cast(nw.Float64) for feature in manifest.features}

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
        features = frames.served(frame, self._expressions)
        scores = self._model_file.predict(self._model, features)
        if len(scores) != 1:
            raise ScoreInvalid(f"{len(scores)} scores for one record")
        score = float(scores[0])
        if not math.isfinite(score) or not self.decision.valid(score):
            raise ScoreInvalid(f"score {score}")
        reasons = self._model_file.reasons(self._model, features, self._reasons)[0] if self._reasons else []
        return Scored(score, tuple(plain(reason) for reason in reasons), self.decision.of(score))


def load_scorer(models: Path, digest: str, reasons: int) -> Scorer:
    """Load the package of that digest from the folder that keeps them.

    Raises:
        PilotError: It is missing or damaged.
        CodeFailed: The team's code in it raises.
    """
    folder = models / digest
    manifest = verify(folder, digest)
    try:
        return Scorer(folder, manifest, digest, reasons)
    except PilotError as error:
        raise CodeFailed(error.what, where=error.where, mend=error.mend) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise CodeFailed(
            f"the packaged model cannot be loaded: {type(error).__name__}: {error}",
            where=str(folder),
            mend="Correct model.py or features.py and run `pilot run`.",
        ) from error
