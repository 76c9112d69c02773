"""A model that hangs costs nobody an answer, and nobody the stop."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.control import kill
from harness.serving.workers import Busy, TooSlow, Workers


def test_results_and_errors_come_back() -> None:
    workers = Workers(2, 5)
    assert workers.call(lambda: 7) == 7
    with pytest.raises(SystemExit):
        workers.call(lambda: exec("raise SystemExit"))
    assert workers.call(lambda: threading.current_thread().daemon)


def test_more_calls_than_places_wait_their_turn() -> None:
    workers = Workers(2, 30)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda number: workers.call(lambda: number), range(200))) == list(range(200))
    assert workers._threads <= 2


def test_hung_calls_are_left_behind_and_their_places_come_back() -> None:
    workers = Workers(2, 0.1)
    gate = threading.Event()
    for _ in range(2):
        with pytest.raises(TooSlow):
            workers.call(gate.wait)
    started = time.monotonic()
    for _ in range(50):
        with pytest.raises(Busy):
            workers.call(lambda: 7)
    assert time.monotonic() - started < 2, "a call that has no chance waited for its budget"
    gate.set()
    deadline = time.monotonic() + 10
    while workers._left_behind:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert workers.call(lambda: 7) == 7
    assert workers._threads == 2


def test_a_hung_model_leaves_the_fallback_and_the_stop_alone(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = tiny.offered()
    deciding = tiny.service()
    assert deciding.decide(tiny.parsed()).served_by == "model"
    deciding._workers = Workers(4, 0.2)
    gate = threading.Event()
    model = tiny.model_file(digest)
    monkeypatch.setattr(model, "predict", lambda *_: gate.wait())
    try:
        with ThreadPoolExecutor(20) as pool:
            made = list(pool.map(lambda _: deciding.decide(tiny.parsed()), range(40)))
        assert {decision.served_by for decision in made} == {"fallback"}
        assert {decision.why for decision in made} == {"model_too_slow", "model_busy"}
        assert {decision.assigned for decision in made} == {"challenger"}
        kill(tiny.control, reason="it hangs")
        started = time.monotonic()
        assert deciding.decide(tiny.parsed()).why == "killed"
        assert time.monotonic() - started < 2
    finally:
        gate.set()


def test_a_native_panic_is_a_failure_of_the_model_and_not_of_the_service(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        """As extension modules raise them."""

    def panicking(*_: Any) -> None:
        raise Panic("called `Option::unwrap()` on a `None` value")

    digest = tiny.offered()
    deciding = tiny.service()
    assert deciding.decide(tiny.parsed()).served_by == "model"
    monkeypatch.setattr(tiny.model_file(digest), "predict", panicking)
    made = deciding.decide(tiny.parsed())
    assert (made.served_by, made.why) == ("fallback", "model_failed")
