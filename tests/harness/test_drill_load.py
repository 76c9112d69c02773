"""`pilot drill load` passes where the service sheds, and fails where it makes everybody wait."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from drilling import change, drillable
from harness.drills import overload
from harness.drills.outcome import Checks, Verdict
from harness.load.generator import Answers
from harness.readiness import drilled

__all__ = ["drillable"]

Run = Callable[..., subprocess.CompletedProcess[str]]


def answers(
    waited: list[float],
    status: list[int],
    said: list[str] | None = None,
    *,
    again: bool = True,
    late: float = 0.0,
) -> Answers:
    """Requests 1 ms apart, each with how many seconds it waited."""
    count = len(waited)
    due = np.arange(count) / 1000
    words = said or ["model assigned" if each == 200 else "busy" for each in status]
    return Answers(
        due=due,
        woke=due + late,
        sent=due + late,
        ended=due + late + np.array(waited),
        status=np.array(status),
        retry_after=np.array([again and each == 503 for each in status]),
        said=words,
        ids=[f"d-{number}" if each == 200 else "" for number, each in enumerate(status)],
        client_cpu=0.1,
        connections=8,
    )


def verdicts(checks: Checks) -> dict[str, Verdict]:
    return {each.name: each.verdict for each in checks.made}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (answers([0.1] * 90 + [0.01] * 10, [200] * 90 + [503] * 10), Verdict.PASSED),
        (answers([2.0] * 90 + [0.01] * 10, [200] * 90 + [503] * 10), Verdict.FAILED),
        (answers([0.9] * 100, [200] * 99 + [503], late=0.5), Verdict.INCONCLUSIVE),
        (answers([9.0] * 100, [200] * 99 + [503], late=0.5), Verdict.FAILED),
        (answers([0.01] * 100, [503] * 100), Verdict.FAILED),
        (answers([0.001] * 100, [200] * 100), Verdict.INCONCLUSIVE),
    ],
    ids=["in time", "late", "late as the client", "later than the client", "nobody", "not more than it can"],
)
def test_who_gets_a_decision_gets_it_in_time(found: Answers, verdict: Verdict) -> None:
    checks = Checks()
    overload.in_time(found, 500, 1_000.0, checks)
    assert verdicts(checks) == {"answered.in_time": verdict}


@pytest.mark.parametrize(
    ("status", "again", "verdict"),
    [
        ([200, 503], True, Verdict.PASSED),
        ([200, 503], False, Verdict.FAILED),
        ([200, 500], True, Verdict.FAILED),
        ([200, 0], True, Verdict.FAILED),
    ],
    ids=["says when", "does not", "an error", "no answer"],
)
def test_a_refusal_says_when_to_come_again(status: list[int], again: bool, verdict: Verdict) -> None:
    checks = Checks()
    overload.shed(answers([0.1] * 2, status, again=again), checks)
    assert verdicts(checks)["refused.says_when"] is verdict


BUSY = "fallback model_busy"


@pytest.mark.parametrize(
    ("status", "said", "verdict"),
    [
        ([200, 503], [BUSY, "busy"], Verdict.PASSED),
        ([200, 200], [BUSY, "model assigned"], Verdict.PASSED),
        ([503, 200], ["busy", BUSY], Verdict.FAILED),
        ([200, 503], ["model assigned", "busy"], Verdict.FAILED),
        ([200, 200], ["model assigned", "model assigned"], Verdict.INCONCLUSIVE),
    ],
    ids=["before", "alone", "after", "never", "nothing shed"],
)
def test_the_fallback_first(status: list[int], said: list[str], verdict: Verdict) -> None:
    checks = Checks()
    overload.shed(answers([0.1] * 2, status, said), checks)
    assert verdicts(checks)["shed.fallback_first"] is verdict


@pytest.mark.parametrize(
    ("on_record", "status", "verdict"),
    [
        ({"d-0", "d-1"}, [200, 200], Verdict.PASSED),
        ({"d-0"}, [200, 503], Verdict.PASSED),
        ({"d-0"}, [200, 200], Verdict.FAILED),
        (set(), [503, 503], Verdict.INCONCLUSIVE),
    ],
    ids=["all", "all that were given", "one missing", "none"],
)
def test_every_decision_is_on_record(on_record: set[str], status: list[int], verdict: Verdict) -> None:
    class Store:
        def get(self, name: str) -> str | None:
            return name if name in on_record else None

    checks = Checks()
    overload.recorded(Store(), answers([0.1] * 2, status), checks)  # type: ignore[arg-type]
    assert verdicts(checks) == {"recorded.each": verdict}


# ---------------------------------------------------------------- the whole way
ADMISSION, LANE = "serving/admission.py", "serving/lane.py"


def outcomes(tiny: Any) -> dict[str, str]:
    return {each.name: each.outcome for each in drilled.read(tiny.root, "load").checks}


def test_an_overload_loses_nothing_and_passes_over(
    drillable: Any, pilot_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short one, of which no time is judged here: that hangs on what else this machine does."""
    monkeypatch.setattr(overload, "capacity", lambda *_: 150.0)
    monkeypatch.setattr(overload, "OVERLOAD_S", 1.5)
    done = pilot_here("drill", "load")
    found = outcomes(drillable)
    kept = {name: found[name] for name in ("refused.says_when", "recovered.model", "recorded.each")}
    assert kept == dict.fromkeys(kept, "passed"), done.stdout
    figures = drilled.read(drillable.root, "load").figures
    assert figures["requests"] == 900
    assert figures["answers_not_on_record"] == 0


@pytest.mark.slow
def test_a_machine_that_is_too_busy_shows_nothing(
    drillable: Any, pilot_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "FIRST_RATE", 1e9)
    done = pilot_here("drill", "load")
    assert done.returncode == 3, done.stdout
    assert outcomes(drillable) == {"before.capacity": "inconclusive"}


@pytest.mark.slow
def test_the_whole_drill_passes_on_a_machine_that_has_nothing_else_to_do(
    drillable: Any, pilot_here: Run
) -> None:
    for _ in range(3):  # of three, one has to be left alone
        done = pilot_here("drill", "load")
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout
    assert "PASSED" in done.stdout


@pytest.mark.slow
def test_without_admission_and_batching_it_fails(
    drillable: Any, pilot_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(
        drillable,
        ADMISSION,
        "        return self._behind >= most or self.lag_s > within_s",
        "        return False",
    )
    change(drillable, LANE, "if waits_s + call.besides_s > SHRINKS_ABOVE", "if waits_s > 1e9 * SHRINKS_ABOVE")
    change(drillable, ADMISSION, "MOST_TOGETHER = 256", "MOST_TOGETHER = 1")
    change(drillable, LANE, "        while len(batch) < self._size and", "        while len(batch) < 1 and")
    monkeypatch.setattr(overload, "capacity", lambda *_: 2_500.0)
    done = pilot_here("drill", "load")
    assert done.returncode == 1, done.stdout
    assert outcomes(drillable)["answered.in_time"] == "failed"
