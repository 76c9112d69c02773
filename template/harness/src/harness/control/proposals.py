"""From one stage to the next: one person proposes, another approves, and both are on record.

Whether the gate allows it is asked by the caller, before each of the two; nothing here reads a document.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.control import actions, identity
from harness.control.identity import Actor
from harness.control.sealed import seal, unseal
from harness.control.state import (
    SENTINEL,
    STAGES,
    Slot,
    Stage,
    State,
    replace,
    sync_folder,
    write_state,
    writing,
)
from harness.errors import PilotError

PROPOSAL = "proposal.json"
# A new model goes to shadow from wherever nothing but shadow is at stake for the one before it.
TO_SHADOW: tuple[Stage, ...] = ("sandbox", "shadow", "full")


def ways(target: Stage) -> tuple[Stage, ...]:
    """The stages from which a stage is entered."""
    return TO_SHADOW if target == "shadow" else STAGES[: STAGES.index(target)][-1:]


class Proposal(BaseModel):
    """What somebody wants.

    Attributes:
        schema_version: The layout of this file.
        source: The stage in force when it was made.
        target: The stage after it; for a new model, shadow.
        revision: The state's revision then; 0 when there was no state.
        model: The digest of the packaged model that is to decide.
        percent: For which share of entities.
        evidence: The digest of the evidence lock that the gate was asked with.
        gate: A digest of what the gate said.
        proposer: The account that proposes.
        uid: Its number: an account may have two names.
        token: Whether a personal token said who proposes.
        issuer: The account that issued that token; empty without one.
        reason: Why.
        proposed_at: When, ISO 8601, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    source: Stage
    target: Stage
    revision: int = Field(ge=0)
    model: str = Field(pattern=r"^[0-9a-f]{64}$")
    percent: int = Field(ge=0, le=100)
    evidence: str = Field(pattern=r"^[0-9a-f]{64}$")
    gate: str = Field(pattern=r"^[0-9a-f]{64}$")
    proposer: str
    uid: int
    token: bool = False
    issuer: str = ""
    reason: str
    proposed_at: str

    @model_validator(mode="after")
    def _leads(self) -> Proposal:
        if self.source not in ways(self.target):
            raise ValueError(f"no way leads from {self.source} to {self.target}")
        return self


def propose(
    folder: Path,
    *,
    target: Stage,
    source: Stage | None = None,
    revision: int,
    model: str,
    percent: int,
    evidence: str,
    gate: str,
    reason: str,
    who: Actor | None = None,
) -> Proposal:
    """Ask for the next stage. It takes the place of a proposal that nobody approved.

    Args:
        folder: The control folder.
        target: The stage whose gate was asked.
        source: The stage in force; left out, the one before the target.
        revision: The state's revision when it was asked.
        model: The digest of the packaged model.
        percent: Its share in the next stage.
        evidence: The digest of the evidence lock.
        gate: A digest of what the gate said.
        reason: Why.
        who: Who proposes; by default the account.

    Raises:
        PilotError: The state changed meanwhile, or the audit cannot be written.
    """
    who = who or identity.account()
    source = source or STAGES[STAGES.index(target) - 1]
    if source not in ways(target):
        raise PilotError(
            f"no way leads from {source} to {target}",
            where=str(folder),
            mend="Take the model back first: `pilot rollback`.",
        )
    proposal = Proposal(
        source=source,
        target=target,
        revision=revision,
        model=model,
        percent=percent,
        evidence=evidence,
        gate=gate,
        proposer=who.name,
        uid=who.uid,
        token=who.token,
        issuer=who.issuer,
        reason=actions.printable(reason),
        proposed_at=actions.now(),
    )
    with writing(folder):
        _unchanged(folder, proposal)
        told = f"{source} → {target}, model {model[:12]}{_by(who)}: {proposal.reason}"
        actions.record(folder, proposal.proposer, "propose", told, revision)
        with actions.telling(folder):
            replace(folder / PROPOSAL, seal(proposal.model_dump(mode="json")))
    return proposal


def read_proposal(folder: Path) -> Proposal | None:
    """The proposal that waits; None when there is none.

    Raises:
        PilotError: It is damaged.
    """
    file = folder / PROPOSAL
    try:
        proposal = unseal(file.read_bytes(), Proposal, where=PROPOSAL)
        if file.lstat().st_uid != proposal.uid:
            raise ValueError("another account wrote it than the one that it names")
    except FileNotFoundError:
        return None
    except OSError as error:
        what, mend = f"cannot be read: {error.strerror}", "Give this account the right to read it."
        raise PilotError(what, where=str(file), mend=mend) from error
    except ValueError as error:
        what, mend = "the proposal is damaged or was edited", "Have it proposed again: `pilot promote`."
        raise PilotError(what, where=str(file), mend=mend) from error
    return proposal


def waiting(folder: Path, who: Actor | None = None) -> Proposal:
    """The proposal that somebody may approve, by default this account. A proposer who tries is told so.

    Raises:
        PilotError: There is none, it is damaged, or it is their own.
    """
    proposal = read_proposal(folder)
    if proposal is None:
        raise PilotError(
            "nothing is proposed",
            where=str(folder / PROPOSAL),
            mend='`pilot promote --reason "..."` proposes.',
        )
    who = who or identity.account()
    proposer = Actor(proposal.proposer, proposal.uid, proposal.token, proposal.issuer)
    if not who.other_than(proposer):
        own = who.name == proposer.name or (who.uid == proposer.uid and not (who.token and proposer.token))
        raise PilotError(
            f"{proposer.name} proposed this and cannot approve it"
            if own
            else f"{proposer.told()}, proposed this, and {who.told()}, may be the same person",
            where=str(folder / PROPOSAL),
            mend="Somebody else has to: it is refused and on record."
            if own
            else "Have another account than theirs issue the tokens: it is refused and on record.",
        )
    return proposal


def approve(
    folder: Path, proposal: Proposal, *, flag_key: str, reason: str, who: Actor | None = None
) -> State:
    """Put the proposed stage in force. The audit is written before anything changes.

    Args:
        folder: The control folder.
        proposal: What `waiting` gave.
        flag_key: The rollout group's name, for a pilot that has no state yet.
        reason: Why.
        who: Who approves; by default the account.

    Raises:
        PilotError: The proposal or the state changed meanwhile, it is their own, a stop came in
            between, or the audit cannot be written.
    """
    who = who or identity.account()
    if waiting(folder, who) != proposal:
        raise PilotError(
            "somebody proposed anew meanwhile",
            where=str(folder / PROPOSAL),
            mend="Look at it, and approve again.",
        )
    with writing(folder):
        if read_proposal(folder) != proposal:
            raise PilotError(
                "somebody approved it or proposed anew meanwhile",
                where=str(folder / PROPOSAL),
                mend="`pilot audit` says who.",
            )
        state = _unchanged(folder, proposal)
        if os.path.lexists(folder / SENTINEL) or (state is not None and (state.latched or state.held)):
            raise PilotError(
                "the model was stopped or held meanwhile",
                where=str(folder),
                mend="Mend the cause, then `pilot arm` and propose again.",
            )
        moved = _moved(state, proposal, flag_key, who.name, actions.printable(reason))
        told = f"{proposal.source} → {proposal.target}, model {proposal.model[:12]}{_by(who)}: {moved.reason}"
        actions.record(folder, who.name, "approve", told, moved.rev)
        with actions.telling(folder):
            write_state(folder, moved)
            (folder / PROPOSAL).unlink(missing_ok=True)
            sync_folder(folder)
    return moved


def _by(who: Actor) -> str:
    return f" (token issued by {who.issuer or 'nobody known'})" if who.token else ""


def _moved(state: State | None, proposal: Proposal, flag_key: str, who: str, reason: str) -> State:
    slot = Slot(digest=proposal.model, pct=proposal.percent)
    # At the last stage the model on trial is the one in use, and there is none beside it.
    models = {"champion": slot, "challenger": None} if proposal.target == "full" else {"challenger": slot}
    changes: dict[str, Any] = {"stage": proposal.target, **models}
    if state is not None:
        return actions.following(state, who, reason, **changes)
    return State(rev=1, flag_key=flag_key, actor=who, reason=reason, changed_at=actions.now(), **changes)


def _unchanged(folder: Path, proposal: Proposal) -> State | None:
    """The state, if it still is the one that the proposal was made for."""
    state = actions.existing(folder)
    revision, stage = (state.rev, state.stage) if state else (0, "sandbox")
    if (revision, stage) != (proposal.revision, proposal.source):
        raise PilotError(
            f"the state changed since: revision {revision}, not {proposal.revision}",
            where=str(folder),
            mend="`pilot audit` says how; propose again.",
        )
    return state
