"""Many processes at once, and processes that die: no torn read, no lost change, and a stop that stays."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.control import Arm, Control, State, Why, arm, kill, read_audit, read_state

Put = Callable[..., State]
Start = Callable[..., subprocess.Popen[str]]

WRITE = """
import sys
from pathlib import Path
from harness.control.state import read_state, write_state, writing

folder = Path(sys.argv[1])
for number in range(int(sys.argv[2])):
    with writing(folder):
        state = read_state(folder)
        longer = "x" * (state.rev % 7 * 3000)
        write_state(folder, state.model_copy(update={"rev": state.rev + 1, "reason": longer}))
"""
READ = """
import sys
from pathlib import Path
from harness.control import Control

control, seen, last = Control(Path(sys.argv[1])), 0, 0
while last < int(sys.argv[2]):
    found = control.permission("plot 1")
    assert found.arm == "champion", found
    assert found.revision >= last, (found, last)
    seen += found.revision != last
    last = found.revision
print(seen)
"""
KILL_AND_ARM = """
import sys
from pathlib import Path
from harness.control import arm, kill
from harness.errors import PilotError

for number in range(int(sys.argv[2])):
    kill(Path(sys.argv[1]), reason=f"off {number}")
    try:
        arm(Path(sys.argv[1]), reason=f"on {number}")
    except PilotError as error:
        assert "nothing is stopped" in str(error) or "anew" in str(error), error
"""


def ended(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return output


def test_11_a_thousand_writes_by_four_processes_lose_nothing_and_tear_nothing(
    put: Put, folder: Path, python: Start
) -> None:
    put()
    readers = [python(READ, folder, 1001) for _ in range(2)]
    writers = [python(WRITE, folder, 250) for _ in range(4)]
    for process in writers:
        ended(process)
    state = read_state(folder)
    assert state is not None
    assert state.rev == 1001
    for process in readers:
        assert int(ended(process)) > 1


def test_13_a_writer_that_is_killed_leaves_the_old_state_or_the_new_one(
    put: Put, folder: Path, python: Start, reader: Control, wait: Callable[..., Any]
) -> None:
    put()
    chance = random.Random(4)
    for _ in range(5):
        before = reader.permission("plot 1").revision
        process = python(WRITE, folder, 1_000_000)
        wait(lambda before=before: reader.permission("plot 1").revision > before + 3)
        end = time.monotonic() + chance.uniform(0, 0.05)
        while time.monotonic() < end:
            assert reader.permission("plot 1").arm is Arm.CHAMPION
        process.kill()
        process.wait(timeout=20)
        found = reader.permission("plot 1")
        assert found.arm is Arm.CHAMPION
        assert found.revision > before
    # The dead writers' lock is free and what they left beside does not matter.
    kill(folder, reason="after all that")
    assert reader.permission("plot 1").why is Why.KILLED
    assert reader.permission("plot 1").revision == found.revision + 1


def test_kills_and_arms_of_many_processes_make_one_audit_and_the_last_kill_holds(
    put: Put, folder: Path, python: Start, reader: Control
) -> None:
    put()
    for process in [python(KILL_AND_ARM, folder, 15) for _ in range(3)]:
        ended(process)
    kill(folder, reason="the last word")
    assert reader.permission("plot 1").why is Why.KILLED
    entries = read_audit(folder)  # raises if two entries followed the same one
    assert [entry["action"] for entry in entries].count("kill") > 1
    state = read_state(folder)
    assert state is not None
    assert state.rev == entries[-1]["revision"]
    assert arm(folder, reason="all over").rev == state.rev + 1


def test_a_kill_in_one_process_is_seen_in_another_that_has_long_been_reading(
    put: Put, folder: Path, python: Start
) -> None:
    put()
    code = """
import sys
from pathlib import Path
from harness.control import Control

control = Control(Path(sys.argv[1]))
for line in sys.stdin:
    print(control.permission("plot 1").why.value, flush=True)
"""
    process = python(code, folder)
    assert process.stdin is not None
    assert process.stdout is not None

    def ask() -> str:
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    assert [ask() for _ in range(50)] == ["assigned"] * 50
    kill(folder, reason="now")
    assert ask() == "killed"
    arm(folder, reason="again")
    assert ask() == "assigned"
