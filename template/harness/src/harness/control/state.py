"""state.json: the stage, the two models and their shares, with a checksum and a revision.

The file has one writer, the local ``pilot`` command, which holds a lock while it changes it. A change is
written beside, flushed to the disk and renamed into place, so a reader sees the old state or the new one and
a crash leaves one of the two. The checksum finds accidents; file permissions stop people.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import PilotError

STATE = "state.json"
SENTINEL = "KILL"
LOCK = "lock"

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
        flag_key: The rollout group's name; buckets are drawn from it, so it never changes.
        latched: Stopped; only a person starts it again.
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
    flag_key: str = Field(min_length=1)
    latched: bool = False
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
        document = json.loads(text)
        if not isinstance(document, dict):
            raise StateUnreadable(f"{where}: not a JSON object")
        stated = document.pop("sha256", None)
        found = _checksum(document)
    except (ValueError, RecursionError) as error:  # half a surrogate pair is JSON and has no UTF-8
        raise StateUnreadable(f"{where}: not JSON") from error
    if stated != found:
        raise StateUnreadable(f"{where}: the checksum does not fit the content")
    if type(document.get("schema_version")) is not int:  # true == 1, and a Literal compares by value
        raise StateUnreadable(f"{where}: schema_version: not a whole number")
    try:
        return State.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise StateUnreadable(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def write_state(folder: Path, state: State) -> None:
    """Put a state in force. The caller holds the lock."""
    document = state.model_dump(mode="json")
    document["sha256"] = _checksum(document)
    replace(folder / STATE, json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")


def replace(file: Path, content: bytes) -> None:
    """Write a file so that a reader or a crash finds the old content or the new one, never a part."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename, creation or deletion in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(folder: Path, *, wait_s: float = 30.0) -> Iterator[None]:
    """Hold the writer's lock.

    Raises:
        PilotError: The folder cannot be written to, or another process holds the lock past ``wait_s``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("ab")
    except OSError as error:
        raise PilotError(
            f"cannot be written to: {error.strerror}",
            where=str(folder),
            mend="Make the control folder writable for the account that operates this pilot.",
        ) from error
    with stream:
        _lock(stream, folder, wait_s)
        yield


def _lock(stream: IO[bytes], folder: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise PilotError(
                    f"another process has been changing the control state for {wait_s:g} s",
                    where=str(folder / LOCK),
                    mend="Find it with `fuser` or `lsof` on that file and end it.",
                ) from error
            time.sleep(0.02)
        else:
            return


def _checksum(document: dict[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
