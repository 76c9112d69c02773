"""Decisions reach the consumer at least once and in order."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from delivering import MADE, QUICK, SECRET, Receiver, delivered, delivering, queueing, receiving, record
from harness.serving import consumer as consumer_module
from harness.serving.consumer import sign
from harness.serving.delivery import LOCK, Deliverer
from harness.store import DecisionStore, Outbox, StoreUnavailable

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


def test_what_was_decided_arrives_once_and_as_it_is_on_record(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    store.record(MADE)
    expected = Outbox(store.database).first(1)[0].content
    deliver()
    wait(lambda: delivered(store))
    ((headers, body),) = receiver.got
    assert json.loads(body) == expected
    assert headers["Idempotency-Key"] == MADE.decision_id
    assert headers["Content-Type"] == "application/json"
    assert not any(name.lower().startswith("pilot-") for name in headers), "it claims to be signed"
    record(store, "later", first=1)
    wait(lambda: len(receiver.got) == 2)


def test_a_delivery_is_signed_over_its_time_and_its_body(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    store.record(MADE)
    deliver(secret=SECRET)
    wait(lambda: delivered(store))
    ((headers, body),) = receiver.got
    sent_at = headers["Pilot-Timestamp"]
    assert abs(int(sent_at) - time.time()) < 60
    expected = hmac.new(SECRET.encode(), sent_at.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["Pilot-Signature"] == f"v1={expected}"


def test_the_signature_is_the_documented_one() -> None:
    # printf '1700000000.{}' | openssl dgst -sha256 -hmac 'between the two of us'
    digest = "4a976510473f9ce0727add79bd4b75458d54c67c319dc30bcdd5aee165311aed"
    assert sign(SECRET, "1700000000", b"{}") == f"v1={digest}"
    assert sign(SECRET, "1700000000", b"{}") != sign(SECRET, "1700000001", b"{}")


def test_a_failing_decision_holds_back_its_own_entity_and_no_other(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    receiver.answers["a"] = 422
    made = record(store, "a", "b", "a", "c", "a", "b")
    deliver()
    others = [made[1], made[3], made[5]]
    wait(lambda: set(others) <= set(receiver.names()))
    assert [name for name in receiver.names() if name in others] == others
    wait(lambda: receiver.names().count(made[0]) >= 3)
    assert not {made[2], made[4]} & set(receiver.names()), "a later one overtook"
    assert Outbox(store.database).waiting().count == 3
    assert Outbox(store.database).waiting().error == "the consumer answers 422"
    receiver.answers.clear()
    wait(lambda: delivered(store))
    assert receiver.names()[-2:] == [made[2], made[4]]


def test_many_that_wait_behind_a_failing_one_keep_nobody_else_waiting(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    receiver.answers["a"] = 422
    record(store, *["a"] * (QUICK.batch * 2))
    (other,) = record(store, "b", first=1000)
    deliver()
    wait(lambda: other in receiver.names())


def test_several_failing_entities_keep_nobody_else_waiting(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    bad = [f"bad-{number}" for number in range(QUICK.in_a_row * 3)]
    receiver.answers = dict.fromkeys(bad, 500)
    made = record(store, *bad, "good")
    deliver()
    wait(lambda: made[-1] in receiver.names())


def test_a_consumer_that_hangs_on_one_is_left_and_the_others_arrive(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    receiver.hanging.add("a")
    made = record(store, "a", "b", "a")
    deliver()
    wait(lambda: made[1] in receiver.names())
    wait(lambda: Outbox(store.database).waiting().error == "the consumer does not answer in time")
    receiver.hanging.clear()
    receiver.free.set()
    wait(lambda: delivered(store))


def test_a_consumer_that_is_not_there_gets_all_in_order_when_it_comes(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    address = receiver.server.server_address
    receiver.close()
    entities = ["a", "b", "a", "c", "b", "a"]
    made = record(store, *entities)
    deliver()
    wait(lambda: "cannot be reached" in (Outbox(store.database).waiting().error or ""))
    assert Outbox(store.database).waiting().count == len(made)
    back = ThreadingHTTPServer(address, receiver.server.RequestHandlerClass)  # type: ignore[arg-type]
    threading.Thread(target=back.serve_forever, daemon=True).start()
    try:
        wait(lambda: delivered(store))
    finally:
        back.shutdown()
        back.server_close()
    order: dict[str, list[str]] = defaultdict(list)
    for name in receiver.names():
        order[entities[made.index(name)]].append(name)
    assert order == {"a": [made[0], made[2], made[5]], "b": [made[1], made[4]], "c": [made[3]]}


def test_a_decision_that_comes_while_many_fail_waits_for_none_of_them(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    bad = [f"bad-{number}" for number in range(QUICK.in_a_row * 4)]
    receiver.answers = dict.fromkeys(bad, 503)
    made = record(store, *bad)
    deliver()
    wait(lambda: set(made) <= set(receiver.names()))
    for number in range(3):
        (name,) = record(store, f"good-{number}", first=100 + number)
        wait(lambda name=name: name in receiver.names())


def test_when_too_many_are_held_back_those_are_tried_and_no_others(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    receiver.status = 503
    record(store, "a", "b", "c", "d")
    deliver(pace=replace(QUICK, held=2, in_a_row=9, batch=1))
    wait(lambda: receiver.names().count("d-0") >= 3)
    assert set(receiver.names()) == {"d-0", "d-1"}
    receiver.status = 200
    wait(lambda: delivered(store))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_nobody_else_is_told(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait, status: int
) -> None:
    other = Receiver()
    try:
        receiver.status, receiver.location = status, other.url
        store.record(MADE)
        deliver()
        wait(lambda: len(receiver.got) >= 2)
        assert other.got == []
        wait(lambda: Outbox(store.database).waiting().error)
        assert "redirects are not followed" in str(Outbox(store.database).waiting().error)
    finally:
        other.close()


def test_no_proxy_of_the_environment_is_asked(
    store: DecisionStore, deliver: Any, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    store.record(MADE)
    deliver()
    wait(lambda: delivered(store))


def test_what_was_not_noted_is_delivered_again_under_the_same_key(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, calls = Outbox.settle, []

    def lost(self: Outbox, sequences: Any, state: str) -> None:
        if sequences and not calls:
            calls.append(sequences)
            raise StoreUnavailable("gone", where="store", mend="Bring it back.")
        settle(self, sequences, state)

    monkeypatch.setattr(Outbox, "settle", lost)
    (name,) = record(store, "a")
    deliver()
    wait(lambda: delivered(store))
    assert receiver.names() == [name, name]
    assert [headers["Idempotency-Key"] for headers, _ in receiver.got] == [name, name]


def test_what_is_left_when_one_ends_the_next_delivers(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    receiver.status = 503
    made = record(store, "a", "b")
    first = deliver()
    wait(lambda: receiver.got)
    first.stop()
    receiver.status = 200
    receiver.got.clear()
    deliver()
    wait(lambda: delivered(store))
    assert sorted(receiver.names()) == made


def test_one_delivers_and_the_others_stand_by_until_it_ends(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    by: list[str] = []
    post = consumer_module.Consumer.post

    def told(self: Any, parcel: Any) -> Any:
        by.append(self.name)
        return post(self, parcel)

    monkeypatch.setattr(consumer_module.Consumer, "post", told)
    first = deliver()
    first._consumer.name = "first"
    record(store, "a")
    wait(lambda: delivered(store))
    second = deliver()
    second._consumer.name = "second"
    for number in range(1, 6):
        record(store, f"e-{number}", first=number)
        wait(lambda: delivered(store))
    assert set(by) == {"first"}
    first.stop()
    record(store, "z", first=10)
    wait(lambda: delivered(store))
    assert by[-1] == "second"
    assert len(receiver.got) == len(by) == 7


def test_one_whose_lock_was_deleted_stops_delivering(
    tmp_path: Path, store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    deliver(pace=replace(QUICK, stand_by=30))
    record(store, "a")
    wait(lambda: delivered(store))
    (tmp_path / LOCK).unlink()
    time.sleep(0.1)
    record(store, "b", first=1)
    deliver()  # another service of the pilot
    wait(lambda: delivered(store))
    assert receiver.names() == ["d-0", "d-1"]


def test_a_decision_that_no_json_can_hold_costs_no_other(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    record(store, "a", "b")
    first = Outbox.first

    def odd(self: Outbox, *args: Any, **more: Any) -> Any:
        return [
            replace(parcel, content={**parcel.content, "score": float("nan")})
            if parcel.entity == "a"
            else parcel
            for parcel in first(self, *args, **more)
        ]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Outbox, "first", odd)
        deliver()
        wait(lambda: "d-1" in receiver.names())
        assert "d-0" not in receiver.names()


def test_nothing_of_a_decision_is_logged_or_kept_as_an_error(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="harness")
    receiver.status = 500
    store.record(replace(MADE, record={**MADE.record, "note": "zq-7731"}))
    deliver()
    wait(lambda: "is not delivered yet" in caplog.text)
    receiver.status = 200
    wait(lambda: delivered(store))
    said = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("harness"))
    assert MADE.decision_id in said
    for value in ("zq-7731", "Äcker-7", "r-1", "water", "0.3"):
        assert value not in said
