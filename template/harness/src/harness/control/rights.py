"""Who may do what, and the record of whoever might not.

Anybody on call may stop; what starts or promotes needs more. So whatever cannot be established here (a token
that is not known, a group that does not exist) never stands in the way of a stop, and always in that of
anything else.
"""

from __future__ import annotations

import grp
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.control import audit, identity
from harness.control.identity import Actor
from harness.control.state import writing
from harness.control.tokens import Scope, Tokens, TokensUnreadable
from harness.errors import PilotError

TOKEN = "PILOT_TOKEN"
# A refusal is put on record where that takes no long wait.
RECORD_WITHIN_S = 2.0


@dataclass(frozen=True)
class OnCall:
    """Somebody who may stop.

    Attributes:
        who: Who it is.
        notes: What could not be established about it, in words for that person.
    """

    who: Actor
    notes: tuple[str, ...] = ()


def acting(folder: Path, scope: Scope) -> Actor:
    """Who acts: the holder of the token in PILOT_TOKEN, where there is one, or else the account.

    Raises:
        PilotError: There is a token, and it is not good for this.
    """
    presented = os.environ.get(TOKEN, "").strip()
    who = identity.account()
    if not presented:
        return who
    tokens = Tokens(folder)
    token = tokens.find(presented)
    if token is not None and not token.expired() and scope in token.scopes:
        return Actor(f"token {token.name}", who.uid, token=True, issuer=token.actor)
    if token is None:
        found = tokens.read()
        what = f"it cannot be looked up: {found.why}" if isinstance(found, TokensUnreadable) else "not known"
    elif token.expired():
        what = f"the token {token.name} has expired"
    else:
        what = f"the token {token.name} has not the scope {scope}"
    raise PilotError(
        f"the token is not good for this: {what}",
        where=TOKEN,
        mend=f"Use one that `pilot token issue NAME --scope {scope}` made, or unset the variable to act as "
        f"the account {who.name}.",
    )


def on_call(folder: Path, group: str, *, verb: str = "kill") -> OnCall:
    """Whoever wants to stop, if that is somebody on call.

    Args:
        folder: The control folder.
        group: The OS group that may stop; empty for whoever may write the folder.
        verb: What is attempted, for the record.

    Raises:
        PilotError: It is somebody else. The attempt is on record.
    """
    notes = []
    try:
        who = acting(folder, "operate")
    except PilotError as error:
        who = identity.account()
        notes.append(f"{error.what}. The stop is signed by the account {who.name}.")
    if not group or who.token or who.uid == 0:
        return OnCall(who, tuple(notes))
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        notes.append(f"there is no group '{group}' ([control] on_call_group), so whoever can may stop")
        return OnCall(who, tuple(notes))
    if number in (os.getgid(), *os.getgroups()):
        return OnCall(who, tuple(notes))
    refuse(folder, who, f"{verb}: not in the group '{group}', which is on call")
    raise PilotError(
        f"THE MODEL WAS NOT STOPPED: {who.name} is not in the group '{group}', which is on call",
        where="pilot.toml [control] on_call_group",
        mend=f"Have somebody of that group stop it, or set {TOKEN} to a token with the scope operate.",
    )


@contextmanager
def attempt(folder: Path, verb: str, scope: Scope) -> Iterator[Actor]:
    """Around whatever a person does to the state; what is refused is put on record, and raised on.

    Args:
        folder: The control folder.
        verb: What is attempted, for the record.
        scope: What a token has to allow.
    """
    who = identity.account()
    try:
        who = acting(folder, scope)
        yield who
    except PilotError as error:
        refuse(folder, who, f"{verb}: {error.what}")
        raise


def refuse(folder: Path, who: Actor, told: str) -> None:
    """Put on record what was refused to whom, and why, where the record can be written."""
    with suppress(PilotError, OSError), writing(folder, wait_s=RECORD_WITHIN_S):
        audit.append(folder, actor=who.name, action="refuse", reason=told, revision=None)
