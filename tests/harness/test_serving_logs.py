"""The log follows every decision and holds nothing that anybody was decided about."""

from __future__ import annotations

import logging
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
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

    def full(_: Any) -> None:
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
        "async def decided(self, record, key=None):\n"
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
