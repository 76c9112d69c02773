"""A real `pilot serve`: what a client got is on record, whatever became of the process."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx

from harness.control import arm, kill
from harness.control.tokens import issue
from harness.store import DecisionStore

Serve = Callable[..., Any]
Pilot = Callable[..., subprocess.CompletedProcess[str]]


def store(tiny: Any) -> DecisionStore:
    return DecisionStore(tiny.settings().sqlite_url(tiny.settings().store.url))


def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, timeout=30)


def test_it_decides_is_stopped_by_the_command_and_starts_again(
    tiny: Any, served: Serve, pilot_command: Pilot
) -> None:
    digest = tiny.offered()
    running = served()
    with client(running.url) as asking:
        first = asking.post("/decide", json=tiny.record).json()
        assert (first["served_by"], first["model"]) == ("model", digest)
        stopped = pilot_command("kill", "--reason", "too wet")
        assert stopped.returncode == 0, stopped.stderr
        assert asking.post("/decide", json=tiny.record).json()["why"] == "killed"
        assert pilot_command("arm", "--reason", "dry again").returncode == 0
        assert asking.post("/decide", json=tiny.record).json()["served_by"] == "model"


def test_without_a_state_or_a_model_it_starts_and_the_fallback_decides_until_it_is_told_to_end(
    tiny: Any, served: Serve
) -> None:
    running = served()
    token, _ = issue(tiny.control, name="early-bird", scopes=["decide"], lasts=timedelta(days=1))
    with client(running.url) as asking:
        assert asking.get("/ready").status_code == 200
        # Without a state nothing says that this is the sandbox, so nobody is let in for nothing.
        assert asking.post("/decide", json=tiny.record).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        given = asking.post("/decide", json=tiny.record, headers=headers).json()
    assert (given["served_by"], given["why"], given["sandbox"]) == ("fallback", "no_state", True)
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(timeout=30)


def test_what_clients_got_is_on_record_once_after_the_process_was_killed(
    tiny: Any, served: Serve, wait: Callable[..., Any]
) -> None:
    tiny.offered()
    got: list[dict[str, Any]] = []

    def ask(url: str) -> None:
        with client(url) as asking:
            while True:
                try:
                    answer = asking.post("/decide", json=tiny.record)
                except httpx.HTTPError:
                    return
                got.append(answer.json())

    for round_ in range(2):
        running, before = served(), len(got)
        clients = [threading.Thread(target=ask, args=(running.url,)) for _ in range(6)]
        for thread in clients:
            thread.start()
        wait(lambda before=before, round_=round_: len(got) >= before + 40 + 30 * round_)
        running.process.kill()
        running.process.wait(timeout=30)
        for thread in clients:
            thread.join(timeout=30)
            assert not thread.is_alive()
    kept = store(tiny)
    found = {made.decision_id: made for made in kept.latest(100_000)}
    kept.close()
    assert len({given["decision_id"] for given in got}) == len(got) >= 110
    for given in got:
        made = found[given["decision_id"]]
        assert (made.decision, made.score, made.served_by) == (given["decision"], given["score"], "model")


def test_one_response_is_enough_for_its_decision_to_be_on_record(tiny: Any, served: Serve) -> None:
    tiny.offered()
    running = served()
    with client(running.url) as asking:
        given = asking.post("/decide", json=tiny.record).json()
        running.process.kill()
    running.process.wait(timeout=30)
    kept = store(tiny)
    assert kept.get(given["decision_id"]) is not None
    kept.close()


def test_under_load_no_decision_that_starts_after_a_kill_is_the_models(
    tiny: Any, served: Serve, wait: Callable[..., Any]
) -> None:
    tiny.offered()
    running = served()
    got: list[tuple[float, float, int, dict[str, Any]]] = []
    ending = threading.Event()

    def ask() -> None:
        with client(running.url) as asking:
            while not ending.is_set():
                started = time.monotonic()
                answer = asking.post("/decide", json=tiny.record)
                got.append((started, time.monotonic(), answer.status_code, answer.json()))

    def answered(since: float) -> list[str]:
        """Who served the requests that started since then and have their answer."""
        return [given["served_by"] for started, _, _, given in list(got) if started >= since]

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for thread in clients:
        thread.start()
    stopped: list[tuple[float, float]] = []
    try:
        for number in range(3):
            before = time.monotonic()
            wait(lambda before=before: "model" in answered(before))
            kill(tiny.control, reason=f"stop {number}")
            killed = time.monotonic()
            wait(lambda killed=killed: len(answered(killed)) >= 20)
            stopped.append((killed, time.monotonic()))
            arm(tiny.control, reason=f"go {number}")
    finally:
        ending.set()
        for thread in clients:
            thread.join(timeout=30)
    assert {status for _, _, status, _ in got} == {200}
    for killed, end in stopped:
        within = [given["why"] for started, ended, _, given in got if killed <= started and ended <= end]
        assert len(within) >= 20
        assert set(within) == {"killed"}


def test_in_the_sandbox_it_refuses_to_be_reached_from_elsewhere(tiny: Any, pilot_command: Pilot) -> None:
    tiny.offered()
    done = pilot_command("serve", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "loopback only" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_asks_the_service(tiny: Any, served: Serve, pilot_command: Pilot) -> None:
    tiny.offered()
    running = served()
    file = tiny.root / "record.json"
    file.write_text(json.dumps(tiny.record))
    done = pilot_command("decide", str(file), "--url", running.url, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["served_by"] == "model"
    file.write_text(json.dumps({**tiny.record, "dryness": 777}))
    done = pilot_command("decide", str(file), "--url", running.url)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "dryness" in done.stderr
