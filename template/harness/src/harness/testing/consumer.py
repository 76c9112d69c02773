"""The system that receives the decisions, as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.testing import consumer_process
from harness.testing.waiting import until

SECRET = "a secret that only tests share"


@dataclass(frozen=True)
class Received:
    """One delivery, as it arrived.

    Attributes:
        status: What it was answered with.
        key: Its Idempotency-Key.
        content: The decision.
    """

    status: int
    key: str
    content: dict[str, Any]


class Consumer:
    """A small HTTP server that verifies signatures and keeps what it receives; with the block it ends.

    Args:
        folder: Where it keeps what it receives.
        secret: What deliveries have to be signed with; empty takes unsigned ones.

    Attributes:
        url: Where decisions are to be posted.
        file: What arrived, one JSON document a line.
        settings: The environment variables by which a service delivers to it.
    """

    def __init__(self, folder: Path, secret: str = SECRET) -> None:
        self.file = folder / "received.jsonl"
        self._secret = secret
        self._port = "0"
        self._start()

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where decisions are to be posted."""
        return f"http://127.0.0.1:{self._port}/decisions"

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables by which a service delivers to it."""
        return {"PILOT_DOWNSTREAM__URL": self.url, "PILOT_DOWNSTREAM__SECRET": self._secret}

    def stop(self) -> None:
        """End the process: nobody listens any more."""
        self._process.kill()
        self._process.communicate()

    def start(self) -> None:
        """Begin anew on the same port, with what had arrived before."""
        self._start()

    def answer(self, status: int = 200, entities: Mapping[str, int] | None = None) -> None:
        """Answer deliveries with a status from now on.

        Args:
            status: For every entity that is not named; 503 for a consumer that is in trouble.
            entities: A status for single entities.
        """
        import httpx

        content = {"status": status, "entities": dict(entities or {})}
        address = self.url.replace("/decisions", "/control")
        httpx.post(address, json=content, trust_env=False, timeout=10).raise_for_status()

    def arrived(self) -> list[Received]:
        """Every delivery so far, refused and repeated ones included, in the order of arrival."""
        if not self.file.exists():
            return []
        lines = self.file.read_text(encoding="utf-8").splitlines()
        read = [json.loads(line) for line in lines]
        return [Received(each["status"], each["key"], each["content"]) for each in read]

    def received(self, count: int = 0, *, within_s: float = 30.0) -> list[dict[str, Any]]:
        """The decisions that were taken, each once, in the order in which each was first taken.

        Args:
            count: Wait until there are so many.
            within_s: How long, in seconds.
        """

        def taken() -> dict[str, dict[str, Any]]:
            found: dict[str, dict[str, Any]] = {}
            for each in self.arrived():
                if each.status == 200:
                    found.setdefault(each.key, each.content)
            return found

        until(
            lambda: len(taken()) >= count,
            within_s=within_s,
            otherwise=lambda: f"{len(taken())} of {count} decisions arrived at the consumer",
        )
        return list(taken().values())

    def _start(self) -> None:
        # With -I it sees Python alone, and nothing of this pilot's.
        command = [sys.executable, "-I", consumer_process.__file__, str(self.file), self._secret, self._port]
        # It ends when its standard input does: with this process, however that ends.
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        self._port = self._process.stdout.readline().strip()
        assert self._port.isdigit(), "the consumer did not start"
