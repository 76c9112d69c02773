"""How fast does a stop reach the requests, and what does asking cost? Beside flagd and UnleashClient.

1. What one question costs: ``Control.permission``, the look for KILL included, and one OpenFeature
   evaluation.
2. Stops under load: four processes that ask for every request are stopped a hundred times. What counts is
   the last request that was still let to the model, held against the moment at which ``kill`` had returned.
   The peers' flags are flipped in the same run, every fifth turn, because each flip takes them a second.
3. Files that are restored with an older time, truncated or deleted: who still lets the model decide.
4. The same stops by ``pilot kill`` on a real service, with four workers where this version has them.

UnleashClient asks a stub of Unleash's client API on this machine, not an Unleash server. `python
benchmarks/control.py 20` stops the real service 20 times instead of a hundred; ``--quick`` does a few rounds
without it, and keeps nothing.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import stopping
import subject
from harness import control
from harness.control.state import STATE
from harness.drills.load import Caller, Load
from harness.progress import working
from measure import Row, publish, table
from stopping import Readers, Stopped, distribution

PEERS = {
    "openfeature": "openfeature-sdk",
    "openfeature.contrib.provider.flagd": "openfeature-provider-flagd",
    "UnleashClient": "unleashclient",
}
FLAGD, UNLEASH = "flagd FILE provider", "UnleashClient, stub"
PROCESSES = 4
AT_MOST_US = 10.0
SETTLED_S = 3.0
QUESTIONS = 100
RATE, AT_ONCE = 25.0, 16
Turns = dict[str, list[Stopped]]


def main(arguments: list[str]) -> None:
    """Run all parts and print one table."""
    missing = [name for module, name in PEERS.items() if not installed(module)]
    if missing:
        raise SystemExit(f"benchmarks/control.py: {', '.join(missing)} not installed. Run `make setup`.")
    quick = "--quick" in arguments
    with tempfile.TemporaryDirectory(prefix="bench-control-") as scratch, ExitStack() as stack:
        place = Place(Path(scratch), stack)
        rows = cost(place, passes=2 if quick else 9)
        rows += under_load(place, stops=6 if quick else 100, every=3 if quick else 5)
        rows += faults(place)
    notes = ["After the return: negative where the last request that reached the model started before it."]
    if quick:
        print(table(rows))
        print("A quick look: nothing was kept, and the real service was left out.")
        return
    publish("control", rows, notes=notes)
    numbers = [int(each) for each in arguments if each.isdigit()]
    publish("control-service", service(numbers[0] if numbers else 100), notes=notes)


def installed(module: str) -> bool:
    """Whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class Place:
    """The three switches: a control folder, a flag file of flagd's, a stub of an Unleash server; all on."""

    def __init__(self, scratch: Path, stack: ExitStack) -> None:
        self.folder, self.file = scratch / "control", scratch / "flags.json"
        stopping.let(self.folder)
        stopping.write_flag(self.file, True)
        process, self.url = stopping.started("unleash_stub.py")
        stack.callback(stopping.end, process)

    @property
    def targets(self) -> dict[str, str]:
        """What each way to ask is pointed at."""
        return {"control": str(self.folder), "flagd": str(self.file), "unleash": self.url}

    def switches(self) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
        """For each way, how it is stopped and started."""
        return {
            "control": (
                lambda: _done(control.kill(self.folder, reason="benchmark")),
                lambda: stopping.let(self.folder),
            ),
            "flagd": (
                lambda: stopping.write_flag(self.file, False),
                lambda: stopping.write_flag(self.file, True),
            ),
            "unleash": (lambda: stopping.flip(self.url, False), lambda: stopping.flip(self.url, True)),
        }


def _done(stop: control.Stop) -> None:
    if stop.missing:
        raise SystemExit(f"benchmarks/control.py: the stop is incomplete: {', '.join(stop.missing)}")


def cost(place: Place, *, passes: int) -> list[Row]:
    """Microseconds of one question."""
    with working("what one question costs"):
        command = [sys.executable, str(subject.INSIDE / "gate.py"), "cost"]
        printed = subject.run([*command, *place.targets.values(), str(passes)], place.folder)
    found: dict[str, list[float]] = json.loads(printed.strip().splitlines()[-1])
    own = found["control"]
    peer = f"OpenFeature, {FLAGD}"
    return [
        Row("Control.permission, KILL looked for", own, "µs", at_most=AT_MOST_US),
        Row("  beside", own, "µs", "a bare look for the two files", found["floor"]),
        Row("  beside", own, "µs", peer, found["flagd"], 1.0, True),
        Row("  beside", own, "µs", UNLEASH, found["unleash"]),
        Row("  caches cold, beside", found["cold control"], "µs", peer, found["cold flagd"], 1.0, True),
    ]


def under_load(place: Place, *, stops: int, every: int) -> list[Row]:
    """Stops of four processes under load, the peers' in some of the turns."""
    turns: Turns = {way: [] for way in place.targets}
    beside: list[Stopped] = []
    with ExitStack() as stack, working(f"{stops} stops of {PROCESSES} processes under load") as report:
        readers = {
            way: stack.enter_context(Readers(way, target, PROCESSES)) for way, target in place.targets.items()
        }
        for turn in range(stops):
            for way, switch in place.switches().items():
                if way != "control" and turn % every:
                    continue
                report(way, turn / stops)
                turns[way].append(readers[way].stop(*switch))
            if turn % every == 0:
                beside.append(turns["control"][-1])
    return _told(turns, beside)


def _told(turns: Turns, beside: list[Stopped]) -> list[Row]:
    own = turns["control"]
    late, seen = sum(each.late for each in own), sum(each.seen for each in own)
    last = "last request to the model"
    rows = [
        Row(f"kill: of {seen:,} requests after its return, to the model", [late], "", at_most=0),
        *distribution(f"kill: {last}, after the return", [each.after_return for each in own], 0),
        *distribution(f"kill: {last}, after the call", [each.after_call for each in own]),
        Row("kill: the call takes", [each.took for each in own], "ms"),
    ]
    for way, name in (("flagd", FLAGD), ("unleash", UNLEASH)):
        found = turns[way]
        late, seen = sum(each.late for each in found), sum(each.seen for each in found)
        rows += [
            Row(f"{name}: of {seen:,} requests after the flip, to the model", [late], ""),
            *distribution(f"{name}: {last}, after the flip", [each.after_return for each in found]),
            Row(
                f"kill: {last}, after the call; the same turns",
                [each.after_call for each in beside],
                "ms",
                name,
                [each.after_call for each in found],
                1.0,
                True,
            ),
        ]
    return rows


def faults(place: Place) -> list[Row]:
    """Who goes on when the file that stops is old, cut short, or gone."""
    off = stopping.latched(place.folder)
    stopping.write_flag(place.file, False)
    flag_off = place.file.read_bytes()
    kinds: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
        "a stop restored with an older time": (
            lambda file: stopping.restored(file, off),
            lambda file: stopping.restored(file, flag_off),
        ),
        "the file truncated": (stopping.truncated, stopping.truncated),
        "the file deleted": (Path.unlink, Path.unlink),
    }
    rows = []
    total = QUESTIONS * PROCESSES
    with (
        Readers("control", str(place.folder), PROCESSES) as own,
        working("old, truncated and deleted files") as report,
    ):
        for number, (kind, (damage, damage_flag)) in enumerate(kinds.items()):
            report(kind, number / len(kinds))
            stopping.let(place.folder)
            stopping.write_flag(place.file, True)
            own.all_say(True)
            # New ones each time: a poller that once read a damaged file may read no other any more.
            with Readers("flagd", str(place.file), PROCESSES) as peer:
                peer.all_say(True)
                damage(place.folder / STATE)
                at_once = own.by_model(QUESTIONS)
                damage_flag(place.file)
                time.sleep(SETTLED_S)  # several of flagd's polls
                gone_on = peer.by_model(QUESTIONS)
            what = f"{kind}: of {total} requests, to the model"
            rows += [
                Row(what, [at_once + own.by_model(QUESTIONS)], "", at_most=0),
                Row(f"  {FLAGD}, {SETTLED_S:g} s later", [gone_on], ""),
            ]
    return rows


def service(stops: int) -> list[Row]:
    """Stops of a real service by `pilot kill`, under load."""
    pilot = subject.pilot()
    command = [".venv/bin/pilot", "serve", "--port", "0"]
    has_workers = "--workers" in subject.run([*command[:2], "--help"], pilot)
    command += ["--workers", str(PROCESSES)] if has_workers else []
    kind = f"pilot serve, {PROCESSES if has_workers else 1} worker{'s' * has_workers}"
    records = subject.records(pilot, 200)
    _armed(pilot)
    with (
        subject.Service(command, pilot, "stopped") as url,
        working(f"{stops} times `pilot kill` under load") as report,
        Load(Caller(url, records), rate=RATE, at_once=AT_ONCE) as load,
    ):
        made = []
        for turn in range(stops):
            report(kind, turn / stops)
            made.append(_stopped(pilot, load))
    wrong = sum(answer.status != 200 for answer in load.answers)
    late, seen = sum(each.late for each in made), sum(each.seen for each in made)
    last = "last model-served start"
    return [
        Row(f"{kind}: of {seen:,} requests after `pilot kill` returned, to the model", [late], "", at_most=0),
        *distribution(f"{kind}: {last}, after the return", [each.after_return for each in made], 0),
        *distribution(f"{kind}: {last}, after the start of the command", [each.after_call for each in made]),
        Row(f"{kind}: `pilot kill` takes", [each.took for each in made], "ms"),
        Row(f"{kind}: of {len(load.answers):,} requests, without a decision", [wrong], "", at_most=0),
    ]


def _stopped(pilot: Path, load: Load) -> Stopped:
    """One `pilot kill` in the middle of the load, and `pilot arm` after it."""
    begun = time.monotonic()
    stopping.until(
        lambda: sum(each.by_model for each in load.answers if each.started > begun) >= 5, "no model"
    )
    called = time.monotonic()
    subject.run([".venv/bin/pilot", "kill", "--reason", "benchmark"], pilot)
    returned = time.monotonic()
    stopping.until(lambda: sum(each.started > returned for each in load.answers) >= 10, "no answers")
    around = [stopping.Asked(each.started, each.by_model) for each in load.answers if each.started > begun]
    subject.run([".venv/bin/pilot", "arm", "--reason", "benchmark"], pilot)
    return stopping.judged(around, called, returned)


def _armed(pilot: Path) -> None:
    if json.loads(subject.run([".venv/bin/pilot", "status", "--json"], pilot))["stopped"]:
        subject.run([".venv/bin/pilot", "arm", "--reason", "benchmark"], pilot)


if __name__ == "__main__":
    main(sys.argv[1:])
