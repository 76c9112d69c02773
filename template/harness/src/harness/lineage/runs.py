"""Where a run is on record: in evidence/, in a commit, or with MLflow only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.lineage.steps import Run, Stage
from harness.pipeline import layout, lineage, record

CODE = ("harness/", "src/")


@dataclass(frozen=True)
class Kept:
    """The files that a run left, as they are now or as they were committed.

    Attributes:
        root: The pilot's folder.
        commit: The commit; empty for the work tree.
    """

    root: Path
    commit: str = ""

    def read(self, path: Path) -> bytes | None:
        """A file's content; None where there is none."""
        if self.commit:
            return lineage.at(self.root, self.commit, path.as_posix())
        try:
            return (self.root / path).read_bytes()
        except OSError:
            return None

    def json(self, path: Path) -> dict[str, Any] | None:
        """A JSON object; None where there is none."""
        try:
            found = json.loads(self.read(path) or b"")
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def run(self) -> record.Run | None:
        """The record of the run; None where there is none that can be read."""
        try:
            return record.Run.model_validate_json(self.read(layout.RUN) or b"")
        except ValidationError:
            return None

    def told(self, found: record.Run) -> Run:
        """That record, as a lineage tells it."""
        return Run(
            place="commit" if self.commit else "here",
            name=self.commit,
            at=found.produced_at.isoformat(),
            dvc_lock=found.dvc_lock,
            trees=dict(found.trees),
            origin=str(found.origin.get("origin", "")),
            data=str(found.origin.get("digest", "")),
        )

    def stages(self) -> list[Stage] | None:
        """The stages in the order in which data flows; None where there is no lock file that can be read."""
        content = self.read(layout.LOCK)
        try:
            found = yaml.safe_load(content or b"")
            stages = [_stage(name, said) for name, said in found["stages"].items()]
        except (yaml.YAMLError, TypeError, KeyError, AttributeError):
            return None
        return in_order(stages)


def committed(root: Path, digest: str) -> Kept | None:
    """The newest commit whose record is of a run that made a model of that digest, or one beginning so."""
    # As write_json writes it.
    for commit in lineage.introduced(root, layout.RUN.as_posix(), f'"model": "{digest}'):
        kept = Kept(root, commit)
        found = kept.run()
        if found is not None and found.model.startswith(digest):
            return kept
    return None


def in_order(stages: list[Stage]) -> list[Stage]:
    """Each stage after those whose results it reads, otherwise by name."""
    left, order, made = sorted(stages, key=lambda stage: stage.name), [], set[str]()
    written = {path for stage in stages for path in stage.outs}
    while left:
        ready = next((each for each in left if not ({*each.ins} & written) - made), left[0])
        left.remove(ready)
        order.append(ready)
        made |= {*ready.outs}
    return order


def _stage(name: str, said: dict[str, Any]) -> Stage:
    deps = {str(each["path"]): str(each.get("md5", "")) for each in said.get("deps", [])}
    params = said.get("params", {})
    rest = {file: values for file, values in params.items() if file != layout.PARAMS.as_posix()}
    return Stage(
        name=str(name),
        ins={path: md5 for path, md5 in deps.items() if not path.startswith(CODE)},
        code={path: md5 for path, md5 in deps.items() if path.startswith(CODE)},
        outs={str(each["path"]): str(each.get("md5", "")) for each in said.get("outs", [])},
        params=lineage.flat(params.get(layout.PARAMS.as_posix(), {})),
        # By a hash only: people sign there for what they accepted.
        settings=hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()
        if rest
        else "",
    )
