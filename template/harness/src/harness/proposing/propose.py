"""From `pilot update` to an open request, once for each version and never twice."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.errors import PilotError
from harness.proposing.forge import TOKEN, Forge, Proposal

PILOT = Path(".venv", "bin", "pilot")
REPORT = Path("var", "update.md")
DECIDE = "**Somebody has to decide before this is merged: see below. It is a draft for that reason.**\n\n"
# git asks it for the token, which so stands in no command and in no file.
SAYS = 'printf "username=%s\\npassword=%s\\n" "$PILOT_GIT_ACCOUNT" "$PILOT_GIT_TOKEN"'
HELPER = f'!f() {{ [ "$1" != get ] || {SAYS}; }}; f'


class NotUpdated(Exception):
    """`pilot update` refused, or could not look, and has said why.

    Attributes:
        code: Its exit code.
    """

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"pilot update ended with {code}")


@dataclass(frozen=True)
class Update:
    """What `pilot update` made.

    Attributes:
        before: The version that the pilot is of.
        after: The newest.
        branch: Where the update is; empty where there was nothing to update.
        decide: Whether somebody has to decide.
    """

    before: str
    after: str
    branch: str
    decide: bool


def propose(root: Path, forge: Forge) -> str:
    """Update on a branch, push it and open a request with the report; say what was done.

    A branch that was pushed before is left as it is, and so is its request: somebody may have worked on it.
    One that was closed is not opened again before its branch is deleted.

    Args:
        root: The pilot's folder.
        forge: Where its repository is.

    Raises:
        NotUpdated: There is no update.
        PilotError: It could not be pushed, or the request not be opened.
    """
    update = _update(root)
    if not update.branch:
        return f"The pilot is of {update.after}, and there is nothing newer."
    there = bool(_git(root, forge, "ls-remote", "--heads", forge.repository, f"refs/heads/{update.branch}"))
    if not there:
        _git(root, forge, "push", forge.repository, f"refs/heads/{update.branch}:refs/heads/{update.branch}")
    found = forge.requests(update.branch)
    # Where the branch was not there, closed requests are those of a branch that was deleted since.
    for request in sorted(found, key=lambda each: not each.open):
        if request.open:
            return f"{update.after} is proposed already: {request.url}"
        if there:
            again = f"To have it again, delete the branch {update.branch}."
            return f"{update.after} was proposed and closed: {request.url} {again}"
    report = (root / REPORT).read_text(encoding="utf-8")
    proposal = Proposal(
        branch=update.branch,
        title=f"Update pilot-template from {update.before} to {update.after}",
        body=DECIDE + report if update.decide else report,
        draft=update.decide,
    )
    return f"{update.after} is proposed{' as a draft' if update.decide else ''}: {forge.open(proposal)}"


def _update(root: Path) -> Update:
    # The token is this job's: neither the template's code nor the tests have any use for it.
    environment = {name: value for name, value in os.environ.items() if name != TOKEN}
    done = subprocess.run(
        [str(root / PILOT), "update", "--json", "--report", str(REPORT)],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    if done.returncode not in (0, 1):
        raise NotUpdated(done.returncode)
    try:
        told = json.loads(done.stdout)
        branch = "" if told["up_to_date"] else told["branch"]
        update = Update(told["before"], told["after"], branch or "", decide=done.returncode == 1)
        whole = told["up_to_date"] or bool(branch)
    except (ValueError, LookupError, TypeError):
        whole = False
    if not whole:
        raise PilotError(
            "it said nothing that can be understood",
            where="pilot update --json",
            mend="Run `make update` here, and see what it says.",
        )
    return update


def _git(root: Path, forge: Forge, *arguments: str) -> str:
    environment = os.environ | {
        "GIT_TERMINAL_PROMPT": "0",
        "PILOT_GIT_ACCOUNT": forge.account,
        "PILOT_GIT_TOKEN": forge.token,
    }
    # A hook that a test of the update left behind would have the token.
    settings = ("-c", f"core.hooksPath={os.devnull}", "-c", "credential.helper=")
    command = ["git", *settings, "-c", f"credential.helper={HELPER}", *arguments]
    done = subprocess.run(
        command, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode != 0:
        said = " ".join(done.stderr.split()).replace(forge.token, "...")[:300]
        raise PilotError(
            f"git {arguments[0]} failed: {said}",
            where=forge.repository,
            mend=f"Check that {TOKEN} may push branches, and changes of CI's files, there.",
        )
    return done.stdout
