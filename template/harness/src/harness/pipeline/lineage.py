"""What a run is made of: code, data and parameters, each by a hash that survives squashes and clones."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.pipeline import layout
from harness.tracking import Dataset


def code(root: Path) -> dict[str, str]:
    """The git tree hash of HEAD and of src, and whether the work tree differs from it."""
    found = {
        "git_tree": _git(root, "rev-parse", "HEAD^{tree}"),
        "git_tree_src": _git(root, "rev-parse", "HEAD:./src"),
        "git_dirty": "true"
        if _git(root, "status", "--porcelain", "--untracked-files=normal", "--", "src", "harness")
        else "false",
    }
    return {name: value or "none" for name, value in found.items()}


def datasets(root: Path) -> list[Dataset]:
    """The data that the stages read and wrote, with the hashes that DVC locked."""
    file = root / layout.LOCK
    if not file.exists():
        return []
    locked = yaml.safe_load(file.read_text(encoding="utf-8"))
    wanted = {
        layout.SNAPSHOT.as_posix(): "source",
        layout.VALID.as_posix(): "validated",
        layout.FEATURES.as_posix(): "training",
    }
    return [
        Dataset(name=out["path"], digest=out["md5"], context=wanted[out["path"]], location=root / out["path"])
        for stage in locked.get("stages", {}).values()
        for out in stage.get("outs", [])
        if out["path"] in wanted and "md5" in out
    ]


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested parameters under dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numeric leaves of nested metrics, under dotted names; a truth value counts as 1 or 0."""
    return {
        name: float(value) for name, value in flat(values).items() if isinstance(value, (bool, int, float))
    }


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
