"""evidence/load.json: what a load test measured, with which code, and whether the SLO held.

What is concluded follows from the figures alone, and is worked out again whenever the record is read: a file
that claims more than its figures say is nobody's evidence.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import PilotError
from harness.pipeline import layout
from harness.serving_settings import Slo

FILE = Path("evidence", "load.json")
MEND = "`pilot load`, and commit what it wrote."
# Of fewer requests nobody knows what one in a hundred waits.
LEAST_REQUESTS = 500
# Answers that come at less than this share of the rate at which requests do pile up.
KEPT_UP = 0.9
# A client that is busier than this, or later than this share of the p99 that is allowed, measures itself.
CLIENT_CPU = 0.85
CLIENT_LATE = 0.2
# A replica is planned for this share of what it can take: the rest is for peaks and for one that is lost.
PLANNED_SHARE = 0.7

Verdict = Literal["met", "missed", "inconclusive"]
EndedBy = Literal["slo", "client", "bound"]


class Step(BaseModel):
    """One rate, held for a while.

    Attributes:
        rate_per_s: Requests a second that were to be sent.
        seconds: For how long.
        requests: How many that were.
        decided: How many got a decision.
        p50_ms: What half of those waited at most, in milliseconds from when they were to be sent.
        p95_ms: What 95 of 100 waited at most.
        p99_ms: What 99 of 100 waited at most.
        max_ms: What the last one waited.
        throughput_per_s: Decisions a second, until the last was there.
        goodput_per_s: Those within the p99 that is allowed.
        fallbacks: How many the fallback decided, by why.
        errors: How many got no decision, by status and why.
        client_late_p99_ms: By how much the client itself was late for 99 of 100 at most.
        client_cpu: The share of one core that the busiest client process took.
        connections: How many connections were open at the end.
        cpu_ms_per_decision: Milliseconds of processor time of the service and all its processes; None where
            they could not be seen.
        memory_mb: Their memory at the end, in megabytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_per_s: float = Field(gt=0)
    seconds: float = Field(gt=0)
    requests: int = Field(ge=1)
    decided: int = Field(ge=0)
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    throughput_per_s: float
    goodput_per_s: float
    fallbacks: dict[str, int]
    errors: dict[str, int]
    client_late_p99_ms: float
    client_cpu: float
    connections: int
    cpu_ms_per_decision: float | None = None
    memory_mb: float | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Step:
        if self.decided + sum(self.errors.values()) != self.requests:
            raise ValueError("decisions and errors are not the requests")
        if sum(self.fallbacks.values()) > self.decided:
            raise ValueError("the fallback decided more than was decided")
        return self

    @property
    def fallback_share(self) -> float:
        """The share of decisions that the fallback made, 0 to 1."""
        return sum(self.fallbacks.values()) / self.decided if self.decided else 0.0

    @property
    def error_share(self) -> float:
        """The share of requests without a decision, 0 to 1."""
        return 1 - self.decided / self.requests

    def misses(self, slo: Slo) -> list[str]:
        """What of the SLO did not hold."""
        found = []
        for name, value, bound in (
            ("p95", self.p95_ms, slo.p95_ms),
            ("p99", self.p99_ms, slo.p99_ms),
        ):
            if self.decided and not value <= bound:
                found.append(f"{name} is {value:,.0f} ms, and {bound:g} are allowed")
        if self.error_share > slo.max_error_share:
            told = f"{_share(self.error_share)} of requests got no decision{_most(self.errors)}"
            found.append(f"{told}, and {slo.max_error_share:.2%} are allowed")
        if self.fallback_share > slo.max_fallback_share:
            told = f"{_share(self.fallback_share)} of decisions came from the fallback{_most(self.fallbacks)}"
            found.append(f"{told}, and {slo.max_fallback_share:.2%} are allowed")
        if self.throughput_per_s < KEPT_UP * self.decided / (self.seconds + slo.p99_ms / 1000):
            found.append(f"{self.throughput_per_s:,.0f} decisions a second, so that requests pile up")
        return found

    def limited(self, slo: Slo) -> list[str]:
        """Why nothing can be concluded: the client was the one that had too much to do."""
        found = []
        if self.client_cpu > CLIENT_CPU:
            found.append(f"the client took {self.client_cpu:.0%} of a core, so that it measured itself")
        if self.client_late_p99_ms > CLIENT_LATE * slo.p99_ms:
            told = f"the client was {self.client_late_p99_ms:,.0f} ms late for one request in a hundred"
            found.append(f"{told}, so that it measured itself")
        return found


class LoadTest(BaseModel):
    """The record.

    Attributes:
        schema_version: The layout of this file.
        produced_at: When the test ended.
        produced_by: The account that ran it.
        harness: The harness's version.
        cores: How many cores the machine has; the client had them too.
        trees: The git tree hashes of the folders that decide, as they were when it ran.
        model: The digest of the packaged model that decided.
        workers: How many processes answered.
        clients: How many processes asked.
        arrivals: Whether requests came at random times or at equal distances.
        seed: Of the random times.
        slo: The SLO that it was held to, as pilot.toml stated it.
        verdict: ``met``, ``missed``, or ``inconclusive`` where the client was at its limit,
            or asked too little.
        why: What did not hold, or why nothing can be concluded.
        volume: The stated volume, held.
        steps: The other rates, in the order in which they were tried.
        knee_per_s: The highest rate at which the SLO held; None where none was found or looked for.
        knee_ended_by: What kept from a higher one: the SLO, the client, or a bound of the test. Unless it is
            the SLO the service can take more.
        replicas: How many services like this one the stated volume takes at ``PLANNED_SHARE`` of the knee.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    produced_at: AwareDatetime
    produced_by: str
    harness: str
    cores: int
    trees: dict[str, str]
    model: str
    workers: int
    clients: int
    arrivals: Literal["poisson", "constant"]
    seed: int
    slo: Slo
    verdict: Verdict
    why: tuple[str, ...]
    volume: Step
    steps: tuple[Step, ...]
    knee_per_s: float | None
    knee_ended_by: EndedBy
    replicas: int | None

    @model_validator(mode="after")
    def _follows(self) -> LoadTest:
        if (self.verdict, self.why) != concluded(self.volume, self.slo):
            raise ValueError("the verdict does not follow from the figures")
        if self.replicas != replicas(self.slo.rate_per_s, self.knee_per_s):
            raise ValueError("the number of replicas does not follow from the figures")
        return self


def concluded(volume: Step, slo: Slo) -> tuple[Verdict, tuple[str, ...]]:
    """What follows from the stated volume, held."""
    unsure = volume.limited(slo)
    if volume.requests < LEAST_REQUESTS:
        unsure.append(f"{volume.requests} requests are too few for a p99; {LEAST_REQUESTS} are needed")
    if unsure:
        return "inconclusive", tuple(unsure)
    missed = volume.misses(slo)
    return ("missed", tuple(missed)) if missed else ("met", ())


def replicas(rate_per_s: float, knee_per_s: float | None) -> int | None:
    """How many services a rate takes, each at ``PLANNED_SHARE`` of its knee; None without a knee."""
    return math.ceil(rate_per_s / (PLANNED_SHARE * knee_per_s)) if knee_per_s else None


def write(root: Path, found: LoadTest) -> None:
    """Keep the record, in place of the one before."""
    layout.write_json(root / FILE, found.model_dump(mode="json"))


def read(root: Path) -> LoadTest:
    """The record of the last load test.

    Raises:
        PilotError: It is missing, or no record of this layout.
    """
    try:
        return LoadTest.model_validate_json((root / FILE).read_bytes())
    except OSError as error:
        raise PilotError("the record of a load test is missing", where=FILE.as_posix(), mend=MEND) from error
    except ValidationError as error:
        told = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise PilotError(
            f"not the record of a load test: {told}", where=FILE.as_posix(), mend=MEND
        ) from error


def _share(value: float) -> str:
    return f"{value:.1%}" if value >= 0.001 else f"{value:.2%}"


def _most(counts: dict[str, int]) -> str:
    return f" ({max(counts, key=lambda name: counts[name])})" if counts else ""
