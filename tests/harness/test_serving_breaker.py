"""A model that fails too often is left alone, and tried again by one call at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.control import Slot
from harness.serving.breaker import Breaker, BreakerOpen, Rule, Ticket


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(Rule(failures=3, window_s=10, retry_s=5), clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.told(breaker.ask(), well=False)


def test_19_it_opens_at_the_nth_failure_lets_one_probe_through_and_closes(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, 2)
    assert not breaker.open
    fail(breaker, 1)
    assert breaker.open
    with pytest.raises(BreakerOpen):
        breaker.ask()
    clock.now += 4.9
    with pytest.raises(BreakerOpen):
        breaker.ask()
    clock.now += 0.2
    probe = breaker.ask()
    for _ in range(3):
        with pytest.raises(BreakerOpen):
            breaker.ask()
    assert breaker.told(probe, well=True)
    assert not breaker.open
    fail(breaker, 2)
    assert not breaker.open, "what was before it closed still counts"


def test_a_probe_that_fails_opens_it_for_another_time(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 5
    breaker.told(breaker.ask(), well=False)
    with pytest.raises(BreakerOpen):
        breaker.ask()
    clock.now += 5
    breaker.told(breaker.ask(), well=True)
    assert not breaker.open


def test_a_probe_that_never_reached_the_model_leaves_the_next_one_to_try(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += 5
    breaker.told(breaker.ask(), well=None)
    assert breaker.open
    assert breaker.ask().probe


def test_failures_count_within_the_window_alone(breaker: Breaker, clock: Clock) -> None:
    for _ in range(10):
        fail(breaker, 1)
        clock.now += 5.1
    assert not breaker.open


def test_what_began_before_it_opened_says_nothing_about_now(breaker: Breaker, clock: Clock) -> None:
    early = breaker.ask()
    fail(breaker, 3)
    breaker.told(early, well=True)
    assert breaker.open
    clock.now += 5
    probe = breaker.ask()
    breaker.told(early, well=False)
    breaker.told(Ticket(probe.probe + 1), well=True)
    assert breaker.open
    breaker.told(probe, well=True)
    assert not breaker.open


def test_the_probe_waits_until_the_model_can_have_started_again(breaker: Breaker, clock: Clock) -> None:
    breaker.wait_at_least(20)
    fail(breaker, 3)
    clock.now += 19
    with pytest.raises(BreakerOpen):
        breaker.ask()
    clock.now += 1
    assert breaker.ask().probe
    breaker.wait_at_least(0.1)
    assert breaker._retry_s == 5


def test_many_threads_get_one_probe(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 5
    together = threading.Barrier(16)

    def ask(_: int) -> bool:
        together.wait()
        try:
            return bool(breaker.ask().probe)
        except BreakerOpen:
            return False

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(ask, range(16))) == 1


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise ValueError", "model_failed"),
        ("return np.array([np.nan])", "score_invalid"),
        ("time.sleep(60)", "model_too_slow"),
        ("os._exit(1)", "model_died"),
    ],
)
def test_19_every_failure_counts_and_an_open_breaker_asks_the_model_nothing(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, wait: Callable[..., Any], code: str, why: str
) -> None:
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "500")
    monkeypatch.setenv("PILOT_SERVING__BREAKER_FAILURES", "3")
    monkeypatch.setenv("PILOT_SERVING__BREAKER_WINDOW_S", "60")
    monkeypatch.setenv("PILOT_SERVING__BREAKER_RETRY_S", "2")
    digest = tiny.offered()
    deciding = tiny.service()
    asked = tiny.root / "asked"
    tiny.model_does(digest, f"open({str(asked)!r}, 'a').write('x')\n{code}")
    found = []
    while "breaker_open" not in found:
        assert len(found) < 60
        # A model that has just died may not be back yet.
        found.append(deciding.decide(tiny.parsed()).why)
    opened = time.monotonic()
    assert [each for each in found if each not in ("model_busy", "model_unavailable")] == [
        *[why] * 3,
        "breaker_open",
    ]
    assert asked.read_text() == "xxx"
    tiny.model_does(digest, None)
    made = wait(lambda: (one := deciding.decide(tiny.parsed())).served_by == "model" and one)
    assert made.why == "assigned"
    assert time.monotonic() - opened > 1, "it was tried again at once"
    assert deciding.decide(tiny.parsed()).served_by == "model"


def test_one_model_that_fails_leaves_the_other_alone(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_SERVING__BREAKER_FAILURES", "2")
    champion, challenger = tiny.package(weight=0.25).digest, tiny.package(weight=1.0).digest
    tiny.put(champion=Slot(digest=champion, pct=100), challenger=Slot(digest=challenger, pct=50))
    deciding = tiny.service()
    tiny.model_does(challenger, "raise ValueError")
    made = [deciding.decide(tiny.parsed(plot=f"p-{number}")) for number in range(30)]
    assert {one.why for one in made if one.assigned == "champion"} == {"assigned"}
    assert {one.why for one in made if one.assigned == "challenger"} == {"model_failed", "breaker_open"}
