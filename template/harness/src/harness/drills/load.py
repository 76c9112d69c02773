"""Requests for decisions, one at a time or as a steady load, and what became of each."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

Record = dict[str, Any]
ANSWER_WITHIN_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    Attributes:
        started: Just before it was sent, in seconds of ``time.monotonic``.
        ended: When its answer was there.
        status: The HTTP status; 0 when there was no answer.
        served_by: ``model`` or ``fallback``; empty without a decision.
        why: What led to who decided, or what went wrong.
        decision_id: The decision's id; empty without a decision.
    """

    started: float
    ended: float
    status: int
    served_by: str = ""
    why: str = ""
    decision_id: str = ""

    @property
    def by_model(self) -> bool:
        """Whether a model decided it."""
        return self.served_by == "model"


class Caller:
    """Asks a service for decisions, each on a connection of its own, so that every worker gets some.

    Args:
        url: Where the service answers.
        records: What is asked about, in turns.
        token: Who is asking; without a state in force each caller needs one. Empty for nobody.

    Attributes:
        answers: What became of every request so far, in the order in which they ended.
    """

    def __init__(self, url: str, records: Sequence[Record], token: str = "") -> None:
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = f"{url}/decide"
        self._records = itertools.cycle(records)
        self._turn = threading.Lock()
        self.answers: list[Answer] = []

    @property
    def last(self) -> str:
        """What became of the last request, in words."""
        if not self.answers:
            return "nothing was asked"
        found = self.answers[-1]
        return f"the last answer was {found.status}, {found.served_by or 'no decision'} ({found.why})"

    def ask(self) -> Answer:
        """One request; whatever becomes of it is an answer."""
        with self._turn:
            record = next(self._records)
        answer = self._asked(record)
        with self._turn:
            self.answers.append(answer)
        return answer

    def ask_all(self, count: int, at_once: int) -> list[Answer]:
        """So many requests, ``at_once`` of them at a time."""
        with ThreadPoolExecutor(at_once) as pool:
            return [each.result() for each in [pool.submit(self.ask) for _ in range(count)]]

    def in_background(self, count: int) -> Callable[[], list[Answer]]:
        """Send so many requests at once, and go on; the function that is returned waits for the answers."""
        found: list[Answer] = []
        threads = [
            # Daemons, so that an interruption need not wait for what may be held.
            threading.Thread(target=lambda: found.append(self.ask()), name="asked", daemon=True)
            for _ in range(count)
        ]
        for thread in threads:
            thread.start()

        def answers() -> list[Answer]:
            for thread in threads:
                thread.join()
            return found

        return answers

    def _asked(self, record: Record) -> Answer:
        import httpx

        started = time.monotonic()
        try:
            reply = self._client.post(self._url, json=record, headers=self._headers)
        except httpx.HTTPError as error:
            return Answer(started, time.monotonic(), 0, why=type(error).__name__)
        ended = time.monotonic()
        try:
            said = reply.json()
        except ValueError:
            said = None
        if reply.status_code != 200 or not isinstance(said, dict):
            why = str(said.get("error", "")) if isinstance(said, dict) else ""
            return Answer(started, ended, reply.status_code, why=why)
        named = {name: str(said.get(name, "")) for name in ("served_by", "why", "decision_id")}
        return Answer(started, ended, reply.status_code, **named)

    @cached_property
    def _client(self) -> httpx.Client:
        """One for all calls, because making one reads every certificate."""
        import httpx

        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.Client(limits=limits, timeout=ANSWER_WITHIN_S, trust_env=False)


class Load:
    """A steady load: so many requests a second as long as the block lasts, whether or not they are answered.

    At most ``at_once`` are under way: what would be one more is not sent, and counted.

    Args:
        caller: Who asks.
        rate: Requests a second.
        at_once: How many may be under way.

    Attributes:
        not_sent: How many the bound kept back.
    """

    def __init__(self, caller: Caller, *, rate: float, at_once: int) -> None:
        self.not_sent = 0
        self._caller, self._rate = caller, rate
        self._answers: list[Answer] = []
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._slot = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"load-{number}", daemon=True)
            for number in range(at_once)
        ]

    def __enter__(self) -> Load:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if kind is None:
            for thread in self._threads:
                thread.join()

    @property
    def answers(self) -> list[Answer]:
        """What became of each request so far, in the order in which they ended."""
        with self._turn:
            return list(self._answers)

    def _work(self) -> None:
        while not self._over.is_set():
            if self._over.wait(max(0.0, self._due() - time.monotonic())):
                return
            answer = self._caller.ask()
            with self._turn:
                self._answers.append(answer)

    def _due(self) -> float:
        """When the next request is due that can still be sent in time."""
        with self._turn:
            late = int((time.monotonic() - self._began) * self._rate) - self._slot
            if late > 0:
                self.not_sent += late
                self._slot += late
            self._slot += 1
            return self._began + self._slot / self._rate
