"""The model beside the fallback, on the same held-back records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from harness import pilot
from harness.data import engine
from harness.errors import PilotError
from harness.pilot import Contract, Reason
from harness.pipeline import frames, layout, metrics, reference
from harness.progress import Report
from harness.settings import Settings

# Reasons cost far more than scores, and these only show that they have the right shape.
SOME = 5


def run(settings: Settings, report: Report) -> str:
    """The model beside the fallback, on the same held-back records."""
    package = settings.pilot.package
    contract = pilot.load_contract(package)
    module = pilot.load_model(package)
    fallback = pilot.load_fallback(package)
    frame = pl.read_parquet(settings.path(layout.TEST))
    records = pl.read_parquet(settings.path(layout.TEST_RECORDS)).sort(contract.key)
    report("model", 0.1)
    model, features = module.load(settings.path(layout.MODEL)), frames.only_features(frame)
    scores = module.predict(model, features)
    check_reasons(module.reasons(model, features[:SOME], 3), min(SOME, features.height))
    names = [field.name for field in contract.fields]
    rows = records.select(names).iter_rows(named=True)
    answers = []
    for number, row in enumerate(rows):
        if number % 10_000 == 0:
            report("fallback", 0.2 + 0.8 * number / records.height)
        answers.append(fallback.decide(row).decision)
    figures = metrics.compare(contract, frames.label(frame), scores, answers)
    layout.write_json(settings.path(layout.METRICS), figures)
    write_reference(settings, contract, held_back(records, contract, scores, answers), figures["compared_by"])
    name = figures["compared_by"]
    return f"{name}: model {figures['model'][name]:.3f}, fallback {figures['fallback'][name]:.3f}"


def held_back(
    records: pl.DataFrame, contract: Contract, scores: np.ndarray, answers: Sequence[str | float]
) -> pl.DataFrame:
    """The held-back records with what the model and the fallback made of each, and what came of it."""
    decided = [contract.decision.of(float(score)) for score in scores]
    return records.with_columns(
        pl.Series(reference.SCORE, np.asarray(scores, dtype=float)),
        pl.Series(reference.DECIDED, reference.as_numbers(contract.decision, decided)),
        pl.Series(reference.BY_FALLBACK, reference.as_numbers(contract.decision, list(answers))),
        pl.col(contract.label).cast(pl.Float64).alias(reference.TRUTH),
    )


def write_reference(settings: Settings, contract: Contract, frame: pl.DataFrame, compared_by: str) -> None:
    """Count what `held_back` gives, which this process holds, and keep the counts."""
    backend = engine.embedded(settings)
    table = backend.create_table("held_back", frame.to_arrow(), temp=True)
    found = reference.build_reference(backend, table, contract, compared_by)
    layout.write_json(settings.path(layout.REFERENCE), found.model_dump(mode="json"))


def check_reasons(explained: Sequence[Sequence[Reason]], rows: int) -> None:
    """Refuse reasons that no person could be shown.

    Raises:
        PilotError: There is not one list a row, or a value is not a single text, number or truth value.
    """
    mend = "Return one list of harness.pilot.Reason a row, each with one value and one effect."
    if len(explained) != rows:
        raise PilotError(
            f"reasons() gave {len(explained)} lists for {rows} rows", where="model.py", mend=mend
        )
    for reason in (reason for row in explained for reason in row):
        if not isinstance(reason, Reason):
            said = f"reasons() gave a {type(reason).__name__}"
            raise PilotError(said, where="model.py", mend=mend)
        if not isinstance(reason.value, str | int | float | bool | np.generic | None):
            said = f"the reason '{reason.feature}' has {str(reason.value)[:40]} for a value"
            raise PilotError(said, where="model.py", mend=mend)
