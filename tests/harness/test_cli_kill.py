"""A stop reaches the services that run, wherever they look, and says whether they heard it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.control import live
from harness.control.readers import NOTES

Run = Callable[..., subprocess.CompletedProcess[str]]


def decided(url: str, tiny: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}/decide", json=tiny.record, timeout=20, trust_env=False)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_running_service_confirms_the_stop(tiny: Any, served: Any, pilot_command: Run) -> None:
    tiny.offered()
    running = served()
    assert decided(running.url, tiny)["served_by"] == "model"
    done = pilot_command("kill", "--reason", "a test")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 workers confirm it" in done.stdout
    assert decided(running.url, tiny)["served_by"] == "fallback"


def test_a_service_that_reads_another_folder_is_stopped_there(
    tiny: Any, served: Any, pilot_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.offered()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tiny.control, elsewhere)
    running = served(PILOT_CONTROL__FOLDER=str(elsewhere))
    assert decided(running.url, tiny)["served_by"] == "model"
    done = pilot_command("kill", "--reason", "a test", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["workers"]
    assert (found["url"], found["confirmed"], found["under_way"]) == (running.url, True, 0)
    assert (elsewhere / "KILL").exists()
    assert (tiny.control / "KILL").exists()
    assert decided(running.url, tiny)["served_by"] == "fallback"


def test_a_service_that_does_not_confirm_is_named_with_exit_code_3(
    tiny: Any, served: Any, pilot_command: Run
) -> None:
    tiny.offered()
    running = served()
    os.kill(running.process.pid, 19)  # SIGSTOP: it lives and answers nobody
    try:
        done = pilot_command("kill", "--reason", "a test")
    finally:
        os.kill(running.process.pid, 18)
    assert done.returncode == 3
    assert f"kill -9 {running.process.pid}" in done.stderr
    assert "0 of 1 workers confirm it" in done.stdout
    assert decided(running.url, tiny)["why"] == "killed"


def test_a_stop_needs_no_reason_and_no_service(tiny: Any, pilot_command: Run) -> None:
    tiny.offered()
    done = pilot_command("kill")
    assert done.returncode == 0, done.stderr
    assert "has left a note on this host, so nobody was there to confirm it." in done.stdout
    assert tiny.service().decide(tiny.parsed()).why == "killed"


def test_the_notes_of_services_that_ended_are_taken_away(tiny: Any, served: Any) -> None:
    tiny.offered()
    running = served()
    assert [reader.url for reader in live(tiny.root)] == [running.url]
    running.process.kill()
    running.process.wait()
    assert live(tiny.root) == []
    assert not list((tiny.root / NOTES).iterdir())


def test_a_note_that_is_no_note_stops_nobody_from_stopping_and_is_named(
    tiny: Any, pilot_command: Run
) -> None:
    tiny.offered()
    (tiny.root / NOTES).mkdir(parents=True)
    notes = [tiny.root / NOTES / name for name in ("1.json", "2.json")]
    for note, content in zip(notes, ("{", '{"pid": 1}'), strict=True):
        note.write_text(content)
    done = pilot_command("kill", "--json")
    assert done.returncode == 3
    assert [json.loads(done.stdout)[name] for name in ("stopped", "confirmed")] == [True, False]
    for note, told in zip(notes, done.stderr.splitlines(), strict=True):
        assert "it was not heard, and it is not sure that it has ended: its note is damaged." in told
        assert f"If no service runs there, delete {note}" in told
    assert tiny.service().decide(tiny.parsed()).why == "killed"
    for note in notes:
        note.unlink()
    assert pilot_command("kill").returncode == 0


def test_a_clock_step_hides_no_service_from_a_stop(tiny: Any, served: Any, pilot_command: Run) -> None:
    tiny.offered()
    running = served()
    (note,) = (tiny.root / NOTES).iterdir()
    said = json.loads(note.read_text())
    note.write_text(json.dumps({**said, "started": said["started"] - 3600}))
    os.kill(running.process.pid, 19)
    try:
        done = pilot_command("kill")
    finally:
        os.kill(running.process.pid, 18)
    assert done.returncode == 3
    assert "0 of 1 workers confirm it" in done.stdout
    assert note.exists()


def test_status_tells_who_decides_when_the_store_is_down(tiny: Any, pilot_command: Run) -> None:
    tiny.offered()
    done = pilot_command("status", PILOT_STORE__URL="sqlite:////proc/nowhere/decisions.db")
    assert done.returncode == 0, done.stderr
    assert "stage sandbox" in done.stdout
    assert "NOTHING CAN BE RECORDED" in done.stdout
