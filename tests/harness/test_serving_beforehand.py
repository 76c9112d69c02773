"""What keeps a service of several workers from starting is told once, before there is any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import pytest

from harness.errors import CheckFailed, Inconclusive, PilotError
from harness.serving import beforehand

Serve = Callable[..., Any]
Run = Callable[..., Any]


def routes(tiny: Any, content: str) -> None:
    (tiny.root / "src" / "dryfield" / "routes.py").write_text(content)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("raise ValueError('of the team')\n", "of the team"),
        ("router = 3\n", "routes.py"),
        ("import os\nos._exit(7)\n", "has ended without a word"),
        ("import sys\nsys.exit(7)\n", ""),
    ],
    ids=["raises", "is none", "ends", "exits"],
)
def test_what_is_wrong_is_told_once(
    tiny: Any, pilot_command: Run, content: str, said: str, debug: bool
) -> None:
    tiny.offered()
    routes(tiny, content)
    done = pilot_command(*(["--debug"] if debug else []), "serve", "--port", "0", "--workers", "2")
    assert done.returncode == 2
    assert said in done.stderr
    assert sum(line.startswith("pilot: ") for line in done.stderr.splitlines()) == 1, done.stderr
    assert "listening" not in done.stderr
    assert "a worker" not in done.stderr
    assert ("Traceback" in done.stderr) <= debug


def test_the_sandbox_listens_on_the_loopback_only_with_several_workers_too(
    tiny: Any, pilot_command: Run
) -> None:
    done = pilot_command("serve", "--port", "0", "--host", "0.0.0.0", "--workers", "2")
    assert (done.returncode, done.stderr.count("listens on the loopback only")) == (2, 1), done.stderr


def test_what_starts_the_workers_has_imported_nothing_of_what_answers(tiny: Any, served: Serve) -> None:
    tiny.offered()
    running = served("--workers", "2")
    loaded = " ".join(each.path for each in psutil.Process(running.process.pid).memory_maps())
    assert "pydantic_core" in loaded  # it reads the settings
    assert "sqlalchemy" not in loaded


@pytest.mark.parametrize("kind", [PilotError, CheckFailed, Inconclusive])
def test_an_error_that_is_told_ends_the_command_as_it_would_have(kind: type[PilotError]) -> None:
    error = kind("what", where="where", mend="mend")
    told = beforehand.error((error.exit_code, error.what, error.where, error.mend))
    assert (type(told), str(told)) == (kind, str(error))
