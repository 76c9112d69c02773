"""Settings that a new version has and the team's files do not."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Setting:
    """A setting.

    Attributes:
        file: The team's file in which it could stand.
        key: Its name there, with dots.
        default: What holds while it does not, as JSON.
    """

    file: str
    key: str
    default: str

    def __str__(self) -> str:
        return f"`{self.file}`: {self.key} = {self.default}"


def new_settings(
    name: str, given: bytes | None, there: bytes | None, gives: bytes | None
) -> Iterator[Setting]:
    """What the new version's seed of a file has, and neither the old one's nor the team's.

    Args:
        name: The file.
        given: What the old version seeded; None for nothing.
        there: What the team has.
        gives: What the new version seeds.
    """
    if given is None or there is None or gives is None:
        return
    try:
        before, now, after = (dict(_flat(_read(name, text))) for text in (given, there, gives))
    except (ValueError, yaml.YAMLError):
        return  # a file of the team's that cannot be read is for the pilot's own tests to name
    for key, value in after.items():
        if key not in before and key not in now:
            yield Setting(name, key, json.dumps(value, ensure_ascii=False, default=str))


def _read(name: str, text: bytes) -> Any:
    if Path(name).suffix == ".toml":
        return tomllib.loads(text.decode("utf-8"))
    return yaml.safe_load(text)


def _flat(value: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _flat(below, (*way, str(key)))
    else:
        yield ".".join(way), value
