"""The controller: look at the guardrails, and take the model back when one is breached.

A champion that decides beside the model on trial is guarded as well, by bounds and signals. Where it gives
the reason, nothing better is known than the fallback, and both stop.

It only ever restricts: it promotes nothing, whatever it sees, and what it cannot see is inconclusive. It
asks the store anew at every look and remembers nothing, so a look that was missed is made up for by the
next, and two controllers at once do no harm: what is in force already is not done again. What is done to the
model comes before anything is written or sent.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness.alerts import FOLDER, Alert, Delivered, Outbox
from harness.control import Control, Response, State, StateUnreadable, respond
from harness.errors import PilotError, unforeseen
from harness.governance import read
from harness.governance.documents import BY_NAME
from harness.governance.rollout import Leave, Rollout, standard
from harness.rollout.guardrails import VERDICTS, Judged, Verdict, both
from harness.rollout.standing import Unclear
from harness.rollout.statistics import refuted
from harness.rollout.trial import Trial, on_guard
from harness.settings import Settings
from harness.store.arms import ArmStore

LOCK = Path("var", "run", "controller.lock")
EXIT_CODES: dict[Verdict, int] = {"quiet": 0, "breached": 1, "inconclusive": 3}
SHADOW_ERRORS = "shadow-errors"
BLIND, DEAD = "rollout: blind", "rollout: no decisions"

log = logging.getLogger("harness.rollout")


@dataclass(frozen=True)
class Look:
    """What the controller saw, and what it did.

    Attributes:
        at: When it looked, UTC.
        stage: The stage in force; ``unknown`` when there is no readable state.
        digest: The model on trial, in the last stage the one in use, or a champion that is left alone; empty
            where none is guarded.
        beside: The model that decides beside it; empty where none does.
        judged: What each guardrail says.
        idle: Why there is nothing to guard; empty where there is something.
        blind: What it could not see and why, in one line each. It still acts on what it does see.
        silence: How long nothing was decided, in words, where somebody is to be told.
        response: What was done; None where nothing was.
        failed: Why a rollback was not possible; the model may still decide then.
    """

    at: datetime
    stage: str
    digest: str = ""
    beside: str = ""
    judged: tuple[Judged, ...] = ()
    idle: str = ""
    blind: tuple[str, ...] = ()
    silence: str = ""
    response: Response | None = None
    failed: str = ""

    @property
    def verdict(self) -> Verdict:
        """The gravest of all; what it cannot see is inconclusive. Quiet where there is nothing to guard."""
        found = {each.verdict for each in self.judged} | ({"inconclusive"} if self.blind else set())
        return next((each for each in VERDICTS if each in found), "quiet" if self.idle else "inconclusive")

    @property
    def exit_code(self) -> int:
        """0 quiet, 1 breached, 3 inconclusive."""
        return EXIT_CODES[self.verdict]

    @property
    def breached(self) -> tuple[Judged, ...]:
        """The guardrails that are breached."""
        return tuple(each for each in self.judged if each.verdict == "breached")

    @property
    def done(self) -> str:
        """What was done, in a few words."""
        if self.failed:
            return f"NOT ROLLED BACK: {self.failed}"
        if self.response is None:
            return ""
        missing = f", WITHOUT {', '.join(self.response.missing)}" if self.response.missing else ""
        revision = f" (revision {self.response.state.rev})" if self.response.state else ""
        verb = "taken" if self.response.taken else "in force since before"
        return f"{self.response.action} {verb}{revision}{missing}"

    def document(self) -> dict[str, Any]:
        """The look as plain data."""
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "at": self.at.isoformat(timespec="seconds"),
            "stage": self.stage,
            "model": self.digest or None,
            "beside": self.beside or None,
            "guardrails": [asdict(each) for each in self.judged],
            "idle": self.idle or None,
            "blind": list(self.blind),
            "silence": self.silence or None,
            "action": self.response.action if self.response else None,
            "taken": self.response is not None and self.response.taken,
            "done": self.done or None,
        }


def look(settings: Settings, now: datetime) -> Look:
    """See, and do nothing.

    Nothing that can go wrong while looking gets out of here: it is what the controller could not see.
    """
    stage = "unknown"
    try:
        state = _state(settings)
        stage = state.stage if state else "unknown"
        idle = _idle(settings, state)
        if idle:
            return Look(now, stage, idle=idle)
        rollout, unread = _rollout(settings)
        trials, missing = on_guard(settings, rollout, state, now)
    except Unclear as error:
        return Look(now, stage, blind=(str(error),))
    except Exception as error:
        return Look(now, stage, blind=(_told(error, settings),))
    blind, silence = [*unread, *missing], ""
    try:
        judged = tuple(one for trial in trials for one in _judged(trial, blind))
        try:
            silence = _silence(trials[0])
        except Exception as error:
            blind.append(_told(error, settings))
    finally:
        trials[0].close()  # they share one store
    first, *others = (trial.digest for trial in trials)
    told = tuple(dict.fromkeys(blind))
    return Look(now, stage, first, "".join(others), judged, blind=told, silence=silence)


def act(settings: Settings, seen: Look) -> Look:
    """Take the model back where a guardrail is breached; gives what came of it."""
    if not seen.breached:
        return seen
    figures = "; ".join(f"{each.name}: {each.why}" for each in seen.breached)
    # Of the champion, if it is one of those: then nobody goes on.
    of = seen.beside if seen.beside in {each.model for each in seen.breached} else seen.digest
    reason = f"controller, stage {seen.stage}, model {of[:12]}: {figures}"
    try:
        done = respond(settings.path(settings.control.folder), "rollback", reason=reason, of=of)
    except Exception as error:
        return replace(seen, failed=_told(error, settings))
    return replace(seen, response=done)


def tell(settings: Settings, seen: Look) -> Delivered:
    """Alert about what was found; what is over is closed, so that it is told at once if it comes back."""
    name = settings.pilot.name
    alerts = [
        Alert(
            f"rollout {each.name} {each.model[:12]}",
            f"{name}: {each.name} breached",
            f"{each.why}. Model {each.model[:12]}: {seen.done}",
        )
        for each in seen.breached
    ]
    ended = [f"rollout {each.name} {each.model[:12]}" for each in seen.judged if each.verdict == "quiet"]
    if seen.blind:
        left = "It acts on the rest." if seen.judged else "Nobody guards the rollout meanwhile."
        told = f"{' '.join(seen.blind)} {left}"
        alerts.append(Alert(BLIND, f"{name}: the rollout's controller cannot see", told))
    else:
        ended.append(BLIND)
    if seen.silence:
        alerts.append(Alert(DEAD, f"{name}: nothing is decided", seen.silence))
    elif not seen.blind:
        ended.append(DEAD)
    return Outbox(settings.alerts.target, settings.path(FOLDER)).raise_all(alerts, ended=ended)


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Be the one controller that runs.

    Raises:
        PilotError: Another one runs.
    """
    file = settings.path(LOCK)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("ab")
    except OSError as error:
        # Two do no harm, and none does: a folder that takes no file keeps no controller from looking.
        log.warning("%s: %s; another controller may run at the same time", file, error.strerror)
        yield
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            mend = "Leave it at that one, or end it first."
            raise PilotError("another controller of this pilot runs", where=str(file), mend=mend) from error
        yield


def present() -> datetime:
    """The moment of a look."""
    return datetime.now(UTC)


def _rollout(settings: Settings) -> tuple[Rollout, tuple[str, ...]]:
    """The pilot's rollout; where it cannot be read, the standard's, and why."""
    try:
        return read(settings.path(BY_NAME["rollout"].path), Rollout), ()
    except Exception as error:
        return standard(), (f"{_told(error, settings)} The standard's guardrails hold meanwhile.",)


def _state(settings: Settings) -> State | None:
    folder = settings.path(settings.control.folder)
    try:
        return Control(folder).state()
    except StateUnreadable as error:
        raise Unclear(
            f"the control state cannot be trusted, the fallback decides: {error}", "Restore it."
        ) from error


def _idle(settings: Settings, state: State | None) -> str:
    """Why nothing is to be guarded: where the model decides nothing real, there is nothing to take back."""
    if state is None:
        return "there is no control state, the fallback decides"
    if Control(settings.path(settings.control.folder)).killed():
        return "stopped: the file KILL is there"
    if state.latched:
        return f"stopped ({state.actor}: {state.reason})"
    if state.stage == "sandbox":
        return "the sandbox decides nothing real"
    if state.stage == "shadow" and state.held and state.champion is None:
        return f"taken back and held ({state.actor}: {state.reason})"
    return ""


def _judged(trial: Trial, blind: list[str]) -> Iterator[Judged]:
    """Each guardrail by itself: one that cannot be asked does not keep the others from being breached."""
    in_shadow = trial.standing.stage == "shadow" and not trial.beside
    if in_shadow:
        yield from _seen(trial, SHADOW_ERRORS, "error_rate", partial(_in_shadow, trial), blind)
    for each in trial.asked:
        if each.signal or not in_shadow:
            yield from _seen(trial, each.name, each.measure, partial(trial.ask, each, "judged"), blind)


def _seen(
    trial: Trial, name: str, measure: str, ask: Callable[[], Judged], blind: list[str]
) -> Iterator[Judged]:
    named = f"{trial.beside}: {name}" if trial.beside else name
    try:
        yield replace(ask(), name=named, model=trial.digest)
    except Exception as error:
        told = str(error) if isinstance(error, Unclear) else _told(error, trial.settings)
        blind.append(told)
        yield Judged(named, measure, "inconclusive", False, told, model=trial.digest)


def _in_shadow(trial: Trial) -> Judged:
    """How often the model fails where it decides nothing: such a one is not to decide either."""
    leave: Leave = trial.rollout.stages.shadow.leave
    found = trial.shadowed("judged")
    runs, bound = found.pairs + found.errors, leave.error_rate
    if not runs:
        return Judged(SHADOW_ERRORS, "error_rate", "inconclusive", False, "it was not run in shadow yet")
    asked = both(found.errors, runs, found.by_entity.failing, found.by_entity.run)
    breached = refuted(asked, bound, trial.rollout.alpha)
    why = f"{found.errors:,} of {runs:,} runs ({found.errors / runs:.1%})"
    why += f", more than {bound:.1%}" if breached else ""
    verdict: Verdict = "breached" if breached else "quiet"
    return Judged(SHADOW_ERRORS, "error_rate", verdict, False, why, found.errors / runs, None, runs)


def _silence(trial: Trial) -> str:
    allowed = trial.rollout.dead_after_s
    if allowed is None:
        return ""
    last = ArmStore(trial.database).last_decision()
    if last is None:
        return "Nothing was ever decided outside the sandbox."
    silent = (trial.now - datetime.fromisoformat(last)).total_seconds()
    return f"The last decision is of {last[:19]} UTC, {silent:,.0f} s ago." if silent > allowed else ""


def _told(error: Exception, settings: Settings) -> str:
    return str(error if isinstance(error, PilotError) else unforeseen(error, settings.root))
