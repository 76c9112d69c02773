"""A model in shadow changes no decision and holds nobody up, whatever it does; what it said is kept."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from harness.control import Slot, arm, kill
from harness.control.tokens import issue
from harness.errors import PilotError
from harness.pilot import Amount, Choice
from harness.serving import lag, server, service, shadow
from harness.serving.app import create_app
from harness.serving.calls import Busy, TooSlow
from harness.serving.scored import ScoreInvalid
from harness.serving.shadow import agreement
from harness.store import ShadowStore, StoreUnavailable
from shadowing import Beside, Heard, Held, Stand, wet

Wait = Callable[..., Any]
SCORES = '    return features["dryness"].to_numpy() * model["weight"]\n'
# What the model does that runs beside, in its own file, and what has to come of it at least once. A model
# that fails again and again may be left alone after that.
TROUBLES: dict[str, tuple[str, set[str]]] = {
    "none": ("", {"ok"}),
    "throws": ("    raise RuntimeError('not well')\n", {"error"}),
    "ends the process": ("    raise SystemExit(3)\n", {"error"}),
    "hangs": ("    import time; time.sleep(30)\n", {"too_slow"}),
    "runs out of memory": ("    bytearray(1 << 60)\n", {"error"}),
    "gives no number": ("    return features['dryness'].to_numpy() * float('nan')\n", {"invalid"}),
    "fills the queue": ("    import time; time.sleep(30)\n", {"dropped"}),
    "writes to the disk": (
        "    from pathlib import Path\n"
        "    Path(__file__).with_name('model.py').write_text('nothing')\n"
        "    Path('written.txt').write_text('x' * 1_000_000)\n",
        {"error"},
    ),
}


@pytest.fixture
def beside(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Beside:
    return Beside(tiny, monkeypatch).start()


def answers(beside: Beside, token: str, name: str) -> tuple[list[bytes], list[Any], list[Any]]:
    """What callers got of six requests, and the tables of decisions and of what is delivered."""
    tiny, monkeypatch = beside.tiny, beside.monkeypatch
    ids = itertools.count()
    monkeypatch.setenv("PILOT_STORE__URL", f"sqlite:///var/{name}.db")
    monkeypatch.setattr(service, "decision_name", lambda: f"decision {next(ids)}")
    monkeypatch.setattr(service, "now", lambda: "2026-03-01T10:00:00.000000+00:00")
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr(service, "time", clock)
    monkeypatch.setattr(lag, "time", clock)
    app = create_app(tiny.service(), name="dry field")
    got = []
    with TestClient(app, raise_server_exceptions=False) as client:
        for number in range(6):
            record = {
                **tiny.record,
                "reading": f"r-{number}",
                "plot": f"p-{number}",
                "dryness": 15.0 * number,
            }
            answer = client.post("/decide", json=record, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 200
            got.append(answer.content)
    with beside.store.database.connected() as connection:
        decided = list(connection.exec_driver_sql("select * from decisions order by sequence"))
        delivered = list(connection.exec_driver_sql("select * from outbox order by sequence"))
    return got, decided, delivered


@pytest.mark.parametrize("stage", ["shadow", "early"])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_20_whatever_the_shadow_does_decisions_are_those_without_it_to_the_byte(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, wait: Wait, trouble: str, stage: str
) -> None:
    code, expected = TROUBLES[trouble]
    beside = Beside(tiny, monkeypatch).start()
    file = tiny.root / "src" / "dryfield" / "model.py"
    file.write_text(file.read_text().replace(SCORES, code + SCORES))
    beside.challenger = tiny.package(weight=0.5).digest
    monkeypatch.chdir(tiny.root)
    monkeypatch.setenv("PILOT_DOWNSTREAM__URL", "http://127.0.0.1:9/decisions")
    monkeypatch.setenv("PILOT_SERVING__SHADOW_BUDGET_MS", "200" if "hangs" in trouble else "30000")
    if trouble == "fills the queue":
        monkeypatch.setenv("PILOT_SERVING__SHADOW_QUEUE", "1")
    token, _ = issue(tiny.control, name="till", scopes=["decide"], lasts=timedelta(days=1))
    beside.put(stage=stage, shadow_pct=0)
    without = answers(beside, token, "without")
    assert beside.rows() == []
    beside.put(stage=stage)
    assert answers(beside, token, "with") == without
    if trouble == "fills the queue":
        beside.tiny.services[-1].close()
    # Only now is it waited for: every caller had its answer already.
    found = wait(lambda: beside.statuses() if sum(beside.statuses().values()) >= 6 else None)
    assert sum(found.values()) == 6
    assert set(found) - {"dropped"} <= expected
    assert set(found) & expected


def test_20_callers_have_their_answers_while_the_model_beside_still_hangs(beside: Beside) -> None:
    held = Held()
    host = Stand(held)
    beside.service(host, shadow_queue="2", shadow_budget_ms="60000")
    first = beside.decide()
    assert held.begun.wait(20)
    made = first + beside.decide(9)
    # Ten callers have their answers, and the first call of the model beside has not returned.
    assert host.answered == 0
    assert {each.served_by for each in made} == {"model"}
    assert len(beside.store.latest(99)) == 10
    held.released.set()


def test_what_finds_no_place_is_dropped_and_counted_without_a_row_each(beside: Beside, wait: Wait) -> None:
    held = Held()
    beside.service(Stand(held), shadow_queue="2", shadow_budget_ms="60000")
    beside.decide()
    assert held.begun.wait(20)
    beside.decide(9)
    held.released.set()
    assert wait(lambda: sum(beside.statuses().values()) == 10 and beside.statuses()) == {
        "ok": 3,
        "dropped": 7,
    }
    dropped = [row for row in beside.rows() if row.status == "dropped"]
    assert sum(row.times for row in dropped) == 7
    assert {row.decision_id for row in dropped} == {None}
    assert len(dropped) < 7


def test_what_the_model_beside_said_is_kept_with_its_decision(beside: Beside, wait: Wait) -> None:
    beside.service(shadow_budget_ms="30000")
    made = beside.decide(dryness=80.0)[0]
    row = wait(beside.rows)[0]
    assert (made.decision, made.score, made.model_digest) == ("water", pytest.approx(0.8), beside.champion)
    kept = (row.decision_id, row.at, row.digest, row.status, row.times, row.bucket, bool(row.sandbox))
    expected = (made.decision_id, made.decided_at, beside.challenger, "ok", 1, made.bucket, False)
    assert kept == expected
    assert (row.decision, row.score, bool(row.agrees)) == ('"skip"', pytest.approx(0.4), False)
    assert row.elapsed_ms > 0


def test_the_threshold_is_that_of_the_model_besides_own_contract(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    beside = Beside(tiny, monkeypatch).start()
    contract = tiny.root / "src" / "dryfield" / "contract.py"
    contract.write_text(contract.read_text().replace("threshold=0.5", "threshold=0.3"))
    beside.challenger = tiny.package(weight=0.5).digest
    beside.put()
    contract.write_text(contract.read_text().replace("threshold=0.3", "threshold=0.5"))
    beside.service(shadow_budget_ms="30000")
    beside.decide(dryness=80.0)
    assert wait(beside.rows)[0].decision == '"water"'


def raised(error: BaseException) -> Callable[..., Any]:
    def act(_digest: str, _record: Any) -> Any:
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "status"),
    [
        (raised(RuntimeError("no")), "error"),
        (raised(SystemExit(1)), "error"),
        (raised(MemoryError()), "error"),
        (raised(TooSlow()), "too_slow"),
        (raised(ScoreInvalid("NaN")), "invalid"),
        (raised(Busy()), "dropped"),
        (lambda *_: None, "error"),
        (lambda *_: Heard(0.5, float("nan")), "error"),
    ],
    ids=["raises", "exits", "memory", "too slow", "invalid", "busy", "nothing", "no JSON"],
)
def test_what_kept_it_from_saying_anything_is_kept_and_it_goes_on(
    beside: Beside, wait: Wait, act: Any, status: str
) -> None:
    host = Stand(act)
    beside.service(host)
    made = beside.decide()[0]
    row = wait(beside.rows)[0]
    assert (row.decision_id, row.status, row.score, row.decision, row.agrees) == (
        made.decision_id,
        status,
        None,
        None,
        None,
    )
    host.act = wet
    beside.decide()
    assert wait(lambda: beside.counts().by_status["ok"])


@pytest.mark.parametrize(("told", "status"), [("loaded", "dropped"), ("the file is gone", "error")])
def test_a_model_that_is_started_anew_was_not_asked_and_one_that_cannot_be_has_failed(
    beside: Beside, wait: Wait, told: str, status: str
) -> None:
    beside.service(Stand(raised(PilotError("no", where="here", mend="wait")), told=told))
    beside.decide()
    assert wait(lambda: beside.statuses() == {status: 1})


def test_an_answer_after_its_time_is_none_whatever_the_host_allows(beside: Beside, wait: Wait) -> None:
    held = Held()
    beside.service(Stand(held), shadow_budget_ms="20")
    beside.decide()
    assert held.begun.wait(20)
    time.sleep(0.05)
    held.released.set()
    row = wait(beside.rows)[0]
    assert (row.status, row.score) == ("too_slow", None)


def test_the_time_in_which_a_model_is_loaded_is_not_held_against_it(beside: Beside, wait: Wait) -> None:
    host = Stand(loading=threading.Event())
    beside.service(host, shadow_budget_ms="500")
    beside.decide()
    time.sleep(0.6)
    assert host.asked == []
    host.loading.set()
    assert wait(lambda: beside.statuses() == {"ok": 1})
    beside.decide(2)
    assert wait(lambda: beside.statuses() == {"ok": 3})
    assert host.settled == 1
    # After a failure it may be in a new process.
    host.act = raised(RuntimeError("no"))
    beside.decide()
    assert wait(lambda: beside.statuses() == {"ok": 3, "error": 1})
    host.act = wet
    beside.decide()
    assert wait(lambda: beside.statuses() == {"ok": 4, "error": 1})
    assert host.settled == 2


def test_nothing_is_tried_twice(beside: Beside, wait: Wait) -> None:
    host = Stand(raised(RuntimeError("no")))
    beside.service(host)
    beside.decide(5)
    assert wait(lambda: beside.statuses() == {"error": 5})
    assert [each["reading"] for each in host.asked] == [f"r-{number}" for number in range(5)]


def test_a_host_that_cannot_be_made_is_an_error_and_is_made_once_it_can(
    beside: Beside, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Stand] = []

    def make(_settings: Any, *_more: Any) -> Stand:
        if not made:
            made.append(Stand())
            raise OSError("no process can be started")
        return made[0]

    monkeypatch.setattr(server, "shadow_host", make)
    beside.service()
    beside.decide()
    assert wait(lambda: beside.statuses() == {"error": 1})
    beside.decide()
    assert wait(lambda: beside.statuses() == {"error": 1, "ok": 1})


def test_a_killed_pilot_runs_nothing_beside_from_the_next_request_on(beside: Beside, wait: Wait) -> None:
    host = Stand()
    beside.service(host)
    beside.decide(3)
    assert wait(lambda: beside.statuses() == {"ok": 3})
    kill(beside.tiny.control, reason="stop")
    assert {each.why for each in beside.decide(5)} == {"killed"}
    arm(beside.tiny.control, reason="go")
    beside.decide(2, dryness=10.0)
    assert wait(lambda: beside.counts().by_status["ok"] == 5)
    assert [each["dryness"] for each in host.asked] == [80.0] * 3 + [10.0] * 2


def test_what_waits_when_the_pilot_is_killed_is_not_run(beside: Beside, wait: Wait) -> None:
    held = Held()
    host = Stand(held)
    beside.service(host, shadow_budget_ms="60000")
    beside.decide()
    assert held.begun.wait(20)
    beside.decide(5)
    kill(beside.tiny.control, reason="stop")
    held.released.set()
    assert wait(lambda: beside.statuses() == {"ok": 1})
    arm(beside.tiny.control, reason="go")
    beside.decide()
    assert wait(lambda: beside.statuses() == {"ok": 2})
    assert len(host.asked) == 2


def test_a_model_that_is_taken_off_trial_meanwhile_is_not_run(beside: Beside, wait: Wait) -> None:
    held = Held()
    host = Stand(held)
    beside.service(host, shadow_budget_ms="60000")
    beside.decide()
    assert held.begun.wait(20)
    beside.decide(3)
    beside.put(rev=2, challenger=Slot(digest="c" * 64, pct=0))
    held.released.set()
    assert wait(lambda: beside.statuses() == {"ok": 1})
    assert len(host.asked) == 1


def test_it_starts_nothing_before_the_first_decision_that_needs_it(beside: Beside) -> None:
    before = set(threading.enumerate())
    beside.service(Stand())
    beside.put(rev=2, shadow_pct=0)
    beside.decide(3)
    assert "shadow" not in {each.name for each in set(threading.enumerate()) - before}
    beside.put(rev=3)
    beside.decide()
    assert "shadow" in {each.name for each in set(threading.enumerate()) - before}


def test_a_stop_of_the_service_does_not_wait_for_a_model_that_hangs(beside: Beside) -> None:
    held = Held()
    host = Stand(held)
    serving = beside.service(host, shadow_budget_ms="60000")
    beside.decide()
    assert held.begun.wait(20)
    beside.decide(4)
    serving.close()
    # It is over, and the call has still not returned; its host was told to end.
    assert (host.answered, host.closed) == (0, True)
    assert beside.statuses() == {"dropped": 5}
    held.released.set()


def test_what_is_known_at_a_stop_is_written_and_what_comes_after_it_is_not(
    beside: Beside, wait: Wait
) -> None:
    beside.monkeypatch.setattr(shadow, "WRITE_EVERY_S", 600.0)
    held = Held()
    host = Stand()
    serving = beside.service(host, shadow_budget_ms="60000")
    beside.decide(3)
    assert wait(lambda: host.answered == 3)
    host.act = held
    beside.decide()
    assert held.begun.wait(20)
    serving.close()
    held.released.set()
    assert wait(lambda: host.answered == 4)
    serving.close()
    beside.decide()
    assert beside.statuses() == {"ok": 3, "dropped": 1}


def test_a_service_that_is_told_to_end_does_so_while_the_model_beside_hangs(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, served: Callable[..., Any], wait: Wait
) -> None:
    import httpx

    beside = Beside(tiny, monkeypatch).start()
    file = tiny.root / "src" / "dryfield" / "model.py"
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(60)
    connect = f"socket.create_connection({listening.getsockname()!r})"
    hang = f"    import socket, time; begun = {connect}; time.sleep(600)\n"
    file.write_text(file.read_text().replace(SCORES, hang + SCORES))
    beside.challenger = tiny.package(weight=0.5).digest
    beside.put(stage="sandbox")
    running = served(PILOT_SERVING__SHADOW_BUDGET_MS="60000")
    with httpx.Client(base_url=running.url, trust_env=False, timeout=30) as asking:
        assert asking.post("/decide", json=tiny.record).json()["served_by"] == "model"
    with listening, listening.accept()[0]:  # it has begun
        pass
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(timeout=30)  # and not the minute that the model beside is allowed


def test_a_store_that_fails_for_the_shadow_alone_fails_nothing_else(
    beside: Beside, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = threading.Event()
    down.set()
    tried: list[int] = []
    add = ShadowStore.add

    def failing(self: ShadowStore, rows: Any) -> None:
        if down.is_set():
            tried.append(len(rows))
            raise StoreUnavailable("down", where="the store", mend="Wait.")
        add(self, rows)

    monkeypatch.setattr(ShadowStore, "add", failing)
    host = Stand()
    beside.service(host)
    assert {each.served_by for each in beside.decide(5)} == {"model"}
    assert wait(lambda: host.answered == 5)
    before = len(tried)
    assert wait(lambda: len(tried) > before + 2)
    assert len(beside.store.latest(99)) == 5
    assert beside.rows() == []
    down.clear()
    # What could not be kept counts as dropped: a gap never looks like a model that was asked and agreed.
    assert wait(lambda: beside.statuses() == {"dropped": 5})
    beside.decide()
    assert wait(lambda: beside.statuses() == {"dropped": 5, "ok": 1})


def test_nothing_that_goes_wrong_with_it_reaches_the_caller(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_thread(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    beside.service(Stand())
    beside.put(rev=2, stage="early", champion=None, shadow_pct=0)
    beside.decide()  # what decides has its threads
    monkeypatch.setattr(shadow.threading, "Thread", no_thread)
    beside.put(rev=3, stage="early", champion=None)  # the fallback decides: no thread but the shadow's
    assert [each.served_by for each in beside.decide(2)] == ["fallback"] * 2
    assert caplog.text.count("a decision was not run in shadow") == 2


def test_a_record_is_its_own_whatever_is_done_to_it_beside(beside: Beside, wait: Wait) -> None:
    def spoiling(_digest: str, record: Any) -> Heard:
        record.clear()
        return Heard(0.9, "water")

    beside.service(Stand(spoiling))
    made = beside.decide()[0]
    assert wait(beside.rows)
    assert made.record["reading"] == "r-0"


def test_a_forked_child_has_a_thread_and_a_host_of_its_own(
    beside: Beside, wait: Wait, in_child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def make(_settings: Any, *_more: Any) -> Stand:
        made.append(os.getpid())
        return Stand()

    monkeypatch.setattr(server, "shadow_host", make)
    serving = beside.service()
    beside.decide()
    assert wait(lambda: beside.statuses() == {"ok": 1})
    own = serving._shadow._by_process[os.getpid()]

    def child() -> tuple[int, list[int], dict[str, int]]:
        serving.store.database.engine.dispose(close=False)  # its connections are the parent's
        beside.decide(2)
        assert waited_for(lambda: beside.statuses() == {"ok": 3})
        return os.getpid(), made, beside.statuses()

    with own._lock, own._queue.mutex:  # another thread may hold them when a process is forked
        pid, hosts, statuses = in_child(child)
    assert hosts == [os.getpid(), pid]
    assert statuses == {"ok": 3}
    beside.decide()
    assert wait(lambda: beside.statuses() == {"ok": 4})
    assert made == [os.getpid()]


def waited_for(question: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not question() and time.monotonic() < end:
        time.sleep(0.01)
    return question()


def test_it_writes_in_batches_and_not_for_each_decision(
    beside: Beside, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "WRITE_EVERY_S", 600.0)
    monkeypatch.setattr(shadow, "WRITE_AT_ROWS", 5)
    batches: list[int] = []
    add = ShadowStore.add

    def counting(self: ShadowStore, rows: Any) -> None:
        batches.append(len(rows))
        add(self, rows)

    monkeypatch.setattr(ShadowStore, "add", counting)
    host = Stand()
    serving = beside.service(host)
    beside.decide(12)
    assert wait(lambda: host.answered == 12)
    serving.close()
    assert batches == [5, 5, 2]


def test_the_decision_is_on_record_before_the_model_beside_hears_of_it(beside: Beside, wait: Wait) -> None:
    found: list[Any] = []

    def looking(digest: str, record: Any) -> Heard:
        found.extend(beside.store.latest(1))
        return wet(digest, record)

    beside.service(Stand(looking))
    made = beside.decide()
    assert wait(lambda: found)
    assert found[0].decision_id == made[0].decision_id


def test_what_was_not_recorded_is_not_run_beside(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    host = Stand()
    deciding = beside.service(host)
    record_all = deciding.store.record_all

    def full(*_: Any) -> None:
        raise StoreUnavailable("full", where="store", mend="Free it.")

    monkeypatch.setattr(deciding.store, "record_all", full)
    with pytest.raises(StoreUnavailable):
        beside.decide()
    monkeypatch.setattr(deciding.store, "record_all", record_all)
    beside.decide(reading="r-9")
    assert wait(lambda: host.asked)
    assert [each["reading"] for each in host.asked] == ["r-9"]


@pytest.mark.parametrize(
    ("declared", "served", "said", "same"),
    [
        (Choice("water", "skip"), "water", "water", True),
        (Choice("water", "skip"), "water", "skip", False),
        (Amount("l", 0, 200), 50.0, 52.0, True),
        (Amount("l", 0, 200), 50.0, 52.1, False),
        (Amount("l", 0, 200), 50.0, 47.9, False),
        (Amount("l", -100, 100), 0.0, -2.0, True),
    ],
)
def test_what_counts_as_the_same_decision(declared: Any, served: Any, said: Any, same: bool) -> None:
    assert agreement(declared)(served, said) is same
