"""What the consumer refuses for good is given up, told, and holds its entity until somebody decides."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from delivering import MADE, QUICK, Receiver, delivered, delivering, receiving, record
from harness.serving.delivery import Deliverer
from harness.store import DecisionStore, Outbox, put

Wait = Callable[..., Any]
SOON = replace(QUICK, refused=3, tried=4)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def store(store_url: str) -> Iterator[DecisionStore]:
    opened = DecisionStore(store_url, alongside=(put,))
    yield opened
    opened.close()


@pytest.fixture
def deliver(
    tmp_path: Any, tiny: Any, store: DecisionStore, receiver: Receiver
) -> Iterator[Callable[..., Deliverer]]:
    with delivering(tmp_path, tiny, store, receiver) as start:
        yield start


def pressing(store: DecisionStore, entity: str = "good") -> Iterator[str]:
    """Decisions that the consumer takes, one a question."""
    number = 1000
    while True:
        number += 1
        record(store, entity, first=number)
        yield f"d-{number}"


def given_up(store: DecisionStore, wait: Wait) -> list[Any]:
    more, outbox = pressing(store), Outbox(store.database)
    return list(wait(lambda: next(more) and outbox.dead()))


@pytest.mark.parametrize("answer", [422, 503])
def test_what_fails_again_and_again_while_others_arrive_is_given_up_and_holds_its_entity(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait, answer: int
) -> None:
    receiver.answers["a"] = answer
    first, later = record(store, "a", "a")
    deliver(pace=SOON)
    (dead,) = given_up(store, wait)
    assert (dead.decision_id, dead.behind) == (first, 1)
    assert dead.error == f"the consumer answers {answer}"
    assert dead.attempts == (3 if answer == 422 else 4)
    tried = receiver.names().count(first)
    receiver.answers.clear()
    (other,) = record(store, "b", first=50)
    wait(lambda: other in receiver.names())
    assert later not in receiver.names(), "it overtook the one that was given up"
    assert receiver.names().count(first) == tried
    waiting = Outbox(store.database).waiting()
    assert (waiting.dead, waiting.dead_since, waiting.held) == (1, MADE.decided_at, 1)


@pytest.mark.parametrize("what", ["retry", "drop"])
def test_after_a_retry_or_a_drop_the_entity_goes_on_in_order(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait, what: str
) -> None:
    receiver.answers["a"] = 422
    first, later = record(store, "a", "a")
    deliver(pace=SOON)
    given_up(store, wait)
    receiver.answers.clear()
    before = len(receiver.got)
    outbox = Outbox(store.database)
    assert getattr(outbox, what)(["nobody"]) == 0
    assert getattr(outbox, what)([first]) == 1
    wait(lambda: delivered(store))
    assert outbox.dead() == []
    of_entity = [name for name in receiver.names()[before:] if name in (first, later)]
    assert of_entity == ([first, later] if what == "retry" else [later])


def test_a_consumer_that_takes_nothing_costs_no_decision(
    store: DecisionStore, receiver: Receiver, deliver: Any, wait: Wait
) -> None:
    receiver.status = 401  # a wrong secret, say
    made = record(store, "a", "b", "c")
    deliver(pace=SOON)
    wait(lambda: all(receiver.names().count(name) > 2 * SOON.refused for name in made))
    assert Outbox(store.database).dead() == []
    receiver.status = 200
    wait(lambda: delivered(store))


def test_what_is_given_up_is_told(
    store: DecisionStore, receiver: Receiver, tiny: Any, tmp_path: Any, wait: Wait
) -> None:
    from harness.control import Control

    receiver.answers["a"] = 422
    tiny.put()
    record(store, "a")
    told: list[str] = []

    def alarm(text: str) -> None:
        told.append(text)
        raise OSError("nobody can be told")

    deliverer = Deliverer(
        Outbox(store.database),
        Control(tiny.control),
        url=receiver.url,
        secret="",
        root=tmp_path,
        pace=SOON,
        alarm=alarm,
    )
    deliverer.start()
    try:
        given_up(store, wait)
        wait(lambda: told)
        assert "d-0 is given up after 3 attempts: the consumer answers 422" in told[0]
        (other,) = record(store, "b", first=50)
        wait(lambda: other in receiver.names())  # an alarm that reaches nobody stops nothing
    finally:
        deliverer.stop()


def test_the_command_lists_retries_and_drops_them(tiny: Any, pilot_here: Callable[..., Any]) -> None:
    store = DecisionStore(tiny.settings().sqlite_url(tiny.settings().store.url), alongside=(put,))
    made = record(store, "a", "a", "b")
    outbox = Outbox(store.database)
    assert pilot_here("outbox", "list").returncode == 0
    outbox.give_up({1: "the consumer answers 422", 3: "the consumer answers 409"})
    done = pilot_here("outbox", "list", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["given_up"]) == (1, 2)
    assert [(each["decision_id"], each["behind"]) for each in found["dead"]] == [(made[0], 1), (made[2], 0)]
    shown = pilot_here("outbox", "list")
    assert "the consumer answers 422" in shown.stdout
    status = json.loads(pilot_here("status", "--json").stdout)["downstream"]
    assert (status["given_up"], status["held_back"]) == (2, 1)
    assert status["given_up_oldest"]
    assert "2 GIVEN UP" in pilot_here("status").stdout
    assert pilot_here("outbox", "retry").returncode == 2
    assert pilot_here("outbox", "drop", "--all", made[0]).returncode == 2
    assert pilot_here("outbox", "retry", "nobody").returncode == 1
    assert json.loads(pilot_here("outbox", "drop", made[0], "--json").stdout)["dropped"] == 1
    assert json.loads(pilot_here("outbox", "retry", "--all", "--json").stdout)["retried"] == 1
    assert [each.decision_id for each in outbox.first(5)] == [made[1], made[2]]
    store.close()


def test_a_store_is_found_by_its_file_however_its_address_is_written(
    tiny: Any, pilot_here: Callable[..., Any]
) -> None:
    store = tiny.root / "kept.db"
    DecisionStore(f"sqlite:///{store}").close()
    for url in (
        f"sqlite:///{store}?timeout=10",
        f"sqlite+pysqlite:///{store}",
        "sqlite:///kept.db?timeout=10",
    ):
        assert pilot_here("outbox", "list", PILOT_STORE__URL=url).returncode == 0
    missing = pilot_here("outbox", "list", PILOT_STORE__URL=f"sqlite+pysqlite:///{tiny.root}/other.db")
    assert (missing.returncode, "there is no store" in missing.stderr) == (2, True)
    assert not list(tiny.root.glob("other.db*"))
    assert pilot_here("outbox", "list", PILOT_STORE__URL="nowhere").returncode == 2
