"""The whole way of this pilot: source systems, pipeline, registry, service with its door shut, consumer.

Every process is a real one: PostgreSQL and a file drop, `pilot run`, `pilot serve`, and a consumer that
verifies signatures. A pilot with real sources has nothing to simulate: these tests are skipped and say so.
"""

# This file is the standard's: `copier update` replaces it. Write tests of your own in tests/integration/.
from __future__ import annotations

import hashlib
import json
import re
import signal
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.control import tokens
from harness.data.extract import embedded_folder
from harness.simulate import embedded
from harness.source_kinds import PostgresSource
from harness.store import DecisionStore
from harness.testing import Consumer, PilotCopy, Proxy, Service, until

Serve = Callable[..., Service]
Record = dict[str, Any]
DECIDED = re.compile(r"decision [0-9a-f-]{36} by (model|fallback) \([a-z_]+\), revision \d+, [\d.]+ ms")


@pytest.fixture(scope="module")
def token(pilot_copy: PilotCopy) -> str:
    return pilot_copy.token("integration")


@pytest.fixture
def variables(tmp_path: Path, consumer: Consumer) -> dict[str, str]:
    """Every caller needs a token, decisions go to the consumer, and the store is this test's own."""
    store = f"sqlite:///{tmp_path}/decisions.db"
    return {"PILOT_SERVING__OPEN_IN_SANDBOX": "false", "PILOT_STORE__URL": store, **consumer.settings}


@pytest.fixture
def service(serve: Serve, token: str, variables: dict[str, str]) -> Service:
    return serve(token, **variables)


@pytest.fixture
def store(pilot_copy: PilotCopy, variables: dict[str, str]) -> Iterator[DecisionStore]:
    opened = pilot_copy.store(variables["PILOT_STORE__URL"])
    yield opened
    opened.close()


def test_the_model_that_decides_is_the_one_in_the_registry(pilot_copy: PilotCopy, service: Service) -> None:
    answer = service.decide(pilot_copy.held_back(1)[0])
    with sqlite3.connect(pilot_copy.root / "var" / "mlflow" / "mlflow.db") as registry:
        registered = registry.execute(
            "select tags.value from registered_model_aliases aliases join model_version_tags tags "
            "on tags.name = aliases.name and tags.version = aliases.version and tags.key = 'model_digest' "
            "where aliases.name = ? and aliases.alias = 'challenger'",
            [pilot_copy.settings.experiment],
        ).fetchall()
    registry.close()
    assert registered == [(answer["model"],)]


def test_each_decision_arrives_as_it_was_asked_for_answered_and_recorded(
    pilot_copy: PilotCopy, service: Service, consumer: Consumer, store: DecisionStore
) -> None:
    asked = pilot_copy.held_back(20)
    answers = [service.decide(record) for record in asked]
    arrived = {content["decision_id"]: content for content in consumer.received(len(asked))}
    assert len(arrived) == len(asked)
    for record, answer in zip(asked, answers, strict=True):
        content = arrived[answer["decision_id"]]
        recorded = store.get(answer["decision_id"])
        assert recorded is not None
        assert content["record"] == recorded.record == record
        for name in ("decision", "score", "reasons", "served_by", "why", "revision", "sandbox"):
            assert content[name] == getattr(recorded, name) == answer[name], name
        assert content["model"] == recorded.model_digest == answer["model"]
        assert content["entity"] == str(record[pilot_copy.contract.entity])
        assert content["record_key"] == str(record[pilot_copy.contract.key])
    assert all(each.key == each.content["decision_id"] for each in consumer.arrived())


def test_a_consumer_that_is_away_costs_no_decision_and_gets_all_in_order_when_it_is_back(
    pilot_copy: PilotCopy, service: Service, consumer: Consumer, variables: dict[str, str]
) -> None:
    consumer.stop()
    # Three rounds over the same records: each entity has several decisions, which have an order.
    records = pilot_copy.held_back(6) * 3
    made = [service.decide(record) for record in records]
    waiting = until(lambda: _downstream(pilot_copy, variables, lambda found: found["last_error"]))
    assert waiting["waiting"] == len(made)
    assert "cannot be reached" in waiting["last_error"]
    assert waiting["oldest_waiting"]
    consumer.start()
    arrived = consumer.received(len(made))
    assert _by_entity(arrived) == _by_entity(
        [
            {"decision_id": answer["decision_id"], "entity": str(record[pilot_copy.contract.entity])}
            for answer, record in zip(made, records, strict=True)
        ]
    )
    until(lambda: _downstream(pilot_copy, variables, lambda found: found["waiting"] == 0))


def test_a_decision_that_the_consumer_refuses_holds_back_its_own_entity_only(
    pilot_copy: PilotCopy, service: Service, consumer: Consumer
) -> None:
    first, *others = _of_different_entities(pilot_copy, 4)
    entity = str(first[pilot_copy.contract.entity])
    consumer.answer(200, {entity: 422})
    refused = [service.decide(first)["decision_id"] for _ in range(2)]
    made = [service.decide(record)["decision_id"] for record in others]
    assert [content["decision_id"] for content in consumer.received(len(made))] == made
    consumer.answer(200)
    assert [each["decision_id"] for each in consumer.received(len(made) + 2)[-2:]] == refused


def test_a_service_that_is_killed_between_answer_and_delivery_loses_nothing(
    pilot_copy: PilotCopy, serve: Serve, service: Service, consumer: Consumer, variables: dict[str, str]
) -> None:
    consumer.answer(503)
    made = [service.decide(record)["decision_id"] for record in pilot_copy.held_back(10)]
    service.end(signal.SIGKILL)
    assert consumer.received() == []
    consumer.answer(200)
    serve(**variables)
    assert {content["decision_id"] for content in consumer.received(len(made))} == set(made)


def test_nobody_is_let_in_without_a_token_that_is_valid_and_for_this(
    pilot_copy: PilotCopy, service: Service, token: str, store: DecisionStore
) -> None:
    record = pilot_copy.held_back(1)[0]
    other = pilot_copy.token("other", "outcomes", "feedback", "operate", "approve")
    revoked = pilot_copy.token("revoked")
    assert service.post("/decide", record, revoked).status_code == 200
    pilot_copy.pilot("token", "revoke", "revoked")
    lasts = timedelta(seconds=0.5)
    expired, _ = tokens.issue(pilot_copy.control, name="brief", scopes=["decide"], lasts=lasts)
    time.sleep(0.6)
    wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
    answers = {
        "none": service.post("/decide", record, ""),
        "wrong": service.post("/decide", record, wrong),
        "revoked": service.post("/decide", record, revoked),
        "expired": service.post("/decide", record, expired),
    }
    for name, answer in answers.items():
        assert answer.status_code == 401, name
        assert answer.headers["www-authenticate"].startswith("Bearer"), name
    assert len({answer.text for answer in answers.values()}) == 1, "an answer tells which tokens there are"
    assert service.post("/decide", record, other).status_code == 403
    assert service.post("/decide", record).status_code == 200
    assert sum(store.counts().values()) == 2
    said = service.said()
    assert "the token brief has expired" in said
    assert "the token other has not the scope decide" in said
    assert not re.search(tokens.PATTERN, said), "a token is in the log"
    assert not re.search(tokens.PATTERN, (pilot_copy.control / tokens.TOKENS).read_text(encoding="utf-8"))


def test_the_log_names_each_decision_and_holds_nothing_of_its_record(
    pilot_copy: PilotCopy, service: Service, consumer: Consumer, token: str
) -> None:
    consumer.answer(503)  # what is refused is logged as well
    records = pilot_copy.held_back(10)
    made = [service.decide(record)["decision_id"] for record in records]
    broken = {**records[0], pilot_copy.contract.event_time: "no date"}
    assert service.post("/decide", broken).status_code == 422
    until(lambda: "is not delivered yet" in service.said())
    service.end()
    lines = [line.partition(" INFO ")[2] or line for line in service.said().splitlines()]
    decided = [line for line in lines if DECIDED.search(line)]
    assert [name for line in decided for name in made if name in line] == made
    # A line about a decision has no room for a value; all the others are searched.
    rest = "\n".join(line for line in lines if not DECIDED.search(line)) + "\n"
    found = [
        value for value in _texts(pilot_copy, records) if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", rest)
    ]
    assert found == []
    assert token not in rest


@pytest.fixture
def database(pilot_copy: PilotCopy) -> Iterator[tuple[str, Proxy]]:
    """The first source that is a database, running, behind a connection that can be cut."""
    found = pilot_copy.settings.sources.items()
    name = next((name for name, source in found if isinstance(source, PostgresSource)), None)
    if name is None:
        pytest.skip("this pilot reads no database, so none can stop half-way")
    with embedded.server(embedded_folder(pilot_copy.settings, name)) as url, Proxy(url) as proxy:
        yield name, proxy


def test_a_source_that_stops_half_way_fails_the_run_by_name_and_leaves_the_last_snapshot(
    pilot_copy: PilotCopy, database: tuple[str, Proxy]
) -> None:
    system, proxy = database
    variable = {f"PILOT_SOURCES__{system.upper()}__URL": proxy.url}
    whole = pilot_copy.stage("ingest", **variable)
    assert whole.code == 0, whole.stderr
    size, before = proxy.passed, _snapshot(pilot_copy)
    assert before
    proxy.cut_after(size // 2)
    # Whole: a table with a watermark would only be asked for what is new.
    ended = pilot_copy.run("run", "--full", **variable)
    assert proxy.passed == size // 2, "the source was not stopped half-way"
    assert ended.code == 2, ended.stderr
    assert re.match(
        rf"pilot: {system}\.\w+: reading stopped: .+\. Bring the source back and run again", ended.line
    )
    assert "Traceback" not in ended.stderr
    assert _snapshot(pilot_copy) == before
    assert not [path for path in (pilot_copy.root / "data").rglob("*") if path.name.endswith(".part")]
    proxy.restore()
    outcome = json.loads(pilot_copy.pilot("run", "--json", **variable))
    # The profile speaks of the snapshot, which says where it was read; the records are the same.
    assert [stage for stage in outcome["ran"] if stage != "profile"] == ["ingest", "publish"]
    assert _snapshot(pilot_copy) == before


def _downstream(
    copy: PilotCopy, variables: dict[str, str], wanted: Callable[[dict[str, Any]], Any]
) -> dict[str, Any] | None:
    found: dict[str, Any] = copy.status(**variables)["downstream"]
    return found if wanted(found) else None


def _by_entity(decisions: list[dict[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for each in decisions:
        found[each["entity"]].append(each["decision_id"])
    return found


def _of_different_entities(copy: PilotCopy, count: int) -> list[Record]:
    found = {record[copy.contract.entity]: record for record in copy.held_back(200)}
    assert len(found) >= count
    return list(found.values())[:count]


def _texts(copy: PilotCopy, records: list[Record]) -> set[str]:
    """Every text in the records, dates as well, and whatever names a record or whom it is about."""
    always = {copy.contract.key, copy.contract.entity}
    return {
        str(value)
        for record in records
        for name, value in record.items()
        if value is not None and (name in always or isinstance(value, str))
    }


def _snapshot(copy: PilotCopy) -> dict[str, str]:
    folder: Path = copy.root / "data" / "raw"
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
