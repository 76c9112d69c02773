"""Each way to stop a model, by itself, with everything else as it is when the model decides."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from harness.control import SENTINEL
from harness.control.state import STATE, replace
from harness.drills.load import Answer, Caller
from harness.drills.outcome import Checks
from harness.drills.scratch import ScratchPilot

REASON = ("--reason", "a drill")
ASKED = 12
AT_ONCE = 4
WITHIN_S = 30.0
AN_HOUR_NS = 3_600_000_000_000

Way = Callable[[Path], AbstractContextManager[None]]


def each_way(pilot: ScratchPilot, caller: Caller, checks: Checks) -> None:
    """Stop in every way, see the fallback decide, undo it, and see the model decide again."""
    _latch_alone(pilot, caller, checks)
    for name, way in WAYS.items():
        _stopped_by(name, partial(way, pilot.control), caller, checks)


def decides(caller: Caller, *, within_s: float = WITHIN_S) -> bool:
    """Whether a model decides, now or soon: a busy machine makes one late now and then."""
    deadline = time.monotonic() + within_s
    while not caller.ask().by_model:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def by_fallback(checks: Checks, name: str, answers: Sequence[Answer]) -> None:
    """Note whether every request was answered, and by the fallback."""
    stopped = [each for each in answers if each.status == 200 and each.served_by == "fallback"]
    whys = sorted({each.why for each in answers if each not in stopped or each.why})
    told = f"{len(stopped)} of {len(answers)} requests were decided by the fallback ({', '.join(whys)})"
    checks.that(name, len(stopped) == len(answers) > 0, told)


def _stopped_by(
    name: str, way: Callable[[], AbstractContextManager[None]], caller: Caller, checks: Checks
) -> None:
    if not decides(caller):
        checks.unknown(name, f"the model did not decide before: {caller.last}")
        return
    with way():
        by_fallback(checks, name, caller.ask_all(ASKED, AT_ONCE))


@contextmanager
def _kill_file(control: Path) -> Iterator[None]:
    (control / SENTINEL).touch()
    try:
        yield
    finally:
        (control / SENTINEL).unlink()


@contextmanager
def _state_as(control: Path, content: bytes | None, *, age_ns: int = 0) -> Iterator[None]:
    """state.json with other content, or none at all, for a while."""
    file = control / STATE
    before, found = file.read_bytes(), file.stat()
    if content is None:
        file.unlink()
    else:
        beside = file.with_name("restored")
        beside.write_bytes(content)
        os.utime(beside, ns=(found.st_atime_ns, found.st_mtime_ns - age_ns))
        beside.replace(file)
    try:
        yield
    finally:
        replace(file, before)


def _deleted(control: Path) -> AbstractContextManager[None]:
    return _state_as(control, None)


def _emptied(control: Path) -> AbstractContextManager[None]:
    return _state_as(control, b"")


def _truncated(control: Path) -> AbstractContextManager[None]:
    content = (control / STATE).read_bytes()
    return _state_as(control, content[: len(content) // 2])


WAYS: dict[str, Way] = {
    "file.kill": _kill_file,
    "file.deleted": _deleted,
    "file.emptied": _emptied,
    "file.truncated": _truncated,
}


def _latch_alone(pilot: ScratchPilot, caller: Caller, checks: Checks) -> None:
    """The stop in the state holds without the KILL file, and also when an old copy of it comes back."""
    if not decides(caller):
        checks.unknown("file.latch", f"the model did not decide before: {caller.last}")
        return
    done = pilot.copy.run("kill", *REASON)
    (pilot.control / SENTINEL).unlink(missing_ok=True)
    stopped = (pilot.control / STATE).read_bytes()
    if done.code == 0:
        by_fallback(checks, "file.latch", caller.ask_all(ASKED, AT_ONCE))
    else:
        checks.that("file.latch", False, f"`pilot kill` ended with exit code {done.code}")
    done = pilot.copy.run("arm", *REASON)
    if done.code != 0:
        checks.that("file.latch_lifted", False, f"`pilot arm` ended with exit code {done.code}")
    _stopped_by(
        "file.older_stop",
        partial(_state_as, pilot.control, stopped, age_ns=AN_HOUR_NS),
        caller,
        checks,
    )
