"""The run, its parameters, metrics, data and package → MLflow, with the model as challenger."""

from __future__ import annotations

import json

from harness import tracking
from harness.pipeline import layout, lineage
from harness.pipeline.manifest import load_manifest
from harness.pipeline.params import load_params
from harness.progress import Report
from harness.settings import Settings


def run(settings: Settings, report: Report) -> str:
    """Log the run, its parameters, metrics, data and package to MLflow, and register the model."""
    folder = settings.path(layout.PACKAGE)
    manifest = load_manifest(folder)
    report("tracking", 0.2)
    version = tracking.publish(
        settings,
        tracking.Run(
            digest=manifest.digest,
            params=lineage.flat(load_params(settings.root).model_dump()),
            metrics=lineage.numbers(json.loads(settings.path(layout.METRICS).read_text(encoding="utf-8"))),
            datasets=lineage.datasets(settings.root),
            tags=lineage.code(settings.root) | {"origin": manifest.origin, "data_digest": manifest.data},
            package=folder,
        ),
    )
    return f"{settings.experiment} version {version}, alias challenger"
