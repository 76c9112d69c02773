"""`pilot drill integration`: from a caller with a token to a consumer in a process of its own.

What is judged is what callers, the consumer, the record and the log show; evidence holds counts and names of
checks, and no value of a record.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx

from harness.contract import Contract
from harness.drills.outcome import Checks, Outcome, Scene
from harness.drills.service import served
from harness.store import DecisionStore
from harness.testing import Consumer, Received, Service

Record = dict[str, Any]
RECORDS, ROUNDS = 12, 2
# More than one, because one of them delivers what all of them decide.
WORKERS = 2
WITHIN_S = 30.0
# Whatever arrives twice does so at once; a second is long beside the 0.2 s between two looks into the outbox.
QUIET_S = 1.0
SHORTEST_TEXT = 4
SHUT = {"PILOT_SERVING__OPEN_IN_SANDBOX": "false"}
DECIDED = re.compile(r"decision ([0-9a-f-]{36}) by (?:model|fallback) \([a-z_]+\), revision \d+, [\d.]+ ms")
MOMENT = re.compile(r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\S*", re.M)
ALIKE = ("decision", "score", "reasons", "served_by", "why", "revision", "sandbox")


@dataclass(frozen=True)
class Asked:
    """A request that was sent.

    Attributes:
        record: What was asked about.
        status: The HTTP status; 0 when there was no answer.
        answer: The decision; empty without one.
    """

    record: Record
    status: int
    answer: dict[str, Any]

    @property
    def id(self) -> str:
        """The decision's id; empty without one."""
        return str(self.answer.get("decision_id", ""))


class Integration:
    """Asks, is refused, sees each decision arrive, and takes the consumer away for a while."""

    name = "integration"
    shows = "Each decision reaches the consumer once and in order, also after an outage; strangers get none."

    def run(self, scene: Scene) -> Outcome:
        """Go through it."""
        checks, pilot = Checks(), scene.pilot
        contract, token = pilot.copy.contract, pilot.token()
        scene.report("the service and a consumer start", 0.1)
        with Consumer(pilot.copy.root / "var") as consumer:
            with served(pilot, WORKERS, **SHUT, **consumer.settings) as service:
                records = pilot.records[:RECORDS]
                before = len(service.said())
                strangers(service, token, records[0], checks)
                scene.report("decisions on their way", 0.3)
                made = ask(service, token, records * ROUNDS)
                delivered(consumer, contract, made, checks)
                scene.report("the consumer is away", 0.5)
                later = outage(scene, service, token, consumer, made, checks)
                broken = service.post("/decide", {**records[0], contract.event_time: "no date"}, token)
                checks.that("refused.bad_record", broken.status_code == 422, f"answered {broken.status_code}")
            scene.report("record and log", 0.9)
            with closing(pilot.copy.store()) as store:
                recorded(store, contract, consumer.arrived(), [*made, *later], checks)
            logged(service.said()[before:], contract, [*made, *later], token, checks)
        return checks.outcome()


def ask(service: Service, token: str, records: Sequence[Record]) -> list[Asked]:
    """Ask about each record, one after the other."""
    found = []
    for record in records:
        try:
            reply = service.post("/decide", record, token)
        except httpx.HTTPError:
            found.append(Asked(record, 0, {}))
            continue
        found.append(Asked(record, reply.status_code, reply.json() if reply.status_code == 200 else {}))
    return found


def strangers(service: Service, token: str, record: Record, checks: Checks) -> None:
    """Whoever has no token, or a wrong one, gets no decision."""
    wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
    for name, each in (("no_token", ""), ("wrong_token", wrong)):
        status = ask(service, each, [record])[0].status
        checks.that(f"refused.{name}", status == 401, f"answered {status}")


def delivered(consumer: Consumer, contract: Contract, made: Sequence[Asked], checks: Checks) -> None:
    """Every decision arrives once, and those about one entity in the order in which they were made."""
    _answered("decided.all", made, checks)
    _arrived("delivered", consumer, contract, made, checks)


def outage(
    scene: Scene, service: Service, token: str, consumer: Consumer, made: Sequence[Asked], checks: Checks
) -> list[Asked]:
    """What is decided while the consumer is away arrives when it is back, as if it had not been."""
    pilot, taken = scene.pilot, len(consumer.arrived())
    if not taken:
        checks.unknown("outage.nothing_lost", "nothing had arrived while the consumer was there")
        return []
    consumer.stop()
    later = ask(service, token, pilot.records[:RECORDS] * ROUNDS)
    tried = _settled(lambda: "is not delivered yet" in service.said())
    consumer.start()
    scene.report("the consumer is back", 0.7)
    _answered("outage.decided", later, checks)
    if tried:
        _arrived("outage", consumer, pilot.copy.contract, [*made, *later], checks)
    else:
        checks.unknown("outage.nothing_lost", "no delivery was tried while the consumer was away")
    return later


def recorded(
    store: DecisionStore,
    contract: Contract,
    arrived: Sequence[Received],
    asked: Sequence[Asked],
    checks: Checks,
) -> None:
    """What was answered, what is on record and what arrived are the same, and nothing else is on record."""
    content = {each.key: each.content for each in arrived}
    unlike = 0
    for each in (one for one in asked if one.id):
        kept, there = store.get(each.id), content.get(each.id)
        same = kept is not None and there is not None and _alike(contract, each, vars(kept), there)
        unlike += not same
    ids, count = {each.id for each in asked if each.id}, sum(store.counts().values())
    told = f"{unlike} of {len(ids)} decisions are not the same to caller, record and consumer"
    checks.that("delivered.same_values", bool(ids) and unlike == 0, told)
    told = f"{count} decisions on record, {len(ids)} answered"
    checks.that("recorded.no_other", count == len(ids) > 0, told)
    checks.figures |= {
        "decisions": len(ids),
        "decisions_by_model": sum(each.answer.get("served_by") == "model" for each in asked),
        "deliveries": len(arrived),
    }


def logged(said: str, contract: Contract, asked: Sequence[Asked], token: str, checks: Checks) -> None:
    """The log names each decision, and tells no value of a record and no token."""
    named = set(DECIDED.findall(said))
    ids = {each.id for each in asked if each.id}
    told = f"{len(named & ids)} of {len(ids)} decisions are named in the log"
    checks.that("logged.each_decision", bool(ids) and named == ids, told)
    # A line about a decision has no room for a value; all others are searched.
    rest = "\n".join(MOMENT.sub("", line) for line in said.splitlines() if not DECIDED.search(line))
    texts = _texts(contract, [each.record for each in asked])
    found = sum(bool(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", rest)) for text in texts)
    told = f"{found} of {len(texts)} values of records stand in the log"
    if not texts:
        checks.unknown("logged.no_value", "the records hold no text that could be told from others")
    else:
        checks.that("logged.no_value", found == 0 and token not in said, told)


def _answered(name: str, made: Sequence[Asked], checks: Checks) -> None:
    without = [each for each in made if not each.id]
    told = f"{len(without)} of {len(made)} requests had no decision"
    told += f" (answered {without[0].status})" if without else ""
    checks.that(name, not without, told)


def _arrived(
    name: str, consumer: Consumer, contract: Contract, made: Sequence[Asked], checks: Checks
) -> None:
    wanted = [each.id for each in made if each.id]
    _settled(lambda: {each.key for each in consumer.arrived() if each.status == 200} >= set(wanted))
    time.sleep(QUIET_S)
    taken = [each for each in consumer.arrived() if each.status == 200]
    keys = [each.key for each in taken]
    lost, twice = len(set(wanted) - set(keys)), len(keys) - len(set(keys))
    told = f"{len(wanted)} decisions, {lost} not arrived"
    checks.that(f"{name}.nothing_lost", bool(wanted) and not lost, told)
    named = all(each.key == each.content.get("decision_id") for each in taken)
    told = f"{twice} arrived twice, {len(set(keys) - set(wanted))} were never given to a caller"
    checks.that(f"{name}.once_each", bool(keys) and named and not twice and set(keys) <= set(wanted), told)
    asked = [(str(each.record[contract.entity]), each.id) for each in made if each.id]
    came = [(str(each.content.get("entity")), each.key) for each in taken]
    late = sum(_by_entity(came).get(entity) != ids for entity, ids in _by_entity(asked).items())
    told = f"{late} of {len(_by_entity(asked))} entities' decisions arrived in another order, or not all"
    checks.that(f"{name}.in_order", bool(asked) and late == 0, told)


def _by_entity(decisions: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for entity, name in decisions:
        found[entity].append(name)
    return found


def _alike(contract: Contract, asked: Asked, kept: dict[str, Any], arrived: dict[str, Any]) -> bool:
    return (
        all(arrived.get(name) == kept[name] == asked.answer.get(name) for name in ALIKE)
        and arrived.get("record") == kept["record"] == asked.record
        and arrived.get("model") == kept["model_digest"] == asked.answer.get("model")
        and arrived.get("entity") == kept["entity"] == str(asked.record[contract.entity])
        and arrived.get("record_key") == kept["record_key"] == str(asked.record[contract.key])
    )


def _texts(contract: Contract, records: Sequence[Record]) -> set[str]:
    """Texts of the records, dates as well, and whatever names a record or whom it is about.

    Short ones are left out: a log of words and numbers holds them by chance.
    """
    always = {contract.key, contract.entity}
    found = {
        str(value)
        for record in records
        for name, value in record.items()
        if value is not None and (name in always or isinstance(value, str))
    }
    return {text for text in found if len(text) >= SHORTEST_TEXT}


def _settled(happened: Callable[[], bool]) -> bool:
    """Whether it happened before time was up."""
    deadline = time.monotonic() + WITHIN_S
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
