"""What does serving cost under load? POST /decide in full, by two workers, beside what it stands on.

1. Closed loop, 64 connections and one: contract, features, model with reasons and the durable record, with a
   token; then the same while the model is stopped; beside an empty FastAPI endpoint with as many workers.
2. The same without the durable record, from a process in which this benchmark has replaced the store.
3. Open loop: at half the knee beside hardly any load, the empty endpoint likewise at half of its own, and at
   four times the knee, beside the budget.
4. Start, memory, and `mlflow models serve` with the same model.

All are up at once and asked in turns. wrk asks; without it this process does, and takes more of the cores.
``--quick`` does one short round, and keeps nothing. The model that MLflow serves is the pilot's, in MLflow's
own format, without contract, reasons or record.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

import decision
import subject
from harness.load.generator import Answers, Generator, Target, due, listening
from harness.load.ramp import Loading, late_ms
from harness.progress import working
from harness.serving_settings import Slo
from measure import ROOT, SCRATCH, Row, publish, table
from startup import starting

WORKERS, MANY = 2, 64
RECORDS = 200
FULL, STOPPED = "POST /decide in full", "POST /decide, stopped"
EMPTY = f"empty endpoint, {WORKERS} workers"
BUDGET_MS, ROOM_MS = 1_000.0, 20.0


@dataclass(frozen=True)
class Plan:
    """How often, and for how long."""

    rounds: int = 5
    seconds: float = 4.0
    open_s: float = 8.0
    starts: int = 5


@dataclass(frozen=True)
class Took:
    """What one run came to; milliseconds."""

    per_s: float
    p50: float
    p99: float
    most: float
    without: int


@dataclass
class Turns:
    """What each subject came to, run after run."""

    runs: dict[tuple[str, int], list[Took]] = field(default_factory=dict)

    def add(self, name: str, connections: int, took: Took) -> None:
        """One more run."""
        self.runs.setdefault((name, connections), []).append(took)

    def rates(self, name: str, connections: int = MANY) -> list[float]:
        """Answers a second."""
        return [each.per_s for each in self.runs[name, connections]]

    def p99(self, name: str, connections: int = MANY) -> list[float]:
        """The p99, in milliseconds."""
        return [each.p99 for each in self.runs[name, connections]]

    def grew(self, name: str) -> list[float]:
        """How many times the p99 of one connection that of many is."""
        return [many / max(one, 1e-3) for many, one in zip(self.p99(name), self.p99(name, 1), strict=True)]


class Asker:
    """Closed loops: wrk where it is installed, else this process.

    Args:
        bodies: What is asked.
        token: Who asks.
    """

    def __init__(self, bodies: Sequence[str], token: str) -> None:
        self.wrk = shutil.which("wrk")
        self._token = token
        self._records = [json.loads(body) for body in bodies]
        self._file = SCRATCH / "bench-bodies.jsonl"
        self._file.write_text("".join(f"{body}\n" for body in bodies), encoding="utf-8")

    def run(self, url: str, connections: int, seconds: float) -> Took:
        """So many connections, each with its next request as soon as the last is answered."""
        if self.wrk is None:
            took = asyncio.run(decision.load(url, self._records, connections, seconds))
            p50, p99 = (decision.quantile(took, share) * 1000 for share in (0.5, 0.99))
            return Took(len(took) / seconds, p50, p99, max(took) * 1000, 0)
        return wrk(self.wrk, f"{url}/decide", self._file, connections, seconds, self._token)


def wrk(program: str, url: str, bodies: Path, connections: int, seconds: float, token: str = "") -> Took:
    """One run of wrk."""
    options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    script = str(subject.INSIDE / "ask.lua")
    asked = [program, *options, "-s", script, url, "--", str(bodies), *([token] if token else [])]
    said = subject.run(asked, SCRATCH).partition("measured ")[2].splitlines()
    found = json.loads(said[0])
    rate = (found["requests"] - found["refused"]) / found["seconds"]
    return Took(rate, found["p50"], found["p99"], found["max"], found["lost"] + found["refused"])


def main(arguments: list[str]) -> None:
    """Run all parts and print one table."""
    quick = "--quick" in arguments
    plan = Plan(rounds=1, seconds=2.0, open_s=3.0, starts=1) if quick else Plan()
    pilot = subject.pilot()
    with working("records and a token"):
        records = subject.records(pilot, RECORDS)
        issue = ["token", "issue", f"bench-{time.time_ns()}", "--scope", "decide", "--json"]
        token = str(json.loads(subject.run([".venv/bin/pilot", *issue], pilot))["token"])
    asker = Asker([json.dumps(record) for record in records], token)
    armed(pilot)
    rows, notes = under_load(pilot, asker, records, token, plan)
    rows += started(pilot, records, plan)
    with working("mlflow models serve"):
        rows += peer(pilot, asker, rows, plan)
    if asker.wrk is None:
        notes.append("wrk is not installed (apt-get install wrk): a Python client asked, beside the service.")
    if quick:
        print(table(rows))
        print("\n".join([*notes, "A quick look: nothing was kept."]))
        return
    publish("serving", rows, notes=notes)


def armed(pilot: Path, on: bool = True) -> None:
    """Let the model decide, or stop it."""
    stopped = json.loads(subject.run([".venv/bin/pilot", "status", "--json"], pilot))["stopped"]
    if stopped == on:
        subject.run([".venv/bin/pilot", "arm" if on else "kill", "--reason", "benchmark"], pilot)


def under_load(
    pilot: Path, asker: Asker, records: list[dict[str, Any]], token: str, plan: Plan
) -> tuple[list[Row], list[str]]:
    """Closed loops in turns, then open ones."""
    turns, unrecorded, workers = Turns(), "without a record", ("--workers", str(WORKERS))
    services = {
        FULL: subject.decision_service(pilot, *workers, name="serving"),
        unrecorded: subject.decision_service(
            pilot, *workers, name="unrecorded", program=str(subject.INSIDE / "unrecorded.py")
        ),
        EMPTY: subject.empty_service(pilot, WORKERS),
    }
    with ExitStack() as stack:
        urls = {name: stack.enter_context(service) for name, service in services.items()}
        phases = ((True, FULL, unrecorded), (False, STOPPED, f"{unrecorded}, stopped"))
        with working("closed loops") as report:
            for number, (on, full, bare) in enumerate(phases):
                armed(pilot, on)
                for url in urls.values():
                    asker.run(url, MANY, 1.0)
                for turn in range(plan.rounds):
                    report(full, (number + turn / plan.rounds) / len(phases))
                    for name, url in sorted(urls.items(), reverse=bool(turn % 2)):
                        called = {FULL: full, unrecorded: bare}.get(name, f"{EMPTY}, beside {full}")
                        for connections in (1, MANY):
                            turns.add(called, connections, asker.run(url, connections, plan.seconds))
        armed(pilot)
        with closing(sqlite3.connect(subject.decisions("unrecorded"))) as store:
            if store.execute("SELECT count(*) FROM decisions").fetchone() != (0,):
                raise SystemExit("the service that was to record nothing has recorded decisions")
        rows = closed(turns, unrecorded)
        rows += memory(services[FULL].pid)
        with working("open loops") as report:
            bodies = [json.dumps(record) for record in records]
            target = Target(urls[FULL], bodies, token)
            empty = Target(urls[EMPTY], bodies, token, decisions=False)
            found, notes = opened((target, services[FULL].pid), (empty, services[EMPTY].pid), plan, report)
    return rows + found, notes


def closed(turns: Turns, unrecorded: str) -> list[Row]:
    """The rows of the closed loops."""
    rows = []
    for full, bare, least, dearest in (
        (FULL, unrecorded, 0.15, 0.25),
        (STOPPED, f"{unrecorded}, stopped", 0.3, 0.5),
    ):
        beside = f"{EMPTY}, beside {full}"
        what = f"{full}, {MANY} connections"
        lost = sum(each.without for each in turns.runs[full, MANY])
        dear = [1 - own / other for own, other in zip(turns.rates(full), turns.rates(bare), strict=True)]
        longest = max(each.most for connections in (1, MANY) for each in turns.runs[full, connections])
        rows += [
            Row(
                f"{what}, answers a second",
                turns.rates(full),
                "/s",
                EMPTY,
                turns.rates(beside),
                target_is_ratio=True,
                at_least=least,
            ),
            Row(f"{what}, p99", turns.p99(full), "ms", EMPTY, turns.p99(beside)),
            Row(
                f"{full}, p99 at {MANY} over p99 at 1",
                turns.grew(full),
                "times",
                EMPTY,
                turns.grew(beside),
                1.5,
                True,
            ),
            Row(f"{full}, 1 connection, p50", [each.p50 for each in turns.runs[full, 1]], "ms"),
            Row(f"{full}, longest single wait", [longest], "ms"),
            Row(f"{full}, refused or lost", [lost], "", at_most=0),
            Row(
                f"{full}, what the durable record costs",
                [100 * each for each in dear],
                "%",
                at_most=100 * dearest,
            ),
        ]
    return rows


def memory(pid: int) -> list[Row]:
    """What each worker and its model's processes take, in megabytes; what is shared is divided."""
    # They are forked from two processes beside the supervisor, of which one is Python's own fork server.
    every = psutil.Process(pid).children(recursive=True)
    of_models = [each for each in every if "harness.serving.forkserver" in " ".join(each.cmdline())]
    workers = [each for each in every if each not in of_models and each.ppid() != pid]
    alone = [each.memory_full_info().pss / 1e6 for each in workers]
    models = sum(each.memory_full_info().pss for each in of_models) / 1e6
    return [
        Row("memory of a worker, after the load", alone, "MB"),
        Row(
            "  its part of its model's processes and of those that they come from",
            [models / len(workers)],
            "MB",
        ),
    ]


def opened(
    own: tuple[Target, int], empty: tuple[Target, int], plan: Plan, report: Any
) -> tuple[list[Row], list[str]]:
    """Requests that come whether or not those before were answered.

    Args:
        own: The service and its process.
        empty: The same of the empty endpoint.
        plan: For how long.
        report: Where progress is told.
    """
    with Generator() as asking:
        report("the knee", 0.1)
        found, rows = halfway(asking, *own, plan, "open loop", 2.0)
        if found is None:
            return [], ["The knee was not found: the machine is too busy, so there are no open loops."]
        report("the empty endpoint's knee", 0.5)
        of_empty = halfway(asking, *empty, plan, "  the empty endpoint", None)[1]
        rows += of_empty or [Row("  the empty endpoint: no knee was found", [], "")]
        report("four times the knee", 0.8)
        far = asking.run(own[0], due(4 * found.rate, plan.open_s / 2, "poisson", 1), most_connections=1_000)
    p99_far = decided_ms(far)
    refused = int((far.status == 503).sum())
    rows += [
        Row(
            "open loop at 4 times the knee, p99 of the decided", [p99_far], "ms", at_most=BUDGET_MS + ROOM_MS
        ),
        Row("  decisions a second", [float(far.given.sum()) / far.elapsed_s], "/s"),
        Row("  503", [100 * refused / len(far.due)], "%"),
        Row("  neither a decision nor 503", [int((~far.given).sum()) - refused], "", at_most=0),
    ]
    late = ", ".join(
        f"{name} {late_ms(each):.1f}" for name, each in (("half", found.half[-1]), ("4 times", far))
    )
    return rows, [f"Open loops: by how much the client itself was late, p99 in ms: {late}."]


@dataclass(frozen=True)
class Halfway:
    """A knee, a second, and what became of half of it."""

    rate: float
    half: list[Answers]


def halfway(
    asking: Generator, target: Target, pid: int, plan: Plan, name: str, at_most: float | None
) -> tuple[Halfway | None, list[Row]]:
    """The knee, and at half of it how many times the p99 of hardly any load is waited."""
    slo = Slo(p95_ms=200, p99_ms=500, max_fallback_share=0.01, max_error_share=0.0)
    loading = Loading(asking, target, slo, lambda: [psutil.Process(pid)])
    loading.warm_up(100)
    knee = loading.knee(loading.step(100, plan.open_s / 2), plan.open_s / 4, lambda *_: None)
    if knee.rate_per_s is None:
        return None, []
    at = knee.rate_per_s
    calm, half = [], []
    for turn in range(max(1, plan.rounds // 2)):
        calm.append(asking.run(target, due(max(20, at / 20), plan.open_s, "poisson", turn)))
        half.append(asking.run(target, due(at / 2, plan.open_s, "poisson", turn)))
    waits, floor = [waited(each) for each in half], [waited(each) for each in calm]
    return Halfway(at, half), [
        Row(f"{name}: the knee ({knee.ended_by})", [at], "/s"),
        Row(f"{name} at half the knee, p99", waits, "ms", "hardly any load", floor, at_most, True),
    ]


def waited(answers: Answers) -> float:
    """The p99 from the moment at which each was to be sent, in milliseconds."""
    return decision.quantile((answers.latency[answers.given] * 1000).tolist(), 0.99)


def decided_ms(answers: Answers) -> float:
    """The p99 from the moment at which each was sent, in milliseconds; its own lateness is told apart."""
    return decision.quantile(((answers.ended - answers.sent)[answers.given] * 1000).tolist(), 0.99)


def started(pilot: Path, records: list[dict[str, Any]], plan: Plan) -> list[Row]:
    """From the start of `pilot serve` to the first decision."""
    workers = ("--workers", str(WORKERS))
    once = starting(
        lambda where: subject.decision_service(where, *workers, name="started"), pilot, "/decide", records[0]
    )
    with working("starts") as report:
        took = []
        for turn in range(plan.starts):
            report("pilot serve", turn / plan.starts)
            took.append(once())
    return [Row(f"`pilot serve --workers {WORKERS}`, start to the first decision", took, "s", at_most=2.5)]


def peer(pilot: Path, asker: Asker, rows: Sequence[Row], plan: Plan) -> list[Row]:
    """`mlflow models serve` with the same model; a row that says why where it cannot be had."""
    what = f"`mlflow models serve`, {MANY} connections, answers a second"
    program, model = ROOT / ".venv" / "bin" / "mlflow", next((pilot / "data" / "model").glob("*.txt"), None)
    if asker.wrk is None or model is None or not program.exists():
        why = (
            "no wrk"
            if asker.wrk is None
            else "no model as text"
            if model is None
            else "no MLflow server here"
        )
        return [Row(f"{what} ({why})", [], "")]
    folder, bodies = SCRATCH / "bench-mlflow", SCRATCH / "bench-mlflow.json"
    shutil.rmtree(folder, ignore_errors=True)
    script = str(subject.INSIDE / "mlflow_model.py")
    said = subject.run([str(ROOT / ".venv/bin/python"), script, str(model), str(folder)], SCRATCH)
    bodies.write_text(said.strip().splitlines()[-1] + "\n", encoding="utf-8")
    port = free_port()
    command = [str(program), "models", "serve", "-m", str(folder), "-p", str(port), "--env-manager", "local"]
    log = SCRATCH / "bench-mlflow.log"
    environment = subject.environment(PATH=f"{program.parent}:/usr/bin:/bin")
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [*command, "--workers", str(WORKERS)], env=environment, stdout=stream, stderr=stream, cwd=SCRATCH
        )
    try:
        if not answers(port, process):
            return [Row(f"{what} (it does not start, see {log.name})", [], "")]
        url = f"http://127.0.0.1:{port}/invocations"
        wrk(str(asker.wrk), url, bodies, 4, 2.0)
        theirs = [
            wrk(str(asker.wrk), url, bodies, MANY, plan.seconds).per_s
            for _ in range(max(1, plan.rounds // 2))
        ]
    finally:
        family = [process, *psutil.Process(process.pid).children(recursive=True)]
        for each in family:
            each.terminate()
        psutil.wait_procs(family[1:], timeout=10)
        process.wait(timeout=10)
    own = median(next(row for row in rows if row.what.startswith(FULL)).measured)
    name = "`mlflow models serve`, same model, no contract, reasons or record"
    return [
        Row(
            f"{FULL}, beside MLflow's server",
            [own] * len(theirs),
            "/s",
            name,
            theirs,
            target_is_ratio=True,
            at_least=20,
        )
    ]


def free_port() -> int:
    """A port that nobody listens on just now."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(port: int, process: subprocess.Popen[bytes], within_s: float = 240.0) -> bool:
    """Whether somebody listens on the port, now or soon."""
    until = time.monotonic() + within_s
    while time.monotonic() < until and process.poll() is None:
        if listening(port):
            return True
        time.sleep(0.2)
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
