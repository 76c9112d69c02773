"""The contract at the door: what breaks it is refused by name, without a word of what was in it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from harness.control import SENTINEL, kill
from harness.control.state import STATE
from harness.serving.app import create_app
from harness.store import DecisionStore, StoreUnavailable

JSON = {"content-type": "application/json"}


@pytest.fixture
def client(tiny: Any) -> Iterator[TestClient]:
    tiny.digest = tiny.offered()
    with TestClient(create_app(tiny.service(), name="dry field"), raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, record: Any) -> Any:
    return client.post("/decide", content=json.dumps(record).encode(), headers=JSON)


def recorded(tiny: Any) -> int:
    return sum(tiny.services[-1].store.counts().values())


def test_a_record_that_keeps_the_contract_is_decided_and_recorded(tiny: Any, client: TestClient) -> None:
    answer = post(client, tiny.record)
    assert answer.status_code == 200
    given = answer.json()
    found = tiny.services[-1].store.get(given["decision_id"])
    assert found is not None
    assert given == {
        "decision_id": found.decision_id,
        "decision": found.decision,
        "score": found.score,
        "reasons": found.reasons,
        "served_by": found.served_by,
        "why": found.why,
        "model": found.model_digest,
        "revision": found.revision,
        "sandbox": found.sandbox,
        "reasons_pending": False,
    }
    assert found.record == tiny.record
    assert (given["served_by"], given["model"], given["sandbox"]) == ("model", tiny.digest, True)


@pytest.mark.parametrize("name", ["crop", "covered", "slope"])
def test_what_need_not_be_there_may_be_left_out_or_null(tiny: Any, client: TestClient, name: str) -> None:
    record = {key: value for key, value in tiny.record.items() if key != name}
    for given in (record, {**record, name: None}):
        answer = post(client, given)
        assert answer.status_code == 200
        found = tiny.services[-1].store.get(answer.json()["decision_id"])
        assert found is not None
        assert found.record[name] is None


@pytest.mark.parametrize("name", ["reading", "plot", "measured_on", "dryness", "depth_cm"])
def test_what_must_be_there_is_asked_for_by_name(tiny: Any, client: TestClient, name: str) -> None:
    missing = {key: value for key, value in tiny.record.items() if key != name}
    for record in (missing, {**missing, name: None}):
        answer = post(client, record)
        assert answer.status_code == 422
        assert [item["field"] for item in answer.json()["fields"]] == [name]
    assert recorded(tiny) == 0


MARK = "zq-7731"
BROKEN: list[tuple[str, Any]] = [
    ("reading", 7731),
    ("reading", ""),
    ("reading", "  "),
    ("reading", [MARK]),
    ("reading", MARK * 200),
    ("plot", {"name": MARK}),
    ("plot", False),
    ("plot", "\ud800"),
    ("measured_on", MARK),
    ("measured_on", "2026-02-30"),
    ("measured_on", "2026-3-1"),
    ("measured_on", "20260301"),
    ("measured_on", "2026-03-01T00:00:00"),
    ("measured_on", 7731),
    ("measured_on", "2026-W09-7"),
    ("dryness", "77.31"),
    ("dryness", True),
    ("dryness", -0.7731),
    ("dryness", 100.7731),
    ("dryness", float("nan")),
    ("dryness", float("inf")),
    ("dryness", float("-inf")),
    ("dryness", 7731 * 10**400),
    ("depth_cm", 77.31),
    ("depth_cm", "7731"),
    ("depth_cm", True),
    ("depth_cm", 0),
    ("depth_cm", 7731),
    ("depth_cm", float("nan")),
    ("crop", MARK),
    ("crop", "Maize"),
    ("crop", 7731),
    ("crop", ""),
    ("slope", float("nan")),
    ("slope", float("inf")),
    ("slope", float("-inf")),
    ("slope", "77.31"),
    ("covered", 1),
    ("covered", "true"),
    ("covered", MARK),
]


@pytest.mark.parametrize(("name", "value"), BROKEN, ids=lambda given: repr(given)[:30])
def test_a_value_that_breaks_the_contract_is_refused_by_name_and_not_repeated(
    tiny: Any, client: TestClient, name: str, value: Any
) -> None:
    answer = post(client, {**tiny.record, name: value})
    assert answer.status_code == 422
    document = answer.json()
    assert document["error"] == "invalid_record"
    assert [item["field"] for item in document["fields"]] == [name]
    assert document["fields"][0]["message"]
    for secret in (MARK, "7731", "77.31", "Maize", "W09", "02-30"):
        assert secret not in answer.text
    assert recorded(tiny) == 0


def test_every_broken_field_is_named_at_once(tiny: Any, client: TestClient) -> None:
    answer = post(client, {**tiny.record, "dryness": "wet", "crop": 5, "plot": None})
    assert {item["field"] for item in answer.json()["fields"]} == {"dryness", "crop", "plot"}


@pytest.mark.parametrize(
    ("name", "value"), [("dryness", 0), ("dryness", 100), ("depth_cm", 1), ("depth_cm", 200)]
)
def test_the_ends_of_a_range_belong_to_it(tiny: Any, client: TestClient, name: str, value: Any) -> None:
    assert post(client, {**tiny.record, name: value}).status_code == 200


def test_a_field_that_the_contract_does_not_know_is_refused(tiny: Any, client: TestClient) -> None:
    answer = post(client, {**tiny.record, "withered": MARK})
    assert answer.status_code == 422
    assert answer.json()["fields"][0]["field"] == "withered"
    assert MARK not in answer.text


def test_a_name_that_is_no_text_is_refused_too(tiny: Any, client: TestClient) -> None:
    assert post(client, {**tiny.record, "\ud800": 1}).status_code == 422


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"text"', b"[{}]"])
def test_what_is_no_record_is_refused(tiny: Any, client: TestClient, body: bytes) -> None:
    answer = client.post("/decide", content=body, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["fields"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": }', b"{'a': 1}", b'{"plot": "zq-7731}'])
def test_what_is_no_json_is_refused_as_such(tiny: Any, client: TestClient, body: bytes) -> None:
    answer = client.post("/decide", content=body, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["fields"][0]["field"] == "body"
    assert MARK not in answer.text


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"[" * 100_000, b'{"dryness": ' + b"9" * 5000 + b"}"])
def test_a_body_that_no_parser_likes_is_the_callers_mistake(
    tiny: Any, client: TestClient, body: bytes
) -> None:
    assert 400 <= client.post("/decide", content=body, headers=JSON).status_code < 500


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_another_content_type_is_refused_with_the_right_one(tiny: Any, client: TestClient, kind: str) -> None:
    answer = client.post("/decide", content=json.dumps(tiny.record).encode(), headers={"content-type": kind})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]
    assert recorded(tiny) == 0


def test_json_with_its_encoding_named_is_json(tiny: Any, client: TestClient) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    assert (
        client.post("/decide", content=json.dumps(tiny.record).encode(), headers=headers).status_code == 200
    )


def test_a_kill_changes_the_next_answer(tiny: Any, client: TestClient) -> None:
    assert post(client, tiny.record).json()["served_by"] == "model"
    assert client.get("/health").json()["stopped"] is False
    kill(tiny.control, reason="stop")
    given = post(client, tiny.record).json()
    assert (given["served_by"], given["why"], given["score"], given["model"]) == (
        "fallback",
        "killed",
        None,
        None,
    )
    assert client.get("/health").json()["stopped"] is True
    assert client.get("/ready").json()["stopped"] is True


def test_health_tells_what_is_in_force(tiny: Any, client: TestClient) -> None:
    found = client.get("/health").json()
    assert (found["status"], found["stage"], found["revision"]) == ("ok", "sandbox", 1)
    (tiny.control / SENTINEL).touch()
    assert client.get("/health").json()["stopped"] is True
    (tiny.control / STATE).write_text("{")
    found = client.get("/health").json()
    assert (found["stage"], found["stopped"]) == ("unknown", True)
    (tiny.control / STATE).unlink()
    found = client.get("/health").json()
    assert (found["stage"], found["stopped"]) == ("unknown", True)


def test_ready_names_a_model_that_cannot_be_loaded_and_stays_ready(tiny: Any) -> None:
    digest = tiny.offered()
    (tiny.models / digest / "model" / "weights.json").write_text("")
    with TestClient(create_app(tiny.service(), name="dry field")) as client:
        answer = client.get("/ready")
        assert answer.status_code == 200
        assert "changed" in answer.json()["models"][digest]
        assert post(client, tiny.record).json()["why"] == "model_unavailable"


def test_ready_names_a_model_that_is_loaded(tiny: Any, client: TestClient) -> None:
    assert client.get("/ready").json()["models"] == {tiny.digest: "loaded"}


def test_not_ready_when_the_store_does_not_answer(
    tiny: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise StoreUnavailable("gone", where="the store", mend="Bring it back.")

    monkeypatch.setattr(tiny.services[-1].store, "ping", gone)
    assert client.get("/ready").status_code == 503


@pytest.mark.parametrize("harm", ["deleted", "replaced", "no table"])
def test_a_store_that_would_lose_the_record_is_not_ready_and_decides_nothing(
    tiny: Any, client: TestClient, harm: str
) -> None:
    assert post(client, tiny.record).status_code == 200
    file = tiny.root / "var" / "decisions.db"
    if harm == "no table":
        with sqlite3.connect(file) as connection:
            connection.execute("drop table decisions")
        connection.close()
    else:
        for part in file.parent.glob(f"{file.name}*"):
            part.unlink()
    if harm == "replaced":
        DecisionStore(f"sqlite:///{file}").close()
    answer = client.get("/ready")
    assert answer.status_code == 503
    said = "no such table" if harm == "no table" else "deleted or replaced"
    assert said in answer.json()["detail"]
    refused = post(client, tiny.record)
    assert refused.status_code == 503
    assert refused.json()["error"] == "not_recorded"


@pytest.mark.parametrize("field", ["reading", "plot"])
def test_a_nul_is_refused_because_not_every_store_keeps_it(tiny: Any, client: TestClient, field: str) -> None:
    answer = post(client, {**tiny.record, field: "a\0b"})
    assert answer.status_code == 422
    assert answer.json()["fields"] == [{"field": field, "message": "must be text: a NUL cannot be recorded"}]


@pytest.mark.parametrize("who", ["model", "fallback"])
def test_what_cannot_be_recorded_is_503_and_gives_no_decision(
    tiny: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    if who == "fallback":
        kill(tiny.control, reason="stop")

    def full(*_: Any) -> None:
        raise StoreUnavailable("the disk is full", where="the store", mend="Free it.")

    monkeypatch.setattr(tiny.services[-1].store, "record_all", full)
    answer = post(client, tiny.record)
    assert answer.status_code == 503
    assert answer.json()["error"] == "not_recorded"
    assert "decision" not in answer.json()
    assert "retry-after" in answer.headers


def test_a_fallback_that_raises_is_503_and_records_nothing(tiny: Any, client: TestClient) -> None:
    kill(tiny.control, reason="stop")

    def unwell(record: Any) -> Any:
        raise ValueError(f"{MARK} is in here")

    tiny.fallback_file().hook = unwell
    answer = post(client, tiny.record)
    assert (answer.status_code, answer.json()["error"]) == (503, "fallback_failed")
    assert MARK not in answer.text
    assert recorded(tiny) == 0


def test_the_published_schema_is_the_contract(tiny: Any, client: TestClient) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Record"]
    assert set(schema["required"]) == {"reading", "plot", "measured_on", "dryness", "depth_cm"}
    assert schema["additionalProperties"] is False
    dryness = schema["properties"]["dryness"]
    assert (dryness["minimum"], dryness["maximum"]) == (0, 100)
    assert dryness["description"] == "How dry the soil is [%]"
