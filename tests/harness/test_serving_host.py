"""A model in a process of its own: whatever it does there, callers have an answer in time; it comes back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from harness.control import kill
from harness.serving.host import ModelDied, ModelFailed, TooSlow
from hosting import HANG, SPIN, answers, gone

Wait = Callable[..., Any]


# --- in time -----------------------------------------------------------------------------------------------


def test_15_a_model_ten_times_over_budget_costs_its_caller_the_budget(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "400")
    monkeypatch.setenv("PILOT_SERVING__BREAKER_FAILURES", "1000")
    digest = tiny.offered()
    deciding = tiny.service()
    tiny.model_does(digest, "time.sleep(4)")
    found = []
    for _ in range(4):
        started = time.monotonic()
        made = deciding.decide(tiny.parsed())
        took = time.monotonic() - started
        found.append(made.why)
        assert (made.served_by, made.assigned) == ("fallback", "challenger")
        assert took < 3, "it was not left at its budget"
    assert found[0] == "model_too_slow"
    assert set(found) <= {"model_too_slow", "model_busy", "model_unavailable"}


@pytest.mark.parametrize("how", [HANG, SPIN], ids=["waits", "spins"])
def test_16_after_fifty_hung_calls_the_model_is_back_and_nothing_has_piled_up(
    tiny: Any, host: Any, record: Any, wait: Wait, how: str
) -> None:
    digest = tiny.package().digest
    asking = host(budget_s=0.3)
    assert asking.state(digest) == "loaded"
    first = asking.pids()[digest]
    (server,) = (psutil.Process(first).parent(),)
    asking.score(digest, record)
    threads, processes_ = threading.active_count(), len(server.children())
    tiny.model_does(digest, how)
    took: list[float] = []

    def ask(_: int) -> str:
        started = time.monotonic()
        with pytest.raises(Exception) as raised:  # noqa: PT011 - which one is what is asked
            asking.score(digest, record)
        took.append(time.monotonic() - started)
        return type(raised.value).__name__

    with ThreadPoolExecutor(25) as pool:
        found = set(pool.map(ask, range(50)))
    assert found <= {"TooSlow", "Busy", "PilotError"}
    assert "TooSlow" in found
    assert max(took) < 3, "somebody waited for a call that hangs"
    tiny.model_does(digest, None)
    wait(lambda: answers(asking, digest, record))
    assert threading.active_count() <= threads
    wait(lambda: len(server.children()) <= processes_)
    wait(lambda: gone(first))


def test_a_call_that_waited_behind_a_hung_one_is_still_answered_by_the_model(
    tiny: Any, host: Any, record: Any
) -> None:
    digest = tiny.package().digest
    asking = host(budget_s=4.0)
    asking.state(digest)
    tiny.model_does(digest, "time.sleep(60 if features['dryness'][0] == 0 else 0)\nreturn np.array([0.8])")
    with ThreadPoolExecutor(2) as pool:
        hung = pool.submit(asking.score, digest, {**record, "dryness": 0.0})
        time.sleep(1.5)
        waiting = pool.submit(asking.score, digest, record)
        with pytest.raises(TooSlow):
            hung.result(30)
        assert waiting.result(30).score == 0.8


def test_a_hung_model_does_not_hold_up_the_stop(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "20000")
    digest = tiny.offered()
    deciding = tiny.service()
    tiny.model_does(digest, HANG)
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(deciding.decide, tiny.parsed())
        time.sleep(0.3)
        kill(tiny.control, reason="it hangs")
        assert deciding.decide(tiny.parsed()).why == "killed"
        assert not hung.done()
        deciding.host.close()
        assert hung.result(30).served_by == "fallback"


def test_17_while_the_model_blocks_every_thread_health_is_answered(tiny: Any, served: Any) -> None:
    digest = tiny.offered()
    running = served(PILOT_SERVING__BUDGET_MS="4000", PILOT_SERVING__BREAKER_FAILURES="1")
    tiny.model_does(digest, SPIN)
    # More calls than the server has threads, over connections of their own.
    with (
        httpx.Client(base_url=running.url, trust_env=False, timeout=60) as asking,
        ThreadPoolExecutor(50) as pool,
    ):
        calls = [pool.submit(asking.post, "/decide", json=tiny.record) for _ in range(50)]
        time.sleep(1)
        for _ in range(10):
            assert asking.get("/health", timeout=5).json()["status"] == "ok"
        assert not any(call.done() for call in calls), "the model did not block"
        assert [call.result().status_code for call in calls] == [200] * 50


def test_a_model_that_is_still_loaded_leaves_the_decision_to_the_fallback(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "500")
    model = tiny.root / "src" / "dryfield" / "model.py"
    model.write_text(
        "import time\n" + model.read_text().replace("return json.loads", "time.sleep(2); return json.loads")
    )
    deciding = tiny.service()
    digest = tiny.offered()
    started = time.monotonic()
    assert deciding.decide(tiny.parsed()).why == "model_unavailable"
    assert time.monotonic() - started < 2
    assert "being loaded" in deciding.model_state(wait_s=0)[digest]
    assert deciding.model_state()[digest] == "loaded"
    wait(lambda: deciding.decide(tiny.parsed()).served_by == "model")


# --- alive -------------------------------------------------------------------------------------------------


def test_a_host_that_is_killed_under_load_costs_no_answer_and_comes_back(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    monkeypatch.setenv("PILOT_SERVING__BREAKER_FAILURES", "1000")
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "10000")
    digest = tiny.offered()
    deciding = tiny.service()
    ending = threading.Event()
    made: list[Any] = []

    def ask() -> None:
        while not ending.is_set():
            made.append(deciding.decide(tiny.parsed()))

    killed: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        try:
            for _ in range(4):
                before = len(made)
                wait(lambda before=before: any(one.served_by == "model" for one in made[before:]))
                pid = wait(lambda: deciding.host.pids().get(digest))
                psutil.Process(pid).kill()
                killed.append(pid)
                wait(lambda pid=pid: deciding.host.pids().get(digest) not in (None, pid))
            before = len(made)
            wait(lambda: any(one.served_by == "model" for one in made[before:]))
        finally:
            ending.set()
        for each in asked:
            each.result(30)
    assert len(set(killed)) == 4
    assert {one.why for one in made} <= {"assigned", "model_died"}
    assert sum(one.why == "model_died" for one in made) <= 4 * 4, "more than what was under way each time"
    assert len(deciding.store.latest(100_000)) == len(made)
    for pid in killed:
        wait(lambda pid=pid: gone(pid))


def test_a_host_that_dies_between_two_calls_costs_no_decision(tiny: Any, wait: Wait) -> None:
    digest = tiny.offered()
    deciding = tiny.service()
    pid = deciding.host.pids()[digest]
    psutil.Process(pid).kill()
    wait(lambda: gone(pid))
    assert deciding.decide(tiny.parsed()).served_by == "model"


def test_when_the_server_of_processes_is_killed_the_models_go_with_it_and_come_back(
    tiny: Any, host: Any, record: Any, wait: Wait
) -> None:
    digest = tiny.package().digest
    asking = host()
    asking.state(digest)
    pid = asking.pids()[digest]
    server = psutil.Process(pid).parent()
    server.kill()
    wait(lambda: gone(pid))
    wait(lambda: answers(asking, digest, record))
    assert psutil.Process(asking.pids()[digest]).parent().pid != server.pid
    wait(lambda: gone(server.pid))


CHANNEL = """
import json, socket, struct, stat
def channel():
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                return int(name)
        except OSError:
            pass
def say(text):
    os.write(channel(), struct.pack("!I", len(text)) + text)
"""


def answered(one: str) -> str:
    return f'{{"id": 1, "answers": [{one}]}}'


LIES = {
    "no JSON": "{",
    "no object": "[1]",
    "nested": "[" * 900_000,
    "not a number": answered('{"score": NaN, "reasons": []}'),
    "another call's": '{"id": 7, "answers": [{"score": 0.5, "reasons": []}]}',
    "no id": '{"answers": [{"score": 0.5, "reasons": []}]}',
    "no answers": '{"id": 1, "score": 0.5, "reasons": []}',
    "answers that are none": answered("0.5"),
    "fewer answers than records": answered(""),
    "more answers than records": answered('{"score": 0.5, "reasons": []}, {"score": 0.5, "reasons": []}'),
    "text for a score": answered('{"score": "0.5", "reasons": []}'),
    "truth for a score": answered('{"score": true, "reasons": []}'),
    "no reasons": answered('{"score": 0.5}'),
    "reasons of anything": answered('{"score": 0.5, "reasons": [[1, 2, 3]]}'),
    "too many reasons": answered(
        '{"score": 0.5, "reasons": [["a", 1, 1], ["a", 1, 1], ["a", 1, 1], ["a", 1, 1]]}'
    ),
    "half a surrogate pair": answered('{"score": 0.5, "reasons": [["\\ud800", 1, 1]]}'),
    "infinity for an effect": answered('{"score": 0.5, "reasons": [["a", 1, 1e999]]}'),
}


def test_what_a_host_says_that_is_no_answer_is_a_failure(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_SERVING__BREAKER_FAILURES", "1000")
    digest = tiny.offered()
    deciding = tiny.service()
    file = tiny.root / "said"
    saying = f"say(Path({str(file)!r}).read_bytes()); time.sleep(60)"
    codes = {name: saying for name in LIES}
    codes["garbage"] = "os.write(channel(), b'\\xff' * 64); time.sleep(60)"
    codes["too long"] = "os.write(channel(), struct.pack('!I', 2**31) + b'x'); time.sleep(60)"
    for name, code in codes.items():
        file.write_text(LIES.get(name, ""))
        before = deciding.host.pids()[digest]
        tiny.model_does(digest, CHANNEL + code)
        made = deciding.decide(tiny.parsed())
        assert (name, made.served_by, made.why) == (name, "fallback", "model_died")
        assert deciding.model_state()[digest] == "loaded"
        assert deciding.host.pids()[digest] != before, name


def test_a_score_out_of_range_is_found_by_the_service_too(tiny: Any) -> None:
    digest = tiny.offered()
    deciding = tiny.service()
    tiny.model_does(
        digest, CHANNEL + 'say(b\'{"id": 1, "answers": [{"score": 7, "reasons": []}]}\'); time.sleep(60)'
    )
    assert deciding.decide(tiny.parsed()).why == "score_invalid"


def test_half_an_answer_is_waited_for_no_longer_than_the_budget(
    tiny: Any, host: Any, record: Any, wait: Wait
) -> None:
    digest = tiny.package().digest
    asking = host(budget_s=0.5)
    asking.state(digest)
    tiny.model_does(digest, CHANNEL + "os.write(channel(), b'\\0\\0\\0\\x09{'); time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(TooSlow):
        asking.score(digest, record)
    assert time.monotonic() - started < 3
    tiny.model_does(digest, None)
    wait(lambda: answers(asking, digest, record))


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_ones(tiny: Any, wait: Wait) -> None:
    digest = tiny.offered()
    deciding = tiny.service()
    first = deciding.host.pids()[digest]
    tiny.model_does(
        digest,
        CHANNEL + "global said\nif 'said' not in globals():\n    said = threading.Timer(0.2, say, "
        '[b\'{"id": 2, "answers": [{"score": 0.01, "reasons": []}]}\']); said.start()\n'
        "return np.array([0.9])",
    )
    file = tiny.root / "var" / "told" / digest / "predict.py"
    file.write_text("import threading\n" + file.read_text())
    assert deciding.decide(tiny.parsed()).score == 0.9
    wait(lambda: not deciding.host._known[digest]._process.idle)
    tiny.model_does(digest, None)
    assert deciding.decide(tiny.parsed()).score == pytest.approx(0.8)
    assert deciding.host.pids()[digest] != first


def test_what_the_model_raised_is_told_by_type_and_place(tiny: Any, host: Any, record: Any) -> None:
    digest = tiny.package().digest
    asking = host()
    asking.state(digest)
    tiny.model_does(digest, "raise ValueError('somebody')")
    with pytest.raises(ModelFailed) as raised:
        asking.score(digest, record)
    assert re.fullmatch(r"ValueError at predict.py line \d+", str(raised.value))
    assert not isinstance(raised.value, ModelDied)
    assert "somebody" in "".join(raised.value.__notes__)
