"""Carry out what was decided, in the tree of the update."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pilot_template.update.decide import Change, Kind
from pilot_template.update.git import environment
from pilot_template.update.template import Rendered, hash_of
from pilot_template.update.tree import EXECUTABLE, LINK, PLAIN, Tree

YOURS, STANDARD = ".yours", ".standard"


@dataclass(frozen=True)
class Done:
    """What became of a path.

    Attributes:
        name: The path.
        kind: As decided.
        merged: Whether both sides could be had in one file.
        beside: Where the other side lies, where there is one.
    """

    name: str
    kind: Kind
    merged: bool = False
    beside: str = ""


def carry_out(change: Change, tree: Tree, given: Rendered, gives: Rendered) -> Done:
    """Do with one path what was decided.

    Args:
        change: The decision.
        tree: The pilot, which is changed.
        given: What the pilot's version gave.
        gives: What the new version gives.
    """
    name, kind = change.name, change.kind
    if kind in (Kind.ADDED, Kind.SEEDED):
        return Done(name, kind, beside=_put(tree, name, gives))
    if kind is Kind.CHANGED:
        tree.put(name, gives.content(name), mode_of(gives, name))
    elif kind is Kind.REMOVED:
        tree.take(name)
    elif kind is Kind.DROPPED:
        return Done(name, kind, beside=_set_aside(tree, name))
    elif kind is Kind.COLLISION:
        beside = _free(tree, name + STANDARD)
        tree.put(beside, gives.content(name), mode_of(gives, name))
        return Done(name, kind, beside=beside)
    elif kind is Kind.MERGE:
        return _merge(tree, name, given, gives)
    return Done(name, kind)


def mode_of(rendered: Rendered, name: str) -> str:
    """What git calls the kind of a file that was rendered."""
    return EXECUTABLE if rendered.files[name][1] else PLAIN


def _put(tree: Tree, name: str, gives: Rendered) -> str:
    """Write a file that is new; where something of the team's is in the way of it, beside that."""
    obstacle = tree.obstacle(name)
    if obstacle is None:
        tree.put(name, gives.content(name), mode_of(gives, name))
        return ""
    rest = name.removeprefix(obstacle)
    folder = _free(tree, obstacle + STANDARD) if rest == "" else obstacle + STANDARD
    beside = _free(tree, folder + rest)
    tree.put(beside, gives.content(name), mode_of(gives, name))
    return beside


def _merge(tree: Tree, name: str, given: Rendered, gives: Rendered) -> Done:
    """One file with both sides' changes, where they do not touch; else both files."""
    entry = tree.entries[name]
    if entry.mode in (PLAIN, EXECUTABLE):
        ours, base, theirs = tree.content(name), given.content(name), gives.content(name)
        merged = theirs if hash_of(ours) == hash_of(base) else _merged(ours, base, theirs)
        if merged is not None:
            edited = entry.mode != mode_of(given, name)
            tree.put(name, merged, entry.mode if edited else mode_of(gives, name))
            return Done(name, Kind.MERGE, merged=True)
    beside = _set_aside(tree, name)
    tree.put(name, gives.content(name), mode_of(gives, name))
    return Done(name, Kind.MERGE, beside=beside)


def _merged(ours: bytes, base: bytes, theirs: bytes) -> bytes | None:
    """What `git merge-file` makes of three texts; None where they touch each other or are no texts."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, side) for side in ("ours", "base", "theirs")]
        for path, content in zip(paths, (ours, base, theirs), strict=True):
            path.write_bytes(content.replace(b"\r\n", b"\n"))
        done = subprocess.run(
            ["git", "merge-file", "--stdout", *map(str, paths)],
            env=environment(),
            capture_output=True,
            check=False,
        )
    return done.stdout if done.returncode == 0 else None


def _set_aside(tree: Tree, name: str) -> str:
    """Move what the team has there to a name beside it."""
    beside = _free(tree, name + YOURS)
    tree.move(name, beside)
    return beside


def _free(tree: Tree, name: str) -> str:
    """The name, or the first with a number that nothing has."""
    found, number = name, 1
    while not tree.is_free(found):
        number += 1
        found = f"{name}-{number}"
    return found


def content_of(tree: Tree, names: list[str]) -> dict[str, str]:
    """What the pilot has at these paths, as far as there is something: content's name, and kind."""
    found = {}
    for name, content in tree.contents(names).items():
        mode = tree.entries[name].mode
        found[name] = _named(f"link to {content!r}" if mode == LINK else hash_of(content), mode)
    return found


def content_given(rendered: Rendered) -> dict[str, str]:
    """The same of what was rendered."""
    return {name: _named(each, mode_of(rendered, name)) for name, (each, _) in rendered.files.items()}


def _named(content: str, mode: str) -> str:
    return f"{mode} {content}"
