"""Tokens of an identity provider: forged ones let nobody in, and no request waits for the network."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args
from urllib.parse import urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi.testclient import TestClient
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from harness.control import SCOPES, read_audit
from harness.errors import PilotError
from harness.serving.app import create_app
from harness.serving.oidc import UNKNOWN_KEY_EVERY_S, Oidc, build_oidc
from harness.serving_settings import Allowed
from harness.serving_settings import Oidc as Rule

ISSUER, AUDIENCE = "https://login.example.org/", "pilot"


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    return {
        "a": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "b": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "weak": rsa.generate_private_key(public_exponent=65537, key_size=1024),
    }


def published(keys: dict[str, Any], *names: str, **more: Any) -> bytes:
    found = []
    for name in names:
        kind = ECAlgorithm if name == "ec" else RSAAlgorithm
        found.append({**json.loads(kind.to_jwk(keys[name].public_key())), "kid": name, "use": "sig", **more})
    return json.dumps({"keys": found}).encode()


def rule(**changes: Any) -> Rule:
    values: dict[str, Any] = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "jwks_url": "https://login.example.org/keys",
        "scopes": {"pilot.decide": ["decide"], "pilot.all": ["decide", "outcomes"]},
        "leeway_s": 0,
    }
    return Rule(**{**values, **changes})


def claims(**changes: Any) -> dict[str, Any]:
    now = time.time()
    values = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": now + 300,
        "nbf": now - 1,
        "sub": "collections",
        "scope": "openid pilot.decide",
    }
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def signed(
    keys: dict[str, Any], name: str = "a", *, headers: Any = None, alg: str = "RS256", **changes: Any
) -> str:
    return jwt.encode(claims(**changes), keys[name], algorithm=alg, headers={"kid": name, **(headers or {})})


@pytest.fixture
def oidc(keys: dict[str, Any]) -> Oidc:
    made = Oidc(rule(), lambda: published(keys, "a", "ec"))
    assert made.look()
    return made


def test_a_token_of_the_issuers_gives_a_name_and_the_scopes_that_its_words_allow(
    oidc: Oidc, keys: dict[str, Any]
) -> None:
    held = oidc.find(signed(keys))
    assert held is not None
    assert (held.name, held.scopes, held.expired()) == ("oidc:collections", ("decide",), False)
    held = oidc.find(signed(keys, "ec", alg="ES256", scope=["pilot.all", "pilot.decide"]))
    assert held is not None
    assert held.scopes == ("decide", "outcomes")
    for scope in ("", "pilot", [], None, ["pilot.decide "]):
        held = oidc.find(signed(keys, scope=scope))
        assert held is not None
        assert held.scopes == ()


def test_what_logs_call_a_caller_is_no_line_of_theirs(oidc: Oidc, keys: dict[str, Any]) -> None:
    held = oidc.find(signed(keys, sub="a\nINFO decided by Ä " + "x" * 99))
    assert held is not None
    assert held.name == ("oidc:a_INFO_decided_by___" + "x" * 99)[: 5 + 63]


def none(keys: dict[str, Any]) -> str:
    return jwt.encode(claims(), None, algorithm="none", headers={"kid": "a"})


def hmac_with_the_public_key(keys: dict[str, Any]) -> str:
    pem = keys["a"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def part(content: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")

    text = part({"alg": "HS256", "kid": "a", "typ": "JWT"}) + b"." + part(claims())
    seal = base64.urlsafe_b64encode(hmac.new(pem, text, hashlib.sha256).digest()).rstrip(b"=")
    return (text + b"." + seal).decode()


def changed(keys: dict[str, Any]) -> str:
    head, _, seal = signed(keys).split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims(scope="pilot.all")).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{seal}"


PAST, FUTURE = 1_000_000_000, 9_000_000_000
FORGED: dict[str, Callable[[dict[str, Any]], str]] = {
    "no signature": none,
    "HMAC with the public key": hmac_with_the_public_key,
    "another content": changed,
    "another key under a known name": lambda keys: signed(keys, "b", headers={"kid": "a"}),
    "an unknown key": lambda keys: signed(keys, "b"),
    "no name of a key among several": lambda keys: jwt.encode(claims(), keys["a"], algorithm="RS256"),
    "an algorithm that is not allowed": lambda keys: signed(keys, alg="RS384"),
    "the algorithm of another key": lambda keys: signed(keys, "a", headers={"kid": "ec"}),
    "its own key in the header": lambda keys: signed(
        keys, "b", headers={"jwk": json.loads(RSAAlgorithm.to_jwk(keys["b"].public_key()))}
    ),
    "something critical": lambda keys: signed(keys, headers={"crit": ["b64"], "b64": True}),
    "expired": lambda keys: signed(keys, exp=PAST),
    "not yet": lambda keys: signed(keys, nbf=FUTURE),
    "without an end": lambda keys: signed(keys, exp=None),
    "another issuer": lambda keys: signed(keys, iss="https://elsewhere.example/"),
    "no issuer": lambda keys: signed(keys, iss=None),
    "for somebody else": lambda keys: signed(keys, aud="another"),
    "for nobody": lambda keys: signed(keys, aud=None),
    "an audience that begins alike": lambda keys: signed(keys, aud="pilot2"),
    "nobody's": lambda keys: signed(keys, sub=None),
    "an end that is no number": lambda keys: signed(keys, exp="soon"),
    "scopes of no kind": lambda keys: signed(keys, scope=5),
    "too long": lambda keys: signed(keys, more="x" * 10_000),
    "nothing": lambda _: "",
    "dots": lambda _: "..",
    "no JSON": lambda _: "e30.e30.e30",
    "deep": lambda _: base64.urlsafe_b64encode(b"[" * 5_000).decode() + ".e30.e30",
}


@pytest.mark.parametrize("what", FORGED)
def test_what_the_issuer_did_not_sign_for_us_lets_nobody_in(
    oidc: Oidc, keys: dict[str, Any], what: str
) -> None:
    assert oidc.find(signed(keys)) is not None
    assert oidc.find(FORGED[what](keys)) is None


def test_the_team_says_which_algorithms_may_be_used_at_all(keys: dict[str, Any]) -> None:
    token = signed(keys, alg="RS384")
    for allowed, taken in ((["RS256"], False), (["RS256", "RS384"], True)):
        made = Oidc(rule(algorithms=allowed), lambda: published(keys, "a", alg="RS384"))
        assert made.look()
        assert (made.find(token) is not None) == taken


def test_a_known_token_ends_when_it_expires_and_with_its_key(keys: dict[str, Any]) -> None:
    there = ["a", "ec"]
    made = Oidc(rule(), lambda: published(keys, *there))
    made.look()
    brief, lasting = signed(keys, exp=time.time() + 2), signed(keys)
    held = made.find(brief)
    assert held is not None
    assert not held.expired()
    time.sleep(max(0.0, held.expires_at - time.time()) + 0.01)
    held = made.find(brief)
    assert held is None or held.expired()
    assert made.find(lasting) is not None
    there.remove("a")
    made.look()
    assert made.find(lasting) is None, "a key that was withdrawn"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"keys": []}',
        b'{"keys": [{"kty": "oct", "k": "AAAA", "kid": "a"}]}',
        b'{"keys": [{"kty": "RSA", "kid": "a"}]}',
        b"<html>",
    ],
)
def test_a_set_without_a_public_key_is_no_news(keys: dict[str, Any], content: bytes) -> None:
    given = [published(keys, "a")]
    made = Oidc(rule(), lambda: given[0])
    assert made.look()
    given[0] = content
    assert not made.look()
    assert made.find(signed(keys)) is not None


def test_keys_that_are_weak_for_encryption_or_private_are_not_used(keys: dict[str, Any]) -> None:
    weak = Oidc(rule(), lambda: published(keys, "weak"))
    assert not weak.look()
    assert not Oidc(rule(), lambda: published(keys, "a", use="enc")).look()
    private = json.dumps({"keys": [{**json.loads(RSAAlgorithm.to_jwk(keys["a"])), "kid": "a"}]}).encode()
    assert not Oidc(rule(), lambda: private).look()


def test_without_its_issuer_what_was_known_holds_for_a_time_and_then_nobody_is_let_in(
    keys: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    now, there = [0.0], [True]

    def fetch() -> bytes:
        if not there[0]:
            raise OSError("no route")
        return published(keys, "a")

    made = Oidc(rule(max_stale_s=100), fetch, clock=lambda: now[0])
    assert made.find(signed(keys)) is None, "before the first look"
    made.look()
    there[0] = False
    now[0] = 99
    assert not made.look()
    assert not made.look()
    assert made.find(signed(keys)) is not None
    now[0] = 101
    assert made.find(signed(keys)) is None
    assert len([each for each in caplog.records if "cannot be had" in each.getMessage()]) == 1
    there[0] = True
    assert made.look()
    assert made.find(signed(keys)) is not None


class Issuer:
    """Publishes keys on this machine, and counts who asks."""

    def __init__(self) -> None:
        self.content = b"{}"
        self.asked = 0
        self.hold = threading.Event()
        self.hold.set()
        self.redirect = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.hold.wait(20)
                elsewhere = outer.redirect if self.path != urlsplit(outer.redirect).path else ""
                self.send_response(302 if elsewhere else 200)
                if elsewhere:
                    self.send_header("Location", elsewhere)
                self.send_header("Content-Length", str(len(outer.content)))
                self.end_headers()
                self.wfile.write(outer.content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.hold.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_a_new_key_is_looked_for_beside_and_once_a_minute(
    issuer: Issuer, keys: dict[str, Any], tmp_path: Any, wait: Callable[..., Any]
) -> None:
    issuer.content = published(keys, "a")
    made = build_oidc(rule(jwks_url=issuer.url, refresh_s=3600), tmp_path)
    assert made is not None
    now = [1_000.0]
    made._clock = lambda: now[0]
    made.start()
    try:
        wait(lambda: made.find(signed(keys)))
        issuer.content = published(keys, "a", "b")
        issuer.hold.clear()
        assert made.find(signed(keys, "b")) is None, "it does not wait"
        assert made.find(signed(keys)) is not None, "nor does anybody else meanwhile"
        wait(lambda: issuer.asked == 2)
        issuer.hold.set()
        wait(lambda: made.find(signed(keys, "b")))
        for number in range(20):
            assert made.find(signed(keys, headers={"kid": f"made up {number}"})) is None
        time.sleep(0.3)
        assert issuer.asked == 2
        now[0] += UNKNOWN_KEY_EVERY_S
        made.find(signed(keys, headers={"kid": "made up"}))
        wait(lambda: issuer.asked == 3)
    finally:
        made.close()


def test_where_a_token_says_its_key_is_nobody_looks(issuer: Issuer, oidc: Oidc, keys: dict[str, Any]) -> None:
    issuer.content = published(keys, "b")
    for name in ("jku", "x5u"):
        assert oidc.find(signed(keys, "b", headers={name: issuer.url})) is None
        assert oidc.find(signed(keys, "b", headers={"kid": "a", name: issuer.url})) is None
    assert oidc.find(signed(keys, "b", headers={"kid": issuer.url})) is None
    assert issuer.asked == 0


@pytest.mark.parametrize("wrong", ["a redirect", "endless"])
def test_an_answer_from_elsewhere_or_without_end_is_no_news(
    issuer: Issuer, keys: dict[str, Any], tmp_path: Any, wrong: str
) -> None:
    issuer.content = published(keys, "a")
    made = build_oidc(rule(jwks_url=issuer.url), tmp_path)
    assert made is not None
    if wrong == "a redirect":
        issuer.redirect = f"{issuer.url}/elsewhere"  # where the keys would be
    else:
        issuer.content += b" " * (1 << 20)
    assert not made.look()


def test_keys_may_come_from_a_file(keys: dict[str, Any], tmp_path: Any) -> None:
    said = rule(jwks_url="", jwks_file="keys.json")
    with pytest.raises(PilotError, match="jwks_file"):
        build_oidc(said, tmp_path)
    (tmp_path / "keys.json").write_bytes(published(keys, "a"))
    made = build_oidc(said, tmp_path)
    assert made is not None
    assert made.find(signed(keys)) is not None
    assert build_oidc(None, tmp_path) is None


def test_whatever_a_token_of_ours_may_do_one_of_the_issuers_may() -> None:
    assert get_args(Allowed) == SCOPES


@pytest.mark.parametrize(
    "changes",
    [
        {"jwks_url": ""},
        {"jwks_file": "keys.json"},
        {"jwks_url": "http://login.example.org/keys"},
        {"jwks_url": "ftp://login.example.org/keys"},
        {"algorithms": ["none"]},
        {"algorithms": ["HS256"]},
        {"algorithms": []},
        {"scopes": {"all": ["everything"]}},
        {"scopes": {}},
        {"audience": ""},
    ],
    ids=str,
)
def test_what_would_be_no_check_cannot_be_configured(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rule(**changes)


def test_the_service_lets_in_whom_the_issuer_knows_and_no_longer_than_that(
    tiny: Any, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tiny.root / "keys.json").write_bytes(published(keys, "a"))
    text = f"""
open_in_sandbox = false

[serving.oidc]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
jwks_file = "keys.json"

[serving.oidc.scopes]
"pilot.decide" = ["decide"]
"pilot.stop" = ["operate"]
"""
    tiny.toml.write_text(tiny.toml.read_text() + text)
    tiny.offered()
    with TestClient(create_app(tiny.service(), name="dry field")) as client:

        def asked(token: str, path: str = "/decide") -> int:
            answer = client.post(path, json=tiny.record, headers={"Authorization": f"Bearer {token}"})
            return int(answer.status_code)

        good = signed(keys)
        assert [asked(good), asked(good)] == [200, 200]
        assert asked(good, "/outcomes") == 403
        assert asked(signed(keys, "b")) == 401
        assert asked(signed(keys, scope="pilot.stop")) == 403
        assert asked(good, "/control/kill") == 403
        assert asked(signed(keys, scope="pilot.stop"), "/control/kill") == 200
        assert "the token oidc:collections has not the scope" in caplog.text
        assert good not in caplog.text
        assert "token oidc:collections" in str(read_audit(tiny.control))
