"""The log follows every decision and holds nothing that anybody was decided about."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
import select
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from harness.control import kill
from harness.errors import place
from harness.serving import logs
from harness.serving.app import create_app
from harness.serving.scorer import load_scorer
from harness.serving.service import FallbackFailed
from harness.store import StoreUnavailable
from harness.store.database import _cause

MARK = "zq-7731"
WITHIN_S = 30.0
LINE = r"decision [0-9a-f-]{36} by (model|fallback) \([a-z_]+\), revision \d+, \d+\.\d ms"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What a service that runs without --debug would have written so far."""
    caplog.set_level(logging.DEBUG, logger="harness")
    form = logs.Reticent(logs.FORMAT)

    def written() -> str:
        lines = []
        for record in caplog.records:
            record.exc_text = None  # pytest's own handler has left the whole traceback there
            if record.levelno >= logging.INFO:
                lines.append(form.format(record))
        return "\n".join(lines)

    return written


def unwell(*_: Any, **__: Any) -> Any:
    raise ValueError(f"could not convert {MARK}")


def test_each_decision_is_one_line_with_who_and_why(tiny: Any, said: Callable[[], str]) -> None:
    tiny.offered()
    deciding = tiny.service()
    first = deciding.decide(tiny.parsed(reading=MARK, plot="Äcker-7"))
    kill(tiny.control, reason="stop")
    second = deciding.decide(tiny.parsed())
    lines = [line for line in said().splitlines() if "decision" in line]
    assert len(lines) == 2
    assert all(re.search(rf" INFO harness.serving {LINE}$", line) for line in lines)
    assert f"{first.decision_id} by model (assigned), revision 1," in lines[0]
    assert f"{second.decision_id} by fallback (killed), revision 2," in lines[1]
    for value in (MARK, "Äcker-7", "maize", "water", "skip"):
        assert value not in said()


def test_what_was_not_recorded_is_not_logged_as_decided(
    tiny: Any, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.offered()
    deciding = tiny.service()

    def full(*_: Any) -> None:
        raise StoreUnavailable("full", where="store", mend="Free it.")

    monkeypatch.setattr(deciding.store, "record_all", full)
    with pytest.raises(StoreUnavailable):
        deciding.decide(tiny.parsed())
    assert "decision " not in said()


@pytest.mark.parametrize("who", ["model", "score", "fallback"])
def test_what_the_teams_code_raises_is_logged_by_type_and_place(
    tiny: Any, said: Callable[[], str], who: str
) -> None:
    digest = tiny.offered()
    deciding = tiny.service()
    deciding.decide(tiny.parsed())
    if who == "model":
        tiny.model_does(digest, f"raise ValueError('could not convert {MARK}')")
        deciding.decide(tiny.parsed())
        expected = r"the model failed\n  ValueError at predict.py line \d+"
    elif who == "score":
        tiny.model_does(digest, "return np.array([77.31])")
        deciding.decide(tiny.parsed())
        expected = r"the model gave no valid score\n  ScoreInvalid at scorer.py line \d+"
    else:
        kill(tiny.control, reason="stop")
        tiny.fallback_file().hook = unwell
        with pytest.raises(FallbackFailed):
            deciding.decide(tiny.parsed())
        expected = r"the fallback failed\n  ValueError at test_serving_logs.py line \d+"
    assert re.search(expected, said())
    assert MARK not in said()
    assert "77.31" not in said()
    assert "Traceback" not in said()


def test_the_place_is_the_teams_own_where_it_has_part(tiny: Any) -> None:
    digest = tiny.offered()
    load_scorer(tiny.models, digest, 0)
    with pytest.raises(OSError, match="nowhere") as raised:
        sys.modules[f"packaged_{digest}.model"].load(tiny.root / "nowhere")
    # pathlib raised it, and the test called: the packaged model.py is the last of the team's on the way.
    assert re.fullmatch(r"model\.py line \d+", place(raised.value))
    assert place(ValueError("never raised")) == "unknown line 0"


def test_the_text_is_there_with_debug(tiny: Any, served: Any, wait: Callable[..., Any]) -> None:
    model = tiny.root / "src" / "dryfield" / "model.py"
    model.write_text(model.read_text() + f"\ndef hook(model, features):\n    raise ValueError('{MARK}')\n")
    tiny.offered()
    for number, options in enumerate([(), ("--debug",)]):
        served_with = served(before=options)
        httpx.post(f"{served_with.url}/decide", json=tiny.record, trust_env=False, timeout=20)
        log = tiny.root / f"service-{number}.log"
        wait(lambda log=log: "by fallback (model_failed)" in log.read_text())
        assert (MARK in log.read_text()) == bool(options)
        assert ("Traceback" in log.read_text()) == bool(options)
        assert ("\n  ValueError at model.py line" in log.read_text()) != bool(options)


@pytest.fixture
def broken(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A service with a defect of the standard's own."""
    tiny.offered()
    service = tiny.service()
    monkeypatch.setattr(service, "decided", unwell)
    with TestClient(create_app(service, name="dry field"), raise_server_exceptions=False) as client:
        yield client


def test_what_nobody_foresaw_is_a_500_that_repeats_nothing(tiny: Any, broken: TestClient) -> None:
    answer = broken.post("/decide", json=tiny.record)
    assert answer.status_code == 500
    assert answer.json() == {"error": "unforeseen", "detail": "ValueError; the service's log says where"}


def test_the_server_and_libraries_log_no_text_of_an_exception_either(
    tiny: Any, served: Any, wait: Callable[..., Any]
) -> None:
    # A service whose store refuses with the record's own words, which is nobody's foreseen failure.
    site = tiny.root / "src" / "sitecustomize.py"
    site.write_text(
        "import harness.serving.service as service\n"
        "async def decided(self, record, **_):\n"
        f"    raise ValueError('{MARK} ' + record['plot'])\n"
        "service.Service.decided = decided\n"
    )
    tiny.offered()
    running = served()
    answer = httpx.post(f"{running.url}/decide", json=tiny.record, trust_env=False, timeout=20)
    assert answer.status_code == 500
    assert MARK not in answer.text
    log = tiny.root / "service-0.log"
    wait(lambda: "Exception in ASGI application" in log.read_text())
    assert "ValueError at sitecustomize.py line 3" in log.read_text()
    assert MARK not in log.read_text()
    assert tiny.record["plot"] not in log.read_text()


def test_what_a_database_says_of_a_value_is_not_repeated() -> None:
    original = sqlite3.IntegrityError(f"Key (plot)=({MARK}) already exists")
    for kind in (sa.exc.IntegrityError, sa.exc.DataError):
        assert MARK not in _cause(kind("insert ...", {"plot": MARK}, original))
    told = _cause(
        sa.exc.OperationalError("insert ...", {"plot": MARK}, sqlite3.OperationalError("disk is full"))
    )
    assert told == "disk is full"


class Written:
    """A stream that keeps each write apart."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.parts: list[str] = []
        self.full = False
        self.encoding = encoding
        self.errors = "strict"

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "no space")
        text.encode(self.encoding, self.errors)
        self.parts.append(text)
        return len(text)

    def flush(self) -> None:
        pass


@pytest.fixture
def lined(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[logging.Logger, Written]]:
    """A root logger whose only handler is ours, and what it wrote."""
    stream, handler, root = Written(), logs.Lined(), logging.getLogger()
    handler.setStream(stream)  # type: ignore[arg-type]
    monkeypatch.setattr(root, "handlers", [handler])
    before = root.level
    root.setLevel(logging.INFO)
    yield logging.getLogger("harness.serving"), stream
    root.setLevel(before)


def test_lines_of_a_block_are_written_together_whole_and_in_order(
    lined: tuple[logging.Logger, Written],
) -> None:
    """In parts that a pipe keeps together, whoever else writes to it."""
    log, written = lined
    lines = [f"{number} {'ä' * 100}" for number in range(100)]
    log.info("before")
    with logs.together():
        for line in lines:
            log.info("%s", line)
        assert len(written.parts) == 1 + 4  # the last part is still to come, and no more than that
    log.info("after")
    assert "".join(written.parts).splitlines() == ["before", *lines, "after"]
    assert all(part.endswith("\n") and len(part.encode()) <= select.PIPE_BUF for part in written.parts)
    assert len(written.parts) == 2 + 5  # 20 of these lines fit


def test_a_pipe_is_given_no_more_than_it_keeps_together_in_another_encoding_too(
    lined: tuple[logging.Logger, Written],
) -> None:
    log, written = lined
    written.encoding, written.errors = "ascii", "backslashreplace"
    with logs.together():
        for _ in range(20):
            log.info("%s", "€" * 100)
    sizes = [len(part.encode("ascii", "backslashreplace")) for part in written.parts]
    assert max(sizes) <= select.PIPE_BUF
    assert len(sizes) == 4


@pytest.mark.parametrize("together", [False, True])
def test_half_a_surrogate_pair_costs_no_line_and_quotes_nothing_elsewhere(
    lined: tuple[logging.Logger, Written], capsys: pytest.CaptureFixture[str], together: bool
) -> None:
    _, written = lined
    written.errors = "backslashreplace"  # as standard error has it
    (own,) = (each for each in logging.getLogger().handlers if isinstance(each, logs.Lined))
    own.setFormatter(logs.Objects())
    log = logging.Logger("alone")  # pytest keeps what others log, and cannot hand that to another process
    log.addHandler(own)
    with logs.together() if together else nullcontext():
        log.info("of %s", "Jane\udce4Doe", extra={logs.FIELDS: {"name": "\ud800", "none": None}})
    (line,) = (part.encode("utf-8", "backslashreplace") for part in written.parts)
    assert json.loads(line)["event"] == "of Jane\udce4Doe"
    assert json.loads(line)["name"] == "\ud800"
    assert capsys.readouterr().err == ""


def test_a_line_that_cannot_be_written_takes_no_other_along(lined: tuple[logging.Logger, Written]) -> None:
    log, written = lined
    written.encoding = "ascii"
    with logs.together():
        for line in ("first", "sécond", "third"):
            log.info("%s", line)
    assert written.parts == ["first\n", "third\n"]


def test_a_closed_stream_keeps_nobody_from_an_answer(
    tiny: Any, lined: tuple[logging.Logger, Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then also what logging says of its own failure cannot be said, and raises."""
    tiny.offered()
    kill(tiny.control, reason="a model cannot be started without")
    closed = io.StringIO()
    closed.close()
    logging.getLogger().handlers[0].setStream(closed)  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "stderr", closed)
    deciding = tiny.service()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            assert pool.submit(deciding.decide, tiny.parsed()).result(WITHIN_S).why == "killed"


def test_a_line_that_is_too_long_for_that_is_written_alone(lined: tuple[logging.Logger, Written]) -> None:
    log, written = lined
    with logs.together():
        for line in ("short", "x" * select.PIPE_BUF, "short"):
            log.info("%s", line)
    assert [len(part) for part in written.parts] == [6, select.PIPE_BUF + 1, 6]


def test_what_other_threads_log_meanwhile_is_written_at_once(lined: tuple[logging.Logger, Written]) -> None:
    log, written = lined
    with logs.together():
        log.info("kept")
        thread = threading.Thread(target=log.info, args=("at once",))
        thread.start()
        thread.join()
        with logs.together():  # within another one it is the same block
            log.info("kept too")
        assert written.parts == ["at once\n"]
    assert written.parts == ["at once\n", "kept\nkept too\n"]


def test_a_block_that_fails_has_said_what_it_said(lined: tuple[logging.Logger, Written]) -> None:
    log, written = lined
    with suppress(ZeroDivisionError), logs.together():
        log.info("before it failed")
        raise ZeroDivisionError
    log.info("later")
    assert written.parts == ["before it failed\n", "later\n"]


def test_a_log_that_cannot_be_written_keeps_nobody_from_an_answer(
    tiny: Any, lined: tuple[logging.Logger, Written]
) -> None:
    tiny.offered()
    lined[1].full = True
    assert tiny.service().decide(tiny.parsed()).served_by == "model"
    assert lined[1].parts == []


def test_the_lines_of_what_is_recorded_together_are_written_together(
    tiny: Any, lined: tuple[logging.Logger, Written]
) -> None:
    tiny.offered()
    kill(tiny.control, reason="stop")
    deciding = tiny.service()
    holding = threading.Event()
    recorded = deciding.store.record_all

    def slowly(*arguments: Any) -> Any:
        holding.wait(WITHIN_S)
        return recorded(*arguments)

    deciding.store.record_all = slowly
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(deciding.decide, tiny.parsed()) for _ in range(8)]
        until = time.monotonic() + WITHIN_S
        while len(deciding._recorder._queue) < 7 and time.monotonic() < until:  # but for the first
            time.sleep(0.001)
        holding.set()
        ids = {each.result().decision_id for each in asked}
    parts = [part for part in lined[1].parts if "decision" in part]
    assert len(parts) < 8
    assert {line.split()[1] for part in parts for line in part.splitlines()} == ids
