"""git, called so that a person's settings are not in the way: no hooks, no signing, no prompts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.errors import PilotError

SETTINGS = (
    *("-c", f"core.hooksPath={os.devnull}"),
    *("-c", "core.quotePath=false"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "commit.gpgsign=false"),
    *("-c", "advice.detachedHead=false"),
    # A merge keeps what is not committed out of it, or is refused: it never puts it away and brings it back.
    *("-c", "merge.autoStash=false"),
    *("-c", "merge.verifySignatures=false"),
)
# A hook or a wrapper that calls us may have set these for a repository of its own.
LOCAL = {
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_NAMESPACE"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_LITERAL_PATHSPECS"),
    *("GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS"),
}


class GitFailed(PilotError):
    """git said no; its own words are the text."""


def environment(**more: str) -> dict[str, str]:
    """The environment of this process without what ties git to another repository, and without prompts."""
    kept = {name: value for name, value in os.environ.items() if name not in LOCAL}
    # An address that the answers file names is fetched, and runs nothing.
    fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh", "LC_ALL": "C"}
    return {**kept, **fixed, **more}


def git(folder: Path, *arguments: str, given: bytes = b"", more: Mapping[str, str] | None = None) -> str:
    """Run git and give what it says, without the last line end.

    Args:
        folder: Where it runs.
        arguments: The command.
        given: What it reads from its standard input.
        more: Environment variables of this call.

    Raises:
        GitFailed: It is missing or refuses.
    """
    return _run(folder, arguments, given, more or {}).decode("utf-8", "surrogateescape").rstrip("\n")


def blob(folder: Path, name: str) -> bytes:
    """What a file holds, named by its hash or as `commit:path`.

    Raises:
        GitFailed: There is none of that name.
    """
    return _run(folder, ("cat-file", "blob", name), b"", {})


def _run(folder: Path, arguments: tuple[str, ...], given: bytes, more: Mapping[str, str]) -> bytes:
    try:
        done = subprocess.run(
            ["git", *SETTINGS, *arguments],
            cwd=folder,
            env=environment(**more),
            input=given,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise GitFailed("it is not installed", where="git", mend="Install git 2.25 or newer.") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        told = [line for line in said if line.startswith(("fatal: ", "error: "))] or said[-1:]
        reason = told[0] if told else f"exit code {done.returncode}"
        what = f"git {arguments[0]} failed ({reason})"
        raise GitFailed(what, where=str(folder), mend="Mend what git names, and run it again.")
    return done.stdout


def says_yes(folder: Path, *arguments: str) -> bool:
    """Whether a command of git ends with 0: it is a question."""
    try:
        git(folder, *arguments)
    except GitFailed:
        return False
    return True


def listed(folder: Path, *arguments: str) -> list[str]:
    """What a command of git lists with `-z`."""
    return [name for name in git(folder, *arguments).split("\0") if name]
