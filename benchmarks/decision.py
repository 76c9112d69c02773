"""What does a decision cost? POST /decide with 1 and with 16 connections, beside an empty endpoint.

Both services are up all the while and are asked in turns; client and service share the machine's cores. Then
the parts of a decision without HTTP, in microseconds, as inside/parts.py measures them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import subject
from harness.progress import working
from measure import SCRATCH, Row, publish

CONNECTIONS = (1, 16)
ROUNDS = 5
SECONDS = 2.0
WARM_UP_S = 1.0
RECORDS = 200
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def main() -> None:
    pilot = subject.pilot()
    with working("records and parts of a decision") as report:
        records = subject.records(pilot, RECORDS)
        report("parts", 0.2)
        parts = in_process(pilot, records)
    publish("decision", [*over_http(pilot, records), *parts])


def over_http(pilot: Path, records: list[dict[str, Any]]) -> list[Row]:
    """Answers a second, and how long one takes, beside an empty endpoint."""
    rows = []
    with (
        subject.decision_service(pilot) as service,
        subject.empty_service(pilot) as empty,
        working("POST /decide") as report,
    ):
        urls = {"service": service, "empty": empty}
        for url in urls.values():
            asyncio.run(load(url, records, max(CONNECTIONS), WARM_UP_S))
        for place, connections in enumerate(CONNECTIONS):
            took: dict[str, list[list[float]]] = {name: [] for name in urls}
            for turn in range(ROUNDS):
                report(f"{connections} connections", (place + turn / ROUNDS) / len(CONNECTIONS))
                for name, url in sorted(urls.items(), reverse=bool(turn % 2)):
                    took[name].append(asyncio.run(load(url, records, connections, SECONDS)))
            rows += compare(connections, took["service"], took["empty"])
    return rows


def compare(connections: int, own: list[list[float]], floor: list[list[float]]) -> list[Row]:
    """The rows for one number of connections; each turn gives one value."""
    label = f"POST /decide, {connections} connection{'s' * (connections > 1)}"
    peer = "empty endpoint"
    rows = [
        Row(
            f"{label}, answers a second",
            [len(turn) / SECONDS for turn in own],
            "/s",
            peer,
            [len(turn) / SECONDS for turn in floor],
        )
    ]
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        values, beside = ([quantile(turn, share) * 1000 for turn in turns] for turns in (own, floor))
        rows.append(Row(f"{label}, {name}", values, "ms", peer, beside))
    return rows


def quantile(values: list[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


async def load(url: str, records: list[dict[str, Any]], connections: int, seconds: float) -> list[float]:
    """Ask on so many connections at once, each as fast as it is answered; seconds for each answer."""
    address = urlsplit(url)
    requests = itertools.cycle([written(address.netloc, record) for record in records])
    until = time.perf_counter() + seconds
    took: list[float] = []
    await asyncio.gather(
        *(
            one_after_the_other(str(address.hostname), int(address.port or 0), requests, until, took)
            for _ in range(connections)
        )
    )
    return took


async def one_after_the_other(
    host: str, port: int, requests: Iterator[bytes], until: float, took: list[float]
) -> None:
    """One connection that is kept open; anything but 200 ends the benchmark."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        while (started := time.perf_counter()) < until:
            writer.write(next(requests))
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{head.decode()}{body.decode()}")
            took.append(time.perf_counter() - started)
    finally:
        writer.close()
        await writer.wait_closed()


def written(host: str, record: dict[str, Any]) -> bytes:
    """The request as it goes over the wire."""
    body = json.dumps(record).encode()
    head = f"POST /decide HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def in_process(pilot: Path, records: list[dict[str, Any]]) -> list[Row]:
    """The rows of inside/parts.py: each part, and its share of Service.decide."""
    given = SCRATCH / "bench-records.json"
    given.write_text(json.dumps(records), encoding="utf-8")
    found: dict[str, list[float]] = json.loads(
        subject.run([".venv/bin/python", str(subject.INSIDE / "parts.py"), str(given)], pilot)
    )
    whole, commit = found.pop("Service.decide"), found.pop("bare commit")
    record = found["durable record"]
    return [
        Row("Service.decide, without HTTP", whole, "µs"),
        *(Row(f"  {name}", values, "µs", "Service.decide", whole) for name, values in found.items()),
        Row("  durable record, again", record, "µs", "bare SQLite insert and commit", commit),
    ]


if __name__ == "__main__":
    main()
