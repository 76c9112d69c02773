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
import pytest
import uvicorn

from harness.control import Reader, births, kill, live
from harness.control.births import own_birth
from harness.control.confirmation import Word, ask, every_word, last_decision, verdict
from harness.control.readers import NOTES, noted
from harness.serving.asgi import PerProcess, Place
from harness.serving.server import Prepared
from harness.serving.underway import Answering, Underway

Wait = Callable[..., Any]
STOPPED = {"stopped": True, "revision": 3, "under_way": 0, "last_model_decision": None}


class Worker:
    """Something that answers as a worker does, with one answer after the other and then the last one."""

    def __init__(
        self, root: Path, name: str, *answers: dict[str, Any], folder: str = "/control", **noted: Any
    ) -> None:
        self.asked = 0
        self.then: Callable[[], object] = lambda: None
        values = {"pid": os.getpid(), **asdict(own_birth()), "folder": folder, "url": "", **noted}
        self._answers = [{"pid": values["pid"], **STOPPED, **answer} for answer in answers]
        self._listener = socket.create_server(("127.0.0.1", 0))
        host, port = self._listener.getsockname()
        (root / NOTES).mkdir(parents=True, exist_ok=True)
        self.note = root / NOTES / f"{name}.json"
        self.reader = Reader(**values, address=f"{host}:{port}", note=str(self.note))
        self.note.write_text(json.dumps({**values, "address": self.reader.address}))
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
        self.note.unlink()


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


def answered(**changes: Any) -> bytes:
    return json.dumps({"pid": os.getpid(), **STOPPED, **changes}).encode()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"x" * 100_000,
        b"[" * 60_000,
        b'{"pid": 1}',
        answered(under_way=float("inf")),
        answered(under_way=0.5),
        answered(under_way=False),
        answered(revision="3"),
        answered(last_model_decision=3),
        answered(last_model_decision="lately"),
    ],
    ids=range(13),  # a process's id in a test's name would be another in each process that runs tests
)
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


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:0", "127.0.0.1:99999999", "127.0.0.1:x", ""])
def test_an_address_that_is_none_is_no_confirmation(address: str) -> None:
    assert not ask(Reader(os.getpid(), 0.0, "/control", "", address)).heard


# --- whose note it is, and whether that process lives -------------------------------------------------------

A_BOOT, A_SPACE = "00000000-0000-0000-0000-000000000000", "pid:[1]"
linux = pytest.mark.skipif(not births.BOOT.exists(), reason="the system does not number its boots")


@linux
def test_a_clock_that_is_set_takes_no_service_for_dead(tmp_path: Path) -> None:
    # What is reckoned from the clock has moved; that no step of it moves is as it was.
    worker = Worker(tmp_path, "1", {}, started=own_birth().started - 3600)
    assert live(tmp_path) == [worker.reader]
    (word,) = asked(tmp_path)
    assert (word.confirmed, verdict([word])) == (True, True)


def test_an_old_note_after_a_clock_step_is_a_doubt_and_its_service_is_asked(tmp_path: Path) -> None:
    old = {"host": "", "boot": "", "space": "", "ticks": 0, "started": own_birth().started - 3600}
    heard, deaf = Worker(tmp_path, "1", {}, **old), Worker(tmp_path, "2", {"pid": 1}, **old)
    words = asked(tmp_path, within_s=0.3)
    assert [(word.heard, "clock was set" in word.reader.doubt) for word in words] == [
        (True, True),
        (False, True),
    ]
    assert verdict(words) is False
    assert (heard.note.exists(), deaf.note.exists()) == (True, True)


@linux
@pytest.mark.parametrize("noted", [{"ticks": 1}, {"boot": A_BOOT}])
def test_what_another_process_or_boot_noted_has_surely_ended(tmp_path: Path, noted: dict[str, Any]) -> None:
    worker = Worker(tmp_path, "1", {}, **noted)
    assert live(tmp_path) == []
    assert not worker.note.exists()


@linux
@pytest.mark.parametrize(
    ("noted", "why"),
    [
        ({"boot": A_BOOT, "host": "another"}, "on the host another"),
        ({"space": A_SPACE}, "in another container"),
        # Its number says nothing here, whether a process has it or not.
        ({"space": A_SPACE, "pid": 2**31 - 1}, "in another container"),
    ],
)
def test_what_was_noted_elsewhere_is_not_heard_and_stays(
    tmp_path: Path, noted: dict[str, Any], why: str
) -> None:
    worker = Worker(tmp_path, "1", {}, folder=str(tmp_path / "not-here"), **noted)
    stopped: list[Path] = []
    started = time.monotonic()
    words = asked(tmp_path, stop=stopped.append)
    assert time.monotonic() - started < 2, "there is nobody whose answer could be waited for"
    assert [(word.confirmed, why in word.reader.doubt) for word in words] == [(False, True)]
    assert verdict(words) is False
    assert (worker.asked, worker.note.exists(), stopped) == (0, True, [])
    (tmp_path / "not-here").mkdir()
    asked(tmp_path, stop=stopped.append)
    assert stopped == [tmp_path / "not-here"], "a folder that both see is stopped"


@linux
def test_a_process_that_may_not_be_looked_at_is_a_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(tmp_path, "1", {"pid": 1})
    monkeypatch.setattr(births, "_stat", lambda _: None)  # as /proc with hidepid
    (found,) = live(tmp_path)
    assert found.doubt == "this account may not look at it"
    assert worker.note.exists()


@pytest.mark.parametrize(
    "content", ["{", '{"pid": 1}', "[]", '{"pid": true, "started": 1, "folder": "/", "url": ""}']
)
def test_a_note_that_is_damaged_is_a_process_that_was_not_heard(tmp_path: Path, content: str) -> None:
    (tmp_path / NOTES).mkdir(parents=True)
    note = tmp_path / NOTES / "1.json"
    note.write_text(content)
    stopped: list[Path] = []
    (word,) = asked(tmp_path, stop=stopped.append)
    assert (word.confirmed, word.document()["pid"], word.reader.note) == (False, None, str(note))
    assert (stopped, note.exists()) == ([], True)


def test_a_note_of_a_later_release_is_a_note(tmp_path: Path) -> None:
    worker = Worker(tmp_path, "1", {})
    worker.note.write_text(json.dumps({**json.loads(worker.note.read_text()), "weather": "fine"}))
    assert verdict(asked(tmp_path)) is True


@pytest.mark.parametrize("closed", ["the note", "its folder"])
def test_a_note_that_this_account_may_not_read_is_a_process_that_was_not_heard(
    open_folder: Path, unprivileged: Callable[..., Any], closed: str
) -> None:
    worker = Worker(open_folder, "1", {})
    path = worker.note if closed == "the note" else worker.note.parent
    path.chmod(0)
    words = unprivileged(lambda: asked(open_folder))
    path.chmod(0o755)
    assert [(word.confirmed, "Permission denied" in word.reader.doubt) for word in words] == [(False, True)]
    assert verdict(words) is False
    assert worker.note.exists()


def test_where_nobody_was_there_to_be_asked_nothing_is_confirmed(tmp_path: Path) -> None:
    assert verdict(asked(tmp_path)) is None
    Worker(tmp_path, "1", {})
    words = asked(tmp_path)
    assert (verdict(words), verdict(words, own=os.getpid())) == (True, True)
    # The process that asks serves, and has left no note: others may have left none either.
    assert verdict(words, own=1) is None


@linux
def test_a_note_of_another_container_is_not_written_over(tmp_path: Path) -> None:
    worker = Worker(tmp_path, str(os.getpid()), {}, space=A_SPACE)
    with noted(tmp_path, tmp_path, ""):
        assert len(live(tmp_path)) == 2
    assert [reader.note for reader in live(tmp_path)] == [str(worker.note)]


def test_a_note_that_could_not_be_left_or_was_deleted_is_left_again(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file where the folder should be")
    with noted(tmp_path, tmp_path, "") as again:
        assert [reader.pid for reader in live(tmp_path)] != [os.getpid()]
        (tmp_path / "var").unlink()
        for _ in range(2):
            again()
            (reader,) = live(tmp_path)
            assert (reader.pid, reader.doubt) == (os.getpid(), "")
            Path(reader.note).unlink()
    assert live(tmp_path) == []


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.serving.asgi.NOTED_AGAIN_S", 0.05)


def test_a_service_leaves_its_note_again(tiny: Any, soon: None, here: Any, wait: Wait) -> None:
    wait(lambda: live(tiny.root))
    Path(live(tiny.root)[0].note).unlink()
    wait(lambda: live(tiny.root))


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
    record_all = here.store.record_all

    def slowly(*arguments: Any) -> Any:
        reached.set()
        assert go_on.wait(30)
        return record_all(*arguments)

    monkeypatch.setattr(here.store, "record_all", slowly)
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
    here.store.record_all = lambda *_: (_ for _ in ()).throw(ValueError("nothing is written"))
    assert post() == 500
    assert here.underway.count() == first
    del here.store.record_all
    kill(tiny.control, reason="stop")
    assert post() == 200
    assert here.underway.count() == first


@pytest.mark.parametrize("told", [1, 2])
def test_a_decision_counts_until_its_answer_was_sent(told: int) -> None:
    underway = Underway()
    counted: list[int] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        passage = underway.passage()
        counted.append(underway.count().under_way)
        passage.enter()
        for _ in range(told):
            passage.decided()
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
            passage = underway.passage()
            passage.enter()
            passage.decided()

        context.run(run)

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        late.append(threading.Thread(target=decide, args=(contextvars.copy_context(),)))

    asyncio.run(Answering(app)({}, None, None))  # type: ignore[arg-type]
    late[0].start()
    late[0].join()
    assert underway.count().under_way == 0
