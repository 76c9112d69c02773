"""`pilot load` asks in an open loop, knows how late it was itself, and concludes no more than it saw."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from drilling import drillable
from governed import STEP
from harness.drills import slo
from harness.drills.scratch import FOLDER, scratch_pilot
from harness.errors import PilotError
from harness.load import page, ramp
from harness.load.generator import Answers, Generator, Target, Usage, due
from harness.load.ramp import Loading, measured
from harness.pipeline import layout
from harness.pipeline.manifest import load_manifest
from harness.readiness import loaded
from harness.readiness.loaded import Step
from harness.serving_settings import Slo
from harness.testing.waiting import until
from loading import answering, decided, standing_still

__all__ = ["drillable"]

Run = Callable[..., subprocess.CompletedProcess[str]]
BODIES = [json.dumps({"n": number}) for number in range(1_000)]
SHARES = "max_fallback_share = 1.0\nmax_error_share = 1.0\n"
PATIENT = f"\n[slo]\nrate_per_s = 250\np95_ms = 20000\np99_ms = 30000\n{SHARES}"


@pytest.fixture(scope="module")
def asking() -> Iterator[Generator]:
    """One client process for all tests that need no other."""
    with Generator() as found:
        yield found


# ---------------------------------------------------------------- the client
def test_who_came_while_the_service_stood_still_waited_too(asking: Generator) -> None:
    """A closed loop would have kept one caller waiting, and called it one slow answer of a hundred."""
    with answering(standing_still(after=20, for_s=0.6)) as stub:
        target = Target(stub.url, BODIES)
        found = asking.run(target, due(100, 1.0, "constant", 1), connections=1, most_connections=1)
    assert found.given.all()
    waited = found.latency
    assert (waited > 0.1).sum() >= 35
    # One request at a time was under way, and so a closed loop would have told of no more than this.
    assert waited.sum() > 3 * (found.ended - found.sent).sum()
    step = measured(found, 100, 1.0, Slo(), Usage([]))
    assert step.p95_ms > 300
    assert step.misses(Slo())


def test_more_connections_are_opened_while_all_are_busy(asking: Generator) -> None:
    with answering(standing_still(after=1, for_s=0.5)) as stub:
        found = asking.run(Target(stub.url, BODIES), due(100, 0.3, "constant", 1), connections=1)
    assert found.given.all()
    assert found.connections > 5
    assert (found.sent - found.woke).max() < found.latency.max()


def test_a_client_that_came_late_itself_says_so() -> None:
    """Its lateness is in the answers' too, and then nothing can be said of the service."""
    with answering() as stub, Generator() as one:
        process = one._processes[0]
        found: list[Answers] = []
        moments = due(100, 1.5, "constant", 1)
        thread = threading.Thread(target=lambda: found.append(one.run(Target(stub.url, BODIES), moments)))
        thread.start()
        while len(stub.asked) < 20:
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.8)
        process.send_signal(signal.SIGCONT)
        thread.join()
    step = measured(found[0], 100, 1.5, Slo(), Usage([]))
    assert step.client_late_p99_ms > 300
    assert [each for each in step.limited(Slo()) if "measured itself" in each]
    assert loaded.concluded(step, Slo())[0] == "inconclusive"


def test_requests_are_dealt_out_and_their_answers_put_back_in_order() -> None:
    with answering() as stub, Generator(3) as three:
        found = three.run(Target(stub.url, BODIES[:1], "secret"), due(300, 0.3, "poisson", 1), ids=True)
    assert set(found.ids) == {"d-0"}
    assert len(stub.asked) == len(found.ids) == 90
    assert stub.tokens == {"Bearer secret"}
    assert (np.diff(found.due) >= 0).all()
    assert (found.woke >= found.due - 1e-6).all()
    assert (found.ended >= found.sent).all()


def test_what_came_of_a_request_is_told_by_its_kind(asking: Generator) -> None:
    def mixed(body: bytes) -> tuple[int, bytes, dict[str, str]]:
        number = json.loads(body)["n"] % 4
        if number == 0:
            return 503, b'{"error": "busy"}', {"Retry-After": "1"}
        if number == 1:
            return 200, b'{"status": "ok"}', {}
        if number == 2:
            said = {"served_by": "fallback", "why": "model_busy", "decision_id": "d"}
            return 200, json.dumps(said).encode(), {}
        return decided(body)

    with answering(mixed) as stub:
        found = asking.run(Target(stub.url, BODIES), due(200, 0.2, "constant", 1))
    assert found.counted(given=True) == {"fallback model_busy": 10, "model assigned": 10}
    assert found.counted(given=False) == {"503 busy": 10, "0 no decision": 10}
    assert (found.retry_after == (found.status == 503)).all()
    step = measured(found, 200, 0.2, Slo(), Usage([]))
    assert (step.fallbacks, step.errors) == ({"model_busy": 10}, {"503 busy": 10, "0 no decision": 10})
    assert (step.decided, step.fallback_share, step.error_share) == (20, 0.5, 0.5)


def test_a_connection_that_is_closed_is_opened_again(asking: Generator) -> None:
    with answering(keep=False) as stub:
        found = asking.run(Target(stub.url, BODIES), due(200, 0.3, "constant", 1), connections=2)
    assert found.given.all()


def test_nobody_there_and_no_answer_are_errors(asking: Generator) -> None:
    nobody = asking.run(Target("http://127.0.0.1:1", BODIES), due(100, 0.1, "constant", 1))
    assert nobody.counted(given=False) == {"0 ConnectionRefusedError": 10}
    with answering(standing_still(after=1, for_s=2.0)) as stub:
        moments = due(50, 0.1, "constant", 1)
        found = asking.run(
            Target(stub.url, BODIES), moments, connections=1, most_connections=1, answer_within_s=0.3
        )
    counts = found.counted(given=False)
    assert {*counts} <= {"0 no answer in time", "0 not sent in time"}
    assert (sum(counts.values()), counts["0 not sent in time"] >= 4) == (5, True)
    assert (found.latency >= 0.29).all()


def test_a_client_that_has_ended_is_told() -> None:
    with answering() as stub, Generator() as one:
        one._processes[0].kill()
        with pytest.raises(PilotError, match="a process that was to ask has ended"):
            one.run(Target(stub.url, BODIES), due(10, 0.1, "constant", 1))


def test_random_times_are_those_of_callers_who_know_nothing_of_each_other() -> None:
    moments = due(1_000, 10.0, "poisson", 7)
    assert len(moments) == 10_000
    assert (np.diff(moments) >= 0).all()
    assert moments[0] >= 0
    assert moments[-1] <= 10
    between = np.diff(moments)
    assert between.std() == pytest.approx(between.mean(), rel=0.1)  # exponential
    assert (due(1_000, 10.0, "poisson", 7) == moments).all()
    assert (due(1_000, 10.0, "poisson", 8) != moments).any()
    assert np.diff(due(100, 1.0, "constant", 1)) == pytest.approx(0.01)


def test_there_are_bounds_whatever_is_asked_for(asking: Generator) -> None:
    for count, seconds in ((2_000_000, 500.0), (30_000, 1.0), (700, 700.0)):
        with pytest.raises(PilotError, match="more than this may send"):
            asking.run(Target("http://127.0.0.1:1", BODIES), np.linspace(0, seconds, count))


def test_what_a_process_took_counts_after_it_has_ended() -> None:
    busy = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])\n"
    process = subprocess.Popen([sys.executable, "-c", f"{busy}input()"], stdin=subprocess.PIPE)
    try:
        with Usage([psutil.Process(process.pid)]) as usage:
            until(lambda: sum(usage._last.values()) > 0.3)
            for child in psutil.Process(process.pid).children():
                child.kill()
            until(lambda: not psutil.Process(process.pid).children())
    finally:
        for each in [*psutil.Process(process.pid).children(), process]:
            each.kill()
        process.wait()
    assert usage.cpu_s is not None
    assert usage.cpu_s >= 0.25
    assert usage.memory_mb is not None
    assert usage.memory_mb > 1


# ---------------------------------------------------------------- the ramp
class Imagined(Loading):
    """A service that can take so many requests a second, and a client that can ask for so many."""

    def __init__(self, capacity: float, client: float = 1e9) -> None:
        nobody: Any = None
        super().__init__(nobody, nobody, Slo(), list)
        self.capacity, self.client = capacity, client

    def step(self, rate: float, seconds: float) -> Step:
        count = max(1, round(rate * STEP["seconds"]))
        values = {**STEP, "rate_per_s": rate, "requests": count, "decided": count}
        values["throughput_per_s"] = values["goodput_per_s"] = rate
        values["p99_ms"] = 40.0 if rate <= self.capacity else 4_000.0
        values["client_cpu"] = 0.1 if rate <= self.client else 0.99
        return Step(**values)


@pytest.mark.parametrize(
    ("capacity", "client", "highest", "knee", "ended"),
    [
        (330, 1e9, 1e9, 282.8, "slo"),
        (30, 1e9, 1e9, 29.7, "slo"),
        (0.1, 1e9, 1e9, None, "slo"),
        (1e9, 330, 1e9, 282.8, "client"),
        (1e9, 1e9, 160, 160, "bound"),
    ],
    ids=["above", "below", "nowhere", "client", "bound"],
)
def test_the_knee_is_the_highest_rate_at_which_the_slo_held(
    capacity: float, client: float, highest: float, knee: float | None, ended: str
) -> None:
    service = Imagined(capacity, client)
    found = service.knee(service.step(50, 1), 1.0, lambda *_: None, highest)
    assert found.rate_per_s == (None if knee is None else pytest.approx(knee, rel=0.01))
    assert found.ended_by == ended
    assert all(each.rate_per_s <= max(highest, 50) for each in found.steps)


def test_a_client_at_its_limit_at_the_stated_volume_ends_it_there() -> None:
    service = Imagined(1e9, client=10)
    assert service.knee(service.step(50, 1), 1.0, lambda *_: None) == ramp.Knee(None, "client", ())


# ---------------------------------------------------------------- the command
def record_of(tiny: Any) -> loaded.LoadTest:
    return loaded.read(tiny.root)


def test_a_service_of_a_scratch_copy_is_held_to_the_slo(
    drillable: Any, pilot_here: Run, tmp_path: Path
) -> None:
    drillable.toml.write_text(drillable.toml.read_text() + PATIENT)
    html = tmp_path / "load.html"
    options = ("--seconds", "2", "--step", "1", "--highest", "300", "--html", str(html))
    done = pilot_here("load", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MET: the SLO of pilot.toml held at 250 a second. Kept in evidence/load.json." in done.stdout
    found = record_of(drillable)
    assert (found.verdict, found.volume.requests, found.slo.rate_per_s) == ("met", 500, 250)
    assert [each.rate_per_s for each in found.steps] == [300]
    assert (found.knee_per_s, found.knee_ended_by, found.replicas) == (300, "bound", 2)
    assert found.model == load_manifest(drillable.root / layout.PACKAGE).digest
    assert set(found.trees) == {"src", "harness"}
    assert found.volume.cpu_ms_per_decision is not None
    assert found.volume.cpu_ms_per_decision > 0.1
    assert found.volume.memory_mb is not None
    assert found.volume.memory_mb > 20
    shown = html.read_text()
    assert "The SLO held at 250 requests a second" in shown
    assert shown.count("<svg") == 2
    assert not (drillable.root / FOLDER).exists()


def test_a_model_that_fails_under_load_misses_the_slo(drillable: Any, pilot_here: Run) -> None:
    model = drillable.root / "src" / "dryfield" / "model.py"
    failing = "    _calls.append(1)\n    if len(_calls) % 3 == 0:\n        raise ValueError\n"
    text = model.read_text().replace("    if hook is not None:", f"{failing}    if hook is not None:", 1)
    model.write_text(text.replace("hook = None", "hook = None\n_calls = []", 1))
    drillable.offered()
    promised = PATIENT.replace("max_fallback_share = 1.0", "max_fallback_share = 0.05")
    drillable.toml.write_text(drillable.toml.read_text() + promised)
    done = pilot_here("load", "--seconds", "2", "--step", "0", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert (said["verdict"], said["knee_per_s"]) == ("missed", None)
    assert "of decisions came from the fallback" in said["why"][0]
    assert {"model_failed", "breaker_open"} & {*said["volume"]["fallbacks"]}
    assert record_of(drillable).verdict == "missed"


def test_what_runs_already_is_asked_on_this_machine_and_in_the_sandbox_only(
    drillable: Any, pilot_here: Run
) -> None:
    drillable.toml.write_text(drillable.toml.read_text() + PATIENT)

    def first(body: bytes) -> tuple[int, bytes, dict[str, str]]:
        return decided(b'{"n": 1}')

    options = ("load", "--seconds", "1", "--step", "0", "--url")
    with answering(first) as stub:
        done = pilot_here(*options, stub.url)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "INCONCLUSIVE at 250 a second: 250 requests are too few for a p99" in done.stdout
        assert "No evidence: its code is not known." in done.stdout
        assert "reading" in json.loads(stub.asked[0])
        asked = len(stub.asked)
    assert not (drillable.root / loaded.FILE).exists()
    with answering(first, stage="early") as stub:
        done = pilot_here(*options, stub.url)
        assert (done.returncode, stub.asked) == (2, [])
        assert "it is in the stage 'early', where each decision is recorded and counted" in done.stderr
        done = pilot_here(*options, stub.url, "--i-may-load", "127.0.0.1")
        assert (done.returncode, len(stub.asked)) == (3, asked)
    done = pilot_here(*options, "http://service.example.org")
    assert done.returncode == 2
    assert "service.example.org is another machine. --i-may-load service.example.org says" in done.stderr
    done = pilot_here(*options, "http://127.0.0.1:1")
    assert (done.returncode, "no service of a pilot answers" in done.stderr) == (2, True)
    done = pilot_here(*options, "127.0.0.1:80")
    assert (done.returncode, "Write it as http://host:port." in done.stderr) == (2, True)


def test_the_copy_asks_nothing_of_its_callers_that_the_pilot_in_use_does(drillable: Any) -> None:
    """Its one caller plays all of them, has no key that git does not know, and no token of an issuer."""
    asked = 'tls_certificate = "no.pem"\ntls_key = "no.key"\nrate_per_s = 1\nburst = 1\n'
    issuer = '[serving.oidc]\nissuer = "i"\naudience = "a"\njwks_file = "no.json"\nscopes = {x = ["read"]}\n'
    drillable.toml.write_text(
        drillable.toml.read_text().replace("[serving]\n", f"[serving]\n{asked}") + issuer
    )
    settings = drillable.settings()
    assert settings.serving.oidc is not None
    with scratch_pilot(settings) as pilot:
        serving = pilot.copy.settings.serving
        assert (serving.tls_certificate, serving.oidc, serving.rate_per_s, serving.burst) == (
            None,
            None,
            0,
            0,
        )


def test_a_test_of_hours_is_refused() -> None:
    with pytest.raises(PilotError, match="this could take"):
        slo.bounded(slo.Plan(seconds=600, step_s=60))
    slo.bounded(slo.Plan())


def test_the_page_says_where_the_knee_is_and_what_kept_from_more() -> None:
    volume = Imagined(1e9).step(50, 1)
    found = loaded.LoadTest(
        produced_at=datetime(2026, 3, 1, tzinfo=UTC),
        produced_by="somebody",
        harness="1",
        cores=2,
        trees={},
        model="",
        workers=2,
        clients=1,
        arrivals="poisson",
        seed=1,
        slo=Slo(),
        verdict="met",
        why=(),
        volume=volume,
        steps=(Imagined(1e9).step(100, 1),),
        knee_per_s=100.0,
        knee_ended_by="slo",
        replicas=1,
    )
    assert page.knee(found).startswith("The knee is at 100 requests a second: beyond, the SLO does not hold.")
    for kept, told in (("client", "the client could ask for no more"), ("bound", "no more was tried")):
        other = found.model_copy(update={"knee_ended_by": kept})
        assert (
            f"{told}. The stated volume takes 1 replica, each loaded to 70% of that, or fewer."
            in page.knee(other)
        )
    assert "None" not in page.page("A <pilot>", found)
    assert "A &lt;pilot&gt;" in page.page("A <pilot>", found)


def test_who_asks_may_open_as_many_files_as_the_system_lets_it() -> None:
    """A shell allows 1,024 where the system allows more, and each connection is one."""
    program = (
        "import resource as r\n"
        "from harness.load import client\n"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1]\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, hard))\n"
        "client._allow_files()\n"
        "wanted = client.MOST_FILES if hard == r.RLIM_INFINITY else min(hard, client.MOST_FILES)\n"
        "print(r.getrlimit(r.RLIMIT_NOFILE) == (wanted, hard))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
