"""A service whose control state or folders are out of order: it starts, says so, and the fallback decides."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from harness.control import StateUnreadable, kill
from harness.control.state import STATE, read_state, replace
from harness.control.tokens import issue
from harness.serving.app import create_app
from harness.serving.service import FallbackFailed

Pilot = Callable[..., Any]


def get(url: str) -> Any:
    return httpx.get(url, trust_env=False, timeout=10).json()


def damaged(tiny: Any) -> None:
    (tiny.control / STATE).write_bytes(b'{"rev": 1')


def not_a_file(tiny: Any) -> None:
    (tiny.control / STATE).unlink()
    (tiny.control / STATE).mkdir()


@pytest.mark.parametrize("trouble", [damaged, not_a_file])
def test_a_state_that_cannot_be_read_leaves_a_ready_service_with_the_fallback(
    tiny: Any, trouble: Callable[[Any], None]
) -> None:
    tiny.offered()
    token, _ = issue(tiny.control, name="caller", scopes=["decide"], lasts=timedelta(days=1))
    trouble(tiny)
    with TestClient(create_app(tiny.service(), name="dry field")) as client:
        # Nothing says that this is the sandbox any more, so nobody is let in for nothing.
        assert client.post("/decide", json=tiny.record).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        answer = client.post("/decide", json=tiny.record, headers=headers).json()
        assert (answer["served_by"], answer["why"]) == ("fallback", "state_unreadable")
        ready = client.get("/ready", headers=headers)
        assert (ready.status_code, ready.json()["stopped"], ready.json()["models"]) == (200, True, {})
        assert STATE in ready.json()["detail"]
        assert client.get("/health").json()["stopped"] is True


def test_a_service_starts_over_a_damaged_state_and_a_stop_is_confirmed(
    tiny: Any, served: Any, pilot_command: Pilot
) -> None:
    tiny.offered()
    damaged(tiny)
    running = served()
    assert "the fallback decides: " in (tiny.root / "service-0.log").read_text()
    assert get(f"{running.url}/health")["stopped"] is True
    done = pilot_command("kill", "--reason", "a test")
    assert (done.returncode, "1 of 1 workers confirm it" in done.stdout) == (0, True)
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0


def test_a_service_that_can_leave_no_note_serves_and_says_what_kill_cannot_ask(
    tiny: Any, served: Any, pilot_command: Pilot
) -> None:
    tiny.offered()
    (tiny.root / "var").mkdir(exist_ok=True)
    (tiny.root / "var" / "run").write_text("a file where a folder should be")
    running = served()
    assert get(f"{running.url}/health")["stopped"] is False
    assert "`pilot kill` cannot ask it whether it stopped" in (tiny.root / "service-0.log").read_text()
    # The stop is in the files that it reads on every request, note or no note.
    done = pilot_command("kill", "--reason", "a test")
    assert (done.returncode, done.stdout.partition(".")[0]) == (3, "STOPPED (revision 2)")
    assert "the notes of services cannot be looked at (Not a directory)" in done.stderr
    assert f"Make {tiny.root / 'var' / 'run' / 'services'} a folder" in done.stderr
    assert get(f"{running.url}/health")["stopped"] is True
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0


def test_status_names_a_model_that_cannot_be_used(tiny: Any, pilot_command: Pilot) -> None:
    digest = tiny.offered()
    (tiny.models / digest / "model" / "weights.json").write_text("{}")
    done = pilot_command("status")
    assert done.returncode == 0
    assert "NOT USABLE, the fallback decides: " in done.stdout
    (found,) = json.loads(pilot_command("status", "--json").stdout)["challenger"]["problem"].splitlines()
    assert "a file of the packaged model is changed" in found


def test_status_tells_who_decides_when_the_store_breaks_under_it(tiny: Any, pilot_command: Pilot) -> None:
    tiny.offered()
    tiny.service().store.close()
    file = tiny.root / "var" / "decisions.db"
    with file.open("r+b") as stream:  # the pages are gone, the header still opens
        stream.seek(4096)
        stream.write(b"\xff" * (file.stat().st_size - 4096))
    done = pilot_command("status")
    assert done.returncode == 0
    assert "in force" in done.stdout
    assert "NOTHING CAN BE RECORDED, so nothing is decided: " in done.stdout


def test_a_write_that_fails_leaves_the_old_state_and_nothing_beside_it(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.offered()
    before = read_state(tiny.control)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace(tiny.control / STATE, b"half of a sta")
    monkeypatch.undo()
    assert read_state(tiny.control) == before
    assert [file.name for file in tiny.control.iterdir() if STATE in file.name] == [STATE]


def test_a_state_that_may_not_be_opened_is_no_state_to_go_by(tiny: Any) -> None:
    tiny.offered()
    not_a_file(tiny)
    with pytest.raises(StateUnreadable, match="directory"):
        read_state(tiny.control)
    assert kill(tiny.control, reason="a test").state is None


AMOUNT = 'decision=Choice(above="water", below="skip", threshold=0.5)'


@pytest.mark.parametrize(("answer", "given"), [("12", 12.0), ("99", None), ("float('nan')", None)])
def test_a_fallback_of_amounts_stays_within_the_contract(tiny: Any, answer: str, given: float | None) -> None:
    code: Path = tiny.root / "src" / "dryfield"
    text = (code / "contract.py").read_text().replace("import Choice", "import Amount")
    (code / "contract.py").write_text(text.replace(AMOUNT, 'decision=Amount("mm", 0, 50)'))
    fallback = (code / "fallback.py").read_text().replace('Answer("skip"', f"Answer({answer}")
    (code / "fallback.py").write_text(fallback)
    service = tiny.service()
    if given is None:
        with pytest.raises(FallbackFailed):
            service.decide(tiny.parsed())
        assert service.store.counts() == {}
    else:
        assert service.decide(tiny.parsed()).decision == given
