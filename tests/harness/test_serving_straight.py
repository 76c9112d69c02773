"""The straight way to a decision leads past layers, and past nothing that a caller or an operator sees."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from harness.serving import service
from harness.serving.app import create_app
from harness.serving.service import FallbackFailed
from harness.serving.straight import Straight
from harness.store import StoreUnavailable


def app_of(tiny: Any, straight: bool) -> FastAPI:
    app = create_app(tiny.service(), name="dry field")
    if not straight:
        app.around = lambda stack: stack
    return app


def asked(
    tiny: Any, straight: bool, raised: type[Exception] | None = None
) -> list[tuple[int, Any, set[str]]]:
    """What callers are answered, whatever differs from call to call left out."""
    app = app_of(tiny, straight)

    async def failing(*_: Any, **__: Any) -> Any:
        assert raised is not None
        raise (
            raised("a reason")
            if raised is not StoreUnavailable
            else StoreUnavailable("a", where="b", mend="c")
        )

    if raised is not None:
        _service(app).decided = failing
    found = []
    with TestClient(app, raise_server_exceptions=False) as client:
        for method, path, options in (
            ("POST", "/decide", {"json": tiny.record}),
            ("POST", "/decide", {"json": {**tiny.record, "heat": "much"}}),
            ("POST", "/decide", {"json": tiny.record, "headers": {"authorization": "Bearer pilot_no"}}),
            ("POST", "/decide", {"json": tiny.record, "headers": {"idempotency-key": "a b"}}),
            ("POST", "/decide/", {"json": tiny.record}),
            ("GET", "/decide", {}),
            ("PUT", "/decide", {"json": tiny.record}),
            ("POST", "/decide?" + 3_000 * "q", {"json": tiny.record}),
        ):
            answer = client.request(method, path, **options)
            told = {name: value for name, value in answer.json().items() if name != "decision_id"}
            found.append((answer.status_code, told, set(answer.headers)))
    return found


def _service(app: FastAPI) -> Any:
    return next(each for each in service._services if each.access is app.state.access)


@pytest.mark.parametrize("raised", [None, FallbackFailed, StoreUnavailable, ZeroDivisionError])
def test_callers_are_answered_alike_on_both_ways(tiny: Any, raised: type[Exception] | None) -> None:
    tiny.offered()
    ways = [asked(tiny, straight, raised) for straight in (True, False)]
    assert ways[0] == ways[1]
    expected = {None: 200, ZeroDivisionError: 500}.get(raised, 503)
    assert [each[0] for each in ways[0]] == [expected, 422, 401, 422, 404, 405, 405, 414]


def test_decisions_go_straight(tiny: Any) -> None:
    """Or the test above compares one way with itself."""
    tiny.offered()
    app = app_of(tiny, True)
    assert isinstance(app.whole, Straight)
    routes = [each for each in app.router.routes if isinstance(each, APIRoute) and each.path == "/decide"]
    app.router.routes.remove(routes[0])
    with TestClient(app) as client:
        assert client.post("/decide", json=tiny.record).status_code == 200


def test_where_the_path_begins_elsewhere_the_router_finds_it(tiny: Any) -> None:
    tiny.offered()
    with TestClient(app_of(tiny, True), root_path="/behind") as client:
        assert client.post("/decide", json=tiny.record).status_code == 200


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/decide",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
    "http_version": "1.1",
    "scheme": "http",
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 2),
}


@pytest.mark.parametrize("straight", [True, False])
def test_a_record_whose_sender_vanished_before_its_end_is_not_decided(tiny: Any, straight: bool) -> None:
    """Though what came of it may be a record: nobody knows what was to follow."""
    tiny.offered()
    app = app_of(tiny, straight)
    record = json.dumps(tiny.record).encode()
    coming = [{"type": "http.request", "body": record, "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive() -> Any:
        return coming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message.get("status"))

    asyncio.run(app({**SCOPE}, receive, send))
    assert sent[0] == 400
    assert _service(app).store.latest(1) == []


@pytest.mark.parametrize("straight", [True, False])
def test_a_model_s_decision_is_under_way_until_its_answer_was_sent(tiny: Any, straight: bool) -> None:
    tiny.offered()
    app = app_of(tiny, straight)
    underway = _service(app).underway
    counted = []
    record = json.dumps(tiny.record).encode()

    async def receive() -> Any:
        return {"type": "http.request", "body": record}

    async def send(message: Any) -> None:
        counted.append((message["type"], message.get("status", 0), underway.count().under_way))

    asyncio.run(app({**SCOPE}, receive, send))
    assert counted == [("http.response.start", 200, 1), ("http.response.body", 0, 1)]
    assert (underway.count().under_way, underway.count().last is None) == (0, False)
