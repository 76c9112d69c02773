"""What tests of a pilot lean on tells the truth: the consumer verifies, the proxy cuts, and waiting ends."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from harness.simulate import embedded
from harness.testing import Consumer, Proxy, until
from harness.testing.consumer import SECRET

CONTENT = json.dumps({"decision_id": "d-1", "entity": "plot 7"}).encode()


@pytest.fixture
def consumer(tmp_path: Path) -> Iterator[Consumer]:
    with Consumer(tmp_path) as running:
        yield running


def post(consumer: Consumer, body: bytes = CONTENT, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(consumer.url, content=body, headers=named, trust_env=False, timeout=10).status_code


def signed(at: float, *, secret: str = SECRET, body: bytes = CONTENT) -> dict[str, Any]:
    made = hmac.new(secret.encode(), f"{at:.0f}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Pilot_Timestamp": f"{at:.0f}", "Pilot_Signature": f"v1={made}", "Idempotency_Key": "d-1"}


def test_it_takes_what_is_signed_and_keeps_it(consumer: Consumer) -> None:
    assert post(consumer, **signed(time.time())) == 200
    (received,) = consumer.arrived()
    assert (received.status, received.key, received.content) == (200, "d-1", json.loads(CONTENT))


def test_it_refuses_what_is_not_signed_for_it_now_and_as_it_is(consumer: Consumer) -> None:
    now = time.time()
    right = signed(now)
    assert post(consumer) == 401
    assert post(consumer, **signed(now, secret="another")) == 401
    assert post(consumer, **signed(now - 3600)) == 401
    assert post(consumer, **{**right, "Pilot_Timestamp": f"{now + 1:.0f}"}) == 401
    assert post(consumer, CONTENT.replace(b"7", b"8"), **right) == 401
    assert consumer.arrived() == []


def test_it_answers_as_it_is_told_and_counts_each_decision_once(consumer: Consumer) -> None:
    consumer.answer(200, {"plot 7": 422})
    assert post(consumer, **signed(time.time())) == 422
    consumer.answer(503)
    assert post(consumer, **signed(time.time())) == 503
    assert consumer.received() == []
    consumer.answer()
    for _ in range(2):
        assert post(consumer, **signed(time.time())) == 200
    assert [each.status for each in consumer.arrived()] == [422, 503, 200, 200]
    assert consumer.received(1) == [json.loads(CONTENT)]


def test_it_comes_back_where_it_was(consumer: Consumer) -> None:
    post(consumer, **signed(time.time()))
    before = consumer.url
    consumer.stop()
    with pytest.raises(httpx.ConnectError):
        post(consumer)
    consumer.start()
    assert consumer.url == before
    assert len(consumer.received(1)) == 1


def test_waiting_for_what_does_not_come_ends_and_says_so(consumer: Consumer) -> None:
    with pytest.raises(AssertionError, match="0 of 1 decisions arrived"):
        consumer.received(1, within_s=0.1)
    with pytest.raises(AssertionError, match=r"within 0\.1 s"):
        until(lambda: False, within_s=0.1)
    assert until(lambda: "yes") == "yes"


def test_a_connection_is_cut_half_way_and_comes_back(tmp_path: Path) -> None:
    query = "select repeat('x', 1000) from generate_series(1, 1000)"
    with embedded.server(tmp_path / "pg") as url, Proxy(url) as proxy:
        with psycopg.connect(proxy.url) as connection:
            assert len(connection.execute(query).fetchall()) == 1000
        whole = proxy.passed
        assert whole > 1_000_000
        proxy.cut_after(whole // 2)
        with pytest.raises(psycopg.OperationalError), psycopg.connect(proxy.url) as connection:
            connection.execute(query).fetchall()
        assert proxy.passed == whole // 2
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(proxy.url, connect_timeout=5)
        proxy.restore()
        with psycopg.connect(proxy.url) as connection:
            assert len(connection.execute(query).fetchall()) == 1000
