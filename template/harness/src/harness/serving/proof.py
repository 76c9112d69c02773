"""The proof that a packaged model decides in serving as it was judged in the pipeline.

The pipeline computed the test records' features in bulk; here the package's own code computes them again, one
record at a time, from the bytes that a service will load.
"""

from __future__ import annotations

import math

import polars as pl

from harness import pilot
from harness.errors import CheckFailed
from harness.pipeline import frames, layout
from harness.pipeline.manifest import MODEL, Manifest
from harness.serving.environment import as_handed_on
from harness.serving.scorer import load_scorer
from harness.settings import Settings

RECORDS = 50
TOLERANCE = 1e-9


def prove(settings: Settings, manifest: Manifest) -> None:
    """Score test records as serving does and compare with the scores in bulk.

    The packaged code sees no more of the environment than in a service.

    Raises:
        PilotError: The package cannot be loaded.
        CheckFailed: A score differs, or a record cannot be scored.
    """
    with as_handed_on(settings.serving.model_environment):
        _prove(settings, manifest)


def _prove(settings: Settings, manifest: Manifest) -> None:
    models = settings.path(settings.serving.models)
    scorer = load_scorer(models, manifest.digest, settings.serving.reasons)
    contract = pilot.load_contract(settings.pilot.package)
    records = pl.read_parquet(settings.path(layout.TEST_RECORDS)).sort(contract.key).head(RECORDS)
    features = frames.only_features(pl.read_parquet(settings.path(layout.TEST)).head(RECORDS))
    module = pilot.load_model(settings.pilot.package)
    in_bulk = module.predict(module.load(models / manifest.digest / MODEL), features)
    names = [field.name for field in contract.fields]
    for record, expected in zip(records.select(names).iter_rows(named=True), in_bulk, strict=True):
        where = f"{contract.key} {record[contract.key]}"
        try:
            score = scorer.score(record).score
        except Exception as error:
            raise CheckFailed(
                f"a test record cannot be scored in serving: {type(error).__name__}: {error}",
                where=where,
                mend="Correct features.py or model.py and run again.",
            ) from error
        if not math.isclose(score, float(expected), rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            raise CheckFailed(
                f"the packaged model scores {score} in serving and {float(expected)} in the pipeline",
                where=where,
                mend="Let features.py and model.py use the record alone: no time, chance, file or work tree.",
            )
