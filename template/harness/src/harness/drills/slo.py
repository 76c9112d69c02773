"""`pilot load`: the pilot's service at the volume that pilot.toml states, and beyond it.

It plays in a scratch copy as drills do, with a service as `pilot serve` starts it; or it asks one that runs
already, whose code nobody here can vouch for, so that nothing of it becomes evidence.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import psutil

from harness import __version__
from harness.address import loopback, unanswered
from harness.control.identity import actor
from harness.drills.load import Caller
from harness.drills.scratch import scratch_pilot
from harness.drills.service import served
from harness.drills.stops import decides
from harness.errors import Inconclusive, PilotError
from harness.load import generator, ramp
from harness.load.generator import Arrivals, Generator, Target
from harness.load.ramp import Knee, Loading
from harness.progress import Report
from harness.readiness import loaded
from harness.readiness.loaded import LoadTest
from harness.serving.tls import trusting
from harness.settings import Settings
from harness.testing import PilotCopy

RECORDS = 1_000
WITHIN_S = 60.0


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        seconds: For how long the stated volume is held.
        step_s: For how long each rate of the ramp is; 0 for no ramp.
        highest: No higher rate is tried.
        arrivals: How requests follow each other.
        seed: Of the random times.
        clients: How many processes ask.
        workers: How many processes answer, in the scratch copy.
    """

    seconds: float = 30.0
    step_s: float = 4.0
    highest: float = generator.MOST_PER_S
    arrivals: Arrivals = "poisson"
    seed: int = 1
    clients: int = 1
    workers: int = 1


@dataclass(frozen=True)
class _Asked:
    """Who is asked, and what is known of its code."""

    target: Target
    processes: Callable[[], Iterable[psutil.Process]]
    trees: dict[str, str]
    model: str


def in_scratch_copy(settings: Settings, plan: Plan, report: Report) -> LoadTest:
    """Hold a service of this pilot to its SLO, in a scratch copy, and keep what came of it as evidence.

    Raises:
        PilotError: There is no packaged model, no record, no repository, or the service does not start.
        Inconclusive: The model never decided, so that nothing was to be measured.
    """
    report("a scratch copy of the pilot", 0.0)
    with scratch_pilot(settings) as pilot:
        records = pilot.copy.held_back(RECORDS)
        token = pilot.token()
        report("the service starts", 0.05)
        with served(pilot, plan.workers) as service:
            caller = Caller(service.url, records, token)
            if not decides(caller, within_s=WITHIN_S):
                raise Inconclusive(
                    f"the model never decided: {caller.last}",
                    where="pilot load",
                    mend="`pilot serve` and `pilot decide --example 1` show why.",
                )
            asked = _Asked(
                Target(service.url, [json.dumps(record) for record in records], token),
                lambda: [psutil.Process(service.process.pid)],
                pilot.trees,
                pilot.model,
            )
            found = _loaded(settings, plan, asked, report)
    loaded.write(settings.root, found)
    return found


def at(settings: Settings, plan: Plan, url: str, *, token: str, consent: str, report: Report) -> LoadTest:
    """Hold a service that runs already to the SLO. Its code is not known here, so this is no evidence.

    Args:
        settings: The pilot's settings; its held-back records are what is asked about.
        plan: What is to be done.
        url: Where it answers.
        token: Who is asking; empty for nobody.
        consent: The host's name, where it is another machine's or decides in earnest.
        report: Takes what is being done.

    Raises:
        PilotError: Nothing answers there, or it may not be loaded without consent.
    """
    trusted = trusting(settings, url)
    host = _checked(url, consent, trusted)
    records = PilotCopy(settings.root).held_back(RECORDS)
    port = urlsplit(url).port
    here = loopback(host) and port is not None
    asked = _Asked(
        Target(url.rstrip("/"), [json.dumps(record) for record in records], token, trusts=_trusts(settings)),
        (lambda: generator.listening(port or 0)) if here else list,
        {},
        "",
    )
    return _loaded(settings, plan, asked, report)


def _loaded(settings: Settings, plan: Plan, asked: _Asked, report: Report) -> LoadTest:
    slo = settings.slo
    rate = slo.rate_per_s
    with Generator(plan.clients) as asking:
        loading = Loading(asking, asked.target, slo, asked.processes, plan.arrivals, plan.seed)
        report("warming up", 0.08)
        loading.warm_up(rate)
        report(f"the stated volume, {rate:g} a second", 0.1)
        volume = loading.step(rate, plan.seconds)
        knee = Knee(None, "bound", ())
        if plan.step_s:
            knee = loading.knee(
                volume, plan.step_s, lambda doing, share: report(doing, 0.5 + share / 2), plan.highest
            )
    verdict, why = loaded.concluded(volume, slo)
    return LoadTest(
        produced_at=datetime.now(UTC).replace(microsecond=0),
        produced_by=actor(),
        harness=__version__,
        cores=os.cpu_count() or 1,
        trees=asked.trees,
        model=asked.model,
        workers=plan.workers,
        clients=plan.clients,
        arrivals=plan.arrivals,
        seed=plan.seed,
        slo=slo,
        verdict=verdict,
        why=why,
        volume=volume,
        steps=knee.steps,
        knee_per_s=knee.rate_per_s,
        knee_ended_by=knee.ended_by,
        replicas=loaded.replicas(rate, knee.rate_per_s),
    )


def _trusts(settings: Settings) -> str:
    """The certificate that a client process trusts beside the usual authorities."""
    certificate = settings.serving.tls_certificate
    return "" if certificate is None else str(settings.path(certificate))


def _checked(url: str, consent: str, trusted: ssl.SSLContext | bool) -> str:
    """The host of a service that may be loaded.

    Raises:
        PilotError: It may not, or nothing answers there.
    """
    import httpx

    none = PilotError(f"{url!r} is no address", where="--url", mend="Write it as http://host:port.")
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError as error:  # brackets that do not close, or a port that is none
        raise none from error
    if parts.scheme not in ("http", "https") or not host:
        raise none
    agreed = f"--i-may-load {host} says that its operators agree."
    if not loopback(host) and consent != host:
        raise PilotError(f"{host} is another machine", where="--url", mend=agreed)
    try:
        health = httpx.get(f"{url.rstrip('/')}/health", timeout=10, trust_env=False, verify=trusted).json()
        stage = str(health.get("stage", "unknown"))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError) as error:
        mend = "Start it with `pilot serve`, or leave --url out."
        raise unanswered(url, error, mend=mend, what="no service of a pilot answers") from error
    if stage != "sandbox" and consent != host:
        raise PilotError(
            f"it is in the stage '{stage}', where each decision is recorded and counted in earnest",
            where="--url",
            mend=f"Load a replica of its own; else {agreed}",
        )
    return host


def bounded(plan: Plan) -> None:
    """Hold a plan to what is bearable.

    Raises:
        PilotError: It is not.
    """
    total = ramp.longest(plan.seconds, plan.step_s)
    if total > 2 * generator.MOST_S:
        raise PilotError(
            f"this could take {total:,.0f} s",
            where="--seconds, --step",
            mend=f"At most {2 * generator.MOST_S:,.0f} s in all: hold the steps for less.",
        )
