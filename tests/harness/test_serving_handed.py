"""What an event loop hands to a thread: nothing is lost or left lying, and the thread is woken once."""

from __future__ import annotations

import asyncio
import threading
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from harness.serving.handed import Handed

WITHIN_S = 10.0


class Woken(SimpleQueue[None]):
    """Counts how often somebody is woken."""

    count = 0

    def put(self, item: None, block: bool = True, timeout: float | None = None) -> None:
        self.count += 1
        super().put(item)


def taking(handed: Handed[Any], count: int) -> tuple[threading.Thread, list[Any]]:
    """A thread that takes so many things, and what it took."""
    taken: list[Any] = []

    def take() -> None:
        for _ in range(count):
            taken.append(handed.get())

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread, taken


def counted() -> tuple[Handed[Any], Woken]:
    handed: Handed[Any] = Handed()
    woken = handed._woken = Woken()
    return handed, woken


def test_a_loop_wakes_a_thread_once_for_all_that_it_hands_over_at_a_time() -> None:
    handed, woken = counted()
    thread, taken = taking(handed, 200)

    async def hand_over() -> None:
        loop = asyncio.get_running_loop()
        for turn in range(2):
            for number in range(100):
                handed.put((turn, number), loop)
            assert woken.count == turn  # not before the loop comes round
            await asyncio.sleep(0)
            assert woken.count == turn + 1
        await asyncio.to_thread(thread.join, WITHIN_S)

    asyncio.run(hand_over())
    assert taken == [(turn, number) for turn in range(2) for number in range(100)]


def test_a_thread_wakes_another_at_once() -> None:
    handed, woken = counted()
    thread, taken = taking(handed, 1)
    handed.put("a")
    thread.join(WITHIN_S)
    assert (taken, woken.count) == (["a"], 1)


def test_a_thread_does_not_wait_for_a_loop_that_is_about_to_wake() -> None:
    handed, _ = counted()
    thread, taken = taking(handed, 2)

    async def hand_over() -> None:
        handed.put("of the loop", asyncio.get_running_loop())
        other = threading.Thread(target=handed.put, args=("of a thread",))
        other.start()
        thread.join(WITHIN_S)  # the loop stands still meanwhile
        other.join()

    asyncio.run(hand_over())
    assert taken == ["of the loop", "of a thread"]


def test_what_a_loop_that_ended_left_lying_holds_up_no_other_loop() -> None:
    handed, _ = counted()
    ended = asyncio.new_event_loop()
    handed.put("of one that ended", ended)  # it never came round
    ended.close()
    thread, taken = taking(handed, 2)

    async def hand_over() -> None:
        handed.put("of another", asyncio.get_running_loop())
        await asyncio.to_thread(thread.join, WITHIN_S)

    asyncio.run(hand_over())
    assert taken == ["of one that ended", "of another"]


def test_whoever_does_not_sleep_is_told_that_there_is_nothing() -> None:
    handed, _ = counted()
    with pytest.raises(Empty):
        handed.get(block=False)
    handed.put(1)
    assert (len(handed), handed.get(block=False), len(handed)) == (1, 1, 0)


def test_everything_comes_once_however_many_hand_over_and_take() -> None:
    handed, _ = counted()
    takers = [taking(handed, 500) for _ in range(4)]

    def give(number: int) -> None:
        async def hand_over() -> None:
            loop = asyncio.get_running_loop()
            for each in range(500):
                handed.put((number, each), loop if each % 3 else None)
                if each % 7 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)

        asyncio.run(hand_over())

    givers = [threading.Thread(target=give, args=(number,)) for number in range(4)]
    for giver in givers:
        giver.start()
    for thread, _ in takers:
        thread.join(WITHIN_S)
    for giver in givers:
        giver.join(WITHIN_S)
    found = [each for _, taken in takers for each in taken]
    assert sorted(found) == [(number, each) for number in range(4) for each in range(500)]
