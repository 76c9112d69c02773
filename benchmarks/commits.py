"""How long does one process wait while others write to the same SQLite file? With turns, and without.

Several processes record one decision after another, as fast as they can, for some seconds: once queueing as
the store does, once as SQLite alone has them wait. What counts is the longest wait, and what the queue costs.
Both ways are tried in turn, several times, in one run. ``--quick`` does a short round and keeps nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.progress import working
from harness.store import Database
from measure import Row, publish, table

PROCESSES = (1, 2, 4)
MADE = json.dumps(
    {
        "decided_at": "2026-03-01T10:00:00.000000+00:00",
        "record_key": "r-1",
        "entity": "e-1",
        "record": {f"field_{number}": number / 7 for number in range(20)},
        "decision": "yes",
        "score": 0.5,
        "reasons": [],
        "served_by": "model",
        "assigned": "champion",
        "why": "assigned",
        "model_digest": "a" * 64,
        "revision": 1,
        "bucket": 1,
        "stage": "early",
        "sandbox": False,
        "elapsed_ms": 1.0,
    }
)
WRITER = """
import json, sys, time
from harness.store import Decision, DecisionStore
from harness.store.turns import Turns

store = DecisionStore(sys.argv[1])
if sys.argv[2] == "alone":
    store.database._turns = Turns(None)
made = json.loads(sys.argv[5])
print("ready", flush=True)
sys.stdin.readline()
took, number, end = [], 0, time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    number += 1
    decision = Decision(decision_id=f"{sys.argv[4]}-{number}", **made)
    began = time.perf_counter()
    store.record(decision)
    took.append(time.perf_counter() - began)
print(json.dumps(took))
"""


def main(arguments: list[str]) -> None:
    """Run every size both ways, and print one table."""
    quick = "--quick" in arguments
    rounds, seconds = (1, 1.0) if quick else (3, 5.0)
    rows: list[Row] = []
    with working("commits"):
        for processes in PROCESSES:
            both = [
                {how: written(how, processes, seconds) for how in ("turns", "alone")} for _ in range(rounds)
            ]
            rows += told(processes, both, seconds)
    if quick:
        print(table(rows))
    else:
        publish("commits", rows)


def written(how: str, processes: int, seconds: float) -> list[float]:
    """Seconds that each commit took, of all processes."""
    with tempfile.TemporaryDirectory(prefix="bench-commits-") as scratch:
        url = f"sqlite:///{Path(scratch)}/decisions.db"
        Database(url).close()
        started = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, url, how, str(seconds), str(number), MADE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(processes)
        ]
        for process in started:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        return [each for process in started for each in json.loads(process.communicate()[0])]


def told(processes: int, both: list[dict[str, list[float]]], seconds: float) -> list[Row]:
    """The rows of one number of processes."""

    def row(what: str, unit: str, of: Callable[[list[float]], float]) -> Row:
        measured, beside = ([of(sorted(each[how])) for each in both] for how in ("turns", "alone"))
        return Row(f"{processes} writing: {what}", measured, unit, "as SQLite has them wait", beside)

    return [
        row("commits a second", "", lambda took: len(took) / seconds),
        row("p50", "ms", lambda took: 1000 * took[len(took) // 2]),
        row("p99", "ms", lambda took: 1000 * took[int(len(took) * 0.99)]),
        row("longest", "ms", lambda took: 1000 * took[-1]),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
