"""What the tests of the template share: copies of it without git, and readers of what it renders."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from copier import run_copy

ROOT = Path(__file__).resolve().parents[1]
LITTER = shutil.ignore_patterns("__pycache__", "*.py[co]", "*.egg-info", ".venv", ".*_cache")
READERS = {".toml": tomllib.loads, ".json": json.loads, ".yml": yaml.safe_load, ".yaml": yaml.safe_load}


def copy_template(folder: Path, *, lean: bool = False) -> Path:
    """The template in a folder of its own; lean: with only those files that answers are written into."""
    shutil.copytree(ROOT, folder, ignore=_only_template, dirs_exist_ok=True)
    if lean:
        for path in files(folder / "template"):
            if not path.endswith(".jinja"):
                (folder / "template" / path).unlink()
    return folder


def _only_template(folder: str, names: list[str]) -> set[str]:
    if Path(folder) == ROOT:
        return set(names) - {"copier.yml", "questions", "ownership", "template"}
    return LITTER(folder, names)


def render(template: Path, pilot: Path, answers: dict[str, object] | None = None, **settings: Any) -> Path:
    """Render as `copier copy --defaults` does, without trust."""
    settings = {"quiet": True, "defaults": True, **settings}
    run_copy(str(template), pilot, data=answers or {}, unsafe=False, **settings)
    return pilot


def files(folder: Path) -> set[str]:
    """Every file below the folder, as a relative path with forward slashes."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def documents(pilot: Path) -> dict[str, Any]:
    """Every TOML, YAML and JSON file of the pilot, read; the harness's own source is left out."""
    return {
        name: READERS[Path(name).suffix]((pilot / name).read_text(encoding="utf-8"))
        for name in sorted(files(pilot))
        if Path(name).suffix in READERS and not name.startswith("harness/src/")
    }


def values(document: Any) -> Iterator[Any]:
    """The leaves of a document that was read."""
    if isinstance(document, dict):
        for value in document.values():
            yield from values(value)
    elif isinstance(document, list):
        for value in document:
            yield from values(value)
    else:
        yield document
