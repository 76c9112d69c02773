"""What every request passes: strict JSON of bounded size, a share of requests, headers on every answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.testclient import TestClient
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.control.tokens import issue
from harness.pilot import load_contract
from harness.serving import rates as counting
from harness.serving import strict
from harness.serving.app import create_app
from harness.serving.rates import Rates
from harness.serving.schema import request_model
from harness.serving.strict import MOST_NAMES, Unwelcome, parse, strictly
from harness.store import StoreUnavailable

JSON = {"content-type": "application/json"}
MARK = "zq-7731"


@pytest.fixture
def client(tiny: Any) -> Iterator[TestClient]:
    tiny.offered()
    app = create_app(tiny.service(), name="dry field", most_bytes=2_048)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def text(tiny: Any) -> str:
    return json.dumps(tiny.record)


def post(client: TestClient, body: Any, **headers: str) -> Any:
    return client.post("/decide", content=body, headers={**JSON, **headers})


def recorded(tiny: Any) -> int:
    return sum(tiny.services[-1].store.counts().values())


def with_constant(record: str, constant: str) -> str:
    return record.replace('"slope": null', f'"slope": {constant}')


MALFORMED: dict[str, tuple[Callable[[str], bytes], str, str]] = {
    "UTF-16": (lambda text: text.encode("utf-16"), "body", "UTF-8"),
    "UTF-16 without a mark": (lambda text: text.encode("utf-16-le"), "body", "UTF-8|Expecting"),
    "UTF-32": (lambda text: text.encode("utf-32"), "body", "UTF-8"),
    "Latin-1": (lambda text: text.replace("\\u00c4", "Ä").encode("latin-1"), "body", "UTF-8"),
    "a byte order mark": (lambda text: b"\xef\xbb\xbf" + text.encode(), "body", "byte order mark"),
    "half a letter": (lambda text: text.encode().replace(b"r-1", b"r\xc3"), "body", "UTF-8"),
    "something behind": (lambda text: text.encode() + b"{}", "body", "Extra data"),
    "a name twice": (lambda text: text[:-1].encode() + b', "plot": "zq-7731"}', "plot", "given twice"),
    "a name twice, otherwise written": (
        lambda text: text[:-1].encode() + b', "\\u0070lot": "zq-7731"}',
        "plot",
        "given twice",
    ),
    "NaN": (lambda text: with_constant(text, "NaN").encode(), "slope", "NaN"),
    "Infinity": (lambda text: with_constant(text, "Infinity").encode(), "slope", "NaN"),
    "-Infinity": (lambda text: with_constant(text, "-Infinity").encode(), "slope", "NaN"),
    "beyond a float": (lambda text: with_constant(text, "1e999").encode(), "slope", "finite"),
    "beyond any integer": (
        lambda text: text.replace('"depth_cm": 20', '"depth_cm": 9223372036854775808').encode(),
        "depth_cm",
        "less than",
    ),
    "deep": (lambda _: b"[" * 33 + b"]" * 33, "body", "deeper"),
    "deep in a field": (
        lambda text: with_constant(text, '{"a":' * 40 + "1" + "}" * 40).encode(),
        "body",
        "deeper",
    ),
    "wide": (
        lambda _: json.dumps({f"{n:x}": 0 for n in range(1_001)}).encode(),
        "body",
        "names",
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_not_strictly_json_is_refused_by_name(tiny: Any, text: str, what: str) -> None:
    make, field, said = MALFORMED[what]
    tiny.offered()
    with TestClient(create_app(tiny.service(), name="dry field"), raise_server_exceptions=False) as client:
        answer = post(client, make(text))
    assert answer.status_code == 422
    assert answer.json()["error"] == "invalid_record"
    (found,) = answer.json()["fields"]
    assert found["field"] == field
    assert re.search(said, found["message"])
    assert MARK not in answer.text
    assert recorded(tiny) == 0


def read(body: bytes) -> str:
    """What is found in a body, with the types of all that is in it, or why it is refused."""
    try:
        return repr(parse(body))
    except RequestValidationError as error:
        return f"refused: {error.errors()}"


def read_by_python_alone(body: bytes) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict, "_plain", lambda _: None)
        return read(body)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**66), 2**66),
        st.floats(),
        st.text(st.characters(exclude_categories=())),
        st.sampled_from(['"', ':"', '":', "\\", '\\"', '{"a":1}']),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
PAIRS = st.lists(st.tuples(st.sampled_from(["a", "b", "A", "\u00e4", 'q"', "a:", ""]), VALUES), max_size=5)


@given(
    PAIRS, st.sampled_from([":", " : ", ":\n"]), st.booleans(), st.integers(0, 10**6), st.binary(max_size=2)
)
@example([("a", 1), ("a", 2)], ":", True, 0, b"")
@example([("a", 2**64)], ":", True, 0, b"")
@example([("a", -(2**63) - 1)], ":", True, 0, b"")
@example([("a", float("nan"))], ":", True, 0, b"")
@example([("a", "\ud800")], ":", True, 0, b"")
def test_both_parsers_find_and_refuse_the_same(
    pairs: list[tuple[str, Any]], colon: str, ascii: bool, place: int, spoilt: bytes
) -> None:
    named = (json.dumps(name) + colon + json.dumps(value, ensure_ascii=ascii) for name, value in pairs)
    body = ("{" + ", ".join(named) + "}").encode(errors="surrogatepass")
    assert read(body) == read_by_python_alone(body)
    place %= len(body) + 1
    for also in (
        body[:place] + spoilt + body[place:],
        body[:place],
        body[:place] + spoilt + body[place + 1 :],
    ):
        assert read(also) == read_by_python_alone(also)


def test_a_record_is_read_by_the_faster_one_and_what_is_unusual_by_the_other(text: str) -> None:
    assert strict._plain(text.encode()) == json.loads(text)
    assert strict._plain(b'{"at": "10:30", "n": 1, "x": 0.5, "is": true, "no": null}') is not None
    many = json.dumps({f"f{number}": 1 for number in range(MOST_NAMES + 1)}).encode()
    for unusual in (b'{"a": 1, "a": 1}', b'{"a": "x\\"y"}', b'{"a": {"b": 1}}', b"[1]", b'{"a": 2e16}', many):
        assert strict._plain(unusual) is None


def test_an_integer_that_no_column_takes_is_refused_where_the_contract_sets_no_end(tiny: Any) -> None:
    contract = load_contract("dryfield")
    fields = [replace(each, low=None, high=None) for each in contract.fields if each.name == "depth_cm"]
    others = [each for each in contract.fields if each.name != "depth_cm"]
    model = request_model(replace(contract, fields=(*others, *fields)))
    record = {**tiny.record, "measured_on": "2026-03-01"}
    for taken in (2**63 - 1, -(2**63)):
        assert model.model_validate({**record, "depth_cm": taken}).model_dump()["depth_cm"] == taken
    for refused in (2**63, -(2**63) - 1, 10**400):
        with pytest.raises(ValidationError, match="depth_cm"):
            model.model_validate({**record, "depth_cm": refused})


def test_what_only_looks_like_more_is_taken(tiny: Any, client: TestClient) -> None:
    record = {**tiny.record, "plot": "NaN Infinity " + "[{" * 40}
    assert post(client, json.dumps(record)).status_code == 200
    assert post(client, json.dumps(record).encode() + b" \r\n\t").status_code == 200


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('Application/JSON;charset="UTF-8"', 200),
        ("application/problem+json", 200),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=latin-1", 415),
        ("application/jsonp", 415),
        ("text/json-ish; application/json", 415),
        ("text/plain", 415),
        ("", 415),
    ],
)
def test_what_a_body_is_said_to_be_has_to_be_json_in_utf_8(
    client: TestClient, text: str, kind: str, status: int
) -> None:
    answer = client.post("/decide", content=text.encode(), headers={"content-type": kind})
    assert answer.status_code == status
    if status == 415:
        assert answer.json()["error"] == "not_json"


def test_a_body_in_another_coding_or_of_two_kinds_is_refused(client: TestClient, text: str) -> None:
    assert post(client, text, **{"content-encoding": "gzip"}).status_code == 415
    twice = [("content-type", "application/json"), ("content-type", "text/plain")]
    assert client.post("/decide", content=text.encode(), headers=twice).status_code == 400
    assert client.post("/decide", content=text.encode()).status_code == 415


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_a_body_that_is_too_large_is_refused_while_it_is_read(
    tiny: Any, client: TestClient, chunked: bool
) -> None:
    parts = 0

    def body() -> Iterator[bytes]:
        nonlocal parts
        for _ in range(64):
            parts += 1
            yield b" " * 1_024

    exactly = b'{"plot": "%s"}' % (b"x" * 3_000)
    answer = post(client, body() if chunked else exactly)
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    assert recorded(tiny) == 0


def test_a_body_that_says_it_is_too_large_is_not_even_begun() -> None:
    async def receive() -> Any:
        raise AssertionError("the body was read")

    headers = [(b"content-type", b"application/json"), (b"content-length", b"11")]
    with pytest.raises(Unwelcome) as refused:
        asyncio.run(strictly(Request({"type": "http", "headers": headers}, receive), 10))
    assert refused.value.status == 413


def test_a_stop_is_not_refused_for_its_size(tiny: Any, client: TestClient) -> None:
    answer = client.post("/control/kill", content=b"x" * 100_000, headers=JSON)
    assert answer.status_code == 200
    assert client.get("/health").json()["stopped"] is True


def test_many_outcomes_may_be_larger_than_a_record(tiny: Any, client: TestClient) -> None:
    many = [{"reading": f"r-{number}", "withered": True} for number in range(200)]
    assert client.post("/outcomes", content=json.dumps(many).encode(), headers=JSON).status_code == 200


def test_a_query_string_has_an_end(client: TestClient) -> None:
    assert client.get("/health?" + "x" * 2_048).status_code == 200
    answer = client.get("/health?" + "x" * 2_049)
    assert (answer.status_code, answer.json()["error"]) == (414, "too_large")


BORNE = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def test_every_answer_bears_the_headers_and_no_page_elsewhere_may_read_it(
    tiny: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.offered()
    service = tiny.service()
    with TestClient(create_app(service, name="dry field"), raise_server_exceptions=False) as client:
        origin = {"origin": "https://elsewhere.example"}
        asked = [
            post(client, text),
            post(client, "{"),
            post(client, text, authorization="Bearer no"),
            client.get("/health", headers=origin),
            client.get("/nowhere"),
            client.get("/decide"),
            client.options("/decide", headers={**origin, "access-control-request-method": "POST"}),
        ]

        def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError(MARK)

        monkeypatch.setattr(service, "decided", broken)
        asked.append(post(client, text))
    assert [answer.status_code for answer in asked] == [200, 422, 401, 200, 404, 405, 405, 500]
    for answer in asked:
        assert {name: answer.headers[name] for name in BORNE} == BORNE
        assert "server" not in answer.headers
        assert "strict-transport-security" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert MARK not in answer.text


def test_with_tls_a_browser_is_told_to_keep_to_it(tiny: Any) -> None:
    with TestClient(create_app(tiny.service(), name="dry field", tls=True)) as client:
        assert client.get("/health").headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize(
    "path", ["/", "/nowhere", "/docs", "/redoc", "/decide/", "/zq-7731?zq-7731", "/.env", "/%2e%2e"]
)
def test_what_is_not_there_is_answered_alike(client: TestClient, path: str) -> None:
    for answer in (client.get(path, follow_redirects=False), client.request("BREW", path)):
        assert answer.status_code == 404
        assert answer.json() == {"error": "not_found", "detail": "There is nothing here."}
    assert client.get("/decide").json() == {
        "error": "method_not_allowed",
        "detail": "This takes another method.",
    }


def test_the_open_endpoints_tell_a_stranger_nothing_of_what_is_behind(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOT_SERVING__OPEN_IN_SANDBOX", "false")
    digest = tiny.offered()
    service = tiny.service()
    presented = issue(tiny.control, name="reader", scopes=["outcomes"], lasts=timedelta(days=1))[0]
    known = {"Authorization": f"Bearer {presented}"}
    with TestClient(create_app(service, name="dry field")) as client:
        assert client.get("/ready", headers=known).json()["models"] == {digest: "loaded"}
        for stranger in ({}, {"Authorization": "Bearer pilot_" + "0" * 64}):
            assert digest not in client.get("/ready", headers=stranger).text

        def gone(*_: Any) -> None:
            raise StoreUnavailable("gone", where="the store at /secret/place", mend="Bring it back.")

        monkeypatch.setattr(service.store, "ping", gone)
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        assert "/secret/place" not in answer.text
        assert "/secret/place" in client.get("/ready", headers=known).json()["detail"]
        (tiny.control / "state.json").write_text("{")
        assert str(tiny.control) not in client.get("/health").text
        assert client.get("/health").json()["stopped"] is True
        assert str(tiny.control) in client.get("/health", headers=known).text


def limited(tiny: Any, monkeypatch: pytest.MonkeyPatch, **more: str) -> TestClient:
    monkeypatch.setenv("PILOT_SERVING__RATE_PER_S", "0.001")
    monkeypatch.setenv("PILOT_SERVING__BURST", "3")
    for name, value in more.items():
        monkeypatch.setenv(f"PILOT_SERVING__{name}", value)
    tiny.offered()
    return TestClient(create_app(tiny.service(), name="dry field"))


def test_each_caller_has_its_own_requests_and_is_told_what_is_left(
    tiny: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with limited(tiny, monkeypatch, OPEN_IN_SANDBOX="false") as client:
        tokens = [
            issue(tiny.control, name=name, scopes=["decide", "operate"], lasts=timedelta(days=1))[0]
            for name in ("one", "other")
        ]
        answers = [post(client, text, authorization=f"Bearer {tokens[0]}") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        told = [re.fullmatch(r'"caller";r=(\d);t=(\d+)', answer.headers["ratelimit"]) for answer in answers]
        assert [found and found[1] for found in told] == ["2", "1", "0", "0"]
        assert [found and round(int(found[2]), -3) for found in told] == [1_000, 2_000, 3_000, 3_000]
        assert answers[3].headers["ratelimit-policy"] == '"caller";q=3;w=3000'
        assert 900 < int(answers[3].headers["retry-after"]) <= 1_000
        assert answers[3].json()["error"] == "too_many"
        assert recorded(tiny) == 3
        assert post(client, text, authorization=f"Bearer {tokens[1]}").status_code == 200
        # Whoever is stopped from asking can still stop the model, and a stranger learns nothing of a limit.
        for _ in range(5):
            stopped = client.post("/control/kill", headers={"authorization": f"Bearer {tokens[0]}"})
            assert stopped.status_code == 200
        assert {post(client, text).status_code for _ in range(5)} == {401}


def test_in_the_open_sandbox_an_address_is_a_caller(
    tiny: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with limited(tiny, monkeypatch) as client:
        codes = [post(client, text, **{"x-forwarded-for": f"10.0.0.{n}"}).status_code for n in range(4)]
        assert codes == [200, 200, 200, 429]
        assert {client.get("/health").status_code for _ in range(5)} == {200}


def test_without_a_rate_nobody_is_counted(client: TestClient, text: str) -> None:
    assert "ratelimit" not in post(client, text).headers


def test_a_bucket_fills_again_and_never_beyond_its_size() -> None:
    now = [0.0]
    bucket = Rates(2, 4, clock=lambda: now[0])

    def taken() -> int:
        count = 0
        while bucket.take("a").allowed:
            count += 1
        return count

    assert taken() == 4
    now[0] += 1
    assert taken() == 2
    now[0] += 1_000
    assert taken() == 4
    assert Rates(0.5).take("a").headers["RateLimit-Policy"] == '"caller";q=1;w=2'


def test_callers_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MOST_CALLERS", 3)
    bucket = Rates(1, 1, clock=lambda: 0.0)
    assert [bucket.take(name).allowed for name in "abc"] == [True] * 3
    assert not bucket.take("a").allowed
    bucket.take("d")
    assert not bucket.take("a").allowed
    assert bucket.take("b").allowed, "the one that asked longest ago was forgotten"
