"""Where deliveries may go, what they may cost a decision, and what a service that dies leaves of them."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from delivering import Receiver, delivered, delivering, queueing, receiving, record
from harness.control import Control
from harness.control.state import STATE
from harness.errors import PilotError
from harness.serving import consumer as consumer_module
from harness.serving import running
from harness.serving import server as server_module
from harness.serving.consumer import check_target
from harness.serving.delivery import Deliverer
from harness.serving.server import build_service, check_stage
from harness.store import DecisionStore, Outbox
from harness.testing import Consumer

Wait = Callable[..., Any]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DecisionStore]:
    with queueing(tmp_path) as opened:
        yield opened


@pytest.fixture
def deliver(
    tmp_path: Path, tiny: Any, store: DecisionStore, receiver: Receiver
) -> Iterator[Callable[..., Deliverer]]:
    with delivering(tmp_path, tiny, store, receiver) as start:
        yield start


HERE = ["http://127.0.0.1:9/x", "http://localhost:9", "https://127.8.8.8", "http://[::1]:9/x"]
ELSEWHERE = [
    "http://192.0.2.1/x",
    "http://example.org",
    "http://0.0.0.0:9/x",
    "http://127.0.0.1.example.org/",
    "http://127.0.0.1@example.org/",
    "http://localhost.example.org",
    "http://[::]/",
    "http://2130706433/",
]


@pytest.mark.parametrize("stage", ["sandbox", "unknown"])
@pytest.mark.parametrize("url", ELSEWHERE)
def test_the_sandbox_delivers_to_this_machine_only(url: str, stage: str) -> None:
    with pytest.raises(PilotError, match="delivers to this machine only"):
        check_target(url, stage)
    for other in ("shadow", "early", "broad", "full"):
        check_target(url, other)


@pytest.mark.parametrize("url", HERE)
def test_this_machine_is_known_by_all_its_names(url: str) -> None:
    check_target(url, "sandbox")


@pytest.mark.parametrize("state", ["sandbox", "missing", "damaged"])
def test_a_service_does_not_start_in_the_sandbox_with_a_consumer_elsewhere(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setenv("PILOT_DOWNSTREAM__URL", "http://192.0.2.1/x")
    tiny.put(stage="sandbox" if state == "sandbox" else "full")
    if state == "missing":
        (tiny.control / STATE).unlink()
    elif state == "damaged":
        (tiny.control / STATE).write_text("{")
    monkeypatch.setattr(running, "listen", lambda *_: pytest.fail("it listened"))
    with pytest.raises(PilotError, match=r"delivers to this machine only, not to 192\.0\.2\.1"):
        running.serve(tiny.settings(), host="127.0.0.1", port=0)


def test_a_stage_that_falls_back_to_the_sandbox_stops_deliveries_elsewhere(
    tiny: Any, store: DecisionStore, deliver: Any, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(
        consumer_module.Consumer, "post", lambda self, parcel: sent.append(parcel.decision_id)
    )
    tiny.put(stage="early")
    deliver(url="http://192.0.2.1/x")
    record(store, "a", stage="early", sandbox=False)
    wait(lambda: delivered(store))
    for number, change in enumerate(("sandbox", "missing", "damaged"), start=1):
        if change == "sandbox":
            tiny.put(rev=2)
        elif change == "missing":
            (tiny.control / STATE).unlink()
        else:
            (tiny.control / STATE).write_text("{")
        record(store, "a", first=number, stage="early", sandbox=False)
        time.sleep(0.2)
        assert sent == ["d-0"], change
    tiny.put(rev=3, stage="early")
    wait(lambda: delivered(store))
    assert sent == ["d-0", "d-1", "d-2", "d-3"]


def test_what_the_sandbox_decided_never_reaches_a_real_consumer(
    tiny: Any, store: DecisionStore, deliver: Any, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(
        consumer_module.Consumer, "post", lambda self, parcel: sent.append(parcel.decision_id)
    )
    played = record(store, "a", "b")
    tiny.put(stage="early")
    real = record(store, "a", first=5, stage="early", sandbox=False)
    deliver(url="http://192.0.2.1/x")
    wait(lambda: delivered(store))
    assert sent == real
    assert Outbox(store.database).waiting().withheld == len(played)


# --- beside the decisions ----------------------------------------------------------------------------------


def test_a_decision_waits_for_no_consumer(
    tiny: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    monkeypatch.setenv("PILOT_DOWNSTREAM__URL", receiver.url)
    tiny.offered()
    deciding = tiny.service()
    receiver.hanging.add(tiny.record["plot"])
    with server_module.delivering(tiny.settings(), deciding):
        made = [deciding.decide(tiny.parsed()).decision_id]
        wait(lambda: receiver.got)
        made += [deciding.decide(tiny.parsed()).decision_id for _ in range(5)]  # while it hangs
        assert not receiver.free.is_set()
        assert [found.decision_id for found in deciding.store.latest(10)] == made[::-1]
        assert receiver.names() == made[:1]
        receiver.free.set()
        wait(lambda: Outbox(deciding.store.database).waiting().count == 0)
    assert receiver.names()[-5:] == made[1:]


def test_without_a_consumer_there_is_no_thread_and_nothing_waits(tiny: Any) -> None:
    tiny.offered()
    deciding = tiny.service()
    with server_module.delivering(tiny.settings(), deciding):
        deciding.decide(tiny.parsed())
        assert "delivery" not in [thread.name for thread in threading.enumerate()]
    assert Outbox(deciding.store.database).waiting().count == 0


def test_a_service_killed_before_it_delivered_delivers_after_its_next_start(
    tiny: Any, served: Any, pilot_command: Any, tmp_path: Path
) -> None:
    tiny.offered()
    with Consumer(tmp_path) as receiving:
        receiving.answer(503)
        running = served(**receiving.settings)
        with httpx.Client(base_url=running.url, trust_env=False, timeout=30) as asking:
            made = [asking.post("/decide", json=tiny.record).json()["decision_id"] for _ in range(4)]
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(timeout=30)
        assert receiving.received() == []
        told = json.loads(pilot_command("status", "--json", **receiving.settings).stdout)["downstream"]
        assert (told["waiting"], told["signed"], told["url"]) == (4, True, receiving.url)
        said = pilot_command("status", **receiving.settings).stdout
        assert f"downstream: 4 waiting for {receiving.url}" in said
        assert "the oldest since 20" in said
        assert "downstream: 4 waiting for nobody" in pilot_command("status").stdout
        receiving.answer(200)
        served(**receiving.settings)
        assert [content["decision_id"] for content in receiving.received(4)] == made


def test_a_consumer_with_another_secret_takes_nothing(
    tiny: Any, served: Any, tmp_path: Path, wait: Wait
) -> None:
    tiny.offered()
    with Consumer(tmp_path) as receiving:
        other = receiving.settings | {"PILOT_DOWNSTREAM__SECRET": "another secret altogether"}
        running = served(**other)
        with httpx.Client(base_url=running.url, trust_env=False, timeout=30) as asking:
            asking.post("/decide", json=tiny.record)
        store = build_service(tiny.settings()).store
        wait(lambda: Outbox(store.database).waiting().error == "the consumer answers 401")
        store.close()
        assert receiving.arrived() == []


def test_the_address_is_checked_at_the_start_in_every_stage(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOT_DOWNSTREAM__URL", "http://127.0.0.1:port/x")
    tiny.put()
    with pytest.raises(PilotError, match="not an address"):
        check_stage(tiny.settings(), Control(tiny.control), "127.0.0.1")
