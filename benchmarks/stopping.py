"""Processes that ask for every request, requests under load, and stops in the middle of it."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO

from harness import control
from harness.control.state import STATE, write_state
from measure import Row

INSIDE = Path(__file__).parent / "inside"
FLAG = "model_enabled"
PAUSE_S = 0.001
BEFORE = 20
QUIET = 50
WITHIN_S = 40.0
STATE_OF_BENCH = {
    "rev": 1,
    "stage": "sandbox",
    "challenger": control.Slot(digest="a" * 64, pct=100),
    "flag_key": "benchmark",
    "actor": "benchmark",
    "reason": "benchmark",
    "changed_at": "2026-01-01T00:00:00+00:00",
}


@dataclass(frozen=True)
class Asked:
    """One request: when it started, and whether the model was let decide it."""

    started: float
    by_model: bool


@dataclass(frozen=True)
class Stopped:
    """One stop under load, in milliseconds.

    Attributes:
        after_call: From the call of the stop to the start of the last request that reached the model.
        after_return: From its return to that start; negative when that start came before.
        took: How long the call took.
        late: How many requests that started after the return reached the model.
        seen: How many requests started after the return.
    """

    after_call: float
    after_return: float
    took: float
    late: int
    seen: int


def judged(asked: list[Asked], called: float, returned: float) -> Stopped:
    """What the requests around one stop say."""
    last = max(each.started for each in asked if each.by_model)
    after = [each for each in asked if each.started > returned]
    return Stopped(
        after_call=(last - called) * 1000,
        after_return=(last - returned) * 1000,
        took=(returned - called) * 1000,
        late=sum(each.by_model for each in after),
        seen=len(after),
    )


class Readers:
    """So many processes that answer whether the model may decide; with the block they end."""

    def __init__(self, way: str, target: str, processes: int) -> None:
        self._process, said = started("gate.py", "serve", way, target, str(processes))
        self._ports: list[int] = json.loads(said)
        self._confirming = [self._connected(port) for port in self._ports]

    def __enter__(self) -> Readers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(self._process)

    def all_say(self, by_model: bool) -> None:
        """Wait until every process says so; the benchmark ends when one does not."""
        for number, stream in enumerate(self._confirming):
            until(partial(self._says, stream, by_model), f"process {number} does not change")

    def by_model(self, count: int) -> int:
        """How many of so many requests to every process the model is let decide."""
        return sum(ask(stream, f"e-{number}") for stream in self._confirming for number in range(count))

    def stop(self, off: Callable[[], None], on: Callable[[], None]) -> Stopped:
        """Stop once under load, wait until nobody goes on, and start again."""
        on()
        self.all_say(True)
        with self._load() as asked:
            until(lambda: all(len(each) >= BEFORE for each in asked), "the load does not start")
            called = time.perf_counter()
            off()
            returned = time.perf_counter()
            until(lambda: all(quiet(each, returned) for each in asked), "a process goes on")
        return judged([each for of_one in asked for each in of_one], called, returned)

    def _says(self, stream: IO[bytes], by_model: bool) -> bool:
        return ask(stream, "confirm") is by_model

    @contextmanager
    def _load(self) -> Iterator[list[list[Asked]]]:
        """One caller for each process, which asks again and again."""
        over = threading.Event()
        asked: list[list[Asked]] = [[] for _ in self._ports]

        def work(port: int, into: list[Asked]) -> None:
            stream = self._connected(port)
            while not over.is_set():
                begun = time.perf_counter()
                into.append(Asked(begun, ask(stream, f"e-{len(into)}")))
                time.sleep(PAUSE_S)
            stream.close()

        threads = [
            threading.Thread(target=work, args=each, daemon=True)
            for each in zip(self._ports, asked, strict=True)
        ]
        for thread in threads:
            thread.start()
        try:
            yield asked
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def _connected(self, port: int) -> IO[bytes]:
        connection = socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection.makefile("rwb")


def ask(stream: IO[bytes], entity: str) -> bool:
    """One question on a connection that is kept open."""
    stream.write(f"{entity}\n".encode())
    stream.flush()
    return stream.readline() == b"1\n"


def quiet(asked: list[Asked], since: float) -> bool:
    """Whether the last requests, all of them after that moment, were all kept from the model."""
    last = asked[-QUIET:]
    return len(last) == QUIET and last[0].started > since and not any(each.by_model for each in last)


def until(happened: Callable[[], bool], otherwise: str) -> None:
    """Wait for it; the benchmark ends when it does not happen."""
    deadline = time.monotonic() + WITHIN_S
    while not happened():
        if time.monotonic() > deadline:
            raise SystemExit(f"benchmarks/control.py: {otherwise}")
        time.sleep(0.002)


def started(script: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A script of inside/ as a process, and where it listens; it ends when its standard input does."""
    process = subprocess.Popen(
        [sys.executable, str(INSIDE / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline().partition("listening on ")[2].strip()
    if not said:
        raise SystemExit(f"benchmarks/control.py: {script} {' '.join(arguments)} does not start")
    return process, said


def end(process: subprocess.Popen[str]) -> None:
    """End such a process."""
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def let(folder: Path) -> None:
    """Put a state in force that lets the model decide for everybody."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / control.SENTINEL).unlink(missing_ok=True)
    write_state(folder, control.State(**STATE_OF_BENCH))  # type: ignore[arg-type]


def write_flag(file: Path, on: bool) -> None:
    """flagd's flag file, written beside and put in place."""
    flag = {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "on" if on else "off",
    }
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps({"flags": {FLAG: flag}}), encoding="utf-8")
    beside.replace(file)


def flip(url: str, on: bool) -> None:
    """Switch the stub's flag; a proxy from the environment would only be in the way."""
    request = urllib.request.Request(f"{url}/flip", data=json.dumps(on).encode(), method="POST")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        answer.read()


def restored(file: Path, content: bytes) -> None:
    """Put a file in place that is an hour older than the one in force, as a restored backup is."""
    found = file.stat()
    beside = file.with_suffix(".old")
    beside.write_bytes(content)
    os.utime(beside, ns=(found.st_atime_ns, found.st_mtime_ns - 3_600_000_000_000))
    beside.replace(file)


def truncated(file: Path) -> None:
    """Half of the file is lost."""
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


def latched(folder: Path) -> bytes:
    """A state in which the model is stopped, as it would lie in a backup; the model may decide afterwards."""
    let(folder)
    control.kill(folder, reason="benchmark")
    content = (folder / STATE).read_bytes()
    let(folder)
    return content


def distribution(what: str, values: list[float], at_most: float | None = None) -> list[Row]:
    """The p50, p99 and the largest of some milliseconds, one row each."""
    ordered = sorted(values)
    p50, p99 = (ordered[math.ceil(len(ordered) * share) - 1] for share in (0.5, 0.99))
    rows = [Row(f"{what}, {name}", [value], "ms") for name, value in (("p50", p50), ("p99", p99))]
    return [*rows, Row(f"{what}, max of {len(values)}", [ordered[-1]], "ms", at_most=at_most)]
