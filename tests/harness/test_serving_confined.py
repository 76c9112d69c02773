"""A model's process may neither read nor end the service, and one in shadow may change no file either."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.serving import confined, server
from harness.serving.confined import REFER_SINCE, SIGNALS_SINCE, TRUNCATE_SINCE, confine, lacking, level
from harness.serving.host import Limits, ModelFailed

InChild = Callable[[Callable[[], Any]], Any]
PR_SET_DUMPABLE = 4


def needs(version: int) -> pytest.MarkDecorator:
    why = f"this system offers version {level()} of Landlock (0: none), and version {version} is needed"
    return pytest.mark.skipif(level() < version, reason=why)


def told(action: Callable[[], Any]) -> str:
    """What came of something: ``done``, or the type of the error."""
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "done"


# None of it makes a file longer, which is all that a limit of the size of files holds off.
SPOILING = {
    "delete": "kept.unlink()",
    "replace": "(kept.parent / 'other').replace(kept)",
    "make": "(kept.parent / 'KILL').touch()",
    "make a folder": "(kept.parent / 'folder').mkdir()",
    "link": "(kept.parent / 'link').symlink_to(kept)",
    "open to write": "kept.open('r+b')",
    "write to memory": "import mmap\nmmap.mmap(os.open(kept, os.O_RDWR), 0)[0:1] = b'X'",
    "shorten": "os.truncate(kept, 0)",
    "empty": "os.open(kept, os.O_RDONLY | os.O_TRUNC)",
}


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(name, marks=needs(TRUNCATE_SINCE if name in ("shorten", "empty") else 1))
        for name in SPOILING
    ],
)
def test_a_model_in_shadow_changes_no_file(tiny: Any, host: Any, record: Any, what: str) -> None:
    digest = tiny.package().digest
    folder = tiny.root / "var" / "kept"
    folder.mkdir()
    (folder / "state.json").write_text("whole")
    (folder / "other").write_text("other")
    asking = host(limits=Limits(may_write=False), beside=True)
    tiny.model_does(digest, f"kept = Path({str(folder / 'state.json')!r})\n{SPOILING[what]}")
    with pytest.raises(ModelFailed, match="PermissionError"):
        asking.score(digest, record)
    assert {each.name: each.read_text() for each in folder.iterdir()} == {
        "state.json": "whole",
        "other": "other",
    }


@needs(1)
def test_what_a_model_in_shadow_needs_is_left_to_it(tiny: Any, host: Any, record: Any) -> None:
    digest = tiny.package().digest
    with socket.create_server(("127.0.0.1", 0)) as listening:
        tiny.model_does(
            digest,
            "import socket, subprocess, threading\n"
            f"assert Path({str(tiny.toml)!r}).read_text()\n"
            "Path(os.devnull).write_text('nobody reads it')\n"
            f"socket.create_connection({listening.getsockname()!r}).close()\n"
            "subprocess.run(['true'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)\n"
            "thread = threading.Thread(target=int); thread.start(); thread.join()\n"
            "return np.array([0.7])",
        )
        assert host(limits=Limits(may_write=False), beside=True).score(digest, record).score == 0.7


@needs(REFER_SINCE)
@pytest.mark.parametrize("may_write", [True, False])
def test_no_thread_of_a_models_process_is_left_out(
    tiny: Any, host: Any, record: Any, may_write: bool
) -> None:
    digest = tiny.package().digest
    asking = host(limits=Limits(may_write=may_write))
    # Polars and BLAS have threads by then, and none from before.
    tiny.model_does(digest, "np.ones((500, 500)) @ np.ones((500, 500)); return np.array([0.7])")
    assert asking.score(digest, record).score == 0.7
    pid = asking.pids()[digest]
    states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    assert len(states) == psutil.Process(pid).num_threads()
    assert all("NoNewPrivs:\t1" in state for state in states)


@needs(REFER_SINCE)
@pytest.mark.parametrize("may_write", [True, False])
def test_no_model_reads_the_service(unprivileged: InChild, in_child: InChild, may_write: bool) -> None:
    # As an ordinary account: on kernels of late, root may read it whatever Landlock says.
    def service() -> tuple[str, str]:
        # A process that changed its account cannot be read by others of the new one, unless it allows that.
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)
        return in_child(reading), in_child(lambda: [confine(may_write=may_write), reading()][1])

    def reading() -> str:
        return told(lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes())

    assert unprivileged(service) == ("done", "PermissionError")


@needs(SIGNALS_SINCE)
@pytest.mark.parametrize("may_write", [True, False])
def test_no_model_ends_the_service_or_the_server_of_processes(
    tiny: Any, host: Any, record: Any, may_write: bool
) -> None:
    digest = tiny.package().digest
    asking = host(limits=Limits(may_write=may_write))
    asking.state(digest)
    before = asking.pids()
    for pid in (os.getpid(), psutil.Process(before[digest]).ppid()):
        tiny.model_does(digest, f"os.kill({pid}, {int(signal.SIGCONT)})")
        with pytest.raises(ModelFailed, match="PermissionError"):
            asking.score(digest, record)
    # Its own processes are its own.
    tiny.model_does(
        digest,
        "import subprocess\nown = subprocess.Popen(['sleep', '60']); own.kill()\n"
        "return np.array([0.7 if own.wait() == -9 else 0.1])",
    )
    assert asking.score(digest, record).score == 0.7
    assert asking.pids() == before


def test_a_model_that_decides_changes_files_as_before(tmp_path: Path, in_child: InChild) -> None:
    (tmp_path / "other").mkdir()

    def model() -> list[str]:
        confine(may_write=True)
        file = tmp_path / "cache"
        return [
            told(lambda: file.write_text("new")),
            told(lambda: file.rename(tmp_path / "other" / "cache")),
            told(lambda: (tmp_path / "other" / "cache").unlink()),
        ]

    assert in_child(model) == ["done"] * 3


def test_where_the_system_offers_nothing_models_run_and_it_is_said(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, in_child: InChild
) -> None:
    def none(number: int, *_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(confined, "_call", none)
    level.cache_clear()
    try:
        assert level() == 0
        in_child(lambda: confine(may_write=False))
        server.shadow_host(tiny.settings(), lambda: None).close()
        assert "it could shorten and delete what is this account's" in caplog.text
    finally:
        level.cache_clear()


@pytest.mark.parametrize(
    ("offered", "said"), [(0, "shorten and delete"), (1, "shorten"), (2, "shorten"), (3, "")]
)
def test_what_an_older_kernel_does_not_keep_off_is_named(
    monkeypatch: pytest.MonkeyPatch, offered: int, said: str
) -> None:
    monkeypatch.setattr(confined, "level", lambda: offered)
    assert (f"it could {said} what" in lacking()) == bool(said)


def test_on_another_system_than_linux_nothing_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined.sys, "platform", "darwin")
    monkeypatch.setattr(confined, "_call", lambda *_: pytest.fail("a number of Linux's"))
    level.cache_clear()
    try:
        assert level() == 0
    finally:
        level.cache_clear()


@pytest.mark.parametrize("may_write", [True, False])
def test_a_system_that_offers_it_and_refuses_it_runs_no_model(
    monkeypatch: pytest.MonkeyPatch, may_write: bool
) -> None:
    def refusing(number: int, *_: object) -> int:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(confined, "level", lambda: 7)
    monkeypatch.setattr(confined, "_call", refusing)
    with pytest.raises(OSError, match="not permitted"):
        confine(may_write=may_write)


@needs(1)
def test_what_the_system_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match="Landlock: "):
        confined._call(confined.RESTRICT_SELF, -1, 0)
