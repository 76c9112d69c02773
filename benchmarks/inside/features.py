"""Print what the packaged features take, in milliseconds: of one record, and of 64 at once.

Run by the pilot's own Python, in its folder, with a file of records. As the scorer computes them: the same
schema, the same expressions, of the package that `pilot run` made.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from harness.pipeline import record
from harness.serving.schema import request_model
from harness.serving.scorer import load_scorer
from harness.serving.server import build_service
from harness.settings import load_settings

PASSES, ROUNDS, BATCH = 5, 100, 64


def main(file: Path) -> dict[str, list[float]]:
    """Milliseconds of each, the median of a pass, one value a pass."""
    settings = load_settings()
    scorer = load_scorer(settings.path(settings.serving.models), record.read(settings.root).model, 0)
    request = request_model(build_service(settings).contract)
    sent = json.loads(file.read_text(encoding="utf-8"))
    records = [request.model_validate_json(json.dumps(each)).model_dump() for each in sent]

    def took(some: list[dict[str, Any]]) -> float:
        started = time.perf_counter()
        frame = pl.DataFrame({name: [each[name] for each in some] for name in scorer._schema}, scorer._schema)
        scorer._features(frame)
        return (time.perf_counter() - started) * 1000

    found: dict[str, list[float]] = {"one": [], "batch": []}
    for _ in range(PASSES + 1):
        turns = [(took([records[turn % len(records)]]), took(records[:BATCH])) for turn in range(ROUNDS)]
        found["one"].append(median(one for one, _ in turns))
        found["batch"].append(median(batch for _, batch in turns))
    return {name: values[1:] for name, values in found.items()}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
