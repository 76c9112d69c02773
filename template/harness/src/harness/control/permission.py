"""Who decides for this entity, right now.

Order of evaluation: KILL sentinel, state, latch, arm by bucket. Whatever is absent, unreadable or out of
range leads to the fallback; nothing that is missing ever means "run the model".
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import mmh3

from harness.control.state import SENTINEL, STATE, Slot, State, StateUnreadable, parse_state

Key = tuple[int, int, int, int]

SETTLED_AFTER_NS = 100_000_000


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
    NO_STATE = "no_state"
    STATE_UNREADABLE = "state_unreadable"
    NO_ENTITY = "no_entity"
    NO_MODEL = "no_model"
    OUTSIDE_ROLLOUT = "outside_rollout"
    SHADOW_STAGE = "shadow_stage"
    REAL_DATA_IN_SANDBOX = "real_data_in_sandbox"
    MODEL_UNAVAILABLE = "model_unavailable"
    MODEL_FAILED = "model_failed"
    MODEL_BUSY = "model_busy"
    MODEL_TOO_SLOW = "model_too_slow"
    SCORE_INVALID = "score_invalid"
    MODEL_REPLACED = "model_replaced"


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
    """

    arm: Arm
    why: Why
    digest: str | None = None
    revision: int = 0
    stage: str = "unknown"
    bucket: int | None = None


class Control:
    """Reads the control folder on every question; a change holds for the next question asked.

    There is no thread and no timer, so a fork, a pre-loaded worker and a restored file with an old
    modification time are all seen. Parsing is saved while the file's inode, both its times and its size
    stay the same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sentinel = str(folder / SENTINEL)
        self._file = str(folder / STATE)
        self._cached: tuple[Key, State | StateUnreadable] | None = None

    def permission(self, entity: str) -> Permission:
        """Who decides for ``entity``. Never raises: what cannot be known is answered by the fallback."""
        stopped = self.killed()
        state = self._state()
        if not isinstance(state, State):
            why = Why.KILLED if stopped else Why.NO_STATE if state is None else Why.STATE_UNREADABLE
            return Permission(Arm.FALLBACK, why)
        arm, why, slot, number = self._assign(state, entity, stopped)
        return Permission(arm, why, slot.digest if slot else None, state.rev, state.stage, number)

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
        state = self._state()
        if isinstance(state, StateUnreadable):
            raise state
        return state

    def _assign(self, state: State, entity: str, stopped: bool) -> tuple[Arm, Why, Slot | None, int | None]:
        if stopped:
            return Arm.FALLBACK, Why.KILLED, None, None
        if state.latched:
            return Arm.FALLBACK, Why.LATCHED, None, None
        if state.stage == "shadow":
            return Arm.FALLBACK, Why.SHADOW_STAGE, None, None
        if state.champion is None and state.challenger is None:
            return Arm.FALLBACK, Why.NO_MODEL, None, None
        if not entity:
            return Arm.FALLBACK, Why.NO_ENTITY, None, None
        number = bucket(state.flag_key, entity)
        if state.challenger is not None and number <= state.challenger.pct:
            return Arm.CHALLENGER, Why.ASSIGNED, state.challenger, number
        if state.champion is not None and number <= state.champion.pct:
            return Arm.CHAMPION, Why.ASSIGNED, state.champion, number
        return Arm.FALLBACK, Why.OUTSIDE_ROLLOUT, None, number

    def _state(self) -> State | StateUnreadable | None:
        try:
            found = os.stat(self._file)
            key = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
            if self._cached is not None and self._cached[0] == key:
                return self._cached[1]
            text = Path(self._file).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            return StateUnreadable(f"{self._file}: {error.strerror}")
        state: State | StateUnreadable
        try:
            state = parse_state(text, where=self._file)
        except StateUnreadable as error:
            state = error
        # A file system's clock may tick every few milliseconds, and two changes within one tick look alike.
        settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED_AFTER_NS
        self._cached = (key, state) if settled else None
        return state


def bucket(group: str, entity: str) -> int:
    """The entity's bucket in the group, 1 to 100, stable over restarts, hosts and stages.

    MurmurHash3 (x86, 32 bits, seed 0) of ``group:entity``, as Unleash draws it, so that a move to Unleash
    reassigns nobody.
    """
    named = f"{group}:{entity}".encode(errors="replace")
    return int(mmh3.hash(named, 0, signed=False)) % 100 + 1
