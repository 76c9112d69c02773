"""dvc.yaml and dvc.lock, read without DVC: as far as the standard's pipeline goes."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from pilot_template.hooks.result import Unknown
from pilot_template.hooks.tree import Tree

PIPELINE, LOCK, PARAMS = "dvc.yaml", "dvc.lock", "params.yaml"
RESULTS = ("outs", "metrics", "plots")
# What makes a stage something else than the standard's pipeline has.
UNREADABLE = ("foreach", "matrix", "wdir", "do")
REFERENCE = re.compile(r"\$\{([\w.-]+)\}")
IGNORED = ("__pycache__/", ".pyc")  # as .dvcignore says


@dataclass(frozen=True)
class Stage:
    """A stage as it is declared, or as it was run.

    Attributes:
        command: What is run.
        deps: What it reads; for one that was run, with the hash.
        outs: What it writes, likewise.
        in_git: Those of the outs that DVC leaves to git.
        params: File and key, with the value.
    """

    command: str
    deps: dict[str, str] = field(default_factory=dict)
    outs: dict[str, str] = field(default_factory=dict)
    in_git: frozenset[str] = frozenset()
    params: dict[tuple[str, str], Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lock:
    """What was run last."""

    stages: dict[str, Stage]

    @classmethod
    def parse(cls, text: str) -> Lock | None:
        """The lock file, None where it is none."""
        try:
            stages = _yaml(text)["stages"]
            return cls({name: cls._stage(told) for name, told in stages.items()})
        except (yaml.YAMLError, LookupError, TypeError, AttributeError):
            return None

    @staticmethod
    def _stage(told: Mapping[str, Any]) -> Stage:
        params = {
            (file, key): value
            for file, values in told.get("params", {}).items()
            for key, value in values.items()
        }
        return Stage(
            command=told["cmd"],
            deps={each["path"]: each["md5"] for each in told.get("deps", [])},
            outs={each["path"]: each["md5"] for each in told.get("outs", [])},
            params=params,
        )

    def made(self, path: str) -> str | None:
        """The hash of what a stage wrote there; None where none did."""
        return next((stage.outs[path] for stage in self.stages.values() if path in stage.outs), None)


@dataclass(frozen=True)
class Pipeline:
    """What would be run now."""

    stages: dict[str, Stage]

    @classmethod
    def read(cls, tree: Tree) -> Pipeline:
        """The pipeline of a pilot.

        Raises:
            Unknown: It is missing, or says what these checks cannot read.
        """
        text = tree.text(PIPELINE)
        if text is None:
            raise Unknown(f"{PIPELINE} is missing. Bring it back: `git checkout HEAD -- {PIPELINE}`.")
        try:
            told = _yaml(text)
            values: dict[str, Any] = {}
            for file in [PARAMS, *told.get("vars", [])]:
                values |= read_values(tree, file)
            told = _filled(told, values)
            return cls({name: cls._stage(tree, name, each) for name, each in told["stages"].items()})
        except (yaml.YAMLError, tomllib.TOMLDecodeError, LookupError, TypeError, AttributeError) as error:
            raise Unknown(f"{PIPELINE} cannot be read ({error}). `dvc status` says what is wrong.") from error

    @staticmethod
    def _stage(tree: Tree, name: str, told: Mapping[str, Any]) -> Stage:
        strange = [key for key in UNREADABLE if key in told]
        if strange:
            raise Unknown(
                f"{PIPELINE}: stage {name} uses '{strange[0]}', which only DVC reads. Use `make reproduce`."
            )
        outs: dict[str, Any] = {}
        for kind in RESULTS:
            outs |= _paths(told.get(kind, []))
        params: dict[tuple[str, str], Any] = {}
        for entry in told.get("params", []):
            for file, keys in entry.items() if isinstance(entry, dict) else [(PARAMS, [entry])]:
                found = read_values(tree, file)
                params |= {(file, key): _at(found, key) for key in keys}
        return Stage(
            command=told["cmd"],
            deps={path: "" for path in _paths(told.get("deps", []))},
            outs={path: "" for path in outs},
            in_git=frozenset(path for path, options in outs.items() if str(options.get("cache")) == "false"),
            params=params,
        )


def _yaml(text: str) -> Any:
    """YAML with every scalar as text: `no` and `010` are not the same in DVC's YAML 1.2 and in 1.1."""
    return yaml.load(text, Loader=yaml.BaseLoader)


def _paths(entries: list[Any]) -> dict[str, Any]:
    """Each path with its options."""
    found: dict[str, Any] = {}
    for entry in entries:
        found |= (
            {path: options or {} for path, options in entry.items()}
            if isinstance(entry, dict)
            else {entry: {}}
        )
    return found


def read_values(tree: Tree, file: str) -> dict[str, Any]:
    """What stands in a TOML, YAML or JSON file; nothing where there is none."""
    text = tree.text(file) or ""
    read = tomllib.loads(text) if file.endswith(".toml") else _yaml(text)
    return read if isinstance(read, dict) else {}


def _at(values: Mapping[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _filled(told: Any, values: Mapping[str, Any]) -> Any:
    """The same with what `${...}` refers to put in its place."""
    if isinstance(told, str):
        return REFERENCE.sub(lambda match: str(_at(values, match[1])), told)
    if isinstance(told, list):
        return [_filled(each, values) for each in told]
    if isinstance(told, dict):
        return {_filled(key, values): _filled(each, values) for key, each in told.items()}
    return told


def same_value(one: Any, other: Any) -> bool:
    """Whether two values say the same, whichever format each was written in."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    return bool(_plain(one) == _plain(other))


def _plain(value: Any) -> Any:
    """A scalar as a number where it is one: 1e-3 is 0.001, in whichever format it was written."""
    text = str(value).strip()
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return {"~": "null", "none": "null", "": "null"}.get(
        text.lower(), text.lower() if _is_flag(text) else text
    )


def _is_flag(text: str) -> bool:
    return text.lower() in ("true", "false", "null")


def file_hash(content: bytes) -> str:
    """What DVC notes for a file."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def directory_hash(tree: Tree, folder: str, names: list[str]) -> str:
    """What DVC notes for a folder that holds these files."""
    listed = []
    for name in names:
        content = None if any(part in name for part in IGNORED) else tree.content(name)
        if content is not None:
            listed.append({"md5": file_hash(content), "relpath": name.removeprefix(f"{folder}/")})
    listed.sort(key=lambda entry: entry["relpath"])
    return file_hash(json.dumps(listed, sort_keys=True).encode()) + ".dir"
