"""The model's figures beside the fallback's, by the standard definitions of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics

from harness.errors import PilotError
from harness.pilot import Choice, Contract


def compare(
    contract: Contract, label: np.ndarray, scores: np.ndarray, answers: Sequence[str | float]
) -> dict[str, Any]:
    """Figures of the model and of the fallback on the same records.

    Args:
        contract: Says what is decided.
        label: Outcomes, shape (n,).
        scores: The model's scores, shape (n,).
        answers: The fallback's decisions, n of them.

    Returns:
        ``model`` and ``fallback`` with a figure a name; ``compared_by``, the figure that counts; and
        ``model_beats_fallback``.

    Raises:
        PilotError: A score or an answer is one that the contract's decision cannot take.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.shape != label.shape:
        raise PilotError(
            f"predict() gave shape {scores.shape} for {label.shape[0]} records",
            where="model.py",
            mend="Return one score a record, shape (n,).",
        )
    bad = [score for score in scores if not contract.decision.valid(score)]
    if bad:
        raise PilotError(
            f"predict() gave {bad[0]}, which is no score for the contract's decision ({len(bad)} times)",
            where="model.py",
            mend="Return probabilities for a Choice and values in range for an Amount.",
        )
    if isinstance(contract.decision, Choice):
        return _choice(contract.decision, label, scores, answers)
    return _amount(label, scores, answers)


def _choice(
    decision: Choice, label: np.ndarray, scores: np.ndarray, answers: Sequence[str | float]
) -> dict[str, Any]:
    unknown = sorted({str(answer) for answer in answers} - {decision.above, decision.below})
    if unknown:
        raise PilotError(
            f"decide() gave '{unknown[0]}'",
            where="fallback.py",
            mend=f"Decide '{decision.above}' or '{decision.below}', as contract.py says.",
        )
    truth = label > 0.5
    model = _decided(truth, scores >= decision.threshold)
    model["brier"] = float(metrics.brier_score_loss(truth, scores))
    if truth.any() and not truth.all():
        model["auc"] = float(metrics.roc_auc_score(truth, scores))
    fallback = _decided(truth, np.array([answer == decision.above for answer in answers]))
    return {
        "model": model,
        "fallback": fallback,
        "compared_by": "f1",
        "model_beats_fallback": model["f1"] > fallback["f1"],
        "records": int(label.shape[0]),
        "base_rate": float(truth.mean()),
    }


def _decided(truth: np.ndarray, decided: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": float(metrics.accuracy_score(truth, decided)),
        "precision": float(metrics.precision_score(truth, decided, zero_division=0.0)),
        "recall": float(metrics.recall_score(truth, decided, zero_division=0.0)),
        "f1": float(metrics.f1_score(truth, decided, zero_division=0.0)),
        "decided_share": float(decided.mean()),
    }


def _amount(label: np.ndarray, scores: np.ndarray, answers: Sequence[str | float]) -> dict[str, Any]:
    try:
        guesses = np.array([float(answer) for answer in answers])
    except ValueError as error:
        raise PilotError(
            f"decide() gave something that is no number: {error}",
            where="fallback.py",
            mend="Decide a number, as contract.py says.",
        ) from error
    model, fallback = _measured(label, scores), _measured(label, guesses)
    return {
        "model": model,
        "fallback": fallback,
        "compared_by": "mae",
        "model_beats_fallback": model["mae"] < fallback["mae"],
        "records": int(label.shape[0]),
    }


def _measured(label: np.ndarray, values: np.ndarray) -> dict[str, float]:
    return {
        "mae": float(metrics.mean_absolute_error(label, values)),
        "rmse": float(metrics.root_mean_squared_error(label, values)),
        "r2": float(metrics.r2_score(label, values)),
    }
