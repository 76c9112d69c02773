"""What does bulk data take? Clean, profile and check a messy table, beside SQL by hand for the same work.

`data.py` takes a million rows; `data.py --rows 10000000` ten million, and a million beside them for growth.
Every measurement is a process of its own, whose peak of memory it reports; both ways have to find the same,
or there is no figure. Then the example's features, of one record and of 64, as a service computes them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import subject
from harness.progress import working
from measure import SCRATCH, Row, publish

BASE = 1_000_000
ROUNDS = 2
BATCH = 64
LONGEST_S = 3600
MOST_TIMES, MOST_MIB, MOST_GROWTH = 1.5, 3 * 1024, 1.15
WAYS = ("standard", "hand")
PEER = "hand-written SQL"
STEPS = ("clean", "profile", "check")

Found = dict[str, list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=BASE)
    parser.add_argument("--without-features", action="store_true", help="no pilot is made")
    asked = parser.parse_args()
    rows = []
    for kind in ("parquet", "csv"):
        small = measured(min(asked.rows, BASE), kind)
        large = small if asked.rows <= BASE else measured(asked.rows, kind, rounds=1)
        rows += told(f"{asked.rows:,} rows, {kind}", large)
        if large is not small:
            rows.append(
                growth(f"{asked.rows // BASE} times the rows, {kind}", small, large, asked.rows // BASE)
            )
    if not asked.without_features:
        rows += features()
    publish(
        "data", rows, notes=["Peaks are of the measured process. All figures of the two ways were equal."]
    )


def measured(count: int, kind: str, rounds: int = ROUNDS) -> Found:
    """Both ways in turns over the same file."""
    folder = SCRATCH / "bench-data" / str(count)
    found: Found = {way: [] for way in WAYS}
    with working(f"{count:,} rows, {kind}") as report:
        report("the table", 0.0)
        child(["messy.py", str(count), str(folder)])
        for turn in range(rounds):
            for place, way in enumerate(WAYS if turn % 2 == 0 else WAYS[::-1]):
                report(way, (turn * len(WAYS) + place) / (rounds * len(WAYS)))
                answer = child(["bulk.py", way, str(folder / f"orders.{kind}"), str(folder / way)])
                found[way].append(json.loads(answer))
    first, *others = (each["found"] for way in WAYS for each in found[way])
    if any(other != first for other in others):
        raise SystemExit(f"benchmarks/data.py: the two ways found different things; see {folder}")
    return found


def told(what: str, found: Found) -> list[Row]:
    """A row for each step, for all of them, and for the memory."""
    rows = []
    for step in (*STEPS, "all of it"):
        own, other = ([seconds(each, step) for each in found[way]] for way in WAYS)
        whole = step == "all of it"
        rows.append(Row(f"{what}: {step}", own, "s", PEER, other, MOST_TIMES if whole else None, whole))
    own, other = ([each["peak"] for each in found[way]] for way in WAYS)
    return [*rows, Row(f"{what}: peak of memory", own, "MiB", PEER, other, MOST_MIB)]


def growth(what: str, small: Found, large: Found, times: int) -> Row:
    """How the time grows, beside what linear growth would be."""
    own = median(seconds(each, "all of it") for each in large["standard"])
    linear = times * median(seconds(each, "all of it") for each in small["standard"])
    return Row(what, [own], "s", "as many times a million's", [linear], MOST_GROWTH, True)


def seconds(one: dict[str, Any], step: str) -> float:
    """What a step took; all of it is their sum, without starting Python."""
    took: dict[str, float] = one["took"]
    return sum(took.values()) if step == "all of it" else took[step]


def features() -> list[Row]:
    """The example's features, as a service computes them."""
    pilot = subject.pilot()
    given = SCRATCH / "bench-feature-records.json"
    given.write_text(json.dumps(subject.records(pilot, BATCH)), encoding="utf-8")
    command = [".venv/bin/python", str(subject.INSIDE / "features.py"), str(given)]
    with working("features of one record and of 64"):
        found = json.loads(subject.run(command, pilot))
    return [
        Row("features of one record", found["one"], "ms", at_most=3),
        Row(f"features of {BATCH} records", found["batch"], "ms", at_most=4),
    ]


def child(command: list[str]) -> str:
    """Run a script of inside/ with this Python; a failure shows what it said."""
    script = Path(__file__).parent / "inside" / command[0]
    done = subprocess.run(
        [sys.executable, str(script), *command[1:]],
        env=subject.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
