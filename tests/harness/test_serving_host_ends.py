"""The processes of models end with what they were started for: no orphan, no zombie, none too many."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from harness.serving import servers
from harness.serving.forkserver import COMMAND, FORK, IGNORED
from harness.serving.host import Busy, ModelDied
from harness.serving.packaged import Surroundings
from hosting import SERVING, SPIN, gone
from shadowing import Beside

Wait = Callable[..., Any]


def test_a_fork_of_the_service_has_a_host_of_its_own(
    tiny: Any, host: Any, record: Any, in_child: Callable[[Callable[[], Any]], Any]
) -> None:
    digest = tiny.package().digest
    asking = host()
    assert asking.state(digest) == "loaded"
    assert asking.score(digest, record).score == pytest.approx(0.8)
    before = asking.pids()

    def other() -> tuple[dict[str, int], float, int]:
        assert asking.pids() == {}
        asking.state(digest)
        found = (
            asking.pids(),
            asking.score(digest, record).score,
            psutil.Process(asking.pids()[digest]).ppid(),
        )
        asking.close()
        return found

    theirs, score, server = in_child(other)
    assert score == pytest.approx(0.8)
    assert theirs[digest] != before[digest]
    assert asking.pids() == before
    assert psutil.Process(before[digest]).ppid() != server
    assert asking.score(digest, record).score == pytest.approx(0.8)


@pytest.mark.parametrize("doing", ["spinning", "a fork holds the connections"])
def test_no_process_outlives_a_service_that_is_killed(tiny: Any, python: Any, wait: Wait, doing: str) -> None:
    digest = tiny.offered()
    code = SERVING
    if doing == "a fork holds the connections":
        # As a library forks that does not tell Python.
        code += "if ctypes.CDLL(None).fork() == 0:\n    time.sleep(60); os._exit(0)\n"
    code += "print(list(service.host.pids().values()), flush=True); sys.stdin.readline()\n"
    code += "threading.Thread(target=service.decide, args=[record]).start()\n"
    code += "time.sleep(1); print('now', flush=True); sys.stdin.read()"
    process = python(code, tiny.root, PILOT_SERVING__BUDGET_MS="60000")
    (pid,) = eval(process.stdout.readline())
    hosted = psutil.Process(pid)
    server = hosted.parent()
    assert server.ppid() == process.pid
    if doing == "spinning":
        tiny.model_does(digest, SPIN)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "now\n"
    left = [each for each in psutil.Process(process.pid).children() if each.pid != server.pid]
    process.kill()
    wait(lambda: gone(pid) and gone(server.pid))
    for each in left:
        each.kill()


def test_closing_ends_the_processes(tiny: Any, wait: Wait) -> None:
    digest = tiny.offered()
    deciding = tiny.service()
    pid = deciding.host.pids()[digest]
    deciding.close()
    wait(lambda: gone(pid))
    assert deciding.host.pids() == {}


def test_closing_starts_nothing_for_the_calls_that_still_wait(
    tiny: Any, host: Any, record: Any, wait: Wait
) -> None:
    digest = tiny.package().digest
    asking = host(budget_s=60)
    asking.state(digest)
    model = asking._known[digest]
    server = psutil.Process(asking.pids()[digest]).parent()
    begun = tiny.root / "begun"
    tiny.model_does(digest, f"Path({str(begun)!r}).touch(); time.sleep(60)")
    with ThreadPoolExecutor(4) as pool:
        under_way = pool.submit(asking.score, digest, record)
        wait(begun.exists)
        begun.unlink()
        waiting = [pool.submit(asking.score, digest, record) for _ in range(3)]
        wait(lambda: len(model._calls) == 3)
        asking.close()
        with pytest.raises(ModelDied):
            under_way.result(20)
        for each in waiting:
            with pytest.raises(Busy):
                each.result(20)
    assert not begun.exists()
    wait(lambda: not any(each.pid == model.pid for each in server.children()))
    # And who asks for it all the same is not left to wait.
    assert "ended" in model.state(wait_s=60)


def test_a_server_whose_service_is_gone_before_it_read_an_answer_ends_without_a_word(
    capfd: pytest.CaptureFixture[str], wait: Wait
) -> None:
    server = servers.ProcessServer(Surroundings((), (), ()))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(server._control, [COMMAND.pack(FORK, 0)], [theirs.fileno()])
        wait(lambda: select.select([server._control], [], [], 0)[0])
        server._control.close()
    assert server._process.wait(20) == 0
    assert "Traceback" not in capfd.readouterr().err


def test_only_a_few_models_are_kept_at_hand(tiny: Any, host: Any, record: Any, wait: Wait) -> None:
    digests = [tiny.package(weight=weight).digest for weight in (0.1, 0.2, 0.3, 0.4)]
    asking = host(budget_s=30)
    asking.score(digests[0], record)
    first = asking.pids()[digests[0]]
    for digest in digests[1:]:
        asking.score(digest, record)
    assert set(asking.pids()) == set(digests[1:])
    wait(lambda: gone(first))


@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM"])
def test_ctrl_c_reaches_every_process_and_leaves_none(
    tiny: Any, environment: dict[str, str], wait: Wait, ending: str
) -> None:
    digest = tiny.offered()
    log = tiny.root / "service.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.cli", "serve", "--port", "0"],
            cwd=tiny.root,
            env=environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        url = wait(
            lambda: (
                "listening on" in log.read_text() and log.read_text().split("listening on ")[1].split()[0]
            ),
            within=60,
        )
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) == 2
        begun = tiny.root / "begun"
        tiny.model_does(digest, f"Path({str(begun)!r}).touch(); time.sleep(0.7); return np.array([0.9])")
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(
                httpx.post, f"{url}/decide", json=tiny.record, trust_env=False, timeout=30
            )
            wait(begun.exists)
            os.killpg(process.pid, getattr(signal, ending))
            # The call that was under way has its model to the end.
            assert under_way.result(30).json()["served_by"] == "model"
        assert process.wait(30) == 0
        wait(lambda: all(gone(each.pid) for each in started))
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only /proc says what is ignored")
def test_what_ends_a_service_is_ignored_whatever_handlers_libraries_installed(
    tiny: Any, host: Any, record: Any
) -> None:
    digest = tiny.package().digest
    asking = host()
    asking.score(digest, record)
    pid = asking.pids()[digest]
    for each in (pid, psutil.Process(pid).ppid()):
        (said,) = re.findall(r"SigIgn:\s+(\w+)", Path(f"/proc/{each}/status").read_text())
        assert {number for number in IGNORED if not int(said, 16) >> (number - 1) & 1} == set()


def test_models_of_equal_needs_share_a_server(tiny: Any, host: Any) -> None:
    digest = tiny.package().digest
    one, other = host(), host()
    assert (one.state(digest), other.state(digest)) == ("loaded", "loaded")
    pids = [one.pids()[digest], other.pids()[digest]]
    assert len(set(pids)) == 2
    assert len({psutil.Process(pid).ppid() for pid in pids}) == 1
    assert psutil.Process(pids[0]).ppid() in {server.pid for server in servers._servers.values()}


def test_a_model_in_shadow_that_takes_its_server_along_takes_none_that_decides(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    beside = Beside(tiny, monkeypatch).start()
    beside.champion = beside.challenger  # the same package, and so the same surroundings
    beside.put()
    serving = beside.service(shadow_budget_ms="30000")
    assert beside.decide()[0].served_by == "model"
    wait(beside.rows)
    in_shadow = psutil.Process(serving._shadow._by_process[os.getpid()]._host.pids()[beside.challenger])
    deciding = serving.host.pids()
    server = in_shadow.parent()
    server.kill()
    wait(lambda: gone(in_shadow.pid))
    assert beside.decide()[0].served_by == "model"
    assert serving.host.pids() == deciding
    # It comes back by itself, to a server of its own again.
    wait(lambda: len(beside.rows()) >= 2 and gone(server.pid))
    assert serving.host.pids() == deciding
