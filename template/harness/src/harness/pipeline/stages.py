"""What each stage does. A stage reads the results of earlier ones and writes its own; nothing else.

No stage knows of MLflow: DVC may restore a stage's results from its cache, and a run id restored from
there would name a run that is long gone. ``publish`` runs every time and is the only place that logs.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ibis
import narwhals as nw
import polars as pl

from harness import pilot, tracking
from harness.data import checks, engine
from harness.data.extract import extract
from harness.data.origin import origin
from harness.errors import CheckFailed, PilotError
from harness.pipeline import features as build
from harness.pipeline import layout, lineage, metrics
from harness.pipeline.manifest import build_package, load_manifest
from harness.pipeline.params import load_params
from harness.progress import Report
from harness.settings import Settings


def ingest(settings: Settings, report: Report) -> str:
    """Source systems → raw snapshot → records in the contract's shape.

    Raises:
        PilotError: A source fails; the last whole snapshot stays.
        CheckFailed: The join gives no records.
    """
    sources = pilot.load_sources(settings.pilot.package)
    contract = pilot.load_contract(settings.pilot.package)
    snapshot = settings.path(layout.SNAPSHOT)
    extract(settings, sources.tables, snapshot, report)
    report("digest", 0.9)
    found = origin(settings, sources.tables, snapshot)
    backend = engine.connect(settings)
    tables = {
        table.name: backend.read_parquet(snapshot / f"{table.name}.parquet", table_name=f"raw_{table.name}")
        for table in sources.tables
    }
    report("records", 0.95)
    records = sources.records(tables)
    checks.check_schema(records, contract)
    engine.write_parquet(backend, records, settings.path(layout.RECORDS), order_by=[contract.key])
    rows = int(backend.read_parquet(settings.path(layout.RECORDS)).count().execute())
    if rows == 0:
        raise CheckFailed(
            f"no records come out of {sum(found.tables.values())} source rows",
            where="sources.py records()",
            mend="Check the join and the filters; an empty extract is an outage, not a quiet day.",
        )
    _write_json(settings.path(layout.ORIGIN), {"origin": found.kind, "digest": found.digest, "rows": found.tables})
    return f"{rows:,} records from {sum(found.tables.values()):,} source rows ({found.kind} data)"


def validate(settings: Settings, report: Report) -> str:
    """Records → records that keep the contract; the others are set aside with their reasons.

    Raises:
        CheckFailed: More records break the contract than [data] max_bad_share allows.
    """
    contract = pilot.load_contract(settings.pilot.package)
    backend = engine.connect(settings)
    records = backend.read_parquet(settings.path(layout.RECORDS), table_name="records")
    checks.check_schema(records, contract)
    report("rules", 0.1)
    quality, kept, set_aside = checks.check(records, contract)
    report("writing", 0.6)
    engine.write_parquet(backend, kept, settings.path(layout.VALID), order_by=[contract.key])
    engine.write_parquet(backend, set_aside, settings.path(layout.QUARANTINE), order_by=[contract.key])
    _write_json(
        settings.path(layout.QUALITY),
        {**asdict(quality), "bad_share": quality.bad_share, "allowed_share": settings.data.max_bad_share},
    )
    if quality.bad_share > settings.data.max_bad_share:
        worst = max(quality.rules, key=lambda rule: quality.rules[rule])
        raise CheckFailed(
            f"{quality.bad:,} of {quality.rows:,} records ({quality.bad_share:.1%}) break the contract, most often "
            f"'{worst}' ({quality.rules[worst]:,}); {settings.data.max_bad_share:.1%} are allowed",
            where=str(layout.QUALITY),
            mend=f"Mend the source or sources.py, or correct the rule in contract.py; {layout.QUARANTINE} has the rows.",
        )
    return f"{quality.rows - quality.bad:,} records keep the contract, {quality.bad:,} set aside"


def featurise(settings: Settings, report: Report) -> str:
    """Records → features, split by time; a sample is computed on Polars too and must agree.

    Raises:
        CheckFailed: Too few records on either side, or the engine and Polars disagree.
    """
    package = settings.pilot.package
    contract = pilot.load_contract(package)
    expressions = build.expressions(pilot.load_features(package))
    backend = engine.connect(settings)
    records = backend.read_parquet(settings.path(layout.VALID), table_name="valid")
    split = build.split(records, contract, load_params(settings.root).split.test_share)
    report("features", 0.2)
    sizes = []
    for part, file in ((split.train, layout.TRAIN), (split.test, layout.TEST)):
        frame = nw.from_native(part).select(**build.beside(contract), **expressions)
        engine.write_parquet(backend, nw.to_native(frame), settings.path(file), order_by=[layout.KEY])
        sizes.append(int(backend.read_parquet(settings.path(file)).count().execute()))
    engine.write_parquet(backend, split.test, settings.path(layout.TEST_RECORDS), order_by=[contract.key])
    report("parity", 0.8)
    build.check_parity(settings.path(layout.TEST_RECORDS), settings.path(layout.TEST), contract, expressions)
    return (
        f"{len(expressions)} features; {sizes[0]:,} records to train on, {sizes[1]:,} to test on, from {split.cut} on"
    )


def train(settings: Settings, report: Report) -> str:
    """Training features → model, in the modelling library's own format."""
    module = pilot.load_model(settings.pilot.package)
    frame = pl.read_parquet(settings.path(layout.TRAIN))
    label = build.label(frame)
    report("fitting", 0.1)
    fitted = module.train(build.only_features(frame), label, load_params(settings.root).train)
    folder = settings.path(layout.MODEL)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    module.save(fitted, folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if not files:
        raise PilotError("save() wrote nothing", where="model.py", mend="Write the model into the folder given.")
    return f"{frame.height:,} records, {sum(file.stat().st_size for file in files):,} bytes of model"


def evaluate(settings: Settings, report: Report) -> str:
    """The model beside the fallback, on the same held-back records."""
    package = settings.pilot.package
    contract = pilot.load_contract(package)
    module = pilot.load_model(package)
    fallback = pilot.load_fallback(package)
    frame = pl.read_parquet(settings.path(layout.TEST))
    records = pl.read_parquet(settings.path(layout.TEST_RECORDS)).sort(contract.key)
    report("model", 0.1)
    scores = module.predict(module.load(settings.path(layout.MODEL)), build.only_features(frame))
    names = [field.name for field in contract.fields]
    rows = records.select(names).iter_rows(named=True)
    answers = []
    for number, row in enumerate(rows):
        if number % 10_000 == 0:
            report("fallback", 0.2 + 0.8 * number / records.height)
        answers.append(fallback.decide(row).decision)
    figures = metrics.compare(contract, build.label(frame), scores, answers)
    _write_json(settings.path(layout.METRICS), figures)
    name = figures["compared_by"]
    return f"{name}: model {figures['model'][name]:.3f}, fallback {figures['fallback'][name]:.3f}"


def package(settings: Settings, report: Report) -> str:
    """Model, the team's code, contract and figures → one folder with a digest."""
    report("files", 0.5)
    manifest = build_package(settings)
    return f"model {manifest.digest[:12]}, {len(manifest.files)} files"


def publish(settings: Settings, report: Report) -> str:
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


STAGES: dict[str, Any] = {
    "ingest": ingest,
    "validate": validate,
    "features": featurise,
    "train": train,
    "evaluate": evaluate,
    "package": package,
    "publish": publish,
}


def _write_json(file: Path, document: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
