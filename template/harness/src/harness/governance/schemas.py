"""JSON Schemas of the YAML documents, for editors: made from the models, which stay the source of truth."""

from __future__ import annotations

import json
from pathlib import Path

from harness.errors import PilotError
from harness.governance.documents import KINDS
from harness.governance.markdown import Markdown

FOLDER = Path(__file__).resolve().parents[3] / "schemas"
"""Where they lie: in harness/, beside its src/."""


def schemas() -> dict[str, str]:
    """Each schema's text, by its file's name."""
    return {
        f"{kind.name}.schema.json": json.dumps(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "$comment": "The standard's, made by `pilot governance schema`: `copier update` replaces it.",
                **kind.model.model_json_schema(),
            },
            indent=2,
        )
        + "\n"
        for kind in KINDS
        if not issubclass(kind.model, Markdown)
    }


def export(folder: Path = FOLDER) -> list[str]:
    """Write them; gives the names of those that changed.

    Raises:
        PilotError: The harness is not installed from a pilot's folder.
    """
    if not (folder.parent / "pyproject.toml").is_file():
        raise PilotError(
            "the schemas belong into a pilot's harness/, and this harness was installed from elsewhere",
            where=str(folder),
            mend="Run the pilot's own: .venv/bin/pilot.",
        )
    changed = stale(folder)
    folder.mkdir(exist_ok=True)
    made = schemas()
    for name in changed:
        if name in made:
            (folder / name).write_text(made[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed


def stale(folder: Path = FOLDER) -> list[str]:
    """The names of those that are missing, differ from the models, or have no model any more."""
    made = schemas()
    found = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.schema.json")}
    return sorted(name for name in {*made, *found} if made.get(name) != found.get(name))
