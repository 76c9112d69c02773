"""state.json: the stage, the two models and their shares, with a checksum and a revision.

The file has one writer, the local ``pilot`` command, which holds a lock while it changes it. A change is
written beside, flushed to the disk and renamed into place, so a reader sees the old state or the new one and
a crash leaves one of the two. The checksum finds accidents; file permissions stop people.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.control.sealed import Damaged, seal, unseal
from harness.errors import PilotError

STATE = "state.json"
SENTINEL = "KILL"
LOCK = "lock"
ALL = 100
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC

Stage = Literal["sandbox", "shadow", "early", "broad", "full"]
STAGES: tuple[Stage, ...] = ("sandbox", "shadow", "early", "broad", "full")


class StateUnreadable(Exception):
    """state.json is damaged or says something that cannot be; never a reason to run the model."""


class Slot(BaseModel):
    """A model that the state names.

    Attributes:
        digest: The packaged model's digest, 64 hexadecimal digits.
        pct: The share of entities, 0 to 100, for which it decides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    pct: int = Field(ge=0, le=100)


class State(BaseModel):
    """What is in force.

    Attributes:
        schema_version: The layout of this file; a reader refuses one that it does not know.
        rev: Grows by one with every change.
        stage: Where the rollout stands.
        champion: The model that decides outside the challenger's share.
        challenger: The model on trial; it decides for its share of the entities.
        shadow_pct: The share of the other entities, 0 to 100, for which the challenger is run beside. At its
            default it is not written, so that a harness which does not know it reads the file all the same.
        flag_key: The rollout group's name; buckets are drawn from it, so it never changes.
        latched: Stopped; only a person starts it again.
        held: Nothing is promoted until a person arms; who decides stays as it is.
        actor: Who made this change.
        reason: Why.
        changed_at: When, ISO 8601, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    rev: int = Field(ge=1)
    stage: Stage
    champion: Slot | None = None
    challenger: Slot | None = None
    shadow_pct: int = Field(default=ALL, ge=0, le=ALL)
    flag_key: str = Field(min_length=1)
    latched: bool = False
    held: bool = False
    actor: str
    reason: str
    changed_at: str


def read_state(folder: Path) -> State | None:
    """The state in force; None when none was ever written.

    Raises:
        StateUnreadable: The file is there and cannot be trusted.
    """
    file = folder / STATE
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateUnreadable(f"{file}: {error.strerror}") from error
    return parse_state(text, where=str(file))


def parse_state(text: bytes, *, where: str) -> State:
    """Read a state from the file's bytes.

    Raises:
        StateUnreadable: Not JSON, an unknown schema, a wrong checksum, or a value out of range.
    """
    try:
        return unseal(text, State, where=where)
    except Damaged as error:
        raise StateUnreadable(str(error)) from error


def write_state(folder: Path, state: State) -> None:
    """Put a state in force. The caller holds the lock."""
    document = state.model_dump(mode="json")
    if state.shadow_pct == ALL:
        del document["shadow_pct"]
    replace(folder / STATE, seal(document))


def replace(file: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file so that a reader or a crash finds the old content or the new one, never a part.

    Args:
        file: The file.
        content: All that is to be in it.
        private: Whether only the account that the folder belongs to may read it.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, _NEW, 0o600 if private else 0o666), "wb") as stream:
            if private:
                os.fchmod(stream.fileno(), 0o600)
                _give(stream.fileno(), file.parent)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def _give(descriptor: int, folder: Path) -> None:
    # What root writes is for the account that serves: it could not read root's own.
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def share(file: Path) -> None:
    """Let whoever may write the folder write the file too, which a umask would keep from them.

    A folder that a group may write is how a pilot is operated by several accounts, and a promotion needs two.
    """
    with suppress(OSError):  # only its owner can, and did
        found, above = file.stat(), file.parent.stat()
        if above.st_mode & stat.S_IWGRP and not found.st_mode & stat.S_IWGRP:
            os.chown(file, -1, above.st_gid)
            file.chmod(stat.S_IMODE(found.st_mode) | stat.S_IWGRP | stat.S_IRGRP)


def sync_folder(folder: Path) -> None:
    """Make a rename, creation or deletion in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(folder: Path, *, wait_s: float = 30.0, lock: str = LOCK) -> Iterator[None]:
    """Hold the writer's lock, or another one of the folder.

    Raises:
        PilotError: The folder cannot be written to, or another process holds the lock past ``wait_s``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / lock).open("ab")
    except OSError as error:
        raise PilotError(
            f"cannot be written to: {error.strerror}",
            where=str(folder),
            mend="Make the control folder writable for the account that operates this pilot.",
        ) from error
    with stream:
        share(folder / lock)
        _lock(stream, folder / lock, wait_s)
        yield


def _lock(stream: IO[bytes], file: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise PilotError(
                    f"another process has been changing the control state for {wait_s:g} s",
                    where=str(file),
                    mend="Find it with `fuser` or `lsof` on that file and end it.",
                ) from error
            time.sleep(0.02)
        except OSError as error:  # a file system without locks
            raise PilotError(
                f"the control state cannot be locked: {error.strerror}",
                where=str(file),
                mend="Keep the control folder on a file system of this host.",
            ) from error
        else:
            return
