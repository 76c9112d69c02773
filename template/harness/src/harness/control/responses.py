"""What a monitor does to the control state: hold promotions, or take the model back to shadow.

Both only ever restrict. So they are done first and recorded second, as a kill is; and what is in force
already is not done again, however often a monitor runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.control import actions, audit
from harness.control.identity import actor
from harness.control.permission import Control
from harness.control.state import Slot, State, StateUnreadable, read_state, write_state, writing
from harness.errors import PilotError

Action = Literal["hold", "rollback", "kill"]


@dataclass(frozen=True)
class Response:
    """What came of an action.

    Attributes:
        action: What is in force now. A rollback that could not be written has become a kill.
        taken: Whether it was done now; False when it was in force before.
        state: The state in force; None when there is no readable one.
        missing: What could not be written beside it, and why.
    """

    action: Action
    taken: bool
    state: State | None
    missing: tuple[str, ...] = ()


def respond(folder: Path, action: Action, *, reason: str, of: str = "") -> Response:
    """Take an action, unless it is in force.

    Args:
        folder: The control folder.
        action: The action.
        reason: Why.
        of: For a rollback: the digest of the model that gave the reason; the one on trial when empty.

    Raises:
        PilotError: It could not be done.
    """
    if action == "rollback":
        return roll_back(folder, reason=reason, of=of)
    return {"hold": hold, "kill": stop}[action](folder, reason=reason)


def hold(folder: Path, *, reason: str) -> Response:
    """Let nothing be promoted until a person arms. Who decides stays as it is.

    Raises:
        PilotError: There is no readable state, or it cannot be written.
    """
    return _change(folder, "hold", reason, lambda state: {} if state.held else {"held": True})


def roll_back(folder: Path, *, reason: str, of: str = "", who: str = "") -> Response:
    """Take the model back to shadow in one step, in the sandbox not even that.

    Where a champion decided beside the model on trial, it goes on, and nothing is promoted until a person
    arms. Everywhere else the fallback decides until then.

    If the state cannot be changed, the models are stopped by a kill instead.

    Args:
        folder: The control folder.
        reason: Why.
        of: The digest of the model that gave the reason; the one on trial when empty.
        who: Who does it, by name; by default the account.

    Raises:
        PilotError: Neither could be written.
    """

    def wanted(state: State) -> dict[str, Any]:
        back = _rolled_back(state, of)
        return {} if all(getattr(state, name) == value for name, value in back.items()) else back

    try:
        return _change(folder, "rollback", reason, wanted, who)
    except Exception as error:
        said = actions.why(error)
        stopped = stop(folder, reason=f"{reason} (a rollback was not possible: {said})")
        return Response("kill", stopped.taken, stopped.state, (f"the rollback ({said})", *stopped.missing))


def _rolled_back(state: State, of: str) -> dict[str, Any]:
    """What is in force after a rollback."""
    if state.stage == "sandbox":
        return {"latched": True}
    champion, challenger = state.champion, state.challenger
    if challenger is None and champion is not None:
        # In the last stage the model is the champion itself: left in that place, it would decide for
        # everybody again as soon as somebody arms.
        champion, challenger = None, champion
    back = {
        "stage": "shadow",
        "champion": champion,
        "challenger": challenger and Slot(digest=challenger.digest, pct=0),
    }
    to_blame = champion is None or champion.digest == of
    return {**back, "latched": True} if to_blame else {**back, "held": True}


def stop(folder: Path, *, reason: str) -> Response:
    """Kill, unless the sentinel is there already.

    Raises:
        PilotError: The sentinel could not be written.
    """
    if Control(folder).killed():
        return Response("kill", False, _readable(folder))
    done = actions.kill(folder, reason=reason)
    return Response("kill", True, done.state, done.missing)


def _change(
    folder: Path, action: Action, reason: str, wanted: Callable[[State], dict[str, Any]], who: str = ""
) -> Response:
    with writing(folder):
        try:
            state = read_state(folder)
        except StateUnreadable as error:
            raise PilotError(
                f"the control state cannot be trusted: {error}",
                where=str(folder),
                mend="The fallback decides meanwhile. Restore state.json from a backup.",
            ) from error
        if state is None:
            raise PilotError("there is no control state", where=str(folder), mend="Run `pilot run` first.")
        changes = wanted(state)
        if not changes:
            return Response(action, False, state)
        after = actions.following(state, who or actor(), reason, **changes)
        try:
            write_state(folder, after)
        except OSError as error:
            raise PilotError(
                f"the control state cannot be changed: {error.strerror}",
                where=str(error.filename or folder),
                mend="Free the disk or make the folder writable.",
            ) from error
        # In force by now. Whatever is wrong with the record, a stop beats it, and what is missing is said.
        try:
            audit.append(folder, actor=after.actor, action=action, reason=after.reason, revision=after.rev)
        except Exception as error:
            return Response(action, True, after, (f"the line in {audit.AUDIT} ({actions.why(error)})",))
    return Response(action, True, after)


def _readable(folder: Path) -> State | None:
    try:
        return read_state(folder)
    except StateUnreadable:
        return None
