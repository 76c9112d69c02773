"""Who is let in: in the open sandbox everybody who says nothing, elsewhere those with a token for it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from harness.control.state import STATE
from harness.control.tokens import PATTERN, SCOPES, TOKENS, issue, revoke
from harness.serving.access import Caller, Guarded, Refused, refused, requires
from harness.serving.app import create_app
from harness.serving.server import build_service

A = "a" * 64
OPEN = {"/health", "/ready"}
UNPUBLISHED = {"/openapi.json"}
Ask = Callable[..., Any]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def closed(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A service in the sandbox whose callers need a token there too."""
    monkeypatch.setenv("PILOT_SERVING__OPEN_IN_SANDBOX", "false")
    tiny.offered()
    with TestClient(create_app(tiny.service(), name="dry field")) as client:
        yield client


@pytest.fixture
def open_sandbox(tiny: Any) -> Iterator[TestClient]:
    tiny.offered()
    with TestClient(create_app(tiny.service(), name="dry field")) as client:
        yield client


def token(tiny: Any, name: str = "reader", *scopes: str, lasts: timedelta = timedelta(days=1)) -> str:
    return issue(tiny.control, name=name, scopes=scopes or ("decide",), lasts=lasts)[0]


def ask(tiny: Any, client: TestClient, authorization: str | None = None) -> Any:
    headers = {} if authorization is None else {"Authorization": authorization}
    return client.post("/decide", json=tiny.record, headers=headers)


def recorded(tiny: Any) -> int:
    return sum(tiny.services[-1].store.counts().values())


def test_a_token_with_the_scope_is_let_in(tiny: Any, closed: TestClient) -> None:
    given = token(tiny)
    assert ask(tiny, closed, f"Bearer {given}").status_code == 200
    assert ask(tiny, closed, f"bearer  {given} ").status_code == 200
    assert recorded(tiny) == 2


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer ", "Bearer pilot_" + "0" * 64, "Basic cmVhZGVyOg==", "pilot_x", "Bearer ü"],
)
def test_anything_else_is_401_and_decides_nothing(tiny: Any, closed: TestClient, given: str | None) -> None:
    token(tiny)
    answer = closed.post(
        "/decide", json=tiny.record, headers=[] if given is None else [(b"authorization", given.encode())]
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith('Bearer realm="pilot"')
    assert recorded(tiny) == 0


def test_a_token_itself_is_no_password_without_its_kind(tiny: Any, closed: TestClient) -> None:
    given = token(tiny)
    for written in (given, f"Basic {given}", f"Token {given}"):
        assert ask(tiny, closed, written).status_code == 401


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope != "decide"])
def test_a_token_for_something_else_is_403(tiny: Any, closed: TestClient, scope: str) -> None:
    answer = ask(tiny, closed, f"Bearer {token(tiny, 'other', scope)}")
    assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
    assert 'scope="decide"' in answer.headers["www-authenticate"]
    assert recorded(tiny) == 0


def test_issue_revocation_and_expiry_hold_for_the_next_request(tiny: Any, closed: TestClient) -> None:
    brief = token(tiny, "brief", lasts=timedelta(seconds=0.4))
    lasting = token(tiny, "lasting")
    time.sleep(0.15)  # old enough to be remembered
    assert ask(tiny, closed, f"Bearer {brief}").status_code == 200
    time.sleep(0.3)
    assert ask(tiny, closed, f"Bearer {brief}").status_code == 401
    assert ask(tiny, closed, f"Bearer {lasting}").status_code == 200
    revoke(tiny.control, name="lasting")
    assert ask(tiny, closed, f"Bearer {lasting}").status_code == 401
    assert ask(tiny, closed, f"Bearer {token(tiny, 'new')}").status_code == 200


def test_no_answer_tells_which_tokens_there_are(tiny: Any, closed: TestClient) -> None:
    revoked, expired = token(tiny, "revoked"), token(tiny, "expired", lasts=timedelta(milliseconds=1))
    token(tiny)
    revoke(tiny.control, name="revoked")
    answers = [ask(tiny, closed, f"Bearer {given}") for given in (revoked, expired, "pilot_" + "0" * 64)]
    (tiny.control / TOKENS).write_text("{")
    answers.append(ask(tiny, closed, f"Bearer {revoked}"))
    for answer in answers:
        del answer.headers["X-Request-ID"]  # a name made at random
    assert len({(answer.status_code, answer.text, str(answer.headers)) for answer in answers}) == 1


@pytest.mark.parametrize("damage", ["missing", "damaged", "a folder"])
def test_tokens_that_cannot_be_read_let_nobody_in(tiny: Any, closed: TestClient, damage: str) -> None:
    given = token(tiny)
    time.sleep(0.15)  # old enough to be remembered
    assert ask(tiny, closed, f"Bearer {given}").status_code == 200
    whole = (tiny.control / TOKENS).read_bytes()
    (tiny.control / TOKENS).unlink()
    if damage == "damaged":
        (tiny.control / TOKENS).write_bytes(whole[:-9])
    elif damage == "a folder":
        (tiny.control / TOKENS).mkdir()
    assert ask(tiny, closed, f"Bearer {given}").status_code == 401
    assert recorded(tiny) == 1


def test_the_open_sandbox_answers_whoever_says_nothing(tiny: Any, open_sandbox: TestClient) -> None:
    assert ask(tiny, open_sandbox).status_code == 200
    assert ask(tiny, open_sandbox, f"Bearer {token(tiny)}").status_code == 200


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer pilot_" + "0" * 64, "Basic cmVhZGVyOg=="])
def test_a_wrong_token_is_refused_in_the_open_sandbox_too(
    tiny: Any, open_sandbox: TestClient, given: str
) -> None:
    assert ask(tiny, open_sandbox, given).status_code == 401
    assert recorded(tiny) == 0


def test_a_token_without_the_scope_is_refused_in_the_open_sandbox_too(
    tiny: Any, open_sandbox: TestClient
) -> None:
    assert ask(tiny, open_sandbox, f"Bearer {token(tiny, 'other', 'outcomes')}").status_code == 403


@pytest.mark.parametrize("state", ["shadow", "early", "broad", "full", "missing", "damaged"])
def test_nothing_opens_another_stage_or_one_that_is_not_known(
    tiny: Any, open_sandbox: TestClient, state: str
) -> None:
    assert ask(tiny, open_sandbox).status_code == 200
    if state == "missing":
        (tiny.control / STATE).unlink()
    elif state == "damaged":
        (tiny.control / STATE).write_text("{")
    else:
        tiny.champion(A, rev=2, stage=state)
    assert ask(tiny, open_sandbox).status_code == 401
    assert ask(tiny, open_sandbox, f"Bearer {token(tiny)}").status_code == 200
    assert recorded(tiny) == 2


def test_a_service_that_others_can_reach_is_open_to_nobody(tiny: Any) -> None:
    tiny.offered()
    service = build_service(tiny.settings(), host="0.0.0.0")
    tiny.services.append(service)
    with TestClient(create_app(service, name="dry field")) as client:
        assert ask(tiny, client).status_code == 401


@pytest.mark.parametrize("state", ["sandbox", "full", "missing"])
def test_a_stop_can_always_ask_whether_it_was_heard(tiny: Any, closed: TestClient, state: str) -> None:
    if state == "full":
        tiny.champion(A, rev=2, stage="full")
    elif state == "missing":
        (tiny.control / STATE).unlink()
    assert closed.get("/health").status_code == 200
    assert closed.get("/ready").status_code == 200


def test_every_endpoint_but_the_open_ones_asks_for_a_scope(tiny: Any, closed: TestClient) -> None:
    assert closed.get("/openapi.json").status_code == 401
    schema = closed.get("/openapi.json", headers={"Authorization": f"Bearer {token(tiny)}"}).json()
    assert schema["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert schema["paths"]["/decide"]["post"]["security"] == [{"token": ["decide"]}]
    guarded = [route for route in closed.app.routes if route.path not in OPEN]  # type: ignore[attr-defined]
    assert [route.path for route in guarded]
    for route in guarded:
        assert isinstance(route, Guarded), route.path
        for method in route.methods:
            if route.path not in UNPUBLISHED:
                asked = schema["paths"][route.path][method.lower()]
                assert asked["security"], f"{method} {route.path} asks for no token"
            answer = closed.request(method, route.path, content=b"{")
            assert answer.status_code == 401, f"{method} {route.path}"


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff"])
def test_a_strangers_body_is_not_even_read(tiny: Any, closed: TestClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    assert closed.post("/decide", content=body, headers=headers).status_code == 401
    given = {**headers, "Authorization": f"Bearer {token(tiny)}"}
    assert 400 <= closed.post("/decide", content=body, headers=given).status_code < 500


def small(tiny: Any, route: type[APIRoute]) -> TestClient:
    """Another application that uses the same word."""
    app = FastAPI()
    app.router.route_class = route
    app.state.access = tiny.service().access
    app.add_exception_handler(Refused, refused)

    @app.post("/outcomes", dependencies=[requires("outcomes")])
    def outcomes() -> str:
        return "taken"

    @app.post("/feedback")
    def feedback(caller: Annotated[Caller, requires("feedback")]) -> str:
        return caller.name

    return TestClient(app)


@pytest.mark.parametrize("route", [Guarded, APIRoute])
def test_one_word_closes_an_endpoint_on_any_kind_of_route(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, route: type[APIRoute]
) -> None:
    monkeypatch.setenv("PILOT_SERVING__OPEN_IN_SANDBOX", "false")
    client = small(tiny, route)
    taken = {"Authorization": f"Bearer {token(tiny, 'monitor', 'outcomes')}"}
    given = {"Authorization": f"Bearer {token(tiny, 'clerk', 'feedback')}"}
    assert client.post("/outcomes").status_code == 401
    assert client.post("/outcomes", headers=given).status_code == 403
    assert client.post("/outcomes", headers=taken).json() == "taken"
    assert client.post("/feedback").status_code == 401
    assert client.post("/feedback", headers=given).json() == "clerk"


def test_who_was_refused_is_logged_by_name_and_no_token_ever(
    tiny: Any, closed: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    expired, other = token(tiny, "late", lasts=timedelta(milliseconds=1)), token(tiny, "other", "outcomes")
    unknown = "pilot_" + "0" * 64
    ask(tiny, closed)
    for given in (expired, other, unknown):
        ask(tiny, closed, f"Bearer {given}")
    (tiny.control / TOKENS).write_text("{")
    ask(tiny, closed, f"Bearer {other}")
    said = [record.getMessage() for record in caplog.records if record.name == "harness.serving"]
    assert said[:4] == [
        "refused POST /decide: no token",
        "refused POST /decide: the token late has expired",
        "refused POST /decide: the token other has not the scope decide",
        "refused POST /decide: a token that is not known",
    ]
    assert "the tokens cannot be trusted" in said[4]
    assert not re.search(PATTERN, caplog.text)


def test_the_command_sends_its_token_and_says_what_to_do_without(
    tiny: Any, served: Any, pilot_command: Run
) -> None:
    tiny.offered()
    running = served(PILOT_SERVING__OPEN_IN_SANDBOX="false")
    file = tiny.root / "record.json"
    file.write_text(json.dumps(tiny.record))
    decide = ("decide", str(file), "--url", running.url)
    done = pilot_command(*decide)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "a token is needed, so nothing was decided" in done.stderr
    assert "`pilot token issue NAME --scope decide`, and set PILOT_TOKEN" in done.stderr
    given = token(tiny)
    assert pilot_command(*decide, PILOT_TOKEN=given).returncode == 0
    revoke(tiny.control, name="reader")
    done = pilot_command(*decide, PILOT_TOKEN=given)
    assert "the token in PILOT_TOKEN is not valid" in done.stderr
    done = pilot_command(*decide, PILOT_TOKEN=token(tiny, "other", "outcomes"))
    assert "may not ask for decisions" in done.stderr
    done = pilot_command(*decide, PILOT_TOKEN="two words")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "PILOT_TOKEN: not a token" in done.stderr
    assert pilot_command("kill").returncode == 0  # which needs no token
