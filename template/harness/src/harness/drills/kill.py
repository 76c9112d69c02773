"""`pilot drill kill`: the model is stopped while requests are under way, on every way to stop it.

What is measured is measured from outside, as a caller sees it: when a request was sent, who decided it.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from harness.control import SENTINEL
from harness.drills.held import Holder, held_model
from harness.drills.load import Answer, Caller, Load
from harness.drills.outcome import Checks, Outcome, Scene
from harness.drills.service import end, served
from harness.drills.stops import by_fallback, decides, each_way
from harness.errors import PilotError
from harness.testing import Service

if TYPE_CHECKING:
    from harness.store import DecisionStore

RATE = 25.0
AT_ONCE = 16
BEFORE = 50
AFTER = 50
IN_FLIGHT = 3
SETTLED_S = 3.0
WITHIN_S = 60.0
REASON = ("--reason", "a drill")
PATIENT = {"PILOT_SERVING__BUDGET_MS": "60000"}


class Kill:
    """Stops the model under load, by the command and by each file alone, and across a restart."""

    name = "kill"
    shows = "After `pilot kill` no request is decided by a model: under load, in flight, and after a restart."

    def run(self, scene: Scene) -> Outcome:
        """Go through it."""
        checks = Checks()
        pilot, answers = scene.pilot, []
        token = pilot.token()
        scene.report("the service starts", 0.1)
        with served(pilot) as service:
            caller = Caller(service.url, pilot.records, token)
            if not decides(caller, within_s=WITHIN_S):
                checks.unknown("before.model", f"the model never decided: {caller.last}")
                return checks.outcome()
            under_load(scene, caller, checks)
            scene.report("each way to stop, by itself", 0.5)
            each_way(pilot, caller, checks)
            scene.report("SIGKILL and a restart", 0.7)
            killed_before_restart(scene, service, checks)
            answers += caller.answers
        answers += self._restarted(scene, token, checks)
        with closing(pilot.copy.store()) as store:
            recorded(store, answers, checks)
        return checks.outcome()

    def _restarted(self, scene: Scene, token: str, checks: Checks) -> list[Answer]:
        try:
            with served(scene.pilot, **PATIENT) as service:
                caller = Caller(service.url, scene.pilot.records, token)
                by_fallback(checks, "restart.still_stopped", caller.ask_all(10, 4))
                scene.report("requests whose scoring has begun", 0.85)
                in_flight(scene, caller, checks)
        except PilotError as error:  # it did start before
            checks.that("restart.still_stopped", False, str(error))
            return []
        return caller.answers


def under_load(scene: Scene, caller: Caller, checks: Checks) -> None:
    """`pilot kill` and `pilot arm` while requests keep coming."""
    copy = scene.pilot.copy
    scene.report("the model decides, under load", 0.15)
    with Load(caller, rate=RATE, at_once=AT_ONCE) as load:
        _until(lambda: sum(each.by_model for each in load.answers) >= BEFORE)
        scene.report("pilot kill, under load", 0.25)
        issued = time.monotonic()
        kill = copy.run("kill", *REASON, "--json")
        returned = time.monotonic()
        written = _sentinel_written(scene)
        _until(lambda: sum(each.started > returned for each in load.answers) >= AFTER)
        scene.report("pilot arm, under load", 0.4)
        arming = time.monotonic()
        arm = copy.run("arm", *REASON)
        armed = time.monotonic()
        _until(lambda: any(each.by_model and each.started > armed for each in load.answers))
    answers = load.answers
    checks.that("kill.command", kill.code == 0, f"it ended with exit code {kill.code}{_said(kill.stderr)}")
    no_model_after(checks, [each for each in answers if each.started < arming], returned)
    wrong = [each for each in answers if each.status != 200]
    told = f"{len(wrong)} of {len(answers)} requests had no decision"
    checks.that("load.all_answered", not wrong, told + (f" ({_kind(wrong[0])})" if wrong else ""))
    again = any(each.by_model and each.started > armed for each in answers)
    seen = "the model decides again" if again else "the model does not decide again"
    told = f"exit code {arm.code}{_said(arm.stderr)}; {seen}"
    checks.that("arm.model_again", arm.code == 0 and again, told)
    starts = [each.started for each in answers if each.by_model and each.started < arming]
    checks.figures |= {
        "load_per_s": RATE,
        "load_at_once": AT_ONCE,
        "requests": len(answers),
        "requests_not_sent": load.not_sent,
        "model_decisions_before": sum(each.by_model and each.started < issued for each in answers),
        "answers_after_kill": sum(returned < each.started < arming for each in answers),
        "errors_5xx": sum(each.status >= 500 for each in answers),
        "no_answer": sum(each.status == 0 for each in answers),
        "services_confirmed": _confirmed(kill.stdout),
        "kill_command_ms": _ms(returned - issued),
        "last_model_start_before_return_ms": _ms(returned - max(starts)) if starts else None,
        "last_model_start_after_file_ms": _ms(max(starts) - written) if starts and written else None,
    }


def killed_before_restart(scene: Scene, service: Service, checks: Checks) -> None:
    """Stop the model, then take the whole service away without a warning."""
    done = scene.pilot.copy.run("kill", *REASON)
    checks.that("restart.killed", done.code == 0, f"`pilot kill` ended with exit code {done.code}")
    end(service, signal.SIGKILL)


def in_flight(scene: Scene, caller: Caller, checks: Checks) -> None:
    """A stop that comes while a model is scoring: what it finds must not be given any more."""
    pilot, name = scene.pilot, "in_flight.fallback"
    with Holder() as holder:
        pilot.offer(held_model(pilot, holder.port))
        arm = pilot.copy.run("arm", *REASON)
        if not decides(caller, within_s=WITHIN_S):
            checks.unknown(name, f"the held model never decided (arm: exit code {arm.code}, {caller.last})")
            return
        holder.hold()
        answers_of = caller.in_background(IN_FLIGHT)
        # One is enough; a host may score one record after the other.
        held = holder.waiting(1, within_s=WITHIN_S) and holder.waiting(IN_FLIGHT, within_s=SETTLED_S)
        kill = pilot.copy.run("kill", *REASON)
        returned = time.monotonic()
        holder.let_go()
        answers = answers_of()
    under_way = [each for each in answers if each.started < returned < each.ended]
    checks.figures |= {"in_flight": len(under_way), "in_flight_scoring": held}
    if not held or not under_way:
        checks.unknown(name, "no request was under way in a model when it was stopped")
        return
    checks.that("in_flight.command", kill.code == 0, f"`pilot kill` ended with exit code {kill.code}")
    by_fallback(checks, name, answers)


def recorded(store: DecisionStore, answers: list[Answer], checks: Checks) -> None:
    """Every answer is one decision on record, and there is none beside."""
    ids = [each.decision_id for each in answers if each.decision_id]
    on_record = sum(store.counts().values())
    missing = sum(store.get(each) is None for each in ids)
    told = f"{len(ids)} answers, {len(set(ids))} decisions, {on_record} on record, {missing} missing"
    checks.that("record.one_each", missing == 0 and len(ids) == len(set(ids)) == on_record, told)
    checks.figures |= {"answers": len(ids), "decisions_on_record": on_record}


def no_model_after(checks: Checks, answers: list[Answer], returned: float) -> None:
    """Note whether a request that started after the stop had returned was decided by a model."""
    after = [each for each in answers if each.started > returned]
    late = [each for each in after if each.by_model]
    if not after or not any(each.by_model for each in answers if each.started < returned):
        checks.unknown(
            "kill.no_model_after", f"{len(after)} answers after it, and no model decided before it"
        )
        return
    told = f"{len(late)} of {len(after)} requests that started after it returned were decided by a model"
    checks.that("kill.no_model_after", not late, told)


def _sentinel_written(scene: Scene) -> float | None:
    """When the KILL file was written, in seconds of ``time.monotonic``."""
    try:
        written = (scene.pilot.control / SENTINEL).stat().st_mtime
    except OSError:
        return None
    return written - time.time() + time.monotonic()


def _confirmed(printed: str) -> str | None:
    """How many workers said that they have stopped, as the command tells it."""
    try:
        workers = json.loads(printed)["workers"]
        return f"{sum(bool(each['confirmed']) for each in workers)} of {len(workers)}"
    except (ValueError, LookupError, TypeError):
        return None


def _until(happened: Callable[[], bool]) -> None:
    """Wait for it, and no longer than is sensible: what did not happen is for the checks to tell."""
    deadline = time.monotonic() + WITHIN_S
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.05)


def _kind(answer: Answer) -> str:
    return f"{answer.status or 'no answer'} {answer.why}".strip()


def _said(text: str) -> str:
    lines = text.strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
