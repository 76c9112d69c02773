"""``pilot serve`` as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from harness.testing.scratch import PilotCopy
from harness.testing.waiting import until

if TYPE_CHECKING:
    import httpx


class Service:
    """A running service of a copy; as a context manager it ends with the block.

    Args:
        copy: The pilot.
        token: What ``decide`` calls with; empty for nothing.
        arguments: What follows ``pilot serve --port 0``.
        variables: Environment variables beside the copy's own, such as ``PILOT_DOWNSTREAM__URL="..."``.

    Attributes:
        url: Where it answers.
        log: The file that it logs to.
        process: The process.
        token: What ``decide`` calls with.
    """

    def __init__(self, copy: PilotCopy, token: str = "", *arguments: str, **variables: str) -> None:
        self.token = token
        handle, name = tempfile.mkstemp(prefix="service-", suffix=".log", dir=copy.root / "var")
        self.log = Path(name)
        with open(handle, "wb") as log:
            self.process = subprocess.Popen(
                copy.command("serve", "--port", "0", *arguments),
                cwd=copy.root,
                env={"PILOT_SERVING__LOG_FORMAT": "text", **copy.environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            until(self._listens, within_s=60, otherwise=lambda: f"the service did not start:\n{self.said()}")
        except BaseException:
            self.end(signal.SIGKILL)
            raise
        self.url = self.said().partition("listening on ")[2].split()[0]

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def said(self) -> str:
        """All that it has logged so far."""
        return self.log.read_text(encoding="utf-8")

    def post(self, path: str, content: Any, token: str | None = None) -> httpx.Response:
        """Post JSON and give the answer, whatever it is.

        Args:
            path: Such as ``/decide``.
            content: What is sent.
            token: In place of the service's own; empty for none.
        """
        wanted = self.token if token is None else token
        headers = {"Authorization": f"Bearer {wanted}"} if wanted else {}
        return self._client.post(f"{self.url}{path}", json=content, headers=headers)

    def decide(self, record: dict[str, Any]) -> dict[str, Any]:
        """A decision, which has to be given."""
        answer = self.post("/decide", record)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, politely or by SIGKILL; it is no mistake when it has ended already."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(timeout=30)

    @cached_property
    def _client(self) -> httpx.Client:
        """One for all calls, because making one reads every certificate; each call has its own connection."""
        import httpx

        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.Client(limits=limits, timeout=30, trust_env=False)

    def _listens(self) -> bool:
        assert self.process.poll() is None, f"the service ended:\n{self.said()}"
        return "listening on " in self.said().rpartition("\n")[0]
