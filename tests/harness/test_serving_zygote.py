"""What imports a model's libraries once for all workers: they begin with it, and do without it."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from harness.control import live, settings_control
from harness.control.state import STATE
from harness.pipeline.manifest import MANIFEST
from harness.serving import servers, zygote
from harness.serving.forkserver import IGNORED
from harness.serving.packaged import Surroundings
from harness.serving.servers import ProcessServer
from hosting import gone

Serve = Callable[..., Any]
Wait = Callable[..., Any]

NOTHING = Surroundings((), (), ())


@pytest.fixture
def first() -> Iterator[ProcessServer]:
    """What others are forked from."""
    server = ProcessServer(NOTHING)
    yield server
    server.end()


@pytest.fixture
def another(first: ProcessServer) -> Iterator[Callable[..., ProcessServer]]:
    """A server that may be forked from the first."""
    made: list[ProcessServer] = []

    def make(wanted: Surroundings = NOTHING) -> ProcessServer:
        made.append(ProcessServer(wanted, first.zygote))
        return made[-1]

    yield make
    for each in made:
        each.end()


def below(pid: int) -> list[psutil.Process]:
    """The process servers below a process, and that of the libraries."""
    return [
        each
        for each in psutil.Process(pid).children()
        if "harness.serving.forkserver" in " ".join(each.cmdline())
    ]


def at_work(tiny: Any, wait: Wait, without: int = 0) -> list[int]:
    """The processes of two workers, once they can be asked."""
    wait(lambda: len({each.pid for each in live(tiny.root)} - {without}) == 2, within=60)
    return [reader.pid for reader in live(tiny.root)]


def deciders(url: str, tiny: Any) -> set[str]:
    """Who decides, asked on connections that are open at the same time, so that every worker has some."""
    given = []
    with ExitStack() as stack:
        lines = [
            stack.enter_context(httpx.Client(base_url=url, timeout=30, trust_env=False)) for _ in range(12)
        ]
        for _ in range(2):
            for line in lines:
                answer = line.post("/decide", json=tiny.record)
                assert answer.status_code == 200, answer.text
                given.append(answer.json()["served_by"])
    return set(given)


def test_the_models_of_all_workers_come_from_one_process_and_go_on_without_it(
    tiny: Any, served: Serve, wait: Wait
) -> None:
    tiny.offered()
    running = served("--workers", "2")
    workers = at_work(tiny, wait)
    (libraries,) = below(running.process.pid)
    of_workers = below(libraries.pid)
    models = [model for each in of_workers for model in each.children()]
    assert (len(of_workers), len(models)) == (2, 2)
    assert deciders(running.url, tiny) == {"model"}

    libraries.kill()
    wait(lambda: gone(libraries.pid))
    wait(lambda: "a new worker imports them itself" in (tiny.root / "service-0.log").read_text())
    assert deciders(running.url, tiny) == {"model"}
    assert all(each.is_running() for each in (*of_workers, *models))
    # Who takes another's place now has a server of its own start.
    os.kill(workers[0], signal.SIGKILL)
    (new,) = set(at_work(tiny, wait, without=workers[0])) - set(workers)
    assert len(below(new)) == 1
    assert deciders(running.url, tiny) == {"model"}
    wait(lambda: sum(gone(each.pid) for each in models) == 1)


def test_a_worker_that_is_killed_takes_its_models_process_along_and_no_other(
    tiny: Any, served: Serve, wait: Wait
) -> None:
    tiny.offered()
    running = served("--workers", "2")
    workers = at_work(tiny, wait)
    (libraries,) = below(running.process.pid)
    before = {each.pid: each.children()[0].pid for each in below(libraries.pid)}
    os.kill(workers[0], signal.SIGKILL)
    at_work(tiny, wait, without=workers[0])
    wait(lambda: sum(gone(server) and gone(model) for server, model in before.items()) == 1)
    after = below(libraries.pid)
    assert len({each.pid for each in after} & set(before)) == 1
    assert len(after) == 2
    assert psutil.STATUS_ZOMBIE not in {each.status() for each in libraries.children()}
    assert deciders(running.url, tiny) == {"model"}


def test_nothing_outlives_a_supervisor_that_is_killed(tiny: Any, served: Serve, wait: Wait) -> None:
    tiny.offered()
    running = served("--workers", "2")
    at_work(tiny, wait)
    every = psutil.Process(running.process.pid).children(recursive=True)
    assert len(every) >= 8  # two fork servers, two workers, two process servers, two models
    running.process.kill()
    wait(lambda: all(gone(each.pid) for each in every), within=60)


def test_what_a_model_prints_is_told_by_the_worker_that_asked_it(
    tiny: Any, served: Serve, wait: Wait
) -> None:
    digest = tiny.offered()
    running = served("--workers", "2", before=("--debug",), PILOT_SERVING__LOG_FORMAT="json")
    workers = at_work(tiny, wait)
    tiny.model_does(digest, "print('said by the model', flush=True); return np.array([0.9])")
    log = tiny.root / "service-0.log"
    deciders(running.url, tiny)
    wait(lambda: "said by the model" in log.read_text())
    told = [json.loads(line) for line in log.read_text().splitlines() if "said by the model" in line]
    assert {each["pid"] for each in told} <= set(workers)


def test_a_service_counts_what_its_models_take_wherever_they_were_forked(
    tiny: Any, served: Serve, wait: Wait
) -> None:
    tiny.offered()
    running = served("--workers", "2")
    at_work(tiny, wait)
    (libraries,) = below(running.process.pid)
    least = sum(
        model.memory_info().rss for server in below(libraries.pid) for model in (server, *server.children())
    )

    def told() -> float:
        text = httpx.get(f"{running.url}/metrics", timeout=30, trust_env=False).text
        (found,) = re.findall(r'process_resident_memory_bytes\{process="model"\} (\S+)', text)
        return float(found)

    wait(lambda: told() >= 0.5 * least, within=30)


def test_a_server_is_forked_and_serves_its_own_service_to_the_end(
    first: ProcessServer, another: Callable[..., ProcessServer], wait: Wait
) -> None:
    one, other = another(), another()
    assert {psutil.Process(each.pid).ppid() for each in (one, other)} == {first.pid}
    pid, connection = one.fork()
    with connection:
        assert psutil.Process(pid).ppid() == one.pid
        one.end()
        wait(lambda: gone(pid) and gone(one.pid))
    assert (one.alive, other.alive, first.alive) == (False, True, True)
    os.kill(other.pid, signal.SIGKILL)
    wait(lambda: not other.alive)
    other.end()  # which is nothing to complain of


def test_what_was_forked_leaves_nothing_open_when_it_has_ended(first: ProcessServer, wait: Wait) -> None:
    def once(how: str) -> None:
        made = ProcessServer(NOTHING, first.zygote)
        assert psutil.Process(made.pid).ppid() == first.pid
        if how == "killed":
            os.kill(made.pid, signal.SIGKILL)
            wait(lambda: not made.alive)
        made.end()

    def readers() -> int:
        return sum(each.name == "output" for each in threading.enumerate())

    own, at_first = psutil.Process(), readers()
    before = own.num_fds()
    for how in ("ended", "killed") * 3:
        once(how)
    wait(lambda: readers() <= at_first)  # what reads the output of each ends a moment later
    assert own.num_fds() <= before


def test_what_was_forked_outlives_an_end_in_order(
    first: ProcessServer, another: Callable[..., ProcessServer], wait: Wait
) -> None:
    made = another()
    first._control.close()
    wait(lambda: not first.alive)
    _, connection = made.fork()
    connection.close()
    assert made.alive


KILLED = """
import ctypes, os, sys, time
from harness.serving.packaged import Surroundings
from harness.serving.servers import ProcessServer

first = ProcessServer(Surroundings((), (), ()))
made = ProcessServer(Surroundings((), (), ()), first.zygote)
# As a library forks that does not tell Python.
fork = ctypes.CDLL(None).fork()
if fork == 0:
    time.sleep(60)
    os._exit(0)
print(first.pid, made.pid, made.fork()[0], fork, flush=True)
sys.stdin.read()
"""


def test_what_was_forked_ends_with_its_service_though_a_fork_holds_the_connection(
    python: Any, wait: Wait
) -> None:
    process = python(KILLED)
    *ours, fork = map(int, process.stdout.readline().split())
    process.kill()
    wait(lambda: all(map(gone, ours)))
    os.kill(fork, signal.SIGKILL)


def test_what_is_forked_has_open_and_ignores_what_one_that_was_started_has(
    another: Callable[..., ProcessServer], wait: Wait
) -> None:
    plain = ProcessServer(NOTHING)
    made = [each.fork() for each in (plain, another())]
    try:
        started, forked = (psutil.Process(pid) for pid, _ in made)
        # What it would read and write, and the connection.
        wait(lambda: started.num_fds() == forked.num_fds() == 4)
        assert (forked.net_connections(), forked.open_files()) == ([], [])
        wait(lambda: "polars" in Path(f"/proc/{forked.pid}/maps").read_text())
        for each in (forked, forked.parent()):
            wait(partial(ignores_them, each.pid))
    finally:
        for _, connection in made:
            connection.close()
        plain.end()


def ignores_them(pid: int) -> bool:
    (said,) = re.findall(r"SigIgn:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    return all(int(said, 16) >> (number - 1) & 1 for number in IGNORED)


def test_models_draw_numbers_of_their_own(tiny: Any, host: Any, record: Any) -> None:
    model = tiny.root / "src" / "dryfield" / "model.py"
    model.write_text("import numpy.random\n" + model.read_text())  # as modelling libraries do
    digest = tiny.package().digest
    drawn = tiny.root / "drawn"
    drawn.mkdir()
    tiny.model_does(
        digest,
        f"(Path({str(drawn)!r}) / str(os.getpid())).write_text(str(np.random.random()))\n"
        "return np.array([0.9])",
    )
    for asking in (host(budget_s=30), host(budget_s=30)):
        asking.score(digest, record)
    assert len({each.read_text() for each in drawn.iterdir()}) == len(list(drawn.iterdir())) == 2


def test_what_needs_other_libraries_is_started(another: Callable[..., ProcessServer]) -> None:
    assert psutil.Process(another(replace(NOTHING, modules=("json",))).pid).ppid() == os.getpid()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_without_an_answer_a_server_is_started(
    first: ProcessServer,
    another: Callable[..., ProcessServer],
    monkeypatch: pytest.MonkeyPatch,
    wait: Wait,
    how: signal.Signals,
) -> None:
    os.kill(first.pid, how)
    if how == signal.SIGKILL:
        wait(lambda: not first.alive)
    else:
        monkeypatch.setattr(servers, "FORKED_WITHIN_S", 1.0)
    servers.fork_from(first.zygote)
    made = another()
    assert psutil.Process(made.pid).ppid() == os.getpid()
    assert made.alive
    assert servers._zygote is None  # and nobody waits for it once more


def test_a_fork_of_the_service_lets_go_of_what_was_forked_for_its_parent(
    first: ProcessServer,
    another: Callable[..., ProcessServer],
    monkeypatch: pytest.MonkeyPatch,
    in_child: Callable[[Callable[[], Any]], Any],
) -> None:
    made = another()
    monkeypatch.setattr(servers, "_servers", {NOTHING: made})
    monkeypatch.setattr(servers, "_zygote", first.zygote)

    def theirs() -> tuple[int, int]:
        server = servers.process_server(NOTHING)
        return server.pid, psutil.Process(server.pid).ppid()

    pid, parent = in_child(theirs)
    assert pid != made.pid
    assert parent == first.pid
    assert made.alive
    assert servers.process_server(NOTHING) is made


def test_it_is_begun_once_for_the_model_that_decides(tiny: Any) -> None:
    tiny.offered()
    try:
        begun = zygote.begin(tiny.settings())
        assert begun is not None
        assert zygote.begin(tiny.settings()) == begun
        assert "polars" in begun.wanted.modules
    finally:
        zygote.end()
    assert zygote._begun is None


@pytest.mark.parametrize(
    "lacking", ["a model", "a state that can be read", "the package", "the system's word", "its signals"]
)
def test_without_what_it_needs_it_is_not_begun_and_nothing_is_said(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    if lacking != "a model":
        digest = tiny.offered()
    if lacking == "a state that can be read":
        (settings_control(tiny.settings()).folder / STATE).write_text("{")
    if lacking == "the package":
        settings = tiny.settings()
        (settings.path(settings.serving.models) / digest / MANIFEST).write_text("{")
    if lacking == "the system's word":
        monkeypatch.delattr(os, "pidfd_open")
    if lacking == "its signals":

        def forbidden(*_: Any) -> None:
            raise PermissionError

        monkeypatch.setattr(signal, "pidfd_send_signal", forbidden)
    assert zygote.begin(tiny.settings()) is None
    assert zygote._begun is None
    zygote.end()
