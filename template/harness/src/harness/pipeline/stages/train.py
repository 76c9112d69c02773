"""Training features → model, in the modelling library's own format."""

from __future__ import annotations

import polars as pl

from harness import pilot
from harness.errors import PilotError
from harness.files import whole_folder
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
    with whole_folder(settings.path(layout.MODEL)) as folder:
        module.save(fitted, folder)
        sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
        if not sizes:
            raise PilotError(
                "save() wrote nothing", where="model.py", mend="Write the model into the folder given."
            )
    return f"{frame.height:,} records, {sum(sizes):,} bytes of model"
