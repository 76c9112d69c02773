"""The list of the standard's files with their hashes, in the format of sha256sum.

`make manifest` in the template writes it; in a pilot, `sha256sum -c harness/MANIFEST.sha256` reads it too.
"""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import Path

MANIFEST = "harness/MANIFEST.sha256"
LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def digest(content: bytes) -> str:
    """The hash that stands in the list."""
    return hashlib.sha256(content).hexdigest()


def parse(text: str) -> dict[str, str]:
    """Path and hash of each file.

    Raises:
        ValueError: A line is of another form, or a path stands there twice; the text says which.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = LINE.fullmatch(line)
        if match is None or match[2] in found:
            raise ValueError(f"line {number} is no hash with a path of its own")
        found[match[2]] = match[1]
    return found


def own() -> str:
    """The list of the version that these checks are of."""
    shipped = resources.files("pilot_template.hooks").joinpath("MANIFEST.sha256")
    if shipped.is_file():
        return shipped.read_text(encoding="utf-8")
    in_place = Path(__file__).resolve().parents[1] / "template" / MANIFEST  # in the template's own repository
    return in_place.read_text(encoding="utf-8")
