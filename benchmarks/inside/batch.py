"""Runs in a pilot: `make FILE ROWS` writes records; `alone FILE` reads, featurises and predicts.

What `alone` does is what somebody would write who needs scores and nothing else: Polars, the pilot's features
and its model, a chunk at a time, with no record of anything.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import narwhals as nw
import polars as pl
import pyarrow.parquet as pq

from harness import pilot
from harness.pipeline import layout
from harness.pipeline.manifest import MODEL, load_manifest
from harness.settings import load_settings

CHUNK = 100_000


def make(file: Path, rows: int) -> None:
    """The pilot's own records, over and over, each under a key of its own."""
    settings = load_settings()
    contract = pilot.load_contract(settings.pilot.package)
    records = pl.read_parquet(settings.path(layout.VALID)).drop(contract.label)
    writer = None
    for first in range(0, rows, CHUNK):
        count = min(CHUNK, rows - first)
        places = pl.int_range(first, first + count, eager=True)
        part = records[(places % len(records)).to_list()].with_columns(
            ("k" + places.cast(pl.String)).alias(contract.key)
        )
        table = part.to_arrow(compat_level=pl.CompatLevel.oldest())
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def alone(file: Path) -> None:
    """Scores and nothing else."""
    settings = load_settings()
    package = settings.pilot.package
    features = pilot.load_features(package).features()
    names = load_manifest(settings.path(layout.PACKAGE)).features
    wanted = {name: features[name].cast(nw.Float64) for name in names}
    model_file = importlib.import_module(f"{package}.model")
    model = model_file.load(settings.path(layout.PACKAGE, MODEL))
    scored = 0
    for batch in pq.ParquetFile(file).iter_batches(CHUNK):
        frame = pl.DataFrame(batch)
        scored += len(model_file.predict(model, nw.to_native(nw.from_native(frame).select(**wanted))))
    print(scored)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        alone(Path(sys.argv[2]))
