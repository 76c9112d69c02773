"""Print what each part of a decision takes, in microseconds, without HTTP.

Run by the pilot's own Python, in its folder, with a file of records. Parts take turns, record by record; a
value is the median over one pass of all records, and there are several passes. It reaches into the scorer on
purpose: features, score and reasons are one call to everybody else.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from harness.serving.schema import request_model
from harness.serving.scorer import load_scorer
from harness.serving.server import build_service
from harness.serving_settings import Store
from harness.settings import load_settings

PASSES = 5
DURABLE = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL")
# Of a record as text as it was sent, and as the service takes it.
Part = Callable[[str, dict[str, Any]], object]


def main(file: Path) -> dict[str, list[float]]:
    """Microseconds of each part, one value a pass."""
    sent = [json.dumps(record) for record in json.loads(file.read_text(encoding="utf-8"))]
    # Beside the records, on the disk that the pilot is on; in memory commits would look free.
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        request, steps = parts(Path(folder), sent[0])
        records = [(text, request.model_validate_json(text).model_dump()) for text in sent]
        passes = [one_pass(steps, records) for _ in range(PASSES + 1)]
    # The first pass loads and warms.
    return {name: [found[name] for found in passes[1:]] for name in steps}


def one_pass(steps: dict[str, Part], records: list[tuple[str, dict[str, Any]]]) -> dict[str, float]:
    """Each part's median over all records."""
    took: dict[str, list[float]] = {name: [] for name in steps}
    for text, record in records:
        for name, step in steps.items():
            started = time.perf_counter()
            step(text, record)
            took[name].append((time.perf_counter() - started) * 1e6)
    return {name: median(values) for name, values in took.items()}


def parts(folder: Path, text: str) -> tuple[Any, dict[str, Part]]:
    """The request's model, and each part by its name."""
    settings = load_settings()
    settings = settings.model_copy(update={"store": Store(url=f"sqlite:///{folder / 'decisions.db'}")})
    service = build_service(settings)
    request = request_model(service.contract)
    entity, count = service.contract.entity, settings.serving.reasons
    service.model_state()
    made = service.decide(request.model_validate_json(text).model_dump())
    if made.served_by != "model" or made.model_digest is None:
        raise SystemExit(f"the model does not decide ({made.why})")
    digest = made.model_digest
    # Here as well, to take it apart: the service has it in a process of its own.
    scorer = load_scorer(settings.path(settings.serving.models), digest, count)
    host, model = scorer._model_file, scorer._model
    bare = sqlite3.connect(folder / "bare.db", isolation_level=None)
    for statement in (*DURABLE, "create table decisions (id integer primary key, record text)"):
        bare.execute(statement)

    def features(record: dict[str, Any]) -> Any:
        frame = pl.DataFrame([record], schema=scorer._schema)
        return scorer._features(frame)

    computed = features(request.model_validate_json(text).model_dump())
    return request, {
        "Service.decide": lambda _, record: service.decide(record),
        "request schema": lambda text, _: request.model_validate_json(text).model_dump(),
        "control.permission": lambda _, record: service.control.permission(str(record[entity])),
        "model's process": lambda _, record: service.host.score(digest, record),
        "the same in this process": lambda _, record: scorer.score(record),
        "features": lambda _, record: features(record),
        "model": lambda *_: host.predict(model, computed),
        "reasons": lambda *_: host.reasons(model, computed, count),
        "durable record": lambda *_: service.store.record(replace(made, decision_id=str(uuid.uuid4()))),
        "bare commit": lambda text, _: bare.execute("insert into decisions (record) values (?)", (text,)),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
