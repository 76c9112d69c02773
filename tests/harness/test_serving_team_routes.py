"""A team's own routes: closed without a token, answered below /team, and never in the way of a decision."""

from __future__ import annotations

import concurrent.futures
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from harness.control.tokens import issue
from harness.errors import PilotError
from harness.serving import team
from harness.serving.app import create_app
from harness.serving.team import load_routes

HEAD = "import sys, time, asyncio\nfrom harness.serving.team import Route, Serving\n\n"
SUMMARY = """
def routes(serving):
    def summary(days: int = 7) -> dict:
        return {"days": days, "fields": len(serving.contract.fields)}
    return [Route("GET", "/summary", summary, scope="operate")]
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


def write(tiny: Any, text: str) -> None:
    (tiny.root / "src" / "dryfield" / "routes.py").write_text(HEAD + text)


def token(tiny: Any, *scopes: str) -> dict[str, str]:
    given = issue(tiny.control, name="-".join(scopes), scopes=scopes, lasts=timedelta(days=1))[0]
    return {"Authorization": f"Bearer {given}"}


@contextmanager
def serving(tiny: Any, text: str, **more: Any) -> Iterator[TestClient]:
    write(tiny, text)
    service = tiny.service()
    routes = load_routes("dryfield", tiny.root, service)
    with TestClient(create_app(service, name="dry field", routes=routes, **more)) as client:
        yield client


@pytest.fixture
def closed(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_SERVING__OPEN_IN_SANDBOX", "false")


def test_without_the_file_there_is_nothing_below_team(tiny: Any) -> None:
    tiny.offered()
    service = tiny.service()
    assert load_routes("dryfield", tiny.root, service) == []
    with TestClient(create_app(service, name="dry field")) as client:
        assert client.get("/team/summary").status_code == 404


def test_a_route_answers_below_team_and_reads_its_parameters(tiny: Any) -> None:
    tiny.offered()
    with serving(tiny, SUMMARY) as client:
        assert client.get("/team/summary").json() == {"days": 7, "fields": 8}
        assert client.get("/team/summary?days=30").json()["days"] == 30
        answer = client.get("/team/summary?days=many")
        assert (answer.status_code, answer.json()["error"]) == (422, "invalid_request")
        assert (answer.json()["fields"][0]["field"], "many" in answer.text) == ("days", False)
        assert client.get("/summary").status_code == 404
        assert client.post("/team/summary").status_code == 405
        assert client.get("/team/other").status_code == 404
        assert client.get("/team").status_code in (404, 307)
        assert client.get("/team/openapi.json").status_code == 404
        counted = client.get("/metrics").text
        assert 'http_requests_total{code="405",handler="/team",method="POST"} 1.0' in counted
        assert "summary" not in counted


@pytest.mark.usefixtures("closed")
def test_outside_the_open_sandbox_a_token_with_the_scope_is_needed(tiny: Any) -> None:
    tiny.offered()
    with serving(tiny, SUMMARY) as client:
        answer = client.get("/team/summary")
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthenticated")
        assert client.get("/team/summary", headers={"Authorization": "Bearer x"}).status_code == 401
        answer = client.get("/team/summary", headers=token(tiny, "decide"))
        assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
        assert 'scope="operate"' in answer.headers["www-authenticate"]
        assert client.get("/team/summary", headers=token(tiny, "operate")).status_code == 200


@pytest.mark.parametrize("stage", ["shadow", "full"])
def test_leaving_the_sandbox_closes_every_route(tiny: Any, stage: str) -> None:
    tiny.offered()
    with serving(tiny, SUMMARY) as client:
        assert client.get("/team/summary").status_code == 200
        tiny.champion("a" * 64, rev=2, stage=stage)
        assert client.get("/team/summary").status_code == 401


REACHED = """
reached = []
def routes(serving):
    def take(body: dict) -> str:
        reached.append(body)
        return "taken"
    return [Route("POST", "/take", take, scope="feedback")]
"""


@pytest.mark.usefixtures("closed")
def test_a_strangers_body_never_reaches_the_teams_code(tiny: Any) -> None:
    tiny.offered()
    with serving(tiny, REACHED) as client:
        assert client.post("/team/take", content=b"{").status_code == 401
        assert sys.modules["dryfield.routes"].reached == []
        given = token(tiny, "feedback")
        assert client.post("/team/take", content=b"{", headers=given).status_code == 415
        assert client.post("/team/take", json={"a": 1}, headers=given).json() == "taken"
        assert sys.modules["dryfield.routes"].reached == [{"a": 1}]


def test_a_route_that_names_no_scope_cannot_be_declared(tiny: Any) -> None:
    write(tiny, 'def routes(serving):\n    return [Route("GET", "/open", lambda: "secret")]\n')
    with pytest.raises(PilotError, match=r"routes.py line 5: TypeError: .*'scope'"):
        load_routes("dryfield", tiny.root, tiny.service())


@pytest.mark.usefixtures("closed")
def test_a_route_that_the_teams_code_adds_later_is_not_there(tiny: Any) -> None:
    tiny.offered()
    text = """
from fastapi import Request
def routes(serving):
    def more(request: Request) -> str:
        request.app.add_api_route("/secret", lambda: "secret")
        return "added"
    return [Route("POST", "/more", more, scope="operate")]
"""
    with serving(tiny, text) as client:
        assert client.post("/team/more", headers=token(tiny, "operate")).json() == "added"
        assert client.get("/team/secret").status_code == 404


def test_a_body_that_is_too_large_is_refused(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "MOST_BYTES", 100)
    tiny.offered()
    with serving(tiny, REACHED) as client:
        assert client.post("/team/take", json={"a": "x" * 101}).status_code == 413
        assert client.post("/team/take", json={"a": "x"}).status_code == 200


DECIDE = """
def routes(serving):
    def mine(record: dict) -> dict:
        made = serving.decide({**record, "plot": "p-1"})
        return {"id": made.decision_id, "says": made.decision}
    return [Route("POST", "/mine", mine, scope="decide")]
"""


def test_a_route_decides_as_the_service_does_and_it_is_on_record(tiny: Any) -> None:
    tiny.offered()
    with serving(tiny, DECIDE) as client:
        answer = client.post("/team/mine", json=tiny.record)
        assert answer.json()["says"] == "water"
        assert sum(tiny.services[-1].store.counts().values()) == 1
        answer = client.post("/team/mine", json={**tiny.record, "dryness": 900})
        assert (answer.status_code, "900" in answer.text) == (422, False)
        assert answer.json()["fields"][0]["field"] == "dryness"
        assert sum(tiny.services[-1].store.counts().values()) == 1


BROKEN = """
def routes(serving):
    def raises() -> str:
        raise ValueError("customer 4711")
    def exits() -> str:
        sys.exit(3)
    async def exits_later() -> str:
        async def later() -> None:
            sys.exit(3)
        asyncio.create_task(later())
        await asyncio.sleep(0.2)
        return "still here"
    def no_json() -> object:
        return {1: object()}
    return [
        Route("GET", "/" + each.__name__, each, scope="operate")
        for each in (raises, exits, exits_later, no_json)
    ]
"""


@pytest.mark.parametrize("name", ["raises", "exits", "exits_later", "no_json"])
def test_a_route_that_fails_is_a_500_and_the_next_is_answered(
    tiny: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.offered()
    with serving(tiny, BROKEN) as client:
        for _ in range(2):
            answer = client.get(f"/team/{name}")
            assert answer.status_code == (200 if name == "exits_later" else 500)
            assert "4711" not in answer.text
        assert client.post("/decide", json=tiny.record).status_code == 200
    assert any("of the team's failed" in each.getMessage() for each in caplog.records)


HANGING = """
def routes(serving):
    def sleeps() -> str:
        time.sleep(600)
        return "late"
    async def blocks() -> str:
        time.sleep(600)
        return "late"
    async def waits() -> str:
        await asyncio.sleep(600)
        return "late"
    def spins() -> str:
        while True:
            pass
    def quick() -> str:
        return "quick"
    return [
        Route("GET", "/" + each.__name__, each, scope="operate")
        for each in (sleeps, blocks, waits, spins, quick)
    ]
"""


@pytest.mark.parametrize("name", ["sleeps", "blocks", pytest.param("waits", marks=pytest.mark.slow), "spins"])
def test_routes_that_hang_hold_no_decision_up(tiny: Any, served: Any, name: str) -> None:
    """More of them than there are threads for handlers of the service's own."""
    tiny.offered()
    write(tiny, HANGING)
    running = served(PILOT_SERVING__ROUTES_BUDGET_MS="4000")
    many = 3 if name == "spins" else 60
    with concurrent.futures.ThreadPoolExecutor(many) as pool, httpx.Client(trust_env=False) as client:
        asked = [
            pool.submit(httpx.get, f"{running.url}/team/{name}", timeout=60, trust_env=False)
            for _ in range(many)
        ]
        concurrent.futures.wait(asked, timeout=1)
        for _ in range(3):
            answer = client.post(f"{running.url}/decide", json=tiny.record, timeout=3)
            assert answer.status_code == 200
        assert not all(each.done() for each in asked), "nothing hung, so nothing was shown"
        codes = sorted(each.result().status_code for each in asked)
        assert codes == [503] * (many - team.IN_FLIGHT) + [504] * min(many, team.IN_FLIGHT)
    # It can be told to end all the same.
    running.process.terminate()
    running.process.wait(timeout=30)


def test_a_place_is_free_again_once_its_call_has_ended(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "IN_FLIGHT", 2)
    tiny.offered()
    text = HANGING.replace("600", "1.0")
    with serving(tiny, text, routes_budget_s=0.2) as client:
        for name in ("waits", "sleeps", "blocks", "blocks"):
            assert client.get(f"/team/{name}").status_code == 504
        end = time.monotonic() + 10
        while client.get("/team/quick").status_code != 200:
            assert time.monotonic() < end, "the places are never free again"
            time.sleep(0.05)
        for _ in range(3):  # both places, and more often than there are places
            time.sleep(0.5)  # what was given up at the same moment gives its place back a little later
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                answers = pool.map(client.get, ["/team/waits"] * 2)
                assert [each.status_code for each in answers] == [504, 504]


FAULTS = {
    "no Python": ("def routes(:\n", r"dryfield/routes.py: line 4 is not valid Python"),
    "not installed": (
        "import nowhere_to_be_found\n",
        r"it imports 'nowhere_to_be_found', which is not installed",
    ),
    "no function": ("x = 1\n", r"dryfield/routes.py: routes is not defined"),
    "raises": ("1 / 0\n", r"routes.py line 4: ZeroDivisionError"),
    "exits": ("sys.exit(0)\n", r"routes.py: it ended the process \(SystemExit\)"),
    "no list": ("def routes(serving):\n    return None\n", r"routes\(\) gave a NoneType and no list"),
    "no routes": ("def routes(serving):\n    return ['/x']\n", r"routes\(\) gave a list and no list of"),
    "no method": (
        'def routes(serving):\n    return [Route("FETCH", "/x", len, scope="operate")]\n',
        r"routes.py, FETCH /x: there is no such method. Use one of GET",
    ),
    "no slash": (
        'def routes(serving):\n    return [Route("GET", "x", time.time, scope="operate")]\n',
        r"routes.py, GET x: the path does not begin with a slash",
    ),
    "no scope": (
        'def routes(serving):\n    return [Route("GET", "/x", time.time, scope="everybody")]\n',
        r"'everybody' is no scope that a token can have. Use one of decide",
    ),
    "twice": (
        'def routes(serving):\n    return [Route("GET", "/x", time.time, scope="operate")] * 2\n',
        r"routes.py, GET /x: it is declared twice",
    ),
    "unreadable": (
        "def x() -> asyncio.AbstractEventLoop:\n    pass\n\n"
        'def routes(serving):\n    return [Route("GET", "/x", x, scope="operate")]\n',
        r"routes.py, GET /x: it cannot be served: .*Correct what the function takes",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_served_is_told_in_one_line_and_the_service_does_not_start(
    tiny: Any, pilot_command: Run, fault: str
) -> None:
    text, said = FAULTS[fault]
    tiny.offered()
    write(tiny, text)
    with pytest.raises(PilotError, match=said):
        load_routes("dryfield", tiny.root, tiny.service())
    if fault in ("not installed", "exits", "no scope"):
        done = pilot_command("serve", "--port", "0")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith("pilot: ")


def test_routes_are_not_packaged_and_nothing_that_is_may_import_them(tiny: Any) -> None:
    before = tiny.package().digest
    write(tiny, SUMMARY)
    assert tiny.package().digest == before
    model = tiny.root / "src" / "dryfield" / "model.py"
    model.write_text("from .routes import routes\n" + model.read_text())
    with pytest.raises(PilotError, match=r"it imports from routes.py, which is not packaged"):
        tiny.package()


def test_a_refusal_is_logged_by_the_routes_own_path(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PILOT_SERVING__OPEN_IN_SANDBOX", "false")
    caplog.set_level(logging.INFO)
    tiny.offered()
    text = SUMMARY.replace("/summary", "/customers/{number}").replace("days: int = 7", "number: str")
    with serving(tiny, text.replace("days", "number")) as client:
        assert client.get("/team/customers/4711").status_code == 401
    assert "refused GET /team/customers/{number}: no token" in caplog.text
    said = [each.getMessage() for each in caplog.records if each.name == "harness.serving"]
    assert not [each for each in said if "4711" in each]


def test_a_service_with_routes_imports_no_more(tiny: Any, python: Any) -> None:
    """What training needs stays out of the service: it would double the time to start and the memory."""
    tiny.offered()
    write(tiny, SUMMARY)
    code = (
        "import sys\nfrom pathlib import Path\nfrom harness.settings import load_settings\n"
        "from harness.serving.server import build_service\nfrom harness.serving.team import load_routes\n"
        "from harness.serving.app import create_app\n"
        "settings = load_settings(Path(sys.argv[1]))\nservice = build_service(settings)\n"
        "create_app(service, name='x', routes=load_routes('dryfield', settings.root, service))\n"
        "heavy = {'mlflow', 'dvc', 'ibis', 'duckdb', 'pandas', 'sklearn'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    out, err = python(code, tiny.root).communicate(timeout=60)
    assert out == "[]\n", err
