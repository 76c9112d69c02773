"""The model beside the fallback, on the same held-back records."""

from __future__ import annotations

import polars as pl

from harness import pilot
from harness.pipeline import frames, layout, metrics
from harness.progress import Report
from harness.settings import Settings


def run(settings: Settings, report: Report) -> str:
    """The model beside the fallback, on the same held-back records."""
    package = settings.pilot.package
    contract = pilot.load_contract(package)
    module = pilot.load_model(package)
    fallback = pilot.load_fallback(package)
    frame = pl.read_parquet(settings.path(layout.TEST))
    records = pl.read_parquet(settings.path(layout.TEST_RECORDS)).sort(contract.key)
    report("model", 0.1)
    scores = module.predict(module.load(settings.path(layout.MODEL)), frames.only_features(frame))
    names = [field.name for field in contract.fields]
    rows = records.select(names).iter_rows(named=True)
    answers = []
    for number, row in enumerate(rows):
        if number % 10_000 == 0:
            report("fallback", 0.2 + 0.8 * number / records.height)
        answers.append(fallback.decide(row).decision)
    figures = metrics.compare(contract, frames.label(frame), scores, answers)
    layout.write_json(settings.path(layout.METRICS), figures)
    name = figures["compared_by"]
    return f"{name}: model {figures['model'][name]:.3f}, fallback {figures['fallback'][name]:.3f}"
