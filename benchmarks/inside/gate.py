"""Three ways to ask whether a model may decide, each behind the same question.

``gate.py cost FOLDER FILE URL PASSES`` prints the microseconds of one question, by way and pass: the ways
take turns, a hundred questions at a time, and then question by question, which finds every cache cold. A
floor takes part: a bare look for each of the control folder's two files.

``gate.py serve WAY TARGET PROCESSES`` forks so many processes, each of which answers on a port of its own:
one line with an entity, one line with 1 for the model or 0. Each sets its way up after the fork, which is the
libraries' good case: their threads do not live on in one.

The target is a control folder, a flag file of flagd's, or the address of an Unleash server.
"""

from __future__ import annotations

import json
import os
import socketserver
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

FLAG = "model_enabled"
QUESTIONS = 2_000
TOGETHER = 100

Allowed = Callable[[str], bool]


def control(target: str) -> Allowed:
    """This project's: the sentinel and the state, looked at anew for every question."""
    from harness.control import Arm, Control

    reader = Control(Path(target))
    return lambda entity: reader.permission(entity).arm is not Arm.FALLBACK


def flagd(target: str) -> Allowed:
    """OpenFeature with flagd's provider in its FILE mode, at its own settings."""
    from openfeature import api
    from openfeature.contrib.provider.flagd import FlagdProvider
    from openfeature.contrib.provider.flagd.config import ResolverType
    from openfeature.evaluation_context import EvaluationContext

    api.set_provider(FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=target))
    client = api.get_client()
    return lambda entity: client.get_boolean_value(FLAG, False, EvaluationContext(targeting_key=entity))


def unleash(target: str) -> Allowed:
    """UnleashClient, asking every second; its own default is every 15 seconds."""
    from UnleashClient import UnleashClient

    client = UnleashClient(
        target,
        "benchmark",
        refresh_interval=1,
        disable_metrics=True,
        custom_headers={"Authorization": "none"},
        cache_directory=tempfile.mkdtemp(prefix="unleash-"),
    )
    client.initialize_client()
    return lambda entity: bool(client.is_enabled(FLAG, {"userId": entity}))


WAYS: dict[str, Callable[[str], Allowed]] = {"control": control, "flagd": flagd, "unleash": unleash}


def cost(targets: dict[str, str], passes: int) -> dict[str, list[float]]:
    """Microseconds of one question, the median of each pass."""
    ways = {name: WAYS[name](target) for name, target in targets.items()}
    deadline = time.monotonic() + 10
    for name, allowed in ways.items():
        while not allowed("warm"):
            if time.monotonic() > deadline:
                raise SystemExit(f"{name}: the model is not let decide")
            time.sleep(0.05)
    ways["floor"] = floor(targets["control"])
    # Cold first: the last that was asked is another way each time.
    order = [("cold ", 1), ("", TOGETHER)]
    found: dict[str, list[float]] = {f"{kind}{name}": [] for kind, _ in order for name in ways}
    for turn in range(passes + 1):
        for kind, together in order:
            for name, values in one_pass(ways, together).items():
                if turn:  # the first one warms
                    found[f"{kind}{name}"].append(median(values))
    return found


def one_pass(ways: dict[str, Allowed], together: int) -> dict[str, list[float]]:
    """Microseconds of each question."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for begin in range(0, QUESTIONS, together):
        for name, allowed in ways.items():
            for number in range(begin, begin + together):
                entity = f"entity-{number}"
                started = time.perf_counter_ns()
                allowed(entity)
                took[name].append((time.perf_counter_ns() - started) / 1000)
    return took


def floor(target: str) -> Allowed:
    """What looking at the two files costs, without an answer."""
    sentinel, state = os.path.join(target, "KILL"), os.path.join(target, "state.json")

    def looked(_entity: str) -> bool:
        os.stat(state)
        try:
            os.lstat(sentinel)
        except FileNotFoundError:
            return True
        return False

    return looked


class Reader(socketserver.StreamRequestHandler):
    """One connection, kept open; each line is a question."""

    allowed: Allowed

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(b"1\n" if type(self).allowed(line.decode().strip()) else b"0\n")


class Server(socketserver.ThreadingTCPServer):
    """Answers each connection in a thread of its own."""

    daemon_threads = True
    allow_reuse_address = True


def serve(way: str, target: str, processes: int) -> None:
    """Answer until standard input ends, which it does with whoever started this."""
    servers = [Server(("127.0.0.1", 0), Reader) for _ in range(processes)]
    ready, told = os.pipe()
    children = []
    for server in servers:
        child = os.fork()
        if child == 0:
            Reader.allowed = staticmethod(WAYS[way](target))  # type: ignore[assignment]
            os.write(told, b".")
            server.serve_forever()
        children.append(child)
    missing = processes
    while missing:
        missing -= len(os.read(ready, missing))
    print("listening on", json.dumps([server.server_address[1] for server in servers]), flush=True)
    try:
        sys.stdin.read()
    finally:
        for child in children:
            os.kill(child, 9)


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    if arguments[0] == "cost":
        targets = dict(zip(WAYS, arguments[1:4], strict=True))
        print(json.dumps(cost(targets, int(arguments[4]))), flush=True)
        os._exit(0)  # the libraries' threads would be waited for
    serve(arguments[1], arguments[2], int(arguments[3]))


if __name__ == "__main__":
    main(sys.argv[1:])
