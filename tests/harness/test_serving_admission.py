"""Requests go through the stages together, and each is answered, recorded and stopped for itself."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import sqlalchemy as sa
import uvloop
from fastapi.testclient import TestClient
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from harness.control import kill
from harness.control.tokens import issue
from harness.pilot import Answer
from harness.serving import accepting, explaining, lag, lane, running, service
from harness.serving.admission import MOST_TOGETHER, Asked, Fallbacks, Recorder
from harness.serving.app import create_app
from harness.serving.asgi import SWITCH_S, PerProcess
from harness.serving.calls import Busy, Overloaded
from harness.serving.followed import NOBODY
from harness.serving.scorer import Cost
from harness.serving.server import Prepared
from harness.serving.service import FallbackFailed
from harness.serving.tracing import NOTHING
from harness.settings import load_settings
from harness.store import DecisionStore, IdempotencyConflict, StoreUnavailable, database
from harness.store.database import TURNS, WRITES
from harness.store.turns import Turns

Wait = Callable[..., Any]


@pytest.fixture(autouse=True)
def patient(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what is tested here is a time-out, on whatever machine."""
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "30000")
    monkeypatch.setenv("PILOT_SERVING__FALLBACK_BUDGET_MS", "30000")


class Held:
    """A model whose calls wait for a word, and tell that they have begun."""

    def __init__(self, tiny: Any, wait: Wait, digest: str, code: str = "") -> None:
        self._wait = wait
        self._begun, self._gate = tiny.root / "begun", tiny.root / "gate"
        self._gate.touch()
        self._told = f"""
            with open({str(self._begun)!r}, "a") as file:
                file.write(f"{{len(features)}}\\n")
            while Path({str(self._gate)!r}).exists():
                time.sleep(0.005)
        """
        tiny.model_does(digest, f"{self._told}{code}\n            return features['dryness'].to_numpy()")

    def begun(self, calls: int) -> None:
        """Wait until so many calls have begun."""
        self._wait(lambda: len(self.sizes()) >= calls)

    def sizes(self) -> list[int]:
        """How many records each call carried."""
        return [int(line) for line in self._begun.read_text().split()] if self._begun.exists() else []

    def release(self) -> None:
        self._gate.unlink()


def lane_of(deciding: Any, digest: str) -> lane.Lane:
    found: lane.Lane = deciding.host._known[digest]
    return found


@pytest.fixture
def ready(tiny: Any) -> tuple[Any, str]:
    """A service whose model has answered, and takes what waits together."""
    digest = tiny.offered()
    deciding = tiny.service()
    deciding.decide(tiny.parsed())
    lane_of(deciding, digest)._size = 16
    return deciding, digest


def test_the_service_runs_on_the_quick_event_loop_and_parser(tiny: Any) -> None:
    config = running._config(PerProcess(), load_settings(tiny.root), {}, 1)
    config.load()
    assert issubclass(config.http_protocol_class, HttpToolsProtocol)
    loop = config.get_loop_factory()()
    loop.close()
    assert isinstance(loop, accepting.Loop)
    assert isinstance(loop, uvloop.Loop)
    assert config.balance is None
    assert running._config(PerProcess(), load_settings(tiny.root), {}, 2).balance is not None


def test_a_process_that_serves_hands_over_quickly_and_leaves_what_stays_alone(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.root)
    before, app = sys.getswitchinterval(), PerProcess()

    async def started() -> tuple[float, int]:
        await app._here()
        try:
            return sys.getswitchinterval(), gc.get_freeze_count()
        finally:
            await app._stack.aclose()

    try:
        interval, frozen = asyncio.run(started())
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()
    assert interval == pytest.approx(SWITCH_S)
    assert frozen


# --- together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "alone"), [("64", False), ("1", True)])
def test_what_waits_is_one_call_and_one_that_is_alone_goes_at_once(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, batch: str, alone: bool
) -> None:
    monkeypatch.setenv("PILOT_SERVING__BATCH", batch)
    monkeypatch.setenv("PILOT_SERVING__IN_FLIGHT", "32")
    digest = tiny.offered()
    deciding = tiny.service()
    record = tiny.parsed()

    def ask(thread: int) -> list[Any]:
        return [deciding.decide({**record, "plot": f"{thread}-{number}"}) for number in range(15)]

    with ThreadPoolExecutor(16) as pool:
        made = [each for some in pool.map(ask, range(16)) for each in some]
    process = lane_of(deciding, digest)._process
    assert process is not None
    assert {each.why for each in made} == {"assigned"}
    assert len({each.decision_id for each in deciding.store.latest(1000)}) == 240
    assert (process.asked == 240) if alone else (process.asked < 120)


def test_each_of_a_batch_gets_its_own_score(tiny: Any, ready: tuple[Any, str], wait: Wait) -> None:
    deciding, digest = ready
    held = Held(tiny, wait, digest)
    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(deciding.decide, tiny.parsed(dryness=1.0))
        held.begun(1)
        others = [pool.submit(deciding.decide, tiny.parsed(dryness=float(each))) for each in range(10, 20)]
        wait(lambda: lane_of(deciding, digest)._inside == 11)
        held.release()
        assert first.result(30).score == 0.01
        assert [each.result(30).score for each in others] == [each / 100 for each in range(10, 20)]
    assert held.sizes() == [1, 10]


def test_a_record_that_nothing_can_score_fails_alone(tiny: Any, ready: tuple[Any, str], wait: Wait) -> None:
    deciding, digest = ready
    poison = "\n            if (features['dryness'] == 0.13).any(): raise ValueError('poison')"
    held = Held(tiny, wait, digest, poison)
    process = lane_of(deciding, digest)._process
    assert process is not None
    before = process.asked
    with ThreadPoolExecutor(12) as pool:
        pool.submit(deciding.decide, tiny.parsed(dryness=1.0))
        held.begun(1)
        others = [pool.submit(deciding.decide, tiny.parsed(dryness=float(each))) for each in range(10, 20)]
        wait(lambda: lane_of(deciding, digest)._inside == 11)
        held.release()
        found = [each.result(30).why for each in others]
    assert found == ["assigned"] * 3 + ["model_failed"] + ["assigned"] * 6
    assert (held.sizes()[1], process.asked - before) == (10, 2), "they were one call of the process"


def test_03_a_stop_in_the_middle_of_a_batch_makes_all_of_it_the_fallbacks(
    tiny: Any, ready: tuple[Any, str], wait: Wait
) -> None:
    deciding, digest = ready
    held = Held(tiny, wait, digest)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(deciding.decide, tiny.parsed(dryness=90.0)) for _ in range(10)]
        held.begun(1)
        wait(lambda: lane_of(deciding, digest)._inside == 10)
        kill(tiny.control, reason="in the middle")
        assert deciding.underway.count().under_way == 0
        held.release()
        made = [each.result(30) for each in asked]
    assert {(each.served_by, each.why, each.decision) for each in made} == {("fallback", "killed", "skip")}
    on_record = [each.decision_id for each in deciding.store.latest(100)]
    assert sorted(each.decision_id for each in made) == sorted(on_record[:10])
    assert deciding.underway.count().under_way == 0


def test_many_decisions_are_one_transaction_and_one_that_the_store_refuses_is_refused_alone(
    tiny: Any, ready: tuple[Any, str], monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    deciding, _ = ready
    record_all, gate, batches = deciding.store.record_all, threading.Event(), []

    def slowly(decisions: Any, *_: Any) -> Any:
        batches.append(len(decisions))
        assert gate.wait(30)
        if any(each.record_key == "refused" for each in decisions):
            raise ValueError("it cannot be written")
        return record_all(decisions)

    monkeypatch.setattr(deciding.store, "record_all", slowly)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(deciding.decide, tiny.parsed())
        wait(lambda: batches)
        names = ["refused" if number == 3 else f"r-{number}" for number in range(8)]
        others = [pool.submit(deciding.decide, tiny.parsed(reading=name)) for name in names]
        wait(lambda: deciding._recorder._behind == 9)
        gate.set()
        assert first.result(30).served_by == "model"
        for name, each in zip(names, others, strict=True):
            if name == "refused":
                with pytest.raises(ValueError, match="cannot be written"):
                    each.result(30)
            else:
                assert each.result(30).record_key == name
    assert batches[:2] == [1, 8]
    assert deciding.underway.count().under_way == 0


def transactions(store: DecisionStore) -> list[int]:
    """How many decisions each transaction writes from here on."""
    counted: list[int] = []
    before: list[int] = []

    def there(connection: sa.Connection) -> int:
        driver = connection.connection.driver_connection
        return int(driver.execute("SELECT count(*) FROM decisions").fetchone()[0])

    @sa.event.listens_for(store.database.engine, "begin")
    def begun(connection: sa.Connection) -> None:
        if connection.get_execution_options().get(WRITES):
            counted.append(0)
            before.append(there(connection))

    @sa.event.listens_for(store.database.engine, "commit")
    def done(connection: sa.Connection) -> None:
        if connection.get_execution_options().get(WRITES):
            counted[-1] = there(connection) - before[-1]

    return counted


@contextmanager
def others_write(deciding: Any) -> Iterator[threading.Event]:
    """Another process has its turn to write; what is set once the recorder has decisions that wait for it."""
    file, record_all, waits = deciding.store.database.file, deciding._recorder._record_all, threading.Event()

    def recording(*arguments: Any) -> Any:
        waits.set()
        return record_all(*arguments)

    with pytest.MonkeyPatch.context() as patched, Turns(file.with_name(file.name + TURNS)).turn(30):
        patched.setattr(database, "BUSY_S", 120)
        patched.setattr(deciding._recorder, "_record_all", recording)
        yield waits


@pytest.mark.parametrize("refused", [[], ["r-3"], ["first"]])
def test_who_comes_while_others_write_is_in_the_next_transaction_and_not_in_the_one_after(
    tiny: Any, ready: tuple[Any, str], wait: Wait, refused: list[str]
) -> None:
    deciding, _ = ready
    names = ["first", *(f"r-{number}" for number in range(7))]  # rows that are one statement
    with deciding.store.database.writing("", "") as connection:
        for name in refused:
            connection.exec_driver_sql(
                "CREATE TRIGGER refuses BEFORE INSERT ON decisions "
                f"WHEN NEW.record_key = '{name}' BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
    counted = transactions(deciding.store)
    with ThreadPoolExecutor(8) as pool:
        with others_write(deciding) as waits:
            asked = [pool.submit(deciding.decide, tiny.parsed(reading=names[0]))]
            assert waits.wait(30)
            asked += [pool.submit(deciding.decide, tiny.parsed(reading=name)) for name in names[1:]]
            wait(lambda: len(deciding._recorder._queue) == 7)
        for name, each in zip(names, asked, strict=True):
            if name in refused:
                with pytest.raises(StoreUnavailable, match="IntegrityError"):
                    each.result(30)
            else:
                assert each.result(30).record_key == name
    # Where one is refused, the others are written one by one.
    assert counted[:1] == [0 if refused else 8]
    assert sorted(counted[1:]) == ([0, *(1,) * 7] if refused else [])
    assert deciding._recorder.behind == 0
    assert deciding.underway.count().under_way == 0


def test_what_fails_while_it_is_taken_along_fails_alone(
    tiny: Any, ready: tuple[Any, str], wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken from the queue by then, and would wait for ever."""
    deciding, _ = ready
    make = deciding._recorder._decision

    def making(asked: Any, outcome: Any) -> Any:
        if asked.record["reading"] == "broken":
            raise ZeroDivisionError
        return make(asked, outcome)

    monkeypatch.setattr(deciding._recorder, "_decision", making)
    answers: dict[str, Any] = {}

    def ask(name: str) -> None:
        try:
            answers[name] = deciding.decide(tiny.parsed(reading=name)).record_key
        except Exception as error:
            answers[name] = type(error)

    with others_write(deciding) as waits:
        # In threads that nobody waits for: one that is forgotten is not to keep this from ending.
        threading.Thread(target=ask, args=("first",), daemon=True).start()
        assert waits.wait(30)
        for name in ("broken", "last"):
            threading.Thread(target=ask, args=(name,), daemon=True).start()
        wait(lambda: len(deciding._recorder._queue) == 2)
    wait(lambda: len(answers) == 3)
    assert answers == {"first": "first", "broken": ZeroDivisionError, "last": "last"}
    assert deciding._recorder.behind == 0


def test_a_decision_that_cannot_be_told_leaves_the_others_told_and_counted(
    tiny: Any, ready: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deciding, _ = ready
    made = [deciding.decide(tiny.parsed(reading=name)) for name in ("first", "second")]
    tell, told = deciding._told, list[str]()
    counted, failed = list[Any](), list[str]()

    def telling(asked: Any, outcome: Any, own: Any, stands: Any, now: float) -> None:
        if own.record_key == "first":
            raise ZeroDivisionError
        tell(asked, outcome, own, stands, now)
        told.append(own.record_key)

    monkeypatch.setattr(deciding, "_told", telling)
    monkeypatch.setattr(deciding.metrics, "decided", counted.extend)
    monkeypatch.setattr(service, "failed", lambda what, _: failed.append(what))
    permission = deciding.permission("any")
    asked = SimpleNamespace(by=NOBODY, span=NOTHING, started=time.monotonic(), behind=time.monotonic())
    outcome = SimpleNamespace(permission=replace(permission, shadow=None))
    again = replace(made[1], decision_id="of an earlier request")
    deciding._recorded([(asked, outcome, each, each) for each in made] + [(asked, outcome, made[1], again)])
    assert told == ["second", "second"]
    assert [each.record_key for each, _ in counted] == ["first", "second"]
    assert failed == ["a decision is on record, and what follows it failed"]
    monkeypatch.setattr(deciding.metrics, "decided", lambda _: 1 / 0)
    deciding._recorded([(asked, outcome, made[1], made[1])])
    assert failed[1:] == ["decisions are on record, and were not counted"]


class Asker:
    """Whoever waits for a record, or for the fallback."""

    loop, behind, started, begun, over = None, 0.0, 0.0, False, False

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.answers: list[Any] = []

    def settle(self, result: Any) -> None:
        self.answers.append(result)


def recorder(record_all: Callable[..., Any]) -> tuple[Recorder, Callable[[int], list[Asker]]]:
    """A recorder that writes by this, and what has so many more recorded."""
    made = Recorder(record_all, lambda asked, _: asked.name, lambda *_: None)

    def ask(count: int) -> list[Asker]:
        askers = [Asker(f"{number}") for number in range(count)]
        for asker in askers:
            made.enter(asker)
            made.put(asker, None)
        return askers

    return made, ask


def test_who_comes_while_the_last_transaction_is_written_is_on_record_too(wait: Wait) -> None:
    """That transaction took the word along that this is the end."""
    askers: list[Asker] = []

    def record_all(decisions: Any, more: Any) -> Any:
        if len(askers) > 1:
            return list(decisions)
        wait(lambda: askers)
        closing.start()
        wait(lambda: len(recording._queue))
        came = more()
        askers.extend(ask(5))
        return [*decisions, *came]

    recording, ask = recorder(record_all)
    closing = threading.Thread(target=recording.close, daemon=True)
    askers.extend(ask(1))
    wait(lambda: closing.ident)
    closing.join(20)
    assert not closing.is_alive()
    assert [asker.answers for asker in askers] == [["0"], *([f"{number}"] for number in range(5))]
    assert recording.behind == 0


def test_a_transaction_takes_along_no_more_than_it_may_hold(wait: Wait) -> None:
    askers: list[Asker] = []
    sizes: list[int] = []

    def record_all(decisions: Any, more: Any) -> Any:
        wait(lambda: askers)
        if not sizes:
            askers.extend(ask(MOST_TOGETHER + 50))
        written = [*decisions, *more()]
        sizes.append(len(written))
        return written

    recording, ask = recorder(record_all)
    askers.extend(ask(1))
    wait(lambda: recording.behind == 0 and len(askers) > 1)
    recording.close()
    assert sizes == [MOST_TOGETHER, 51]
    assert all(len(asker.answers) == 1 for asker in askers)


def test_what_is_written_again_one_by_one_takes_nobody_along(wait: Wait) -> None:
    """A stranger that cannot be recorded would fail it a second time."""
    askers: list[Asker] = []
    sizes: list[int] = []

    def record_all(decisions: Any, more: Any) -> Any:
        wait(lambda: askers)
        if len(sizes) < 3:
            askers.extend(ask(1))
        written = [*decisions, *more()]
        sizes.append(len(written))
        if len(written) > 1:
            raise ValueError("one of them cannot be written")
        return written

    recording, ask = recorder(record_all)
    askers.extend(ask(1))
    wait(lambda: len(askers) == 4 and recording.behind == 0)
    recording.close()
    assert sizes[:3] == [2, 1, 1]
    assert [asker.answers for asker in askers] == [["0"]] * 4


def test_a_request_that_comes_as_nobody_is_seen_to_wait_is_not_left_behind_a_call_that_hangs(
    wait: Wait,
) -> None:
    hangs, decided = threading.Event(), list[Asker]()
    first, second = Asker("hangs"), Asker("waits")

    def decide(asked: Any) -> None:
        if asked is first:
            hangs.wait(60)
        decided.append(asked)

    class Seen(threading.Event):
        """Somebody comes at the last moment at which this is still set."""

        def clear(self) -> None:
            if not second.behind:
                wait(lambda: not len(fallbacks._queue))
                second.behind = time.monotonic()
                fallbacks.put(cast(Asked, second))
            super().clear()

    fallbacks = Fallbacks(decide, lambda *_: None, within_s=60, budget_s=60)
    fallbacks._waiting = Seen()
    first.started = second.started = first.behind = time.monotonic()
    try:
        fallbacks.put(cast(Asked, first))
        wait(lambda: decided == [second])
    finally:
        hangs.set()
        fallbacks.close()


def test_09_what_was_answered_before_a_kill_is_on_record(tiny: Any, served: Any) -> None:
    tiny.offered()
    running = served()
    answered: list[str] = []
    enough = threading.Event()

    def ask(_: int) -> None:
        with httpx.Client(base_url=running.url, trust_env=False, timeout=30) as client:
            try:
                while True:
                    answered.append(client.post("/decide", json=tiny.record).json()["decision_id"])
                    if len(answered) >= 40:
                        enough.set()
            except httpx.HTTPError:
                return

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
        assert enough.wait(60)
        running.process.send_signal(signal.SIGKILL)
        for each in asked:
            each.result(60)
    store = DecisionStore(f"sqlite:///{tiny.root / 'var' / 'decisions.db'}")
    on_record = {each.decision_id for each in store.latest(100_000)}
    store.close()
    assert set(answered) <= on_record


# --- in time -----------------------------------------------------------------------------------------------


def test_how_many_go_together_follows_from_what_calls_take(tiny: Any, ready: tuple[Any, str]) -> None:
    deciding, digest = ready
    found = lane_of(deciding, digest)
    found._size = 1
    for expected in (2, 4, 8, 16, 32, 64, 64):
        found._learn(found._size, 0.01)
        assert found._size == expected
    found._learn(3, 0.01)
    assert found._size == 64
    found._learn(64, 16.0)  # more than half of the budget
    assert found._size == 32
    found._learn(32, 10.0)  # between the two
    assert found._size == 32
    # A single call that was slow says little of many, while they are quick; and much once they are not.
    found._inside, found._call_s = 65, 7.0
    assert found._waits_s() == 7.0
    found._call_s = 8.0
    assert found._waits_s() == 16.0
    found._inside = 0


def test_what_would_wait_too_long_is_the_fallbacks_and_only_then_nobodys(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    monkeypatch.setenv("PILOT_SERVING__QUEUE", "2")
    digest = tiny.offered()
    deciding = tiny.service()
    deciding.decide(tiny.parsed())
    held = Held(tiny, wait, digest)
    going = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(deciding.decide, tiny.parsed())]
        held.begun(1)
        # Two wait behind it; a further one would come too late, by what calls took.
        waiting += [pool.submit(deciding.decide, tiny.parsed()) for _ in range(2)]
        wait(lambda: lane_of(deciding, digest)._inside == 3)
        lane_of(deciding, digest)._call_s = 9.0
        shed = deciding.decide(tiny.parsed())
        assert (shed.served_by, shed.why, shed.assigned) == ("fallback", "overloaded", "challenger")
        # Now the fallback takes its time, and two requests are all that may wait behind the model.
        tiny.fallback_file().hook = lambda record: going.wait(30) and Answer("skip")
        slow = [pool.submit(deciding.decide, tiny.parsed()) for _ in range(2)]
        wait(lambda: deciding._recorder._behind == 2)
        with pytest.raises(Overloaded):
            deciding.decide(tiny.parsed())
        with TestClient(create_app(deciding, name="dry field")) as client:
            refused = client.post("/decide", json=tiny.record)
        assert (refused.status_code, refused.json()["error"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert not any(each.done() for each in [*waiting, *slow]), "what was taken in before still waits"
        going.set()
        held.release()
        assert {each.result(30).why for each in slow} == {"overloaded"}
        assert {each.result(30).served_by for each in waiting} == {"model"}


async def _late(deciding: Any, record: Any, late_s: float, arrived: float | None = None) -> Any:
    loop = asyncio.get_running_loop()
    deciding._lag.seconds(loop)
    await asyncio.sleep(2 * lag.EVERY_S)
    deciding._lag.seconds(loop)
    time.sleep(late_s)  # as a loop that has too much to do
    return await deciding.decided(record, arrived=None if arrived is None else time.monotonic() - arrived)


def test_what_came_after_a_request_makes_it_no_younger(tiny: Any) -> None:
    """As of a caller who sends ahead: the system tells of the last bytes only."""
    tiny.offered()
    deciding = tiny.service()
    deciding.model_state(wait_s=60)
    made = asyncio.run(_late(deciding, tiny.parsed(), 0.5, arrived=0.0))
    assert made.elapsed_ms >= (0.5 - lag.EVERY_S) * 1000


@pytest.mark.parametrize(
    ("late_s", "outcome"), [(0.0, "assigned"), (0.6, "overloaded"), (1.2, None)], ids=["no", "some", "much"]
)
def test_what_waited_for_the_event_loop_has_waited(
    tiny: Any, late_s: float, outcome: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.offered()
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "2000")
    deciding = tiny.service()
    deciding.model_state(wait_s=60)
    if outcome is None:
        with pytest.raises(Overloaded):
            asyncio.run(_late(deciding, tiny.parsed(), late_s))
    else:
        made = asyncio.run(_late(deciding, tiny.parsed(), late_s))
        assert made.why == outcome
        assert made.elapsed_ms >= (late_s - lag.EVERY_S) * 1000


@pytest.mark.parametrize(
    ("ago_s", "outcome"),
    [(-1.0, "assigned"), (0.7, "assigned"), (1.2, "overloaded"), (1.7, None)],
    ids=["in a moment", "not long", "long", "too long"],
)
def test_what_waited_before_anybody_looked_has_waited(
    tiny: Any, ago_s: float, outcome: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.offered()
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "2000")
    deciding = tiny.service()
    deciding.model_state(wait_s=60)

    async def made() -> Any:
        return await deciding.decided(tiny.parsed(), arrived=time.monotonic() - ago_s)

    if outcome is None:
        with pytest.raises(Overloaded):
            asyncio.run(made())
    else:
        decided = asyncio.run(made())
        assert decided.why == outcome
        assert ago_s * 1000 <= decided.elapsed_ms < ago_s * 1000 + 1_000 or (
            ago_s < 0 <= decided.elapsed_ms < 1_000
        )


@pytest.mark.parametrize(
    ("lag_s", "behind", "outcome"),
    [(0.4, 100, "assigned"), (1.2, 100, "overloaded"), (1.6, 100, None), (1.6, 5, "assigned")],
    ids=["not long", "long", "too long", "few"],
)
def test_where_others_wait_for_their_record_so_will_one_more(
    tiny: Any, lag_s: float, behind: int, outcome: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.offered()
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "2000")
    deciding = tiny.service()
    deciding.model_state(wait_s=60)
    deciding._recorder._lag_s, deciding._recorder._behind = lag_s, behind
    if outcome is None:
        with pytest.raises(Overloaded):
            deciding.decide(tiny.parsed())
    else:
        assert deciding.decide(tiny.parsed()).why == outcome
    deciding._recorder._behind = 0


def test_a_loop_that_nobody_asks_about_is_not_looked_at() -> None:
    async def idle() -> bool:
        found = lag.Lag()
        found.seconds(asyncio.get_running_loop())
        for _ in range(200):
            await asyncio.sleep(lag.EVERY_S)
            if found._loop is None:
                return True
        return False

    assert asyncio.run(idle())


def test_a_model_takes_no_more_in_than_its_places(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    monkeypatch.setenv("PILOT_SERVING__IN_FLIGHT", "1")
    monkeypatch.setenv("PILOT_SERVING__BATCH", "2")
    digest = tiny.offered()
    deciding = tiny.service()
    deciding.decide(tiny.parsed())
    held = Held(tiny, wait, digest)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(deciding.decide, tiny.parsed()) for _ in range(2)]
        wait(lambda: lane_of(deciding, digest)._inside == 2)
        assert deciding.decide(tiny.parsed()).why == "model_busy"
        held.release()
        assert {each.result(30).why for each in asked} == {"assigned"}


def test_calls_that_waited_for_a_model_that_is_ended_are_told_so(
    tiny: Any, ready: tuple[Any, str], wait: Wait
) -> None:
    deciding, digest = ready
    held = Held(tiny, wait, digest)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(deciding.decide, tiny.parsed())]
        held.begun(1)
        asked += [pool.submit(deciding.decide, tiny.parsed()) for _ in range(3)]
        wait(lambda: lane_of(deciding, digest)._inside == 4)
        deciding.host.close()
        assert [each.result(30).why for each in asked] == ["model_died"] + ["model_busy"] * 3
    with pytest.raises(Busy):
        lane_of_closed(deciding, digest)


def lane_of_closed(deciding: Any, digest: str) -> None:
    ended = lane.Lane(deciding.host._terms, digest)
    ended.close()
    ended.put(lane.Call({}, lambda _: None))


# --- the fallback ------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tiny: Any) -> Iterator[Any]:
    """A service whose fallback decides everything."""
    tiny.offered()
    kill(tiny.control, reason="stop")
    yield tiny.service()
    tiny.fallback_file().hook = None


def test_fallbacks_that_take_their_time_do_so_beside_each_other(tiny: Any, stopped: Any) -> None:
    together_ = threading.Barrier(4)

    def slow(record: Any) -> Answer:
        together_.wait(30)  # nobody goes on before all four are here
        return Answer("skip")

    tiny.fallback_file().hook = slow
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(stopped.decide, tiny.parsed()) for _ in range(4)]
        assert {each.result(60).why for each in asked} == {"killed"}


def test_threads_that_a_slow_moment_called_for_end_when_it_is_over(
    tiny: Any, stopped: Any, wait: Any
) -> None:
    def threads() -> int:
        return sum(each.name == "fallback" for each in threading.enumerate())

    before = threads()
    together_ = threading.Barrier(4)

    def slow(record: Any) -> Answer:
        together_.wait(30)
        return Answer("skip")

    tiny.fallback_file().hook = slow
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(stopped.decide, tiny.parsed()) for _ in range(4)]
        assert {each.result(60).why for each in asked} == {"killed"}
        wait(lambda: threads() == before + 1)  # the one that waits for the next
        assert stopped._fallbacks._threads == 1
        asked = [pool.submit(stopped.decide, tiny.parsed()) for _ in range(4)]
        assert {each.result(60).why for each in asked} == {"killed"}


def test_a_fallback_that_hangs_costs_its_own_request_and_no_other(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOT_SERVING__FALLBACK_BUDGET_MS", "1500")
    tiny.offered()
    kill(tiny.control, reason="stop")
    deciding = tiny.service()
    going = threading.Event()

    def hangs(record: Any) -> Answer:
        if record["plot"] == "hangs":
            going.wait(60)
        return Answer("skip")

    tiny.fallback_file().hook = hangs
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(deciding.decide, tiny.parsed(plot="hangs"))
        made = [deciding.decide(tiny.parsed(plot=f"p-{number}")) for number in range(20)]
        with pytest.raises(FallbackFailed, match="TooSlow"):
            hung.result(30)
    going.set()  # what it says now comes too late, and is no decision
    deciding.close()
    assert len(made) == len(deciding.store.latest(100)) == 20
    assert {each.entity for each in deciding.store.latest(100)} == {f"p-{number}" for number in range(20)}


# --- asked again -------------------------------------------------------------------------------------------


def test_a_request_that_is_sent_again_gets_the_decision_of_the_first_time(tiny: Any) -> None:
    tiny.offered()
    deciding = tiny.service()
    first = deciding.decide(tiny.parsed(), key="k")
    kill(tiny.control, reason="stop")
    again = deciding.decide(tiny.parsed(), key="k")
    assert (again.decision_id, again.served_by) == (first.decision_id, "model")
    with pytest.raises(IdempotencyConflict):
        deciding.decide(tiny.parsed(dryness=1.0), key="k")
    assert deciding.decide(tiny.parsed(), key="another").served_by == "fallback"
    assert len(deciding.store.latest(10)) == 2
    assert deciding.underway.count().under_way == 0


def test_the_same_request_many_times_at_once_is_one_decision(tiny: Any) -> None:
    tiny.offered()
    deciding = tiny.service()
    record, at_once = tiny.parsed(), threading.Barrier(12)

    def ask(_: int) -> str:
        at_once.wait(30)
        made: str = deciding.decide(record, key="k").decision_id
        return made

    with ThreadPoolExecutor(12) as pool:
        found = set(pool.map(ask, range(12)))
    assert len(found) == len(deciding.store.latest(100)) == 1


def test_the_header_names_a_request_among_those_of_its_token(tiny: Any) -> None:
    tiny.offered()
    tokens = [
        issue(tiny.control, name=name, scopes=["decide"], lasts=timedelta(days=1))[0]
        for name in ("till", "web")
    ]
    with TestClient(create_app(tiny.service(), name="dry field")) as client:

        def post(token: str | None, **changes: Any) -> Any:
            headers = {"Idempotency-Key": "order 7".replace(" ", "-")}
            if token:
                headers["Authorization"] = f"Bearer {token}"
            return client.post("/decide", json={**tiny.record, **changes}, headers=headers)

        (shown,) = client.get("/openapi.json").json()["paths"]["/decide"]["post"]["parameters"]
        assert (shown["name"], shown["in"], shown["required"]) == ("idempotency-key", "header", False)
        made = [post(each).json()["decision_id"] for each in (None, *tokens)]
        assert len(set(made)) == 3, "a key is its caller's own"
        assert [post(each).json()["decision_id"] for each in (None, *tokens)] == made
        refused = post(tokens[0], dryness=1.0)
        assert (refused.status_code, refused.json()["error"]) == (422, "idempotency_conflict")
        assert "another record" in refused.json()["detail"]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "\x7f", "\t"], ids=repr)
def test_a_key_that_is_none_is_refused(tiny: Any, key: str) -> None:
    tiny.offered()
    with TestClient(create_app(tiny.service(), name="dry field")) as client:
        answer = client.post("/decide", json=tiny.record, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_idempotency_key")
    assert tiny.services[-1].store.latest(1) == []


# --- reasons that take long --------------------------------------------------------------------------------


def test_reasons_are_begun_only_where_they_will_find_the_time() -> None:
    now = [0.0]
    cost = Cost(lambda: now[0])
    assert cost.fit(1.0) == 1, "nothing is known yet"
    cost.took(1, 5.0)
    assert cost.fit(1.0) == 1, "the first call of a process says nothing of the others"
    cost.took(1, 0.01)
    assert (cost.fit(1.0), cost.fit(0.05), cost.fit(-1.0)) == (100, 5, 0)
    for _ in range(20):
        cost.took(1, 2.0)
    assert cost.fit(1.0) == 0
    now[0] += 11.0
    assert cost.fit(1.0) == 1, "it may have been the machine's fault"


@pytest.fixture
def slow_reasons(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    """A service whose model takes longer to explain than there is time."""
    monkeypatch.setenv("PILOT_SERVING__REASONS_BUDGET_MS", "20")
    digest = tiny.offered()
    deciding = tiny.service()
    tiny.model_does(
        digest,
        "time.sleep(0.1)\nreturn [[Reason('dryness', dry, 1.0)] for dry in features['dryness']]",
        role="reasons",
    )
    monkeypatch.setattr(deciding._explaining, "look", lambda: None)  # as if it were killed before it did
    return deciding, digest


def test_reasons_that_take_too_long_are_pending_and_found_again_after_a_restart(
    tiny: Any, slow_reasons: tuple[Any, str], wait: Wait
) -> None:
    deciding, _ = slow_reasons
    made = [deciding.decide(tiny.parsed(reading=f"r-{number}")) for number in range(5)]
    late = [each for each in made if each.reasons_pending]
    assert len(late) >= 2
    assert [each.reasons_pending for each in made][:2] == [False, False], "what it costs has to be seen"
    for each in late:
        assert (each.served_by, each.reasons, each.decision) == ("model", [], "water")
        found = deciding.store.get(each.decision_id)
        assert found is not None
        assert found.reasons_pending
    deciding.close()
    tiny.service()
    Prepared(tiny.settings(), tiny.services[-1], []).load()
    store = tiny.services[-1].store
    wait(lambda: not store.pending(10))
    for each in late:
        found = store.get(each.decision_id)
        assert (found.reasons, found.reasons_pending) == (
            [{"feature": "dryness", "value": 0.8, "effect": 1.0}],
            False,
        )
        assert (found.decision, found.score, found.decided_at) == (each.decision, each.score, each.decided_at)


def test_while_the_model_is_stopped_its_reasons_stay_pending(
    tiny: Any, slow_reasons: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deciding, _ = slow_reasons
    for number in range(4):
        deciding.decide(tiny.parsed(reading=f"r-{number}"))
    kill(tiny.control, reason="stop")
    monkeypatch.undo()
    later = tiny.service()._explaining
    pending = deciding.store.pending(10)
    assert pending
    assert later._some() is False
    assert deciding.store.pending(10) == pending


def test_one_whose_reasons_cannot_be_computed_holds_up_no_other(
    tiny: Any, slow_reasons: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deciding, digest = slow_reasons
    for number in range(5):
        deciding.decide(tiny.parsed(reading=f"r-{number}", dryness=10.0 + number))
    before = deciding.store.pending(10)
    assert len(before) >= 2
    bad = before[0]
    tiny.model_does(
        digest,
        f"assert features['dryness'][0] != {bad.record['dryness'] / 100}\n"
        "return [[Reason('dryness', dry, 1.0)] for dry in features['dryness']]",
        role="reasons",
    )
    monkeypatch.setattr(explaining, "AT_ONCE", 1)
    later = tiny.service()._explaining
    while later._some():
        pass
    assert [each.decision_id for each in deciding.store.pending(10)] == [bad.decision_id]


def test_with_a_quick_model_nothing_is_pending(tiny: Any) -> None:
    tiny.offered()
    deciding = tiny.service()
    made = [deciding.decide(tiny.parsed()) for _ in range(5)]
    assert not any(each.reasons_pending for each in made)
    assert all(each.reasons for each in made)


# --- kept scores -------------------------------------------------------------------------------------------


def keeping(tiny: Any, scores: int) -> None:
    code: Path = tiny.root / "src" / "dryfield" / "contract.py"
    code.write_text(code.read_text().replace('groups=("crop",),', f'groups=("crop",), cache={scores},'))


def asked(deciding: Any, digest: str) -> int:
    process = lane_of(deciding, digest)._process
    assert process is not None
    return process.asked


@pytest.mark.parametrize(("scores", "calls"), [(0, 3), (2, 1)])
def test_a_score_is_given_again_only_where_the_contract_allows_it(tiny: Any, scores: int, calls: int) -> None:
    keeping(tiny, scores)
    digest = tiny.offered()
    deciding = tiny.service()
    made = [deciding.decide(tiny.parsed()) for _ in range(3)]
    assert asked(deciding, digest) == calls
    assert {each.score for each in made} == {0.8}
    assert all(each.reasons == made[0].reasons != [] for each in made)
    assert len({each.decision_id for each in made}) == len(deciding.store.latest(10)) == 3


def test_a_kept_score_is_that_records_and_that_models_alone(tiny: Any) -> None:
    keeping(tiny, 2)
    other = tiny.package(weight=0.5).digest
    digest = tiny.offered()
    deciding = tiny.service()
    deciding.decide(tiny.parsed())
    deciding.decide(tiny.parsed(slope=1.0))
    assert asked(deciding, digest) == 2, "a record that differs in a field that no feature takes is another"
    deciding.decide(tiny.parsed(slope=2.0))
    assert deciding.decide(tiny.parsed()).score == 0.8
    assert asked(deciding, digest) == 4, "more than two are not kept"
    tiny.champion(other, rev=5)
    assert deciding.decide(tiny.parsed()).score == 0.4
    tiny.champion(digest, rev=6)
    before = asked(deciding, digest)
    assert deciding.decide(tiny.parsed()).score == 0.8
    assert asked(deciding, digest) == before


def test_a_kept_score_decides_nothing_after_a_stop(tiny: Any) -> None:
    keeping(tiny, 2)
    tiny.offered()
    deciding = tiny.service()
    deciding.decide(tiny.parsed())
    kill(tiny.control, reason="stop")
    assert deciding.decide(tiny.parsed()).why == "killed"
    assert deciding.underway.count().under_way == 0


def test_a_cache_of_less_than_nothing_is_refused(tiny: Any, pilot_here: Any) -> None:
    keeping(tiny, -1)
    done = pilot_here("serve")
    assert (done.returncode, "the contract's cache is -1" in done.stderr) == (2, True)


def test_the_service_ends_once_everything_that_waits_is_on_record(
    tiny: Any, ready: tuple[Any, str], monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    deciding, _ = ready
    record_all, begun = deciding.store.record_all, threading.Event()

    def slowly(*arguments: Any) -> Any:
        begun.set()
        time.sleep(0.2)
        return record_all(*arguments)

    monkeypatch.setattr(deciding.store, "record_all", slowly)
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(deciding.decide, tiny.parsed()) for _ in range(4)]
        assert begun.wait(30)
        wait(lambda: deciding._recorder._behind == 4)
        deciding.close()
        assert {each.result(0.1).served_by for each in made} <= {"model", "fallback"}


@pytest.mark.parametrize("name", ["fallback", "recorder"])
def test_a_thread_that_the_system_does_not_give_is_asked_for_again(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, wait: Wait, name: str
) -> None:
    """A request without it is refused; were it taken for started, every later one would wait for nobody."""
    service = tiny.service()
    start, refused = threading.Thread.start, list[str]()

    def starting(thread: threading.Thread) -> None:
        if thread.name == name and not refused:
            refused.append(name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    if name == "fallback":
        with pytest.raises(RuntimeError):
            service.decide(tiny.record)
    else:
        outcome = object()
        with pytest.raises(RuntimeError):
            service._recorder.put(outcome, outcome)
    assert refused
    made: list[Any] = []
    threading.Thread(target=lambda: made.append(service.decide(tiny.record)), daemon=True).start()
    wait(lambda: made, within=10)
    assert made[0].served_by == "fallback"


def test_a_fallback_that_hangs_gets_help_though_the_system_had_no_thread_at_first(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    service = tiny.service()
    start, refused, go_on = threading.Thread.start, list[str](), threading.Event()
    service.decide(tiny.record)

    def starting(thread: threading.Thread) -> None:
        if thread.name == "fallback" and len(refused) < 2:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    decide, first = service.said_by_fallback, threading.Event()

    def hanging(record: Any) -> Any:
        if not first.is_set():
            first.set()
            go_on.wait(20)
        return decide(record)

    monkeypatch.setattr(service, "said_by_fallback", hanging)
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(service.decide, tiny.record)
        wait(first.is_set)
        try:
            assert pool.submit(service.decide, tiny.record).result(10).served_by == "fallback"
        finally:
            go_on.set()
        assert held.result(10).served_by == "fallback"
    assert len(refused) == 2
