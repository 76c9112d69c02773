"""Training features → model, in the modelling library's own format."""

from __future__ import annotations

import shutil

import polars as pl

from harness import pilot
from harness.errors import PilotError
from harness.pipeline import frames, layout
from harness.pipeline.params import load_params
from harness.progress import Report
from harness.settings import Settings


def run(settings: Settings, report: Report) -> str:
    """Training features → model, in the modelling library's own format."""
    module = pilot.load_model(settings.pilot.package)
    frame = pl.read_parquet(settings.path(layout.TRAIN))
    label = frames.label(frame)
    report("fitting", 0.1)
    fitted = module.train(frames.only_features(frame), label, load_params(settings.root).train)
    folder = settings.path(layout.MODEL)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    module.save(fitted, folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if not files:
        raise PilotError(
            "save() wrote nothing", where="model.py", mend="Write the model into the folder given."
        )
    return f"{frame.height:,} records, {sum(file.stat().st_size for file in files):,} bytes of model"
