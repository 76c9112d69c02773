"""What a worker says when it is asked, and how long a stop goes on asking."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn

from harness.control import Reader, kill
from harness.control.confirmation import Word, ask, every_word, last_decision
from harness.control.readers import NOTES
from harness.serving.asgi import PerProcess, Place
from harness.serving.server import Prepared
from harness.serving.underway import Answering, Underway
from harness.store import Decision

Wait = Callable[..., Any]
STOPPED = {"stopped": True, "revision": 3, "under_way": 0, "last_model_decision": None}


class Worker:
    """Something that answers as a worker does, with one answer after the other and then the last one."""

    def __init__(self, root: Path, name: str, *answers: dict[str, Any], folder: str = "/control") -> None:
        self.asked = 0
        self.then: Callable[[], object] = lambda: None
        self._answers = [{"pid": os.getpid(), **STOPPED, **answer} for answer in answers]
        self._listener = socket.create_server(("127.0.0.1", 0))
        host, port = self._listener.getsockname()
        started = psutil.Process().create_time()
        self.reader = Reader(os.getpid(), started, folder, "", f"{host}:{port}")
        (root / NOTES).mkdir(parents=True, exist_ok=True)
        self._note = root / NOTES / f"{name}.json"
        self._note.write_text(json.dumps(asdict(self.reader)))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            answer = self._answers[min(self.asked, len(self._answers) - 1)]
            self.asked += 1
            self.then()
            connection.sendall(json.dumps(answer).encode())
            connection.close()

    def gone(self) -> None:
        self._note.unlink()


def asked(root: Path, **more: Any) -> list[Word]:
    return every_word(root, **{"stop": lambda _: None, **more})


def test_a_stop_waits_until_no_decision_is_under_way(tmp_path: Path) -> None:
    worker = Worker(tmp_path, "1", {"under_way": 2}, {"under_way": 1}, {"last_model_decision": "2026-01-01"})
    (word,) = asked(tmp_path)
    assert (word.confirmed, worker.asked) == (True, 3)
    assert last_decision([word]) == "2026-01-01"


@pytest.mark.parametrize("answer", [{"stopped": False}, {"under_way": 1}, {"pid": 1}])
def test_a_worker_that_has_not_confirmed_within_the_limit_is_not_counted(
    tmp_path: Path, answer: dict[str, Any]
) -> None:
    Worker(tmp_path, "1", answer)
    confirmed = Worker(tmp_path, "2", {})
    words = {word.reader: word.confirmed for word in asked(tmp_path, within_s=0.5)}
    assert sorted(words.values()) == [False, True]
    assert words[confirmed.reader]


def test_a_worker_that_appears_meanwhile_is_asked_too_and_stopped_where_it_looks(tmp_path: Path) -> None:
    stopped: list[Path] = []
    first = Worker(tmp_path, "1", {})
    late: list[Worker] = []

    def appear() -> None:
        if not late:
            late.append(Worker(tmp_path, "2", {"stopped": False}, {}, folder="/elsewhere"))

    first.then = appear
    words = asked(tmp_path, stop=stopped.append)
    assert {word.reader: word.confirmed for word in words} == {first.reader: True, late[0].reader: True}
    assert late[0].asked == 2
    assert stopped == [Path("/control"), Path("/elsewhere")]


def test_a_worker_that_ended_meanwhile_is_waited_for_no_longer(tmp_path: Path) -> None:
    worker = Worker(tmp_path, "1", {"under_way": 1})
    worker.then = worker.gone
    started = time.monotonic()
    assert asked(tmp_path, within_s=20) == []
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("said", [b"", b"{", b"[]", b"x" * 100_000, b'{"pid": 1}'])
def test_an_answer_that_is_none_is_no_confirmation(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()

        def serve() -> None:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError):
                connection.sendall(said)
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        word = ask(Reader(os.getpid(), 0.0, "/control", "", f"{host}:{port}"))
    assert not word.heard
    assert not word.confirmed


# --- what counts as under way ------------------------------------------------------------------------------


@pytest.fixture
def here(tiny: Any, wait: Wait) -> Iterator[Any]:
    """The service in this process, on a port of its own, so that a test can hold a decision up."""
    tiny.offered()
    service = tiny.service()
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    place = Place(tiny.settings(), "127.0.0.1", url)
    app = PerProcess(place, Prepared(tiny.settings(), service, []))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    wait(lambda: server.started)
    service.url = url
    yield service
    server.should_exit = True
    thread.join(timeout=30)


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(work()))
    thread.start()
    return thread, got


def test_a_models_decision_that_is_being_recorded_is_waited_for(
    tiny: Any, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    record = here.store.record

    def slowly(decision: Decision) -> None:
        reached.set()
        assert go_on.wait(30)
        record(decision)

    monkeypatch.setattr(here.store, "record", slowly)
    thread, got = in_background(lambda: httpx.post(f"{here.url}/decide", json=tiny.record, timeout=60))
    assert reached.wait(30)
    kill(tiny.control, reason="while it is recorded")
    (word,) = asked(tiny.root, within_s=0.3)
    assert (word.stopped, word.under_way, word.confirmed, word.last) == (True, 1, False, None)
    threading.Timer(0.3, go_on.set).start()
    (word,) = asked(tiny.root)
    assert (word.under_way, word.confirmed) == (0, True)
    thread.join(timeout=30)
    # It had the permission before the stop, so it is the model's; and it is the last one.
    assert got[0].json()["served_by"] == "model"
    assert word.last is not None


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "30000")


def test_03_a_kill_during_a_call_of_the_model_waits_for_none_and_makes_one_decision_of_it(
    tiny: Any, patient: None, here: Any, wait: Wait, tmp_path: Path
) -> None:
    digest = here.control.state().challenger.digest
    reached, go_on = tmp_path / "reached", tmp_path / "go-on"
    tiny.model_does(
        digest,
        f"""
        import time
        from pathlib import Path
        Path({str(reached)!r}).touch()
        while not Path({str(go_on)!r}).exists():
            time.sleep(0.01)
        return [0.9]
        """,
    )
    thread, got = in_background(lambda: httpx.post(f"{here.url}/decide", json=tiny.record, timeout=60))
    wait(reached.exists)
    kill(tiny.control, reason="while it scores")
    (word,) = asked(tiny.root, within_s=2)
    assert word.confirmed, "what is asked again before it decides needs no waiting for"
    go_on.touch()
    thread.join(timeout=30)
    answer = got[0].json()
    assert (answer["served_by"], answer["why"]) == ("fallback", "killed")
    (made,) = here.store.latest(10)
    assert (made.decision_id, made.why) == (answer["decision_id"], "killed")
    assert here.underway.count().under_way == 0


def test_whatever_becomes_of_a_decision_it_does_not_stay_under_way(tiny: Any, here: Any) -> None:
    def post() -> int:
        return httpx.post(f"{here.url}/decide", json=tiny.record, timeout=60).status_code

    assert post() == 200
    first = here.underway.count()
    assert (first.under_way, first.last is None) == (0, False)
    here.store.record = lambda _: (_ for _ in ()).throw(ValueError("nothing is written"))
    assert post() == 500
    assert here.underway.count() == first
    del here.store.record
    kill(tiny.control, reason="stop")
    assert post() == 200
    assert here.underway.count() == first


def test_a_decision_counts_until_its_answer_was_sent() -> None:
    underway = Underway()
    counted: list[int] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        with underway.decision():
            counted.append(underway.count().under_way)
            underway.entering()
        await send({"type": "http.response.body"})

    async def send(_message: Any) -> None:
        counted.append(underway.count().under_way)

    asyncio.run(Answering(app)({}, None, send))  # type: ignore[arg-type]
    counted.append(underway.count().under_way)
    assert counted == [0, 1, 0]


def test_a_decision_that_comes_after_its_answer_ends_by_itself() -> None:
    underway = Underway()
    late: list[threading.Thread] = []

    def decide(context: Any) -> None:
        def run() -> None:
            with underway.decision():
                underway.entering()

        context.run(run)

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        late.append(threading.Thread(target=decide, args=(contextvars.copy_context(),)))

    asyncio.run(Answering(app)({}, None, None))  # type: ignore[arg-type]
    late[0].start()
    late[0].join()
    assert underway.count().under_way == 0
