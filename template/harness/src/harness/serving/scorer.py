"""A packaged model in memory: features, score and reasons, all from the package's own code."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl

from harness import pilot
from harness.errors import PilotError
from harness.pilot import Reason
from harness.pipeline import frames
from harness.pipeline.columns import frame_schema
from harness.pipeline.manifest import CODE, MODEL, Manifest, verify
from harness.serving.scored import Scored, ScoreInvalid, plain

# A machine that was busy for a while is not to have all reasons computed later for ever.
MEASURED_AGAIN_S = 10.0


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
        self._cost = Cost()
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
        wanted = {feature: features[feature].cast(nw.Float64) for feature in manifest.features}
        self._features = frames.Served(wanted, self._schema)

    def score(self, record: Mapping[str, Any]) -> Scored:
        """Score one record.

        Raises:
            KeyError: The record lacks a field that the packaged contract requires.
            ScoreInvalid: The score is NaN, infinite, out of range, or not one number.
        """
        (found,) = self.score_all([record])
        if isinstance(found, BaseException):
            raise found
        return found

    def score_all(
        self, records: Sequence[Mapping[str, Any]], *, reasons_s: float | None = None
    ) -> list[Scored | BaseException]:
        """Score records together; what one of them makes the team's code raise is that one's answer alone.

        Where they raise together they are scored in halves, and so on: a record that nothing can score costs
        a few calls, and not as many as there are records.

        Args:
            records: The records.
            reasons_s: Seconds that reasons may take; what finds no time is pending. None sets no limit.

        Returns:
            For each record what was scored, or what was raised.
        """
        try:
            return self._together(records, reasons_s)
        except BaseException as error:  # sys.exit() and a native library's panic are failures like any other
            if len(records) == 1:
                return [error]
        middle = len(records) // 2
        halves = (records[:middle], records[middle:])
        return [found for half in halves for found in self.score_all(half, reasons_s=reasons_s)]

    def scores(self, columns: pl.DataFrame, reasons: int) -> tuple[np.ndarray, list[list[Reason]]]:
        """Score many records at once, as ``score`` does each; the scores are not looked at.

        Args:
            columns: A column for each field; one that may be absent may be left out.
            reasons: How many reasons each has.

        Returns:
            Doubles, shape (n,), and each record's reasons; none at all where none were asked for.

        Raises:
            KeyError: A column is missing that the packaged contract requires.
            ScoreInvalid: There is not one score for each record.
        """
        if missing := [name for name in self._schema if name not in {*columns.columns, *self._optional}]:
            raise KeyError(missing[0])
        absent = [pl.lit(None).alias(name) for name in self._schema if name not in columns.columns]
        frame = columns.with_columns(absent).select(
            pl.col(name).cast(kind) for name, kind in self._schema.items()
        )
        features = self._features(frame)
        found = np.asarray(self._model_file.predict(self._model, features), dtype=np.float64)
        if found.shape != (len(columns),):
            raise ScoreInvalid(f"scores of shape {found.shape} for {len(columns)} records")
        told = self._model_file.reasons(self._model, features, reasons) if reasons else []
        return found, [[plain(reason) for reason in each] for each in told]

    def _together(
        self, records: Sequence[Mapping[str, Any]], reasons_s: float | None
    ) -> list[Scored | BaseException]:
        features = self._features(frames.of_records(records, self._schema, self._optional))
        scores = self._model_file.predict(self._model, features)
        if len(scores) != len(records):
            raise ScoreInvalid(f"{len(scores)} scores for {len(records)} records")
        numbers = [float(score) for score in scores]
        reasons = self._explained(features, reasons_s)
        found: list[Scored | BaseException] = []
        for score, given in zip(numbers, reasons, strict=True):
            try:
                found.append(self._checked(score, given))
            except ScoreInvalid as error:
                found.append(error)
        return found

    def _checked(self, score: float, reasons: Sequence[Reason] | None) -> Scored:
        if not math.isfinite(score) or not self.decision.valid(score):
            raise ScoreInvalid(f"score {score}")
        told = tuple(plain(reason) for reason in reasons or ())
        return Scored(score, told, self.decision.of(score), pending=reasons is None)

    def _explained(self, features: pl.DataFrame, within_s: float | None) -> Sequence[Sequence[Reason] | None]:
        """The reasons of each row; None for each of those at the end for which there is no time."""
        rows = len(features)
        if not self._reasons:
            return [()] * rows
        until = None if within_s is None else time.monotonic() + within_s
        found: list[Sequence[Reason] | None] = []
        while len(found) < rows and (fits := self._fit(until, rows - len(found))):
            part = features[len(found) : len(found) + fits]
            started = time.monotonic()
            given = self._model_file.reasons(self._model, part, self._reasons)
            if len(given) != len(part):
                raise ValueError(f"reasons for {len(given)} of {len(part)} records")
            found += given
            self._cost.took(len(part), time.monotonic() - started)
        return found + [None] * (rows - len(found))

    def _fit(self, until: float | None, rows: int) -> int:
        if until is None:
            return rows
        return min(rows, self._cost.fit(until - time.monotonic()))


class Cost:
    """What the reasons of one row take, as measured; the first call of a process says nothing of the others.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls = 0
        self._row_s: float | None = None
        self._tried = 0.0

    def took(self, rows: int, seconds: float) -> None:
        """Take note of a call."""
        self._calls += 1
        self._tried = self._clock()
        if self._calls > 1:
            each = seconds / rows
            self._row_s = each if self._row_s is None else 0.7 * self._row_s + 0.3 * each

    def fit(self, seconds: float) -> int:
        """How many rows there is time for; what is not known yet, or not lately, is tried with one."""
        if self._row_s is None:
            return 1 if seconds > 0 else 0
        if self._row_s > seconds and self._clock() - self._tried >= MEASURED_AGAIN_S:
            return 1 if seconds > 0 else 0
        return max(0, int(seconds / max(self._row_s, 1e-9)))


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
