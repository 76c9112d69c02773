"""The update in the team's repository: its commit, its branch, and a work tree in which it is tried."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import PilotError
from pilot_template.update.git import GitFailed, git, says_yes
from pilot_template.update.pilot import Pilot

PREFIX = "pilot-update-"
SOMEBODY = ("-c", "user.name=pilot update", "-c", "user.email=pilot-update@localhost")


def commit(pilot: Pilot, tree: str, message: str) -> str:
    """A commit of a tree, after the pilot's newest; no branch has it yet."""
    who = () if says_yes(pilot.root, "var", "GIT_COMMITTER_IDENT") else SOMEBODY
    return git(pilot.root, *who, "commit-tree", tree, "-p", pilot.head, given=message.encode("utf-8"))


@contextmanager
def work_tree(pilot: Pilot, made: str, folder: Path) -> Iterator[Path]:
    """The update in a work tree of its own, which is gone afterwards; the pilot's folder in it."""
    _forget_the_dead(pilot)
    whole = ("-c", "core.sparseCheckout=false")
    try:
        git(pilot.root, *whole, "worktree", "add", "--quiet", "--detach", str(folder), made)
        yield folder / pilot.prefix
    finally:
        with suppress(GitFailed):
            git(pilot.root, "worktree", "remove", "--force", "--force", str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _forget_the_dead(pilot: Pilot) -> None:
    """Take the names of work trees back that an update had when it was killed, and of no others.

    Never `git worktree prune`: it forgets a work tree of the team's whose disk is not mounted now.
    """
    for line in git(pilot.root, "worktree", "list", "--porcelain").splitlines():
        folder = Path(line.removeprefix("worktree ")).parent
        if line.startswith("worktree ") and folder.name.startswith(PREFIX) and not _runs(folder):
            with suppress(GitFailed):
                git(pilot.root, "worktree", "remove", "--force", "--force", str(folder / "work"))
            shutil.rmtree(folder, ignore_errors=True)


def _runs(folder: Path) -> bool:
    """Whether the process that made a folder is still there: its number is in the folder's name."""
    number = folder.name.removeprefix(PREFIX).partition("-")[0]
    if not number.isdigit():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def branch_of(pilot: Pilot, version: str) -> str:
    """The branch that an update is put on; in a repository of many pilots, it names the pilot."""
    version = version.removeprefix("v")
    if not pilot.prefix:
        return f"template/{version}"
    where = pilot.prefix.strip("/")
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", where).strip("-")
    if "-" in where or plain != where.replace("/", "-"):  # another folder could be called the same
        plain += "-" + hashlib.sha256(where.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"template/{plain}-{version}"


def branch_is_free(pilot: Pilot, version: str) -> None:
    """Look before the work whether the branch could be made.

    Raises:
        PilotError: A branch called `template` is in the way of every branch below it.
    """
    if says_yes(pilot.root, "rev-parse", "--verify", "--quiet", "refs/heads/template"):
        what = f"a branch of this name leaves no room for {branch_of(pilot, version)}"
        raise PilotError(what, where="template", mend="Rename it: git branch -m template ANOTHER-NAME")


def publish(pilot: Pilot, version: str, made: str, fresh: str) -> None:
    """Give the update its branch, and the fresh copy its name.

    Raises:
        PilotError: The branch is there and holds something else.
    """
    branch = branch_of(pilot, version)
    if not says_yes(pilot.root, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}"):
        git(pilot.root, "branch", "--no-track", branch, made)
        git(pilot.root, "update-ref", pristine_of(pilot, version), fresh)
        return
    for what in ("^{tree}", "^"):
        there, here = f"refs/heads/{branch}{what}", f"{made}{what}"
        known = says_yes(pilot.root, "rev-parse", "--verify", "--quiet", there)
        if not known or git(pilot.root, "rev-parse", there) != git(pilot.root, "rev-parse", here):
            mend = f"Merge it, or delete it and run this again: git branch -D {branch}"
            raise PilotError("the branch is there already, from an earlier update", where=branch, mend=mend)


def fresh_copy(pilot: Pilot, version: str, top: Path, index: Path) -> str:
    """Make a commit of a whole fresh copy: any file of the standard's can be had from there.

    Args:
        pilot: The pilot.
        version: The version that it was rendered from.
        top: The folder in which it lies as the pilot lies in its repository.
        index: A file that git may use meanwhile.

    Returns:
        The commit.
    """
    where = {
        "GIT_INDEX_FILE": str(index),
        "GIT_DIR": git(pilot.root, "rev-parse", "--absolute-git-dir"),
        "GIT_WORK_TREE": str(top),
    }
    whole = ("-c", "core.sparseCheckout=false")
    git(top, *whole, "add", "--all", "--force", ".", more=where)
    tree = git(top, "write-tree", more=where)
    text = f"A fresh copy of pilot-template {version} for the answers of this pilot\n"
    return git(pilot.root, *SOMEBODY, "commit-tree", tree, given=text.encode("utf-8"))


def pristine_of(pilot: Pilot, version: str) -> str:
    """The name by which git keeps the fresh copy of a version: no branch, so that nobody merges it."""
    return f"refs/{branch_of(pilot, version).replace('template/', 'pilot-template/', 1)}"


def apply(pilot: Pilot, branch: str) -> str:
    """Bring the branch into the team's checkout, if nothing that is not committed stands in its way.

    Returns:
        Why it could not be; empty where it was. The checkout is then as it was.
    """
    if not says_yes(pilot.root, "symbolic-ref", "--quiet", "HEAD"):
        return f"the checkout is on no branch. Switch to one, then: git merge {branch}"
    try:
        git(pilot.root, "merge", "--quiet", "--ff-only", "--no-overwrite-ignore", branch)
    except GitFailed as error:
        again = f"git merge --no-overwrite-ignore {branch}"
        return f"your checkout is as it was: {error.what}. Mend that, then: {again}"
    unmerged = git(pilot.root, "diff", "--name-only", "--diff-filter=U").split("\n")
    return f"{unmerged[0]} is unmerged in your checkout. Mend that by hand" if unmerged[0] else ""
