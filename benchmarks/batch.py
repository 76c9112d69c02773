"""What does a batch cost beside its scores? `batch.py [ROWS]`: 1,000,000 by default, or 10000000.

`pilot decide --batch` without reasons, beside a process that reads, featurises and predicts and does nothing
else, in turns; both from their start to their end.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil

import subject
from harness.progress import working
from measure import SCRATCH, Row, publish

ROWS = 1_000_000
ROUNDS = 3
AT_MOST = 2.0
LOOK_S = 0.2


def main(rows: int) -> None:
    pilot, file = subject.pilot(), SCRATCH / f"bench-batch-{rows}.parquet"
    inside = [".venv/bin/python", str(subject.INSIDE / "batch.py")]
    if not file.exists():
        with working("records"):
            subject.run([*inside, "make", str(file), str(rows)], pilot)
    own: list[tuple[float, float]] = []
    alone: list[tuple[float, float]] = []
    with working("batches") as report:
        for turn in range(ROUNDS):
            report("decide --batch", turn / ROUNDS)
            own.append(_measured([*_batch(file), "--id", f"bench-{uuid.uuid4()}"], pilot))
            report("alone", (turn + 0.7) / ROUNDS)
            alone.append(_measured([*inside, "alone", str(file)], pilot))
    (took, held), (floor, beside) = zip(*own, strict=True), zip(*alone, strict=True)
    what, peer = f"pilot decide --batch, {rows:,} records", "reading, featurising, predicting"
    publish(
        "batch",
        [
            Row(what, took, "s", peer, floor, at_most=AT_MOST, target_is_ratio=True),
            Row(f"{what}, memory of all its processes", held, "MiB", peer, beside),
        ],
    )


def _batch(file: Path) -> list[str]:
    return [".venv/bin/pilot", "decide", "--batch", str(file), "--reasons", "0", "--json"]


def _measured(command: list[str], pilot: Path) -> tuple[float, float]:
    """Seconds, and the most that all its processes held at once, in MiB; shared pages count twice."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=pilot, env=subject.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    most = 0
    while process.poll() is None:
        most = max(most, _held(process.pid))
        time.sleep(LOOK_S)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return time.perf_counter() - started, most / 2**20


def _held(pid: int) -> int:
    try:
        whole = psutil.Process(pid)
        return sum(each.memory_info().rss for each in [whole, *whole.children(recursive=True)])
    except psutil.Error:
        return 0


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
