"""Rates one after the other: what holds at the stated one, and up to which the SLO does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import psutil

from harness.load.generator import (
    MOST_PER_S,
    MOST_REQUESTS,
    MOST_S,
    Answers,
    Arrivals,
    Generator,
    Target,
    Usage,
    due,
)
from harness.readiness.loaded import EndedBy, Step
from harness.serving_settings import Slo

# A rate is raised by this factor until the SLO no longer holds, and then halved in between this often.
FACTOR = 2.0
REFINED = 2
LOWERED = 6
WARM_UP_S = 1.0


@dataclass(frozen=True)
class Knee:
    """The highest rate at which the SLO held.

    Attributes:
        rate_per_s: The rate; None where it held at none.
        ended_by: What kept from a higher one.
        steps: Every rate that was tried, in order.
    """

    rate_per_s: float | None
    ended_by: EndedBy
    steps: tuple[Step, ...]


@dataclass
class Loading:
    """A service under load, one rate after the other.

    Args:
        generator: Who asks.
        target: Who is asked.
        slo: What is promised.
        processes: The processes that answer, as far as they can be seen.
        arrivals: How requests follow each other.
        seed: Of the random times; each rate has times of its own.
    """

    generator: Generator
    target: Target
    slo: Slo
    processes: Callable[[], Iterable[psutil.Process]]
    arrivals: Arrivals = "poisson"
    seed: int = 1

    def __post_init__(self) -> None:
        self._turns: Iterator[int] = itertools.count(self.seed)

    def warm_up(self, rate: float) -> None:
        """Ask for a moment, and look at nothing."""
        self.generator.run(self.target, due(rate, WARM_UP_S, self.arrivals, next(self._turns)))

    def step(self, rate: float, seconds: float) -> Step:
        """Hold a rate for a while."""
        moments = due(rate, seconds, self.arrivals, next(self._turns))
        with Usage(self.processes()) as usage:
            answers = self.generator.run(self.target, moments)
        return measured(answers, rate, seconds, self.slo, usage)

    def knee(
        self, volume: Step, seconds: float, tell: Callable[[str, float], None], highest: float = MOST_PER_S
    ) -> Knee:
        """Look for the highest rate at which the SLO holds, from the stated volume up or down.

        Args:
            volume: The stated volume, held.
            seconds: For how long each rate is held.
            tell: Takes what is being done, and how much of it is done, 0 to 1.
            highest: No higher rate is tried.
        """
        highest = min(highest, MOST_PER_S, MOST_REQUESTS / seconds)
        steps: list[Step] = []
        if volume.limited(self.slo):
            return Knee(None, "client", ())

        def holds(rate: float) -> EndedBy | None:
            tell(f"{rate:,.0f} a second", 1 - 0.8 ** (len(steps) + 1))
            steps.append(self.step(rate, seconds))
            if steps[-1].limited(self.slo):
                return "client"
            return "slo" if steps[-1].misses(self.slo) else None

        good = bad = volume.rate_per_s
        ended: EndedBy | None = None
        if volume.misses(self.slo):
            for _ in range(LOWERED):
                bad, good = good, good / FACTOR
                ended = holds(good)
                if ended is None:
                    break
            else:
                return Knee(None, ended or "slo", tuple(steps))
            ended = "slo"
        else:
            while ended is None and good < highest:
                bad = min(good * FACTOR, highest)
                ended = holds(bad)
                good = good if ended else bad
        if ended is None:
            return Knee(good, "bound", tuple(steps))
        for _ in range(REFINED):
            between = math.sqrt(good * bad)
            stopped = holds(between)
            if stopped is None:
                good = between
            else:
                bad, ended = between, stopped
        return Knee(good, ended, tuple(steps))


def measured(answers: Answers, rate: float, seconds: float, slo: Slo, usage: Usage) -> Step:
    """What a rate came to."""
    waited = answers.latency[answers.given] * 1000
    decided, elapsed = len(waited), max(answers.elapsed_s, seconds)
    p50, p95, p99, most = (
        np.quantile(waited, (0.5, 0.95, 0.99, 1.0), method="higher") if decided else (0.0, 0.0, 0.0, 0.0)
    )
    said = answers.counted(given=True)
    spent = usage.cpu_s
    return Step(
        rate_per_s=round(rate, 3),
        seconds=seconds,
        requests=len(answers.due),
        decided=decided,
        p50_ms=_rounded(p50),
        p95_ms=_rounded(p95),
        p99_ms=_rounded(p99),
        max_ms=_rounded(most),
        throughput_per_s=_rounded(decided / elapsed),
        goodput_per_s=_rounded(float((waited <= slo.p99_ms).sum()) / elapsed),
        fallbacks={
            name.partition(" ")[2]: count for name, count in said.items() if name.startswith("fallback ")
        },
        errors=answers.counted(given=False),
        client_late_p99_ms=_rounded(late_ms(answers)),
        client_cpu=round(answers.client_cpu, 3),
        connections=answers.connections,
        cpu_ms_per_decision=None if spent is None or not decided else _rounded(spent * 1000 / decided),
        memory_mb=None if usage.memory_mb is None else round(usage.memory_mb, 1),
    )


def late_ms(answers: Answers) -> float:
    """By how much the client came late to 99 of 100 requests at most, in milliseconds."""
    return float(np.quantile(answers.woke - answers.due, 0.99, method="higher")) * 1000


def longest(volume_s: float, step_s: float) -> float:
    """Seconds that a whole test may take at most, answers that are slow not counted."""
    ups = math.ceil(math.log(MOST_PER_S, FACTOR))
    return min(volume_s, MOST_S) + (ups + LOWERED + REFINED) * step_s


def _rounded(value: float) -> float:
    return round(float(value), 3)
