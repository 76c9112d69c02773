"""Start the Unleash server that ``install.sh`` installed, on the loopback, against an embedded PostgreSQL."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from harness.simulate.embedded import server

HERE = Path(__file__).parent
ENVIRONMENT = "development"
# They let nobody in anywhere: the server listens on the loopback, and is gone after the tests.
ADMIN = "*:*.the-tests-administer"
CLIENT = f"default:{ENVIRONMENT}.the-tests-ask"
READY_WITHIN_S = 90.0


@dataclass
class Unleash:
    """A running server.

    Attributes:
        url: Where it answers.
        environment: What its process needs.
        log: What it says.
    """

    url: str
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or again after `stop`; returns when it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["node", str(folder() / "node_modules/unleash-server/dist/server.js")],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + READY_WITHIN_S
        while True:
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-2000:]
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", trust_env=False, timeout=2).is_success:
                    return
            assert time.monotonic() < end, self.log.read_text(errors="replace")[-2000:]
            time.sleep(0.1)

    def stop(self) -> None:
        """End it; what it knows stays in its database."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=20)
        self.process = None

    def freeze(self) -> None:
        """Let it accept connections and answer none."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def admin(self, method: str, path: str, **body: Any) -> Any:
        """Ask its administration, as a person does in the browser."""
        answer = httpx.request(
            method,
            f"{self.url}/api/admin/{path}",
            headers={"Authorization": ADMIN},
            json=body or None,
            trust_env=False,
            timeout=20,
        )
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def flag(self, name: str, **parameters: str) -> str:
        """Make a flag with one gradual rollout, switched on; gives the strategy's path."""
        self.admin("POST", "projects/default/features", name=name, type="kill-switch")
        here = f"projects/default/features/{name}/environments/{ENVIRONMENT}"
        made = self.admin("POST", f"{here}/strategies", name="flexibleRollout", parameters=parameters)
        self.admin("POST", f"{here}/on")
        return f"{here}/strategies/{made['id']}"

    def share(self, strategy: str, **parameters: str) -> None:
        """Change a rollout."""
        self.admin("PUT", strategy, name="flexibleRollout", constraints=[], parameters=parameters)


def folder() -> Path:
    """Where `install.sh` installs it."""
    return Path(os.environ.get("UNLEASH_FOLDER", HERE.parents[1] / "scratch" / "unleash"))


def _missing() -> str:
    if shutil.which("node") is None:
        return "Node is not installed"
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout
    major = re.match(r"v(\d+)", said)
    if major is None or int(major[1]) < 20:
        return f"Node 20 or later is needed, and this is {said.strip() or 'none'}"
    marker = folder() / "installed.json"
    if not marker.exists() or marker.read_bytes() != (HERE / "package.json").read_bytes():
        return "the pinned unleash-server is not installed: tests/unleash/install.sh"
    return ""


@contextmanager
def running(place: Path) -> Iterator[Unleash]:
    """Run a server whose database lies in ``place``; skips the test where there is none to run."""
    missing = _missing()
    if missing:
        pytest.skip(f"no real Unleash here: {missing}")
    with server(place / "postgres") as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE unleash")
        found = psycopg.conninfo.conninfo_to_dict(url)
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            port = str(chosen.getsockname()[1])
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
        unleash = Unleash(
            f"http://127.0.0.1:{port}",
            kept
            | {
                "DATABASE_HOST": str(found["host"]),
                "DATABASE_USERNAME": str(found.get("user", "postgres")),
                "DATABASE_PASSWORD": "",
                "DATABASE_NAME": "unleash",
                "DATABASE_SSL": "false",
                "HTTP_HOST": "127.0.0.1",
                "HTTP_PORT": port,
                "UNLEASH_URL": f"http://127.0.0.1:{port}",
                "CHECK_VERSION": "false",
                "SEND_TELEMETRY": "false",
                "INIT_ADMIN_API_TOKENS": ADMIN,
                "INIT_CLIENT_API_TOKENS": CLIENT,
                "LOG_LEVEL": "warn",
            },
            place / "unleash.log",
        )
        try:
            unleash.start()
            yield unleash
        finally:
            unleash.stop()
