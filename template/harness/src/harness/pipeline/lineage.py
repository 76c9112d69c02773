"""What a run is made of: code, data and parameters, each by a hash that survives squashes and clones."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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


def committed_tree(root: Path, folder: str) -> str:
    """The git tree hash of a folder as it was committed; "none" where there is none."""
    return _git(root, "rev-parse", "--verify", "--quiet", f"HEAD:./{folder}") or "none"


def tree(root: Path, folder: str) -> str:
    """The git tree hash that a folder would have if it were committed as it is; "none" for an empty one."""
    prefix = _git(root, "rev-parse", "--show-prefix")
    with tempfile.TemporaryDirectory(prefix="tree-") as scratch:
        # An index of its own: what somebody has staged stays staged.
        index = {"GIT_INDEX_FILE": str(Path(scratch, "index"))}
        _git(root, "add", "--all", "--", folder, **index)
        return _git(root, "write-tree", f"--prefix={prefix}{folder}/", **index) or "none"


def uncommitted(root: Path, *paths: str) -> list[str] | None:
    """Files below the paths that differ from what was committed, ignored ones left out; None if git fails."""
    # Renames are told as one removed and one new file: both names matter here.
    said = _asked(
        root, "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", "--", *paths
    )
    if said is None:
        return None
    prefix = _git(root, "rev-parse", "--show-prefix")
    return [entry[3:].removeprefix(prefix) for entry in said.split("\0") if len(entry) > 3]


def ignored_code(root: Path, *paths: str) -> list[str] | None:
    """Python files below the paths that git ignores, caches and environments left out; None if git fails."""
    said = _asked(root, "ls-files", "--others", "--ignored", "--exclude-standard", "-z", "--", *paths)
    if said is None:
        return None
    made = {"__pycache__", "build", ".venv", "site-packages"}
    return [
        name
        for name in said.split("\0")
        if name.endswith((".py", ".so", ".pth")) and not made & {*name.split("/")}
    ]


def overlooked(root: Path, *paths: str) -> list[str] | None:
    """Files below the paths whose changes git was told not to look for; None if git fails."""
    said = _asked(root, "ls-files", "-v", "-z", "--", *paths)
    if said is None:
        return None
    marked = (entry for entry in said.split("\0") if entry)
    return [entry[2:] for entry in marked if entry[0].islower() or entry[0] == "S"]


def shallow(root: Path) -> bool:
    """Whether the history was cut off, so that the oldest commit seems to have made everything."""
    return _git(root, "rev-parse", "--is-shallow-repository") != "false"


def last_author(root: Path, path: str) -> str:
    """Who made the last commit that changed a file, as ``Name <address>``; empty where none did."""
    return _git(root, "log", "-1", "--format=%an <%ae>", "--", path)


def introduced(root: Path, path: str, text: str) -> list[str]:
    """The commits in which a text came into a file or left it, the newest first; empty where git fails."""
    return _git(root, "log", "--all", f"-S{text}", "--format=%H", "--", path).split()


def at(root: Path, commit: str, path: str) -> bytes | None:
    """A file as it stood in a commit, to the byte; None where there is none."""
    return _bytes(root, "cat-file", "blob", f"{commit}:./{path}")


def remote(root: Path) -> str:
    """Where the repository comes from, without account and password; empty where that is no web address."""
    found = _git(root, "config", "--get", "remote.origin.url")
    if (short := re.fullmatch(r"(?:[^/@:]+@)?([\w.-]+):(?!/)(.+)", found)) is not None:
        found = f"ssh://{short[1]}/{short[2]}"
    parts = urlsplit(without_account(found))
    if parts.scheme not in ("http", "https", "ssh", "git") or not parts.hostname:
        return ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def without_account(url: str) -> str:
    """An address without who asks, and by which password."""
    # Up to the last @: an unescaped one in the password is a mistake, and no reason to show what follows it.
    return re.sub(r"(?<=://).*@", "", url)


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


def _git(root: Path, *arguments: str, **more: str) -> str:
    return _asked(root, *arguments, **more) or ""


def _asked(root: Path, *arguments: str, **more: str) -> str | None:
    """What git said; None where it failed or is not installed."""
    said = _bytes(root, *arguments, **more)
    # Only the end: a line of `git status` begins with a blank that means something.
    return None if said is None else said.decode(errors="replace").rstrip()


def _bytes(root: Path, *arguments: str, **more: str) -> bytes | None:
    try:
        done = subprocess.run(
            # Asking changes nothing: an index that is written anew may shut other accounts out.
            ["git", "--no-optional-locks", *arguments],
            cwd=root,
            env=os.environ | more,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
