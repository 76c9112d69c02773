"""Whose each path of a pilot is: the three lists of ``ownership/``, read as Copier reads them.

A path is the standard's (replaced by every update), the team's (written once) or retired (no longer rendered,
and left alone). The matching is that of pathspec, which Copier matches with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from pathspec import GitIgnoreSpec

STANDARD, SEED, RETIRED = "ownership/standard.txt", "ownership/seed.yml", "ownership/retired.yml"
NEVER_RENDERED = "never rendered"


@dataclass(frozen=True)
class PathList:
    """One list.

    Attributes:
        lines: Its patterns, in order, each a line of gitignore.
        unrendered: Those of them that the list itself says no file of the template matches.
    """

    lines: tuple[str, ...] = ()
    unrendered: frozenset[str] = frozenset()

    @cached_property
    def _spec(self) -> GitIgnoreSpec:
        return GitIgnoreSpec.from_lines(self.lines)

    def __contains__(self, path: str) -> bool:
        return self._spec.match_file(path)

    def matched(self, paths: set[str]) -> set[str]:
        """Those of the paths that are in the list."""
        return set(self._spec.match_files(paths))


@dataclass(frozen=True)
class Ownership:
    """The three lists of one version of the template."""

    standard: PathList
    seed: PathList
    retired: PathList

    def classes(self, path: str) -> list[str]:
        """Every class that declares the path; exactly one is right."""
        return [name for name in ("standard", "seed", "retired") if path in getattr(self, name)]

    def is_teams(self, path: str) -> bool:
        """Whether an update leaves the path alone."""
        return path in self.seed or path in self.retired


def parse(text: str) -> PathList:
    """Read a list: plain lines, or the lines within ``_exclude`` of a YAML file."""
    if "_exclude:" in text:
        (text,) = yaml.safe_load(text)["_exclude"]
    lines: list[str] = []
    unrendered: set[str] = set()
    never = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("#"):
            never = NEVER_RENDERED in line.lower()
        elif line.startswith(("/", "!/")):
            lines.append(line)
            if never:
                unrendered.add(line)
    return PathList(tuple(lines), frozenset(unrendered))


def read(text_of: Callable[[str], str | None]) -> Ownership:
    """The lists of a version of the template.

    Args:
        text_of: Gives the text of a file by its path in the template's repository, from a folder or from git;
            None where that version has no such file. The first release had no list of the standard's.
    """
    return Ownership(*(parse(text_of(name) or "") for name in (STANDARD, SEED, RETIRED)))


def in_folder(repository: Path) -> Ownership:
    """The lists of the template in a folder."""

    def text_of(name: str) -> str | None:
        file = repository / name
        return file.read_text(encoding="utf-8") if file.is_file() else None

    return read(text_of)
