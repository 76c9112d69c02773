"""What a command does before it imports anything large."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import startup
from harness.cli import ahead

ASK = "import {}, gc, json; print(json.dumps(gc.get_threshold()))"


@pytest.mark.parametrize("entry", ["harness.cli", "harness.pipeline.__main__", "harness.serving.preloaded"])
def test_a_command_looks_for_garbage_rarely(entry: str, python: Callable[..., subprocess.Popen[str]]) -> None:
    said, complaint = python(ASK.format(entry)).communicate(timeout=60)
    assert said, complaint
    assert tuple(json.loads(said)) == startup.THRESHOLDS


@pytest.mark.parametrize(
    ("arguments", "variable", "toml", "found"),
    [
        (["serve", "--workers", "2"], None, "", True),
        (["serve", "--port", "0", "--workers=3"], None, "", True),
        (["serve", "--workers", "1"], "4", "workers = 4", False),
        (["serve"], "2", "workers = 1", True),
        (["serve"], "1", "workers = 2", False),
        (["serve"], None, "workers = 2", True),
        (["serve"], None, "workers = 1", False),
        (["serve"], None, "", False),
        (["serve"], None, "workers = [2]", False),
        (["serve"], None, "workers = ", False),
        (["serve", "--workers"], None, "", False),
        (["serve", "--workers", "many"], None, "", False),
    ],
)
def test_whether_several_workers_seem_to_be_wanted(
    arguments: list[str],
    variable: str | None,
    toml: str,
    found: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "pilot.toml").write_text(f"[serving]\n{toml}\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.delenv("PILOT_SERVING__WORKERS", raising=False)
    if variable is not None:
        monkeypatch.setenv("PILOT_SERVING__WORKERS", variable)
    assert ahead.several(arguments) is found


@pytest.mark.parametrize("content", [None, b"serving = 3\n", b"\xff"])
def test_where_pilot_toml_does_not_say_it_one_worker_seems_to_be_wanted(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "pilot.toml").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PILOT_SERVING__WORKERS", raising=False)
    assert ahead.several(["serve"]) is False


BEGINS = """
import sys
from multiprocessing import forkserver

forkserver.ensure_running = lambda: print("before" if "pydantic" not in sys.modules else "after")
sys.argv = ["pilot", *sys.argv[1:]]
import harness.cli
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--workers", "2"], "before\n"),
        (["serve", "--workers", "1"], ""),
        (["status", "--workers", "2"], ""),
        ([], ""),
    ],
)
def test_the_process_that_workers_are_forked_from_begins_before_anything_large_is_imported(
    arguments: list[str], said: str, python: Callable[..., subprocess.Popen[str]]
) -> None:
    assert python(BEGINS, *arguments).communicate(timeout=60) == (said, "")


def test_a_command_that_is_told_to_end_while_it_imports_leaves_no_folder(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "serve", "--workers", "2"],
        cwd=tmp_path,
        env=environment | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not list(tmp_path.glob("pymp-*")):
            assert process.poll() is None
            time.sleep(0.001)
        process.terminate()
        process.wait(30)
    finally:
        process.kill()
    assert list(tmp_path.glob("pymp-*")) == []


WORKER = """
import os, sys
from pathlib import Path

with Path(sys.argv[1]).open("a") as file:
    file.write(f"{__name__}\\n")

from harness.serving import forking

if __name__ == "__main__":
    for _ in range(2):
        worker = forking.Forked(target=os.getpid)
        worker.start()
        worker.join()
    print(worker.exitcode, Path(__file__).name, __spec__)
"""


def test_a_worker_imports_nothing_of_the_command(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(WORKER)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "imported")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (tmp_path / "imported").read_text() == "__main__\n"
    assert done.stdout == "0 command.py None\n"


@pytest.mark.parametrize("preparing", ["harness.serving.preloaded", "harness.serving.forkserver"])
def test_what_others_are_forked_from_looks_for_garbage_again_once_it_has_imported(
    preparing: str, python: Callable[..., subprocess.Popen[str]]
) -> None:
    code = f"import gc, {preparing} as it\nif hasattr(it, 'prepare'):\n"
    code += "    it.prepare(['json'], hidden=[], blocked=[])\n"
    code += "print(gc.isenabled(), gc.get_freeze_count() > 1000)"
    assert python(code).communicate(timeout=60) == ("True True\n", "")
