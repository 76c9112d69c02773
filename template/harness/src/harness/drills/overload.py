"""`pilot drill load`: far more is asked of the service than it can give.

It must then answer late never, by the fallback sooner than not at all, and with a refusal that says when to
come again where it cannot decide; and be well again when it is over. How much it can give is measured first,
because it differs from machine to machine; that it is more than can be given is seen, and not supposed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
import psutil

from harness.drills.load import Caller
from harness.drills.outcome import Checks, Outcome, Scene
from harness.drills.service import served
from harness.drills.stops import decides
from harness.load.generator import Answers, Generator, Target, due
from harness.load.ramp import Loading, late_ms
from harness.readiness.loaded import Step
from harness.serving_settings import Slo
from harness.store import DecisionStore
from harness.testing import Service

RECORDS = 200
WORKERS = 2
WITHIN_S = 60.0
# A shorter budget than the pilot's own shows the same in less time; a longer one would outlast the load.
BUDGET_MS = 500
# What may come on top of the budget: the network, the record, and two cores that everybody shares.
TOLERANCE_MS = 250.0
# Steps of a doubling would leave half of what it can give unseen, and too few would ask at once.
FIRST_RATE, MOST_RATE, FACTOR, STEP_S = 50.0, 12_800.0, math.sqrt(2), 1.0
TIMES, OVERLOAD_S = 4.0, 4.0
# So many ask at once that each would wait for most of the budget if all were taken in. More, and nobody could
# be answered in time by a service that lets none of them wait unheard.
OF_THE_BUDGET, MOST_CONNECTIONS = 0.8, 2_000
MOST_OVERLOAD = 16_000.0


class Overload:
    """Asks more and more until the service cannot, then several times as much, and then nothing."""

    name = "load"
    shows = "Asked for more than it can give, the service is late for nobody, sheds, and recovers."

    def run(self, scene: Scene) -> Outcome:
        """Go through it."""
        checks, pilot = Checks(), scene.pilot
        token, budget = pilot.token(), min(BUDGET_MS, pilot.copy.settings.serving.budget_ms)
        scene.report("the service starts", 0.1)
        with served(pilot, WORKERS, PILOT_SERVING__BUDGET_MS=str(budget)) as service, Generator() as asking:
            caller = Caller(service.url, pilot.records, token)
            if not decides(caller, within_s=WITHIN_S):
                checks.unknown("before.model", f"the model never decided: {caller.last}")
                return checks.outcome()
            bodies = [json.dumps(record) for record in pilot.records]
            target = Target(service.url, bodies, token)
            knee = capacity(asking, target, service, budget, scene.report)
            if not knee:
                told = f"{FIRST_RATE:g} requests a second are too much already: this machine is too busy"
                checks.unknown("before.capacity", told)
                return checks.outcome()
            rate = min(TIMES * knee, MOST_OVERLOAD)
            scene.report(f"{rate:,.0f} requests a second", 0.5)
            at_once = round(min(MOST_CONNECTIONS, OF_THE_BUDGET * knee * budget / 1000)) or 1
            answers = asking.run(
                target, due(rate, OVERLOAD_S, "poisson", 1), most_connections=at_once, ids=True
            )
            figures = {"knee_per_s": round(knee, 1), "offered_per_s": round(rate, 1), "at_once": at_once}
            checks.figures |= figures
            in_time(answers, budget, knee, checks)
            shed(answers, checks)
            scene.report("afterwards", 0.85)
            recovered(service, caller, checks)
        with closing(pilot.copy.store()) as store:
            recorded(store, answers, checks)
        return checks.outcome()


def capacity(
    asking: Generator, target: Target, service: Service, budget_ms: int, tell: Callable[[str, float], None]
) -> float:
    """The highest rate of those tried at which the model decides for nearly everybody in time; 0 for none."""
    slo = Slo(p95_ms=budget_ms, p99_ms=budget_ms + TOLERANCE_MS, max_fallback_share=0.05, max_error_share=0.0)
    loading = Loading(asking, target, slo, lambda: [psutil.Process(service.process.pid)])
    found, rate = 0.0, FIRST_RATE
    while rate <= MOST_RATE:
        tell(f"{rate:,.0f} requests a second", 0.2)
        step: Step = loading.step(rate, STEP_S)
        if step.misses(slo):
            break
        found, rate = step.throughput_per_s, rate * FACTOR
    return found


def in_time(answers: Answers, budget_ms: int, knee: float, checks: Checks) -> None:
    """Whoever got a decision got it within the budget, counted from the moment at which it was asked for."""
    name, given = "answered.in_time", answers.given
    if not given.any():
        checks.that(name, False, f"none of {len(given):,} requests got a decision")
        return
    waited = (answers.ended - answers.sent)[given] * 1000
    p99, most, late = (
        float(np.quantile(waited, 0.99, method="higher")),
        float(waited.max()),
        late_ms(answers),
    )
    allowed = budget_ms + TOLERANCE_MS
    offered, taken = len(given) / float(answers.due[-1]), int(given.sum()) / answers.elapsed_s
    told = f"p99 of {int(given.sum()):,} decisions is {p99:,.0f} ms, with a budget of {budget_ms} ms"
    checks.figures |= {
        "budget_ms": budget_ms,
        "decided_per_s": round(taken, 1),
        "decided_p99_ms": round(p99, 1),
        "decided_max_ms": round(most, 1),
        "client_late_p99_ms": round(late, 1),
    }
    if p99 > allowed and p99 - late <= allowed:
        checks.unknown(name, f"{told}, and the client itself was {late:,.0f} ms late")
    elif p99 <= allowed and offered < 1.2 * max(knee, taken) and given.all():
        checks.unknown(name, f"{offered:,.0f} requests a second were not more than it could serve")
    else:
        checks.that(name, p99 <= allowed, told)


def shed(answers: Answers, checks: Checks) -> None:
    """The fallback first, and where nobody decides any more, 503 and when to come again."""
    given = answers.given
    refused = answers.status == 503
    told_when = refused & answers.retry_after
    fallback = np.array([each.startswith("fallback ") for each in answers.said]) & given
    lost = ~given & ~told_when
    words = ", ".join(f"{count} {word}" for word, count in answers.counted(given=False).items())
    told = f"{int(told_when.sum()):,} were told when to come again, {int(lost.sum()):,} were not"
    checks.that("refused.says_when", not lost.any(), f"{told} ({words or 'all were answered'})")
    checks.figures |= {
        "requests": len(given),
        "decided_by_model": int((given & ~fallback).sum()),
        "decided_by_fallback": int(fallback.sum()),
        "refused_503": int(refused.sum()),
        "without_an_answer": int((answers.status == 0).sum()),
    }
    told = f"{int(fallback.sum()):,} decisions by the fallback, {int(refused.sum()):,} refused"
    if not refused.any() and not fallback.any():
        checks.unknown("shed.fallback_first", "nothing was shed")
        return
    # By when they came, and not by when they were answered: a refusal takes no time, and a budget does.
    first = answers.sent[fallback].min() if fallback.any() else np.inf
    none_before = not refused.any() or first <= answers.sent[refused].min()
    checks.that("shed.fallback_first", bool(fallback.any() and none_before), told)


def recovered(service: Service, caller: Caller, checks: Checks) -> None:
    """When it is over the model decides again, and nobody had to start anything."""
    alive = service.process.poll() is None
    again = alive and decides(caller, within_s=WITHIN_S)
    checks.that("recovered.model", again, caller.last if alive else "the service has ended")


def recorded(store: DecisionStore, answers: Answers, checks: Checks) -> None:
    """Each decision that a caller was given is on record, once."""
    ids = [each for each in answers.ids if each]
    missing = _missing(store, ids)
    told = f"{len(ids):,} decisions were given, {missing} of them are not on record"
    if not ids:
        checks.unknown("recorded.each", "no decision was given")
        return
    checks.that("recorded.each", missing == 0 and len(set(ids)) == len(ids), told)
    checks.figures |= {"answers": len(ids), "answers_not_on_record": missing}


def _missing(store: DecisionStore, ids: Sequence[str]) -> int:
    return sum(store.get(each) is None for each in ids)
