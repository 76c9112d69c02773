"""Several workers: a stop that waits for every one of them, under our own server and under others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from delivering import receiving
from harness.control import arm, live
from harness.control.tokens import issue
from harness.serving import asgi
from harness.store import DecisionStore

Serve = Callable[..., Any]
Run = Callable[..., subprocess.CompletedProcess[str]]
Wait = Callable[..., Any]


def decided(url: str, tiny: Any, token: str = "", **changes: Any) -> dict[str, Any]:
    """A decision, asked for on a connection of its own, so that any worker may take it."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    record = {**tiny.record, **changes}
    answer = httpx.post(f"{url}/decide", json=record, headers=headers, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def at_work(tiny: Any, wait: Wait, count: int) -> list[int]:
    """The processes of the workers, once all of them can be asked."""
    wait(lambda: len(live(tiny.root)) == count, within=60)
    return [reader.pid for reader in live(tiny.root)]


def test_01_under_load_nothing_that_starts_after_a_kill_of_four_workers_is_the_models(
    tiny: Any, served: Serve, pilot_command: Run, wait: Wait
) -> None:
    tiny.offered()
    running = served("--workers", "4")
    at_work(tiny, wait, 4)
    got: list[tuple[float, float, int, dict[str, Any]]] = []
    ending = threading.Event()

    def ask() -> None:
        while not ending.is_set():
            started = time.monotonic()
            answer = httpx.post(f"{running.url}/decide", json=tiny.record, timeout=30, trust_env=False)
            got.append((started, time.monotonic(), answer.status_code, answer.json()))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        wait(lambda: sum(given["served_by"] == "model" for *_, given in list(got)) >= 20, within=60)
        done = pilot_command("kill", "--reason", "under load")
        killed = time.monotonic()
        wait(lambda: sum(started > killed for started, *_ in list(got)) >= 40, within=60)
    finally:
        ending.set()
        for thread in clients:
            thread.join(timeout=60)
    assert done.returncode == 0, done.stderr
    assert "STOPPED (revision 2). 4 of 4 workers confirm it; the last decision by a model: " in done.stdout
    assert {status for _, _, status, _ in got} == {200}
    after = [given["why"] for started, _, _, given in got if started > killed]
    assert len(after) >= 40
    assert set(after) == {"killed"}
    # Nor does one that had started before come any more, once every worker has said that none is under way.
    late = [given["served_by"] for _, ended, _, given in got if ended > killed]
    assert set(late) == {"fallback"}
    kept = DecisionStore(tiny.settings().sqlite_url(tiny.settings().store.url))
    assert sorted(made.decision_id for made in kept.latest(100_000)) == sorted(
        given["decision_id"] for *_, given in got
    )
    kept.close()


def test_a_frozen_worker_is_named_with_its_address_and_exit_code_3(
    tiny: Any, served: Serve, pilot_command: Run, wait: Wait
) -> None:
    tiny.offered()
    running = served("--workers", "2")
    frozen, awake = at_work(tiny, wait, 2)
    (address,) = [reader.address for reader in live(tiny.root) if reader.pid == frozen]
    # The supervisor would replace one that hangs: what is asked here is what a kill says of it meanwhile.
    for pid in (running.process.pid, frozen):
        os.kill(pid, signal.SIGSTOP)
    try:
        done = pilot_command("kill", "--json")
        plain = pilot_command("kill")
    finally:
        for pid in (frozen, running.process.pid):
            os.kill(pid, signal.SIGCONT)
    assert (done.returncode, plain.returncode) == (3, 3)
    # Of one that says nothing it is not known what it decided last.
    assert "1 of 2 workers confirm it; there was no decision by a model that is known." in plain.stdout
    assert f"process {frozen} at {address}: the worker does not answer" in plain.stderr
    assert plain.stderr.count("\n") == 1
    found = json.loads(done.stdout)
    assert {each["pid"]: each["confirmed"] for each in found["workers"]} == {frozen: False, awake: True}
    assert (found["stopped"], found["confirmed"]) == (True, False)
    assert decided(running.url, tiny)["why"] == "killed"


def test_a_worker_that_dies_is_replaced_and_the_stop_holds_for_the_new_one(
    tiny: Any, served: Serve, pilot_command: Run, wait: Wait
) -> None:
    tiny.offered()
    running = served("--workers", "2")
    first = at_work(tiny, wait, 2)
    assert pilot_command("kill").returncode == 0
    os.kill(first[0], signal.SIGKILL)
    wait(lambda: first[0] not in [reader.pid for reader in live(tiny.root)])
    second = at_work(tiny, wait, 2)
    assert first[0] not in second
    assert first[1] in second
    assert {decided(running.url, tiny)["why"] for _ in range(10)} == {"killed"}
    done = pilot_command("kill")
    assert (done.returncode, "2 of 2 workers confirm it" in done.stdout) == (0, True)
    assert f"worker {first[0]} died or did not answer" in (tiny.root / "service-0.log").read_text()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_one_signal_ends_all_and_answers_what_is_under_way(
    tiny: Any, served: Serve, wait: Wait, number: signal.Signals
) -> None:
    tiny.offered()
    running = served("--workers", "2")
    workers = at_work(tiny, wait, 2)
    running.process.send_signal(number)
    assert running.process.wait(timeout=40) == 0
    assert not any(psutil.pid_exists(pid) for pid in workers)
    assert live(tiny.root) == []
    assert "Traceback" not in (tiny.root / "service-0.log").read_text()


def forked_from(workers: list[int]) -> psutil.Process:
    """The process that the workers are forked from."""
    (found,) = {psutil.Process(pid).parent() for pid in workers}
    assert found is not None
    return found


def test_a_signal_to_every_process_ends_them_in_order(tiny: Any, served: Serve, wait: Wait) -> None:
    """As a service manager sends it: who forks the workers has to outlive them, or nobody waits for them."""
    digest = tiny.offered()
    running = served("--workers", "2", PILOT_SERVING__BUDGET_MS="30000")
    workers = at_work(tiny, wait, 2)
    begun = tiny.root / "begun"
    tiny.model_does(digest, f"Path({str(begun)!r}).touch(); time.sleep(4)")
    got: list[Any] = []
    asking = threading.Thread(target=lambda: got.append(decided(running.url, tiny)))
    asking.start()
    wait(begun.exists, within=30)
    forking = forked_from(workers)
    supervisor = psutil.Process(running.process.pid)
    every = [*supervisor.children(recursive=True), supervisor]
    for process in every:
        process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=40) == 0
    assert not any(_alive(pid) for pid in workers)
    asking.join(timeout=40)
    assert got[0]["decision_id"]
    wait(lambda: not any(_alive(each.pid) for each in (forking, *every)))
    assert "died or did not answer" not in (tiny.root / "service-0.log").read_text()


def test_workers_and_what_they_start_heed_the_signal_that_the_process_before_them_ignores() -> None:
    code = (
        "import os, signal\nimport harness.serving.preloaded\n"
        "told = signal.getsignal(signal.SIGTERM).name\n"
        "child = os.fork()\n"
        "if not child:\n    os._exit(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)\n"
        "print(told, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "SIG_IGN 0\n"


FORKING = """
import os, signal, sys, threading, time
from multiprocessing import forkserver
from pathlib import Path

from harness.serving import forking, running

if __name__ == "__main__":
    begun = Path(sys.argv[1])
    begun.unlink()  # this process has imported it too
    forking.begin_importing()
    while not begun.exists():
        time.sleep(0.01)
    pid = forkserver._forkserver._forkserver_pid
    numbers = [getattr(signal, name) for name in sys.argv[2:]]
    sending = threading.Timer(0.2, lambda: [os.kill(pid, number) for number in numbers])
    sending.start()
    worker = running.Forked(target=os.getpid)
    worker.start()
    worker.join()
    print(worker.exitcode, forkserver._forkserver._forkserver_pid == pid)
"""


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        pytest.param(("SIGINT", "SIGTERM", "SIGHUP"), "0 True\n", id="told to end"),
        pytest.param(("SIGKILL",), "0 False\n", id="killed"),
    ],
)
def test_the_process_that_workers_are_forked_from_may_be_disturbed_while_it_imports(
    numbers: tuple[str, ...], found: str, tmp_path: Path
) -> None:
    """By a terminal or a service manager, by the system, and by files of the team's with a library's name."""
    script, libraries, here = (tmp_path / name for name in ("forking.py", "libraries", "here"))
    script.write_text(FORKING)
    libraries.mkdir()
    here.mkdir()
    slow = f"import pathlib, time\npathlib.Path({str(tmp_path / 'begun')!r}).touch()\ntime.sleep(0.5)\n"
    (libraries / "httptools.py").write_text(slow)
    (here / "secrets.py").write_text("raise RuntimeError('this is no library')\n")
    paths = os.pathsep.join(each for each in (str(libraries), os.environ.get("PYTHONPATH", "")) if each)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "begun", *numbers],
        cwd=here,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, "Traceback" in done.stderr) == (found, False), done.stderr


def test_the_process_that_workers_are_forked_from_is_replaced_with_them(
    tiny: Any, served: Serve, pilot_command: Run, wait: Wait
) -> None:
    tiny.offered()
    running = served("--workers", "2")
    first = at_work(tiny, wait, 2)
    forked_from(first).kill()
    wait(lambda: not any(_alive(pid) for pid in first), within=60)
    second = at_work(tiny, wait, 2)
    assert not set(first) & set(second)
    assert decided(running.url, tiny)["served_by"] == "model"
    assert pilot_command("kill").returncode == 0
    assert {decided(running.url, tiny)["why"] for _ in range(10)} == {"killed"}


def test_workers_whose_supervisor_was_killed_end_too(tiny: Any, served: Serve, wait: Wait) -> None:
    tiny.offered()
    running = served("--workers", "2")
    workers = at_work(tiny, wait, 2)
    running.process.kill()
    running.process.wait(timeout=20)
    wait(lambda: not any(_alive(pid) for pid in workers), within=30)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_keeps_a_service_from_starting_is_one_line_with_workers_too(
    tiny: Any, pilot_command: Run
) -> None:
    tiny.offered()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = pilot_command("serve", "--workers", "2", "--port", str(port))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    (tiny.root / "src" / "dryfield" / "routes.py").write_text("def routes(serving):\n    return 1\n")
    done = pilot_command("serve", "--workers", "2", "--port", "0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "routes() gave a int" in done.stderr


def test_a_worker_that_cannot_start_ends_the_service_and_is_not_tried_for_ever(
    tiny: Any, pilot_command: Run
) -> None:
    tiny.offered()
    # It can be served by the process that looks first, and by no later one.
    (tiny.root / "src" / "dryfield" / "routes.py").write_text(
        "from pathlib import Path\n\ndef routes(serving):\n"
        f"    seen = Path({str(tiny.root / 'seen')!r})\n"
        "    if seen.exists():\n"
        "        raise ValueError('not here')\n    seen.touch()\n    return []\n"
    )
    done = pilot_command("serve", "--workers", "2", "--port", "0")
    assert done.returncode == 2
    assert "a worker could not start, so the service ended" in done.stderr
    assert "ValueError: not here" in done.stderr
    assert "Traceback" not in done.stderr


def test_of_several_workers_one_delivers_each_decision_once_and_in_order(
    tiny: Any, served: Serve, wait: Wait
) -> None:
    tiny.offered()
    with receiving() as consumer:
        running = served("--workers", "3", PILOT_DOWNSTREAM__URL=consumer.url)
        workers = at_work(tiny, wait, 3)
        made = [decided(running.url, tiny, reading=f"r-{number}")["decision_id"] for number in range(15)]
        wait(lambda: len(consumer.names()) >= 15, within=30)
        for pid in workers[:2]:  # whichever delivers, another goes on
            os.kill(pid, signal.SIGKILL)
        wait(lambda: not set(workers[:2]) & {reader.pid for reader in live(tiny.root)})
        at_work(tiny, wait, 3)
        made += [decided(running.url, tiny, reading=f"s-{number}")["decision_id"] for number in range(15)]
        wait(lambda: len(set(consumer.names())) >= 30, within=30)
        # At least once: what was under way when one died may come again, in its place.
        assert list(dict.fromkeys(consumer.names())) == made


# --- other servers -----------------------------------------------------------------------------------------

APPLICATION = "harness.serving.asgi:application"
GUNICORN = ["gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-w", "2", "-b", "127.0.0.1:{port}"]
SERVERS = {
    "gunicorn": [*GUNICORN, f"{APPLICATION}()"],
    "gunicorn --preload": [*GUNICORN, "--preload", f"{APPLICATION}()"],
    "uvicorn --workers 2": ["uvicorn", "--factory", APPLICATION, "--workers", "2", "--port", "{port}"],
}
FORKED = """
import os, sys, threading, time
import uvicorn
from harness.serving.asgi import application

app = application()

def serve(port):
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.02)

serve(int(sys.argv[1]))
print("serving", flush=True)
sys.stdin.readline()
if os.fork() == 0:
    serve(int(sys.argv[2]))
    print("forked", flush=True)
    os.read(0, 1)
    os._exit(0)
os.wait()
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found: int = free.getsockname()[1]
        return found


@pytest.fixture
def under(tiny: Any, environment: dict[str, str]) -> Iterator[Callable[[list[str]], str]]:
    """Serve the tiny pilot under a server that is not ours; gives the address."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str]) -> str:
        port = free_port()
        filled = [part.format(port=port) for part in command]
        log = (tiny.root / "service-0.log").open("w")
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", *filled], cwd=tiny.root, env=environment, stdout=log, stderr=log
            )
        )
        return f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in children:
            if _alive(child.pid):
                child.kill()


@pytest.mark.parametrize(
    "server",  # with --preload workers are forks of what has loaded already, which is the harder case
    [pytest.param(name, marks=pytest.mark.slow) if name == "gunicorn" else name for name in SERVERS],
)
def test_12_under_other_servers_every_worker_sees_a_stop_and_a_start(
    tiny: Any, under: Callable[[list[str]], str], pilot_command: Run, wait: Wait, server: str
) -> None:
    tiny.offered()
    token, _ = issue(tiny.control, name="caller", scopes=["decide"], lasts=timedelta(days=1))
    url = under(SERVERS[server])
    workers = at_work(tiny, wait, 2)
    # Who can reach the address is not known, so the sandbox is open to nobody.
    assert httpx.post(f"{url}/decide", json=tiny.record, timeout=20, trust_env=False).status_code == 401
    wait(lambda: decided(url, tiny, token)["served_by"] == "model")
    done = pilot_command("kill", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["workers"]
    assert sorted(each["pid"] for each in found) == sorted(workers)
    assert {decided(url, tiny, token)["why"] for _ in range(20)} == {"killed"}
    assert "(2 workers)" in pilot_command("status").stdout
    arm(tiny.control, reason="over")
    wait(lambda: decided(url, tiny, token)["served_by"] == "model")


def test_12_a_process_that_is_forked_while_it_serves_sees_a_stop_as_its_parent_does(
    tiny: Any, python: Callable[..., subprocess.Popen[str]], pilot_command: Run, wait: Wait, monkeypatch: Any
) -> None:
    tiny.offered()
    token, _ = issue(tiny.control, name="caller", scopes=["decide"], lasts=timedelta(days=1))
    ports = free_port(), free_port()
    monkeypatch.chdir(tiny.root)
    process = python(FORKED, *ports)
    assert process.stdin is not None
    assert process.stdout is not None
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    assert process.stdout.readline() == "serving\n"
    wait(lambda: decided(urls[0], tiny, token)["served_by"] == "model")
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "forked\n"
    # The threads of a library that scores do not outlive a fork, so the child's model may have no answer.
    assert decided(urls[1], tiny, token)["why"] in ("assigned", "model_too_slow", "model_busy")
    done = pilot_command("kill", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["workers"]) == 2
    for url in urls:
        assert {decided(url, tiny, token)["why"] for _ in range(5)} == {"killed"}


def test_a_forked_process_builds_its_own_also_where_nobody_tells_it_that_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered: list[int] = []

    class Numbered(asgi.PerProcess):
        built = 0

        async def _start(self, stack: Any) -> Any:
            self.built += 1
            own = self.built

            async def answer(*_: Any) -> None:
                answered.append(own)

            return answer

    async def asked() -> None:
        application: Any = Numbered()
        for pid in (1, 1, 2, 2):
            monkeypatch.setattr(asgi.os, "getpid", lambda own=pid: own)
            await application({"type": "http"}, None, None)

    asyncio.run(asked())
    assert answered == [1, 1, 2, 2]


def test_a_server_of_another_kind_is_told_in_one_line_what_is_wrong(
    tiny: Any, under: Callable[[list[str]], str], wait: Wait
) -> None:
    tiny.champion("a" * 64, stage="full")  # with its control folder in the work tree
    under(["uvicorn", "--factory", APPLICATION, "--port", "{port}"])
    log: Path = tiny.root / "service-0.log"
    wait(lambda: "Application startup failed" in log.read_text(), within=60)
    assert "git clean" in log.read_text()
    assert "Traceback" not in log.read_text()
