"""How long from a fresh copy to a decision? `make demo` in a new pilot, with a warm package cache.

Beside it the floor of its set-up: a bare environment of uv with the same packages installed. `python
benchmarks/demo.py 3` does that many rounds instead of one; a round takes about two minutes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import subject
from measure import SCRATCH, Row, publish, take_turns

TARGET_S = 120
AT_MOST_S = 600
FRESH = SCRATCH / "bench-demo"
STAGE = re.compile(r"^  (\w+): done in ([\d.]+) s$", re.MULTILINE)
# Where a part of the demo begins, in the words of its own narration.
PARTS = {
    "set-up: environment and uv": "Making .venv",
    "set-up: packages": "Installing the pilot",
    "simulate": "$ pilot simulate",
    "run": "$ pilot run",
    "serve": "$ pilot serve",
    "decide, kill, decide, arm, decide": "listening on",
}
Line = tuple[float, str]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    # The first one warms the cache, as a second pilot on the same machine finds it.
    pilot = subject.pilot()
    told: list[list[Line]] = []
    without: list[float] = []

    def demo() -> float:
        told.append(narrated(["make", "demo"], subject.new_pilot(FRESH)))
        return told[-1][-1][0]

    def bare() -> float:
        without.append(install(pilot, compiled=False))
        return install(pilot, compiled=True)

    measured = take_turns({"make demo": demo, "uv": bare}, rounds=rounds, title="make demo, and bare uv")
    total, floor = measured["make demo"], measured["uv"]
    parts = [split(lines) for lines in told]
    setup = [sum(value for name, value in found.items() if name.startswith("set-up")) for found in parts]
    rows = [
        Row("make demo of a fresh pilot", total, "s", "bare uv venv and install", floor, TARGET_S),
        Row("of that, set-up", setup, "s", "bare uv venv and install", floor),
        Row("  bare install without bytecode", without, "s"),
    ]
    for name in parts[0]:
        rows.append(Row(f"  {name}", [found[name] for found in parts], "s"))
        if name == "run":
            rows += stages(told)
    shutil.rmtree(FRESH)
    publish("demo", rows)


def narrated(command: Sequence[str], folder: Path) -> list[Line]:
    """Run a command; every line that it printed with the seconds since the start, the end as the last one."""
    lines: list[Line] = []
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=subject.environment(PYTHONUNBUFFERED="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter() - started, line.rstrip("\n")))
        code = process.wait(timeout=AT_MOST_S)
    lines.append((time.perf_counter() - started, ""))
    if code:
        raise SystemExit("\n".join(line for _, line in lines))
    return lines


def split(lines: Sequence[Line]) -> dict[str, float]:
    """Seconds of each part of the demo."""
    begins = [next(at for at, line in lines if start in line) for start in PARTS.values()]
    ends = [*begins[1:], lines[-1][0]]
    return {name: end - begin for name, begin, end in zip(PARTS, begins, ends, strict=True)}


def stages(told: Sequence[Sequence[Line]]) -> list[Row]:
    """Each stage's own account of its time; the rest of `run` is DVC and starting Python."""
    found = [dict(STAGE.findall("\n".join(line for _, line in lines))) for lines in told]
    names = [name for name in found[0] if name != "simulate"]
    return [Row(f"    {name}", [float(each[name]) for each in found], "s") for name in names]


def install(pilot: Path, *, compiled: bool) -> float:
    """Seconds for uv to make an environment with the pilot's packages in it, at the same versions."""
    bare = SCRATCH / "bench-bare"
    shutil.rmtree(bare, ignore_errors=True)
    wanted = subject.run([".venv/bin/uv", "pip", "freeze", "--exclude-editable"], pilot)
    listed = SCRATCH / "bench-bare.txt"
    listed.write_text(wanted, encoding="utf-8")
    uv, python = ".venv/bin/uv", str(bare / "bin" / "python")
    more = ["--compile-bytecode"] if compiled else []
    started = time.perf_counter()
    subject.run([uv, "venv", "--quiet", "--python", ".venv/bin/python", str(bare)], pilot)
    subject.run([uv, "pip", "install", "--quiet", *more, "--python", python, "-r", str(listed)], pilot)
    taken = time.perf_counter() - started
    shutil.rmtree(bare)
    return taken


if __name__ == "__main__":
    main()
