"""evidence/run.json: what the last run was made of, so that a gate can tell whether it speaks of this code.

It is written by ``pilot run`` after the stages and not by one of them: DVC may restore a stage's results from
its cache, and the code that stood there at that time would come back with them.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from harness.errors import PilotError
from harness.pipeline import layout, lineage
from harness.pipeline.manifest import Manifest

TREES = ("src", "harness")
RENEWED_AFTER = timedelta(days=30)


class Run(BaseModel):
    """The record.

    Attributes:
        schema_version: The layout of this file.
        produced_at: When it was written.
        trees: The git tree hashes of the folders that decide, as they were when the stages ran.
        dvc_lock: The SHA-256 of dvc.lock.
        model: The packaged model's digest.
        origin: What data/origin.json says; dvc.lock holds its hash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    produced_at: AwareDatetime
    trees: dict[str, str]
    dvc_lock: str
    model: str
    origin: dict[str, Any]


def note(root: Path, manifest: Manifest) -> None:
    """Write the record of a run that has just ended.

    A run that made what was there before leaves the file as it is for 30 days, so that running again is no
    change to commit.
    """
    run = Run(
        produced_at=datetime.now(UTC).replace(microsecond=0),
        trees={name: lineage.tree(root, name) for name in TREES},
        dvc_lock=sha256(root / layout.LOCK),
        model=manifest.digest,
        origin=json.loads((root / layout.ORIGIN).read_text(encoding="utf-8")),
    )
    try:
        before = read(root)
    except PilotError:
        before = None
    if before is None or not _same(before, run):
        layout.write_json(root / layout.RUN, run.model_dump(mode="json"))


def _same(before: Run, run: Run) -> bool:
    recent = timedelta(0) <= run.produced_at - before.produced_at < RENEWED_AFTER
    return recent and before.model_copy(update={"produced_at": run.produced_at}) == run


def read(root: Path) -> Run:
    """The record of the last run.

    Raises:
        PilotError: It is missing, or no record of this layout.
    """
    try:
        return Run.model_validate_json((root / layout.RUN).read_bytes())
    except OSError as error:
        raise PilotError(
            "the record of a run is missing",
            where=str(layout.RUN),
            mend="`pilot run`, and commit what it wrote.",
        ) from error
    except ValidationError as error:
        raise PilotError(
            f"not the record of a run: {error.errors()[0]['msg']}",
            where=str(layout.RUN),
            mend="`pilot run` again.",
        ) from error


def sha256(file: Path) -> str:
    """The SHA-256 of a file, "none" where there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "none"
