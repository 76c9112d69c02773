"""The pilot as its newest commit has it: what is not committed takes no part in an update."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import PilotError
from pilot_template.update.git import GitFailed, blob, git, listed, says_yes

ANSWERS = ".copier-answers.yml"
BACK = f"Bring it back: `git log -p -- {ANSWERS}` shows who changed it. Only an update writes it."
# What Copier takes and an update still finds from another folder.
FOUND_FROM_ANYWHERE = re.compile(r"(gh:|gl:|git\+\w+://|git://|https?://|ssh://|[\w.-]+@[\w.-]+:|/|~/)\S.*")


@dataclass(frozen=True)
class Pilot:
    """A pilot to update.

    Attributes:
        root: Its folder in the team's checkout; nothing is written there.
        top: The folder of the repository that it lies in.
        prefix: The way from there to the pilot, with a slash at the end; empty where the two are one.
        head: The commit that is updated.
        answers: What the answers file says, Copier's own entries included.
    """

    root: Path
    top: Path
    prefix: str
    head: str
    answers: dict[str, Any]

    @property
    def source(self) -> str:
        """The address of the template, as Copier keeps it."""
        return str(self.answers["_src_path"])

    @property
    def version(self) -> str:
        """The version of the template that it says it is of."""
        return str(self.answers["_commit"])

    def blob(self, name: str) -> bytes | None:
        """What a file of the pilot holds in the commit; None where there is none."""
        return _blob(self.root, self.head, self.prefix + name)


def find(root: Path) -> Pilot:
    """The pilot in a folder.

    Raises:
        PilotError: It is in no repository, has no commit, or its answers file is missing or not usable.
    """
    if not root.is_dir():
        raise PilotError("there is no such folder", where=str(root), mend="Name the pilot's with --root.")
    try:
        top = Path(git(root, "rev-parse", "--show-toplevel"))
        prefix = git(root, "rev-parse", "--show-prefix")
    except GitFailed as error:
        if "not a git repository" not in error.what:
            raise  # such as a repository of another account: git says what to do
        start = 'Run: git init -b main && git add -A && git commit -m "Start from pilot-template"'
        what = "it is in no git repository, so nothing could be undone"
        raise PilotError(what, where=str(root), mend=start) from error
    if not says_yes(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"):
        mend = "Commit it first: an update starts from a commit."
        raise PilotError("it has no commit yet", where=str(root), mend=mend)
    head = git(root, "rev-parse", "HEAD")
    content = _blob(root, head, prefix + ANSWERS)
    if content is None:
        kept = (root / ANSWERS).exists()
        what = "it is not in the newest commit" if kept else "the file is missing"
        mend = f"Commit it: git add {ANSWERS}" if kept else BACK
        raise PilotError(what, where=ANSWERS, mend=mend)
    return Pilot(root, top, prefix, head, _answers(content))


def _blob(root: Path, commit: str, path: str) -> bytes | None:
    found = listed(root, "ls-tree", "-z", "--full-tree", commit, "--", path)
    if not found or " blob " not in found[0]:
        return None
    return blob(root, found[0].split()[2])


def _answers(content: bytes) -> dict[str, Any]:
    try:
        found = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = ANSWERS if line is None else f"{ANSWERS} line {line + 1}"
        raise PilotError("it is not YAML", where=where, mend=BACK) from error
    if not isinstance(found, dict):
        raise PilotError("it holds no answers", where=ANSWERS, mend=BACK)
    for name, meaning in (
        ("_src_path", "the address of the template"),
        ("_commit", "the version of the template"),
    ):
        if not isinstance(found.get(name), str) or not found[name].strip():
            raise PilotError(f"{name} is missing, {meaning}", where=ANSWERS, mend=BACK)
    source = found["_src_path"]
    if not FOUND_FROM_ANYWHERE.fullmatch(source):
        what = f"_src_path is neither an address nor an absolute path: {source!r}"
        mend = "Write the absolute path or the address of the template there, and commit that."
        raise PilotError(what, where=ANSWERS, mend=mend)
    return found
