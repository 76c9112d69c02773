"""Requests from processes of their own, each at its time, and what was measured of them and of the asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import psutil

from harness.errors import PilotError

Arrivals = Literal["poisson", "constant"]
Seconds = np.ndarray[Any, np.dtype[np.float64]]

# Bounds of every load, whatever is asked for.
MOST_PER_S = 20_000.0
MOST_S = 600.0
MOST_REQUESTS = 1_000_000
ANSWER_WITHIN_S = 30.0
CONNECTIONS = 32
MOST_CONNECTIONS = 512
START_AFTER_S = 0.2
BEGIN_WITHIN_S = 60.0
LOOK_EVERY_S = 0.25
END_WITHIN_S = 5.0


def due(rate: float, seconds: float, arrivals: Arrivals, seed: int) -> Seconds:
    """When requests are due, in seconds from the start, in order.

    Args:
        rate: Requests a second, on average.
        seconds: For how long.
        arrivals: ``poisson`` for callers that know nothing of each other, ``constant`` for a fixed distance.
        seed: Of the random distances; the same one gives the same times.
    """
    count = max(1, round(rate * seconds))
    if arrivals == "constant":
        return np.arange(count) / rate
    # Given their number, the moments of a Poisson process are uniform and independent.
    return np.sort(np.random.default_rng(seed).uniform(0.0, seconds, count))


@dataclass(frozen=True)
class Target:
    """Who is asked.

    Attributes:
        url: Where the service answers.
        bodies: The requests' bodies, in turns.
        token: Who is asking; empty for nobody.
        path: The endpoint.
        decisions: Whether it answers with decisions; what is none is then no answer.
        trusts: A file of certificates that are trusted beside the usual authorities; empty for none.
    """

    url: str
    bodies: Sequence[str]
    token: str = ""
    path: str = "/decide"
    decisions: bool = True
    trusts: str = ""

    def job(self) -> dict[str, Any]:
        """What a client process has to know of it."""
        parts = urlsplit(self.url)
        tls = parts.scheme == "https"
        head = f"POST {parts.path.rstrip('/')}{self.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        head += f"authorization: Bearer {self.token}\r\n" if self.token else ""
        return {
            "host": str(parts.hostname),
            "port": parts.port or (443 if tls else 80),
            "tls": tls,
            "trusts": self.trusts,
            "head": f"{head}content-type: application/json\r\n",
            "bodies": list(self.bodies),
            "decisions": self.decisions,
        }


@dataclass(frozen=True)
class Answers:
    """What became of requests, in the order in which they were due; seconds count from the start.

    Attributes:
        due: When each was to be sent.
        woke: When the client came to it; later than ``due`` by the client's own want of time.
        sent: When it was sent; later than ``woke`` where no connection was to be had. Negative: never.
        ended: When its answer was there, or it was given up.
        status: The HTTP status; 0 without an answer.
        retry_after: Whether the answer says when to come again.
        said: ``model assigned``, ``fallback model_busy``, or what went wrong.
        ids: The decisions' ids; empty strings without one.
        client_cpu: The share of one core that the busiest client process took.
        connections: How many connections were open at the end.
    """

    due: Seconds
    woke: Seconds
    sent: Seconds
    ended: Seconds
    status: np.ndarray[Any, np.dtype[np.int64]]
    retry_after: np.ndarray[Any, np.dtype[np.bool_]]
    said: list[str]
    ids: list[str]
    client_cpu: float
    connections: int

    @property
    def given(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which requests have a decision."""
        found: np.ndarray[Any, np.dtype[np.bool_]] = self.status == 200
        return found

    @property
    def latency(self) -> Seconds:
        """How long each caller waited, from the moment at which the request was to be sent."""
        return self.ended - self.due

    @property
    def elapsed_s(self) -> float:
        """From the start to the last answer."""
        return float(self.ended.max())

    def counted(self, *, given: bool) -> dict[str, int]:
        """How often each word was said of requests with a decision, or of those without one."""
        words = (
            (said if status == 200 else f"{status} {said}".strip())
            for said, status in zip(self.said, self.status.tolist(), strict=True)
            if (status == 200) == given
        )
        return dict(Counter(words).most_common())


class Generator:
    """Client processes; they end with the block.

    Args:
        processes: How many; requests are dealt out to them in turns.
    """

    def __init__(self, processes: int = 1) -> None:
        self._count = processes
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Generator:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
        for _ in range(self._count):
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "harness.load.client"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=kept,
                )
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            with suppress(OSError, subprocess.TimeoutExpired):
                process.communicate(timeout=END_WITHIN_S if kind is None else 0.1)
            process.kill()
            process.wait()

    def run(
        self,
        target: Target,
        moments: Seconds,
        *,
        connections: int = CONNECTIONS,
        most_connections: int = MOST_CONNECTIONS,
        answer_within_s: float = ANSWER_WITHIN_S,
        ids: bool = False,
    ) -> Answers:
        """Send a request at each of the moments, and wait for all answers.

        Args:
            target: Who is asked.
            moments: When requests are due, in seconds from the start, in order.
            connections: How many are open from the start, in all.
            most_connections: How many may be opened while all are busy, in all.
            answer_within_s: Seconds after the last request at which what has no answer is given up.
            ids: Whether to keep the decisions' ids.

        Raises:
            PilotError: It is more than may be asked for, or a client process has ended.
        """
        within_bounds(len(moments), float(moments[-1]))
        share = len(self._processes)
        parts = [moments[number::share] for number in range(share)]
        for process, part in zip(self._processes, parts, strict=True):
            job = {
                **target.job(),
                "due": part.tolist(),
                "connections": max(1, connections // share),
                "most_connections": max(1, most_connections // share),
                "answer_within_s": answer_within_s,
                "ids": ids,
            }
            self._tell(process, json.dumps(job))
        for process in self._processes:
            if self._heard(process) != "ready":
                raise _ended()
        start = time.monotonic() + START_AFTER_S
        for process in self._processes:
            self._tell(process, repr(start))
        found = [json.loads(self._heard(process) or "null") for process in self._processes]
        if None in found:
            raise _ended()
        return _together(moments, parts, found)

    def _tell(self, process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        except OSError as error:
            raise _ended() from error

    def _heard(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()


def within_bounds(requests: int, seconds: float) -> None:
    """Hold a load to what is bearable.

    Raises:
        PilotError: It is not.
    """
    rate = requests / max(seconds, 1.0)
    # Times at random may well be a little more than asked for.
    if requests > MOST_REQUESTS or seconds > MOST_S or rate > MOST_PER_S * 1.1:
        raise PilotError(
            f"{requests:,} requests in {seconds:,.0f} s are more than this may send",
            where="pilot load",
            mend=f"At most {MOST_PER_S:,.0f} a second, {MOST_S:g} s and {MOST_REQUESTS:,} in all.",
        )


def _ended() -> PilotError:
    return PilotError(
        "a process that was to ask has ended",
        where="pilot load",
        mend="`python -m harness.load.client` says why when it is given the same.",
    )


def _together(moments: Seconds, parts: Sequence[Seconds], found: Sequence[dict[str, Any]]) -> Answers:
    share, count = len(parts), len(moments)

    def column(name: str, kind: type) -> np.ndarray[Any, Any]:
        whole: np.ndarray[Any, Any] = np.zeros(count, dtype=kind)
        for number, each in enumerate(found):
            whole[number::share] = each[name]
        return whole

    def words(name: str) -> list[str]:
        whole = [""] * count
        for number, each in enumerate(found):
            if each[name]:
                whole[number::share] = each[name]
        return whole

    ended = column("ended", float)
    return Answers(
        due=np.asarray(moments, dtype=float),
        woke=column("woke", float),
        sent=column("sent", float),
        ended=ended,
        status=column("status", int),
        retry_after=column("retry_after", bool),
        said=words("said"),
        ids=words("ids"),
        client_cpu=max(each["cpu_s"] for each in found) / max(float(ended.max()), 1e-9),
        connections=sum(each["connections"] for each in found),
    )


class Usage:
    """What the asked processes take of the machine while the block lasts.

    A process that ends meanwhile counts with what it had taken when it was last looked at.

    Args:
        roots: The processes; all that they started, and start, count too.

    Attributes:
        cpu_s: Seconds of processor time that they took; None where no process can be seen.
        memory_mb: Their memory at the end, what they share counted once; None where it cannot be seen.
    """

    def __init__(self, roots: Iterable[psutil.Process]) -> None:
        self._roots = list(roots)
        self._before: dict[psutil.Process, float] = {}
        self._last: dict[psutil.Process, float] = {}
        self._over = threading.Event()
        self.cpu_s: float | None = None
        self.memory_mb: float | None = None

    def __enter__(self) -> Usage:
        self._before = dict(self._look())
        self._thread = threading.Thread(target=self._watch, name="usage", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._last |= self._look()
        if self._last:
            self.cpu_s = sum(spent - self._before.get(each, 0.0) for each, spent in self._last.items())
            sizes = [_memory(each) for each in self._all()]
            known = [size for size in sizes if size is not None]
            self.memory_mb = sum(known) / 1e6 if known else None

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self._last |= self._look()

    def _all(self) -> list[psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for root in self._roots:
            with suppress(psutil.Error):
                for each in (root, *root.children(recursive=True)):
                    found[each.pid] = each
        return list(found.values())

    def _look(self) -> dict[psutil.Process, float]:
        found = {}
        for each in self._all():
            with suppress(psutil.Error):
                times = each.cpu_times()
                found[each] = times.user + times.system
        return found


def _memory(process: psutil.Process) -> float | None:
    with suppress(psutil.Error):
        full = process.memory_full_info()
        # What processes share is divided among them in pss; other systems than Linux do not tell it.
        return float(getattr(full, "pss", 0) or full.uss)
    return None


def listening(port: int) -> list[psutil.Process]:
    """The processes of this machine that listen on a port; empty where they are not to be seen."""
    try:
        pids = {
            each.pid
            for each in psutil.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.pid and each.laddr and each.laddr.port == port
        }
        return [psutil.Process(pid) for pid in sorted(pids)]
    except psutil.Error:
        return []
