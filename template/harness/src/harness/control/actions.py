"""What people do to the control state. Each action is in force for the next request when it returns."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.control import audit, identity
from harness.control.identity import Actor
from harness.control.state import (
    LOCK,
    SENTINEL,
    Slot,
    State,
    StateUnreadable,
    read_state,
    replace,
    sync_folder,
    write_state,
    writing,
)
from harness.errors import PilotError

LIFTED = ".KILL.lifted"


@dataclass(frozen=True)
class Stop:
    """What a kill has done. The stop itself is in force in any case.

    Attributes:
        state: The state in force; None when the latch was not written to one.
        missing: What could not be written beside the sentinel, and why; nothing when all was.
    """

    state: State | None
    missing: tuple[str, ...] = ()


def kill(folder: Path, *, reason: str, who: Actor | None = None) -> Stop:
    """Stop every model: from now on the fallback decides.

    The sentinel comes first and is enough by itself; the latch in the state is a second stop, so that
    deleting either of the two starts nothing. Neither a damaged state nor a failing audit holds a kill up.

    Args:
        folder: The control folder.
        reason: Why.
        who: Who stops; by default the account.

    Returns:
        What was written beyond the sentinel, and what could not be.

    Raises:
        PilotError: The sentinel could not be written.
    """
    name = (who or identity.account()).name
    reason = printable(reason)
    _write_sentinel(folder, name, reason)
    state = None
    missing = []
    # The stop is in force by now. A lock that another process holds, a damaged state, a full disk or a
    # read-only log keep the second stop or the audit line away, and never undo the first.
    try:
        with writing(folder, wait_s=2.0):
            if not os.path.lexists(folder / SENTINEL):
                _write_sentinel(folder, name, reason)  # an `arm` that was already under way took it away
            try:
                state = _latch(folder, name, reason)
            except Exception as error:
                missing.append(f"the latch in state.json ({why(error)})")
            try:
                revision = state.rev if state else None
                audit.append(folder, actor=name, action="kill", reason=reason, revision=revision)
            except Exception as error:
                missing.append(f"the line in {audit.AUDIT} ({why(error)})")
    except Exception as error:
        if not os.path.lexists(folder / SENTINEL):
            raise
        missing.append(f"the latch in state.json and the line in {audit.AUDIT} ({why(error)})")
    return Stop(state, tuple(missing))


def _latch(folder: Path, who: str, reason: str) -> State | None:
    found = read_state(folder)
    if found is None:
        return None
    latched = following(found, who, reason, latched=True)
    write_state(folder, latched)
    return latched


def why(error: Exception) -> str:
    """What went wrong, in a few words; of what nobody foresaw, its kind too."""
    if isinstance(error, PilotError):
        return error.what
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, StateUnreadable) else f"{type(error).__name__}: {error}"


def arm(folder: Path, *, reason: str, who: Actor | None = None) -> State:
    """Let the models that the state names decide again, and be promoted again where that was held.

    The audit is written before anything starts: what cannot be recorded is not done.

    Raises:
        PilotError: There is no readable state, nothing is stopped, somebody stopped the model anew meanwhile,
            or the audit or the state cannot be written.
    """
    name = (who or identity.account()).name
    reason = printable(reason)
    with writing(folder):
        stop = _sentinel(folder)
        state = _readable(folder)
        if not state.latched and stop is None and not state.held:
            raise PilotError(
                "nothing is stopped", where=str(folder), mend="`pilot status` shows what is in force."
            )
        latched = stop is not None and not state.latched
        if latched:
            state = following(state, name, reason, latched=True)
        armed = following(state, name, reason, latched=False, held=False)
        record(folder, name, "arm", reason, armed.rev)
        with telling(folder):
            if latched:
                # While the sentinel is taken away the latch stops the model, whatever crash comes in between.
                write_state(folder, state)
            aside = None if stop is None else _taken_aside(folder, stop)
            try:
                write_state(folder, armed)
            except BaseException:
                if aside is not None and not os.path.lexists(folder / SENTINEL):
                    aside.rename(folder / SENTINEL)
                raise
            with contextlib.suppress(OSError):  # under its new name it stops nothing
                _remove(folder / LIFTED)
    return armed


def offer(folder: Path, *, digest: str, flag_key: str, reason: str) -> State | None:
    """Name a newly packaged model the challenger, for every entity, in the sandbox.

    A stop stays in force: a new model is no reason to start again, nor where the state was deleted.

    Returns:
        The state in force, or None when the pilot has left the sandbox, where only a promotion names models.

    Raises:
        PilotError: The state cannot be read, or the audit cannot be written.
    """
    who = identity.account().name
    with writing(folder):
        state = existing(folder)
        if state is not None and state.stage != "sandbox":
            return None
        slot = Slot(digest=digest, pct=100)
        if state is not None and state.challenger == slot:
            return state
        if state is None:
            offered = State(
                rev=1,
                stage="sandbox",
                challenger=slot,
                flag_key=flag_key,
                # A state that somebody deleted was a stop, and a new one is no reason to start again.
                latched=os.path.lexists(folder / SENTINEL) or audit.of_a_state(folder),
                actor=who,
                reason=reason,
                changed_at=now(),
            )
        else:
            offered = following(state, who, reason, latched=state.latched, challenger=slot)
        record(folder, who, "offer", reason, offered.rev)
        with telling(folder):
            write_state(folder, offered)
    return offered


def sample(folder: Path, percent: int, *, reason: str, who: Actor | None = None) -> State:
    """Run the challenger beside for that share of the entities for which it does not decide.

    It changes no decision, so one person does it, in every stage. The audit is written first.

    Raises:
        PilotError: There is no readable state, or the audit or the state cannot be written.
    """
    name = (who or identity.account()).name
    with writing(folder):
        state = _readable(folder)
        if state.shadow_pct == percent:
            return state
        sampled = following(state, name, reason, shadow_pct=percent)
        record(folder, name, "sample", f"{percent}%: {printable(reason)}", sampled.rev)
        with telling(folder):
            write_state(folder, sampled)
    return sampled


def following(state: State, who: str, reason: str, **changes: Any) -> State:
    """The state that comes after ``state``, with its changes, signed and dated."""
    signed = {"rev": state.rev + 1, "actor": who, "reason": printable(reason), "changed_at": now()}
    return state.model_copy(update={**changes, **signed})


def _write_sentinel(folder: Path, who: str, reason: str) -> None:
    note = {"at": now(), "actor": who, "reason": reason}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / SENTINEL, json.dumps(note, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        if not _empty_sentinel(folder):
            raise PilotError(
                f"THE MODEL WAS NOT STOPPED: the sentinel cannot be written ({error.strerror})",
                where=str(folder / SENTINEL),
                mend=f"Create that file by any means, or delete {folder / 'state.json'}; either stops it.",
            ) from error


def _empty_sentinel(folder: Path) -> bool:
    """Whether a sentinel that says nothing could be made, on a disk that has no room for one that does."""
    sentinel = folder / SENTINEL
    # An empty file needs no data block, and a second name of a file that is there not even an inode.
    with contextlib.suppress(OSError):
        try:
            sentinel.touch()
        except OSError:
            os.link(folder / LOCK, sentinel)
        sync_folder(folder)
    return os.path.lexists(sentinel)


def _sentinel(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(folder / SENTINEL)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _taken_aside(folder: Path, stop: tuple[int, int]) -> Path:
    # Only the stop that was there when somebody decided to arm. A `kill` does not wait long for the lock, so
    # a newer sentinel may lie here by now: take it aside, look at what was taken, and put a newer one back.
    aside = folder / LIFTED
    _remove(aside)  # left by an `arm` that a crash cut short
    (folder / SENTINEL).rename(aside)
    found = os.lstat(aside)
    if (found.st_ino, found.st_mtime_ns) != stop:
        aside.rename(folder / SENTINEL)
        raise PilotError(
            "somebody stopped the model anew meanwhile, so nothing was started",
            where=str(folder / SENTINEL),
            mend="`pilot audit` says who and why.",
        )
    return aside


def _remove(file: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(file).st_mode):
            file.rmdir()
        else:
            file.unlink()


@contextlib.contextmanager
def telling(folder: Path) -> Iterator[None]:
    """Tell a disk that does not take a change as a mistake that somebody can mend."""
    try:
        yield
    except OSError as error:
        raise PilotError(
            f"the control state cannot be changed: {error.strerror}",
            where=str(error.filename or folder),
            mend="Free the disk or make the folder writable; `pilot status` shows what is in force.",
        ) from error


def printable(reason: str) -> str:
    """A reason that can be written; what cannot is replaced."""
    # A terminal that speaks no UTF-8 hands over bytes that are no text; a stop must not fail on them.
    return reason.encode(errors="replace").decode()


def existing(folder: Path) -> State | None:
    """The state in force; None when none was ever written.

    Raises:
        PilotError: It cannot be trusted.
    """
    try:
        return read_state(folder)
    except StateUnreadable as error:
        raise PilotError(
            f"the control state cannot be trusted: {error}",
            where=str(folder),
            mend="The fallback decides meanwhile. Restore state.json from a backup, or delete it, then "
            "`pilot run` and `pilot arm` to start again in the sandbox.",
        ) from error


def _readable(folder: Path) -> State:
    state = existing(folder)
    if state is None:
        raise PilotError(
            "there is no control state", where=str(folder), mend="Run `pilot run` to package a model first."
        )
    return state


def record(folder: Path, who: str, action: str, reason: str, revision: int | None) -> None:
    """Write the audit's line, before anything is changed.

    Raises:
        PilotError: It cannot be written.
    """
    try:
        audit.append(folder, actor=who, action=action, reason=reason, revision=revision)
    except OSError as error:
        raise PilotError(
            f"the audit cannot be written, so nothing was changed: {error.strerror}",
            where=str(folder / audit.AUDIT),
            mend="Free the disk or make the file writable.",
        ) from error


def now() -> str:
    """The time, as the state and the audit write it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
