"""Who decides for this entity, right now.

Order of evaluation: KILL sentinel, state, latch, remote control, arm by bucket. Whatever is absent,
unreadable, too old or out of range leads to the fallback; nothing that is missing ever means "run the model".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import mmh3

from harness.control.remote import RemoteReader, RemoteRefusal, RemoteRule
from harness.control.state import SENTINEL, STATE, Slot, State, StateUnreadable, parse_state
from harness.control.watched import Watched


class Arm(StrEnum):
    """What the rollout assigns an entity to."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    FALLBACK = "fallback"


class Why(StrEnum):
    """What led to who decided; stored with every decision."""

    ASSIGNED = "assigned"
    KILLED = "killed"
    LATCHED = "latched"
    REMOTE_KILLED = "remote_killed"
    REMOTE_STALE = "remote_stale"
    REMOTE_UNREADABLE = "remote_unreadable"
    NO_REMOTE = "no_remote"
    NO_STATE = "no_state"
    STATE_UNREADABLE = "state_unreadable"
    NO_ENTITY = "no_entity"
    NO_MODEL = "no_model"
    OUTSIDE_ROLLOUT = "outside_rollout"
    SHADOW_STAGE = "shadow_stage"
    REAL_DATA_IN_SANDBOX = "real_data_in_sandbox"
    LEFT_THE_SANDBOX = "left_the_sandbox"
    MODEL_UNAVAILABLE = "model_unavailable"
    MODEL_FAILED = "model_failed"
    MODEL_DIED = "model_died"
    MODEL_BUSY = "model_busy"
    MODEL_TOO_SLOW = "model_too_slow"
    SCORE_INVALID = "score_invalid"
    BREAKER_OPEN = "breaker_open"
    MODEL_REPLACED = "model_replaced"
    OVERLOADED = "overloaded"


REMOTE_REFUSALS = frozenset(Why(refusal.value) for refusal in RemoteRefusal)


@dataclass(frozen=True)
class Permission:
    """Who decides for one entity.

    Attributes:
        arm: The arm that the rollout assigns.
        why: What led to it.
        digest: The assigned model's digest; None for the fallback.
        revision: The state's revision; 0 when there is no readable state.
        stage: The stage; ``unknown`` when there is no readable state.
        bucket: The entity's bucket, 1 to 100; None when it was not drawn.
        shadow: The digest of the model that is run beside and decides nothing; None for none.
    """

    arm: Arm
    why: Why
    digest: str | None = None
    revision: int = 0
    stage: str = "unknown"
    bucket: int | None = None
    shadow: str | None = None


class Control:
    """Reads the control folder on every question; a change holds for the next question asked.

    Args:
        folder: The control folder.
        remote: What pilot.toml asks of a remote control; None where it names none.
    """

    def __init__(self, folder: Path, remote: RemoteRule | None = None) -> None:
        self.folder = folder
        self.remote = RemoteReader(folder, remote)
        self._sentinel = str(folder / SENTINEL)
        self._file = str(folder / STATE)
        self._watched: Watched[State | StateUnreadable] = Watched(
            folder / STATE, self._parsed, lambda error: StateUnreadable(f"{self._file}: {error.strerror}")
        )

    def permission(self, entity: str) -> Permission:
        """Who decides for ``entity``. Never raises: what cannot be known is answered by the fallback."""
        stopped = self.killed()
        state = self._watched.read()
        if not isinstance(state, State):
            why = Why.KILLED if stopped else Why.NO_STATE if state is None else Why.STATE_UNREADABLE
            return Permission(Arm.FALLBACK, why)
        arm, why, slot, number = self._assign(state, entity, stopped)
        beside = _beside(state, entity, stopped or why in REMOTE_REFUSALS, arm)
        return Permission(arm, why, slot.digest if slot else None, state.rev, state.stage, number, beside)

    def may_shadow(self, digest: str) -> bool:
        """Whether that model may still be run beside: what was queued before a stop is not run after it."""
        state = self._watched.read()
        if not isinstance(state, State):
            return False
        refused = isinstance(self.remote.share(state.flag_key), RemoteRefusal)
        return digest == _on_trial(state, refused or self.killed())

    def killed(self) -> bool:
        """Whether the KILL sentinel is there, or its absence cannot be established."""
        try:
            # Not stat: a link that leads nowhere is a sentinel too.
            os.lstat(self._sentinel)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def state(self) -> State | None:
        """The state in force; None when none was ever written.

        Raises:
            StateUnreadable: The file is there and cannot be trusted.
        """
        state = self._watched.read()
        if isinstance(state, StateUnreadable):
            raise state
        return state

    def _assign(self, state: State, entity: str, stopped: bool) -> tuple[Arm, Why, Slot | None, int | None]:
        if stopped:
            return Arm.FALLBACK, Why.KILLED, None, None
        if state.latched:
            return Arm.FALLBACK, Why.LATCHED, None, None
        allowed = self.remote.share(state.flag_key)
        if isinstance(allowed, RemoteRefusal):
            return Arm.FALLBACK, Why(allowed.value), None, None
        # The stage is the challenger's. A champion goes on deciding for its share in every stage.
        in_shadow = state.stage == "shadow"
        if in_shadow and state.champion is None:
            return Arm.FALLBACK, Why.SHADOW_STAGE, None, None
        if state.champion is None and state.challenger is None:
            return Arm.FALLBACK, Why.NO_MODEL, None, None
        if not entity:
            return Arm.FALLBACK, Why.NO_ENTITY, None, None
        number = bucket(state.flag_key, entity)
        if number > allowed:
            return Arm.FALLBACK, Why.OUTSIDE_ROLLOUT, None, number
        if state.challenger is not None and not in_shadow and number <= state.challenger.pct:
            return Arm.CHALLENGER, Why.ASSIGNED, state.challenger, number
        if state.champion is not None and number <= state.champion.pct:
            return Arm.CHAMPION, Why.ASSIGNED, state.champion, number
        return Arm.FALLBACK, Why.OUTSIDE_ROLLOUT, None, number

    def _parsed(self, text: bytes) -> State | StateUnreadable:
        try:
            return parse_state(text, where=self._file)
        except StateUnreadable as error:
            return error


def _on_trial(state: State, stopped: bool) -> str | None:
    """The challenger's digest, while anything may run at all."""
    if stopped or state.latched or state.challenger is None:
        return None
    return state.challenger.digest


def _beside(state: State, entity: str, stopped: bool, arm: Arm) -> str | None:
    """The challenger, for whomever it does not decide itself; without an entity it never would."""
    digest = _on_trial(state, stopped)
    if digest is None or arm is Arm.CHALLENGER or not entity:
        return None
    # Of another group, so that the sample is not the part of the entities that the rollout reaches first.
    sampled = bucket(f"{state.flag_key}:shadow", entity) <= state.shadow_pct
    return digest if sampled else None


def bucket(group: str, entity: str) -> int:
    """The entity's bucket in the group, 1 to 100, stable over restarts, hosts and stages.

    MurmurHash3 (x86, 32 bits, seed 0) of ``group:entity``, as Unleash draws it, so that a move to Unleash
    reassigns nobody.
    """
    named = f"{group}:{entity}".encode(errors="replace")
    return int(mmh3.hash(named, 0, signed=False)) % 100 + 1
