"""Writers of several processes take turns in the order in which they came, whoever of them is killed."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.store.turns import NotInTime, Turns

Start = Callable[..., subprocess.Popen[str]]
Wait = Callable[..., Any]
HOLD = """
import sys
from pathlib import Path
from harness.store.turns import Turns

with Turns(Path(sys.argv[1])).turn(60):
    print("in", flush=True)
    sys.stdin.readline()
"""
HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from harness.store.turns import Turns

with Turns(Path(sys.argv[1])).turn(60):
    child = os.fork()
    if child == 0:
        os.close(1)
        time.sleep(60)
    print(child, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "decisions.db.turns"


def numbers(file: Path) -> int:
    return int.from_bytes(file.read_bytes()[:8], "little") if file.exists() else 0


def entering(file: Path, came: list[Any], name: Any, wait: Wait) -> threading.Thread:
    """One more in the queue, of a store of its own; it is in the queue when this returns."""
    before = numbers(file)

    def enter() -> None:
        with Turns(file).turn(30):
            came.append(name)

    thread = threading.Thread(target=enter)
    thread.start()
    wait(lambda: numbers(file) > before)
    return thread


def test_those_who_wait_come_in_the_order_in_which_they_came(file: Path, wait: Wait) -> None:
    came: list[int] = []
    with Turns(file).turn(5):
        waiting = [entering(file, came, number, wait) for number in range(6)]
        assert came == []
    for thread in waiting:
        thread.join(20)
    assert came == list(range(6))


def test_a_holder_that_is_killed_holds_nobody_up(file: Path, python: Start, wait: Wait) -> None:
    holder = python(HOLD, file)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    came: list[str] = []
    thread = entering(file, came, "next", wait)
    assert came == []
    holder.kill()
    thread.join(20)
    assert came == ["next"]


def test_one_that_is_killed_while_it_waits_lets_nobody_in_early(
    file: Path, python: Start, wait: Wait
) -> None:
    came: list[str] = []
    with Turns(file).turn(5):
        before = numbers(file)
        killed = python(HOLD, file)
        wait(lambda: numbers(file) > before)
        thread = entering(file, came, "behind", wait)
        killed.kill()
        killed.wait(20)
        with pytest.raises(NotInTime), Turns(file).turn(0.3):
            came.append("third")
        assert came == []
    thread.join(20)
    assert came == ["behind"]


def test_one_that_waited_in_vain_is_in_nobodys_way(file: Path, wait: Wait) -> None:
    came: list[str] = []
    impatient = Turns(file)
    with Turns(file).turn(5):
        for _ in range(3):
            with pytest.raises(NotInTime), impatient.turn(0.05):
                came.append("impatient")
        thread = entering(file, came, "behind", wait)
    thread.join(20)
    with impatient.turn(5):
        came.append("impatient")
    assert came == ["behind", "impatient"]


def test_a_fork_does_not_keep_its_dead_parents_turn(file: Path, python: Start) -> None:
    holder = python(HOLD_AND_FORK, file)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        holder.kill()
        holder.wait(20)
        with Turns(file).turn(20):
            os.kill(child, 0)  # it lives, and holds nothing
    finally:
        os.kill(child, 9)


def test_a_queue_whose_file_was_deleted_goes_on_with_a_new_one(file: Path) -> None:
    turns = Turns(file)
    with turns.turn(5):
        pass
    file.unlink()
    with turns.turn(5):
        assert numbers(file) == 2
        with pytest.raises(NotInTime), Turns(file).turn(0.05):
            pass


def test_where_no_file_can_be_written_writers_of_one_process_still_take_turns(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "no folder" / "turns")
    with turns.turn(5), pytest.raises(NotInTime), turns.turn(0.05):
        pass
