"""Where each stage leaves its results, below the pilot's root. dvc.yaml names the same paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.files import whole_file

SNAPSHOT = Path("data", "raw")
RECORDS = Path("data", "records.parquet")
ORIGIN = Path("data", "origin.json")
VALID = Path("data", "valid.parquet")
QUARANTINE = Path("data", "quarantine.parquet")
CORRECTIONS = Path("data", "corrections")
FEATURES = Path("data", "features")
TRAIN = FEATURES / "train.parquet"
TEST = FEATURES / "test.parquet"
TEST_RECORDS = FEATURES / "test_records.parquet"
MODEL = Path("data", "model")
PACKAGE = Path("data", "package")
INGEST = Path("evidence", "ingest.json")
QUALITY = Path("evidence", "quality.json")
DATA_CARD = Path("evidence", "data-card.md")
METRICS = Path("evidence", "metrics.json")
PROFILE = Path("evidence", "profile.json")
PILOT_PROFILE = Path("evidence", "pilot-profile.json")
PROBES = Path("evidence", "probes.json")
RUN = Path("evidence", "run.json")
EVIDENCE_LOCK = Path("evidence", "evidence.lock.json")
REFERENCE = Path("data", "reference.json")
PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")

# Columns beside the features; the blank keeps them apart from any feature, whose name must be an identifier.
KEY = "record key"
LABEL = "label value"
TIME = "event time"


def write_json(file: Path, document: dict[str, Any]) -> None:
    """Write a stage's findings, the same bytes for the same findings."""
    with whole_file(file) as beside:
        beside.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
