"""What stands around DVC: locks that the dead left, its own complaints, processes that outlive nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import interruption
from harness.errors import CheckFailed, PilotError
from harness.pipeline import reproduce


def lock(root: Path, *numbers: int) -> Path:
    file = root / reproduce.RWLOCK
    file.parent.mkdir(parents=True)
    readers = {f"data/{number}": [{"pid": number, "cmd": "dvc repro"}] for number in numbers}
    file.write_text(json.dumps({"read": readers, "write": {"data/raw": {}}}))
    return file


def test_a_lock_of_processes_that_are_gone_or_are_others_by_now_is_taken_away(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
        file = lock(tmp_path, ended.pid, os.getppid())
        reproduce.forget_the_dead(tmp_path)
    assert not file.exists()


def test_a_lock_of_a_zombie_is_taken_away(tmp_path: Path) -> None:
    zombie = subprocess.Popen([sys.executable, "-c", "'dvc'"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    file = lock(tmp_path, zombie.pid)
    reproduce.forget_the_dead(tmp_path)
    assert not file.exists()
    zombie.wait()


def test_a_lock_that_dvc_holds_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "dvc"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as living:
        file = lock(tmp_path, living.pid)
        reproduce.forget_the_dead(tmp_path)
        assert file.exists()
        living.communicate()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"read": [1]}', '{"write": {"x": {"pid": "y"}}}'])
def test_a_lock_that_a_full_disk_cut_short_is_taken_away(tmp_path: Path, content: str) -> None:
    file = lock(tmp_path)
    file.write_text(content)
    reproduce.forget_the_dead(tmp_path)
    assert not file.exists()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        reproduce.alone(tmp_path),
        pytest.raises(PilotError, match=f"under way \\(process {os.getpid()}\\)"),
        reproduce.alone(tmp_path),
    ):
        pass
    with reproduce.alone(tmp_path):
        pass


@pytest.mark.parametrize(
    ("entries", "raised", "said"),
    [
        (
            [{"stage": "train", "exit_code": 1, "what": "no", "where": "here", "mend": "Do."}],
            CheckFailed,
            "no",
        ),
        (
            [{"stage": "train", "exit_code": 2, "what": "no", "where": "here", "mend": "Do."}],
            PilotError,
            "no",
        ),
        ([{"stage": "train", "exit_code": 130}], KeyboardInterrupt, ""),
        ([{"stage": "train", "exit_code": 0}], PilotError, "before a stage could say why"),
        ([], PilotError, "before a stage could say why"),
    ],
)
def test_how_a_stage_ended_is_how_the_run_ends(
    entries: list[dict[str, object]],
    raised: type[BaseException],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def run(_command: list[str], *, cwd: Path, **_: object) -> int:
        (cwd / reproduce.PROTOCOL).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return 255

    monkeypatch.setattr(interruption, "run", run)
    with pytest.raises(raised, match=said):
        reproduce.reproduce(tmp_path, force=False, lock=0)


@pytest.mark.parametrize(
    ("said", "code", "what"),
    [
        ("ERROR: Unable to acquire lock. Most likely another", 255, "another DVC process is at work here"),
        ("ERROR: 'x' is busy, it is being blocked by:", 255, "another DVC process is at work here"),
        (
            "WARNING: x\nERROR: No possible cache link types for 'a'",
            255,
            "it cannot bring data into its cache",
        ),
        ("ERROR: 'dvc.yaml' is invalid.", 255, "DVC stopped: 'dvc.yaml' is invalid"),
        ("", 255, "it did not say why"),
    ],
)
def test_what_dvc_complains_about_is_one_line(said: str, code: int, what: str) -> None:
    complaint = reproduce._complaint(said, code)
    assert complaint["exit_code"] == 2
    assert what in complaint["what"]
    assert complaint["mend"].endswith(".")


def test_a_dvc_that_was_interrupted_is_an_interruption() -> None:
    assert reproduce._complaint("ERROR: interrupted by the user", 252)["exit_code"] == 130


def test_an_interruption_waits_for_the_one_who_cleans_up(
    tmp_path: Path, python: Callable[..., subprocess.Popen[str]]
) -> None:
    """The standard library would kill it after a quarter of a second."""
    child = f"""
import pathlib, time
try:
    pathlib.Path({str(tmp_path / "up")!r}).touch()
    time.sleep(60)
finally:
    time.sleep(1)
    pathlib.Path({str(tmp_path / "down")!r}).touch()
"""
    process = python(
        f"import sys; from harness import interruption; interruption.end_cleanly(); "
        f"interruption.run([sys.executable, '-c', {child!r}])"
    )
    while not (tmp_path / "up").exists():
        assert process.poll() is None
    process.terminate()
    process.wait(timeout=30)
    assert (tmp_path / "down").exists()


def test_what_a_clone_does_not_have_and_what_always_runs_is_no_change() -> None:
    absent = {"data/raw": "not in cache", "data/origin.json": "deleted"}
    assert reproduce._causes([{"changed outs": absent}, {"changed deps": absent}, "always changed"]) == []
    assert reproduce._causes(
        [
            {"changed deps": {"src/x": "modified", "params.yaml": {"train": "modified"}}},
            {"changed outs": {"evidence/metrics.json": "deleted", "data/model": "modified"}},
            "changed command",
        ]
    ) == ["src/x", "train in params.yaml", "evidence/metrics.json (deleted)", "data/model", "changed command"]


def locked(root: Path, *, read: str) -> None:
    """Two stages, the second of which read what the first wrote, or something else."""
    (root / "dvc.lock").write_text(
        f"""
stages:
  train: {{cmd: t, deps: [{{path: src, md5: s}}], outs: [{{path: data/model, md5: m1}}]}}
  evaluate: {{cmd: e, deps: [{{path: data/model, md5: {read}}}, {{path: src, md5: s}}]}}
"""
    )


def test_a_lock_file_of_two_halves_names_the_stage(tmp_path: Path) -> None:
    locked(tmp_path, read="m2")
    assert reproduce._broken_links(tmp_path) == [("evaluate", "data/model")]
    locked(tmp_path, read="m1")
    assert reproduce._broken_links(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["<<<<<<< ours", "[]", "stages: 3", "stages: {train: {outs: [{path: a}]}}", ": ["]
)
def test_a_lock_file_that_is_none_is_said_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(PilotError, match="not a lock file"):
        reproduce.changed(tmp_path)


def test_a_status_that_dvc_does_not_give_is_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked(tmp_path, read="m1")
    done = subprocess.CompletedProcess([], 255, stdout="", stderr="ERROR: Unable to acquire lock. Another")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(PilotError, match="another DVC process is at work here"):
        reproduce.changed(tmp_path)
