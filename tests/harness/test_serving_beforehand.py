"""What keeps a service of several workers from starting is told once, before there is any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.errors import CheckFailed, Inconclusive, PilotError
from harness.serving import beforehand
from hosting import gone

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


def only_for_who_looks(tiny: Any, what: str) -> Path:
    """Have the team's code do something in the process that looks first, and nothing in a later one."""
    begun: Path = tiny.root / "begun"
    content = f"from pathlib import Path\nbegun = Path({str(begun)!r})\n"
    content += f"if not begun.exists():\n    begun.touch()\n    {what}\n"
    routes(tiny, content + "def routes(serving):\n    return []\n")
    return begun


@pytest.mark.parametrize(
    "what",
    [
        "import threading, time; threading.Thread(target=time.sleep, args=[120]).start()",
        "import multiprocessing as m; m.get_context('fork').Process(target=print).start()",
    ],
    ids=["thread", "process"],
)
def test_what_the_teams_code_starts_keeps_no_service_from_starting(
    tiny: Any, served: Serve, what: str
) -> None:
    tiny.offered()
    only_for_who_looks(tiny, what)
    began = time.monotonic()
    served("--workers", "2")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_who_looks_ends_with_who_asked(
    tiny: Any, environment: dict[str, str], wait: Callable[..., Any], number: signal.Signals
) -> None:
    tiny.offered()
    begun = only_for_who_looks(tiny, "import time; time.sleep(600)")
    log = tiny.root / "said"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.cli", "serve", "--port", "0", "--workers", "2"],
            cwd=tiny.root,
            env=environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        wait(begun.exists, within=60)
        every = psutil.Process(process.pid).children(recursive=True)
        if number == signal.SIGINT:  # as a terminal sends it, to all
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        code = process.wait(30)
    wait(lambda: all(gone(each.pid) for each in every))
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("module", ["harness.serving.running", "harness.serving.zygote"])
def test_what_starts_the_workers_needs_nothing_of_what_answers(
    module: str, python: Callable[..., Any]
) -> None:
    code = f"import harness.cli, {module}, sys\n"
    code += "print({'fastapi', 'sqlalchemy', 'numpy', 'polars', 'httpx'} & set(sys.modules))"
    assert python(code).communicate(timeout=60) == ("set()\n", "")


@pytest.mark.parametrize("kind", [PilotError, CheckFailed, Inconclusive])
def test_an_error_that_is_told_ends_the_command_as_it_would_have(kind: type[PilotError]) -> None:
    error = kind("what", where="where", mend="mend")
    told = beforehand.error((error.exit_code, error.what, error.where, error.mend))
    assert (type(told), str(told)) == (kind, str(error))
