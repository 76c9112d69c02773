"""What has to hold where the stage and the kill switch are kept, and who has to have signed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

from harness.control import read_audit, settings_control
from harness.control.remote import RemoteRefusal
from harness.governance.rules import Problem
from harness.governance.values import is_placeholder, seen
from harness.readiness import lock
from harness.readiness.case import Case, Requirement, Unknown

AHEAD = timedelta(minutes=10)
"""By so much the clock of another host may be ahead."""

NAMED = ("team", "owner", "on_call")


def _named(case: Case) -> Iterator[Problem]:
    for name in NAMED:
        if is_placeholder(getattr(case.settings.pilot, name)):
            yield Problem(f"pilot.toml [pilot] {name}", "still TODO")


def _outside(case: Case) -> Iterator[Problem]:
    if case.folder.resolve().is_relative_to(case.root):
        told = "it lies in the work tree, where `git clean` would delete it"
        yield Problem("pilot.toml [control] folder", told)


def _free(case: Case) -> Iterator[Problem]:
    state = case.state
    control = settings_control(case.settings)
    if control.killed():
        yield Problem("", "the model is stopped: the file KILL is there")
    elif state is not None and state.latched:
        yield Problem("", f"the model is stopped ({state.actor}: {state.reason})")
    if state is not None and state.held:
        yield Problem("", f"promotions are held ({state.actor}: {state.reason})")
    allowed = control.remote.share(state.flag_key if state else case.settings.pilot.package)
    if isinstance(allowed, RemoteRefusal):
        told = f"the remote control lets no model decide ({allowed})"
        yield Problem("", told, "`pilot status` says why; `pilot sync once` asks it anew.")


def _audited(case: Case) -> Iterator[Problem]:
    try:
        entries = read_audit(case.folder)
    except ValueError as error:
        yield Problem("", str(error))
        return
    except OSError as error:
        raise Unknown(f"the audit: {error.strerror}", "Give this account the right to read it.") from error
    if case.state is not None and not entries:
        yield Problem("", "there is a state, and no line says how it came about")
    elif case.state is not None:
        told = max((each["revision"] for each in entries if isinstance(each.get("revision"), int)), default=0)
        if told < case.state.rev:
            yield Problem("", f"its last line is of revision {told}, and the state is {case.state.rev}")
    last = next((each["revision"] for each in reversed(entries) if isinstance(each.get("revision"), int)), 0)
    if case.state is None and last > 0:
        mend = "Restore state.json from a backup, or begin anew: `pilot run`."
        yield Problem("", f"its last line is of revision {last}, and there is no state", mend)
    elif case.state is not None and last > case.state.rev:
        told = f"its last line is of revision {last}, and the state is {case.state.rev}: an older state"
        yield Problem("", told, "Restore the newer state.json from a backup.")
    if entries and str(entries[-1].get("at")) > (case.now + AHEAD).isoformat():
        yield Problem("", f"its last line is dated {entries[-1]['at']}", "Set this host's clock.")


def _same_model(case: Case) -> Iterator[Problem]:
    slot = case.state.challenger if case.state else None
    if slot is None:
        yield Problem("", f"no model is on trial in the stage '{case.stage}'")
    elif slot.digest != case.run.model:
        told = f"model {slot.digest[:12]} is on trial, and the evidence speaks of {case.run.model[:12]}"
        yield Problem("", told)


def _locked(case: Case) -> Iterator[Problem]:
    found, _ = case.lock
    case.committed_tree("")
    changed = found.differences(lock.current(case.root))
    if changed:
        yield Problem("evidence/evidence.lock.json", f"changed since: {', '.join(changed)}")


def _signed(case: Case) -> Iterator[Problem]:
    owners, (found, digest) = case.documents.owners, case.lock
    decision = owners.decisions.get(case.gate)
    if decision is None:
        raise Unknown(f"who decides on the gate '{case.gate}'", "Write it in owners.yaml.")
    signatures = [each for each in case.documents.rollout.sign_offs if each.gate == case.gate]
    for role in dict.fromkeys((decision.decider, *decision.signs)):
        given = [each for each in signatures if each.role == role]
        valid = [each for each in given if each.evidence == digest]
        who = f"the role '{role}' ({owners.holder(role) or 'nobody yet'})"
        if not given:
            yield Problem("sign_offs", f"{who} has not signed")
        elif not valid:
            yield Problem("sign_offs", f"{who} signed something else than what is there now")
        elif valid[-1].name != owners.roles.get(role):
            told = f"{who} holds the role, and {valid[-1].name} signed"
            yield Problem("sign_offs", told, "Have the holder sign, or correct owners.yaml.")
        elif not found.produced_at.date() <= valid[-1].on <= case.now.date():
            told = f"{who} signed on {valid[-1].on}, and the lock is of {found.produced_at:%Y-%m-%d}"
            yield Problem("sign_offs", told, "Write the day on which it was signed.")


def _persons(said: str) -> set[str]:
    """The names and addresses in a text: ``Anna Abel <anna@example.org>`` is both of them."""
    said = seen(said)
    addresses = re.findall(r"[^\s<>(),;]+@[^\s<>(),;]+", said)
    names = re.split(r"[<>(),;]", re.sub(r"[^\s<>(),;]+@[^\s<>(),;]+", ",", said))
    return {" ".join(each.split()).casefold() for each in (*addresses, *names)} - {""}


def _not_trainer(case: Case) -> Iterator[Problem]:
    owners, (found, _) = case.documents.owners, case.lock
    if not _persons(found.trained_by):
        raise Unknown("who trained the model: the evidence lock does not say", "`pilot governance lock`.")
    trainers = _persons(found.trained_by) | _persons(owners.holder("model")) | _persons(case.last_trainer)
    for each in case.documents.rollout.sign_offs:
        if each.gate == case.gate and (each.role == "model" or _persons(each.name) & trainers):
            yield Problem("sign_offs", f"{each.name} trained the model and signed for it")


REQUIREMENTS = (
    Requirement("control.named", "shadow", "accountable", "Write how they are reached.", _named),
    Requirement("control.outside", "shadow", "platform", "Name one outside, as /var/lib/NAME.", _outside),
    Requirement("control.free", "shadow", "accountable", "Mend the cause, then `pilot arm`.", _free),
    Requirement("control.audited", "shadow", "platform", "Compare it with a backup.", _audited),
    Requirement("control.same_model", "early", "model", "Take the new model through shadow.", _same_model),
)
SIGNATURES = (
    Requirement("signatures.locked", "shadow", "accountable", "`pilot governance lock`, sign anew.", _locked),
    Requirement("signatures.signed", "shadow", "accountable", "Sign in rollout.yaml.", _signed),
    Requirement("signatures.not_trainer", "shadow", "accountable", "Somebody else signs.", _not_trainer),
)
