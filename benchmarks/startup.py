"""How long until a decision can be had? `pilot serve` from the start of its process to its first answers.

Beside it an empty application of FastAPI and uvicorn, started and asked in the same way. Then what the
service imports, by package, as `python -X importtime` tells it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import httpx

import subject
from harness.progress import working
from measure import Row, publish, take_turns

ROUNDS = 9
IMPORTS = 3
TARGET_S = 2.5
SHOWN = 12
IMPORTED = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)", re.MULTILINE)


def main() -> None:
    pilot = subject.pilot()
    record = subject.records(pilot, 1)[0]
    rows = []
    for what, path, body in (("POST /decide", "/decide", record), ("GET /health", "/health", None)):
        measured = take_turns(
            {
                "pilot serve": starting(subject.decision_service, pilot, path, body),
                "empty": starting(subject.empty_service, pilot, path, body),
            },
            rounds=ROUNDS,
            title=f"from start to the first {what}",
        )
        own, floor = measured["pilot serve"], measured["empty"]
        peer = "empty FastAPI and uvicorn"
        rows.append(Row(f"pilot serve, start to first 200 of {what}", own, "s", peer, floor, TARGET_S))
    with working("imports of the service") as report:
        starts = []
        for turn in range(IMPORTS):
            report("python -X importtime", turn / IMPORTS)
            starts.append(imports(pilot, record))
    dearest = sorted(set().union(*starts), key=lambda name: -median(each[name] for each in starts))
    rows.append(Row("all imports, each timed", [each.total() for each in starts], "ms"))
    for name in dearest[:SHOWN]:
        rows.append(Row(f"  {name}", [each[name] for each in starts], "ms"))
    publish("startup", rows)


def starting(
    service: Callable[[Path], subject.Service], pilot: Path, path: str, body: dict[str, Any] | None
) -> Callable[[], float]:
    """One start and one question; the seconds until the answer was there."""

    def once() -> float:
        process = service(pilot)
        with process as url:
            ask(url + path, body)
            return time.perf_counter() - process.started

    return once


def ask(url: str, body: dict[str, Any] | None) -> None:
    """One question on a connection of its own; anything but 200 ends the benchmark."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        answer = client.get(url) if body is None else client.post(url, json=body)
    if answer.status_code != 200:
        raise SystemExit(f"{url} answered {answer.status_code}: {answer.text[:200]}")


def imports(pilot: Path, record: dict[str, Any]) -> Counter[str]:
    """Milliseconds that each package's own modules took, until after the first decision."""
    python = [".venv/bin/python", "-X", "importtime", ".venv/bin/pilot", "serve", "--port", "0"]
    service = subject.Service(python, pilot, "importtime")
    with service as url:
        ask(f"{url}/decide", record)
    spent: Counter[str] = Counter()
    for microseconds, package in IMPORTED.findall(service.log.read_text(encoding="utf-8")):
        spent[package] += int(microseconds)
    return Counter({package: round(value / 1000) for package, value in spent.items()})


if __name__ == "__main__":
    main()
