"""Decisions, from validated records to durable answers. No HTTP here.

A request goes through the stages of harness.serving.admission; what is decided in them, and by whom, is here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.control import Arm, Control, Permission, Why
from harness.pilot import Choice, Contract, FallbackFile, Reason
from harness.serving import followed, tracing
from harness.serving.access import Access
from harness.serving.admission import (
    BEGINS_WITHIN_S,
    Answer,
    Asked,
    Done,
    Fallbacks,
    Loop,
    More,
    Outcome,
    Recorder,
    overloaded,
)
from harness.serving.breaker import Rule
from harness.serving.cached import Scores
from harness.serving.explaining import Explaining
from harness.serving.host import Call, ModelHost
from harness.serving.lag import Lag
from harness.serving.logs import failed, tell
from harness.serving.metrics import Metrics
from harness.serving.scored import Scored, plain
from harness.serving.shadow import Shadow
from harness.serving.underway import Underway
from harness.serving.why import RealData, why_of
from harness.store import Decision, DecisionStore, IdempotencyConflict
from harness.store.database import decision_name, now

log = logging.getLogger("harness.serving")

WAIT_FOR_MODELS_S = 10.0


class FallbackFailed(Exception):
    """The fallback could not decide; there is no decision, and never the model's instead."""


class Service:
    """Decides records under the control state, and records every decision before giving it."""

    def __init__(
        self,
        *,
        contract: Contract,
        fallback: FallbackFile,
        control: Control,
        access: Access,
        store: DecisionStore,
        models: Path,
        reasons: int,
        in_flight: int,
        budget_s: float,
        batch: int = 64,
        queue: int = 1024,
        reasons_s: float | None = None,
        fallback_s: float = 1.0,
        breaker: Rule = Rule(),  # noqa: B008 - frozen
        variables: Sequence[str] = (),
        shadow: Shadow,
        explaining: Explaining,
        metrics: Metrics,
    ) -> None:
        self.metrics = metrics
        self.contract = contract
        self.control = control
        self.access = access
        self.store = store
        self.underway = Underway()
        self._fallback = fallback
        self._shadow = shadow
        self._explaining = explaining
        self.host = ModelHost(
            models,
            reasons=reasons,
            in_flight=in_flight,
            batch=batch,
            budget_s=budget_s,
            reasons_s=reasons_s,
            breaker=breaker,
            variables=variables,
            started=lambda: metrics.count("pilot_model_process_starts_total", "decision"),
            asked=metrics.batch,
        )
        self._most = queue
        self._budget_s = budget_s
        # What is left of it when this is over is for the fallback, and for what else this machine does.
        self._patience_s = max(0.75 * budget_s, BEGINS_WITHIN_S)
        self._fallback_s = fallback_s
        # A service that starts without a readable state is held to the loopback, as the sandbox is.
        self._last_known_stage = "sandbox"
        self._state_seen = False
        self._left_the_sandbox = False
        self.start_anew()
        _services.add(self)

    def decide(self, record: Mapping[str, Any], *, key: str | None = None) -> Decision:
        """Decide one record, on a thread that may wait.

        Args:
            record: A record that the contract accepts.
            key: The caller's name for the request, so that asking again decides nothing again.

        Raises:
            FallbackFailed: The model was not to decide or could not, and nor could the fallback, in its time.
            StoreUnavailable: The decision could not be made durable, so there is none.
            Overloaded: Neither can be done in time.
            IdempotencyConflict: The key was used for another record.
        """
        answer: Future[Decision] = Future()
        self._admit(record, key, answer, None)
        return answer.result()

    async def decided(
        self, record: Mapping[str, Any], *, key: str | None = None, arrived: float | None = None
    ) -> Decision:
        """The same as ``decide``, in an event loop.

        Args:
            record: The same.
            key: The same.
            arrived: When the request did, on the clock that only grows; None where it is not known.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Decision] = loop.create_future()
        self._admit(record, key, answer, loop, arrived)
        return await answer

    def model_state(self, *, wait_s: float = WAIT_FOR_MODELS_S) -> dict[str, str]:
        """Each model that the state names, by digest: ``loaded``, or why it is not.

        A model that nobody asked for so far is loaded now. A service does so before it listens, because a
        caller does not wait for a model beyond its budget.

        Args:
            wait_s: Seconds to wait for models that are being loaded.
        """
        state = self.control.state()
        slots = [] if state is None else [slot for slot in (state.champion, state.challenger) if slot]
        return {slot.digest: self.host.state(slot.digest, wait_s=wait_s) for slot in slots}

    def permission(self, entity: str) -> Permission:
        """Who decides for an entity right now, as every decision of this service asks it."""
        return self._permission(entity)

    def sandbox(self, stage: str) -> bool:
        """Whether a decision of that stage is about nothing real."""
        return self._sandbox(stage)

    def explain(self) -> None:
        """Give the reasons that an earlier service did not get to, beside everything else."""
        self._explaining.look()

    def close(self) -> None:
        """End the models' processes, and those beside, and let go of the store."""
        self._shadow.close()
        self._explaining.close()
        self.host.close()
        self._fallbacks.close()
        self._recorder.close()
        self._begin()
        self.store.close()
        self.metrics.close()

    @property
    def waiting(self) -> int:
        """How many requests wait or are under way."""
        return self._recorder.behind + sum(model.inside for model in self.host.standing().values())

    def start_anew(self) -> None:
        """Nothing waits, as after a fork: threads do not come along."""
        self._explaining.start_anew()
        self._scores = Scores(self.contract.cache)
        self._lag = Lag()
        self._begin()

    def _begin(self) -> None:
        self._recorder = Recorder(self._record_all, self._decision, self._recorded)
        self._fallbacks = Fallbacks(
            self._by_fallback, self._late, within_s=self._fallback_s, budget_s=self._budget_s
        )

    def _sandbox(self, stage: str) -> bool:
        # A state that vanishes from a service in use does not turn its decisions into play.
        if stage != "unknown":
            self._last_known_stage = stage
            self._state_seen = True
        elif self._state_seen:
            self._state_seen = False  # once, and not with every request
            log.error("ALARM: the control state is gone or cannot be trusted, so the fallback decides")
        return self._last_known_stage == "sandbox" and not self._left_the_sandbox

    def _permission(self, entity: str) -> Permission:
        """What the control says; and no way leads back into the sandbox, whatever was deleted or restored."""
        found = self.control.permission(entity)
        if found.stage != "sandbox":
            self._left_the_sandbox = self._left_the_sandbox or found.stage != "unknown"
        elif self._left_the_sandbox and found.arm is not Arm.FALLBACK:
            return replace(found, arm=Arm.FALLBACK, why=Why.LEFT_THE_SANDBOX, digest=None)
        return found

    def _admit(
        self,
        record: Mapping[str, Any],
        key: str | None,
        answer: Answer,
        loop: Loop,
        arrived: float | None = None,
    ) -> None:
        """Take a request in: ask who may decide it, and have it wait for whoever that is."""
        seen = time.monotonic()
        late_s = 0.0 if loop is None else self._lag.seconds(loop)
        # What came after it, as of a caller who sends ahead, makes a request younger than it is.
        started = min(seen - late_s, seen if arrived is None else arrived)
        # Its answer will wait for the loop as well.
        besides_s = seen - started + late_s
        if self._recorder.full(self._most, self._patience_s - besides_s):
            raise overloaded()
        given = record[self.contract.entity]
        entity = "" if given is None else str(given)
        permission = self._permission(entity)
        asked = Asked(
            record=record,
            entity=entity,
            key=key,
            decided_at=now(),
            started=started,
            passage=self.underway.passage(),
            answer=answer,
            loop=loop,
            permission=permission,
            by=followed.followed(),
            span=tracing.around(),
        )
        if permission.arm is Arm.FALLBACK or permission.digest is None:
            self._leave(asked, permission, permission.why, loop)
            return
        try:
            if permission.stage == "sandbox" and self.host.manifest(permission.digest).origin == "real":
                raise RealData
            known = self._scores.find(permission.digest, record)
            if known is None:
                besides_s += self._recorder.lag_s
                self.host.put(permission.digest, Call(record, self._scored, asked, besides_s), loop)
        except Exception as error:
            self._leave(asked, permission, why_of(error), loop)
        else:
            if known is not None:
                self._by_model(asked, known, loop)

    def _scored(self, answers: Sequence[tuple[Call, Scored | BaseException]]) -> None:
        """Take what the model said of records that were scored together."""
        now = time.monotonic()
        for call, answer in answers:
            asked: Asked = call.about
            self._answered(asked, call, answer, now)
            if isinstance(answer, Scored):
                self._scores.keep(asked.permission.digest or "", asked.record, answer)
                self._by_model(asked, answer)
            else:
                with followed.on(asked.by):
                    why = why_of(answer)
                self._leave(asked, asked.permission, why)

    def _by_model(self, asked: Asked, said: Scored, loop: Loop = None) -> None:
        # Scoring takes time in which somebody may have stopped the model; what is in force now counts.
        asked.passage.enter()
        after = self._permission(asked.entity)
        if after.digest != asked.permission.digest:
            why = after.why if after.arm is Arm.FALLBACK else Why.MODEL_REPLACED
            self._leave(asked, after, why, loop)
            return
        self._recorder.enter(asked)
        outcome = Outcome(after, Why.ASSIGNED, said.decision, said.reasons, said.score, said.pending)
        self._recorder.put(asked, outcome, loop)

    def _leave(self, asked: Asked, permission: Permission, why: Why, loop: Loop = None) -> None:
        """Leave a request to the fallback, where that has a place for it."""
        asked.passage.leave()
        asked.permission, asked.why = permission, why
        full = self._recorder.full(self._most, self._patience_s)
        self._recorder.enter(asked)
        if full:
            self._recorder.settle([(asked, overloaded())])
        else:
            self._fallbacks.put(asked, loop)

    def _by_fallback(self, asked: Asked) -> None:
        try:
            decision, reasons = self.said_by_fallback(asked.record)
        except BaseException as error:  # sys.exit() in a library is a failure like any other
            if asked.claim():
                with followed.on(asked.by):
                    failed("the fallback failed", error)
                self._recorder.settle([(asked, FallbackFailed(type(error).__name__))])
            return
        if asked.claim():
            self._recorder.put(asked, Outcome(asked.permission, asked.why, decision, reasons))

    def _late(self, asked: Asked, begun: bool) -> None:
        if begun:
            log.error("the fallback took longer than %g s", self._fallback_s)
        error = FallbackFailed("TooSlow") if begun else overloaded()
        self._recorder.settle([(asked, error)])

    def _decision(self, asked: Asked, outcome: Outcome) -> Decision:
        permission = outcome.permission
        made = Decision(
            decision_id=decision_name(),
            decided_at=asked.decided_at,
            record_key=str(asked.record[self.contract.key]),
            entity=asked.entity,
            record=dict(asked.record),
            decision=outcome.decision,
            score=outcome.score,
            reasons=[vars(reason) for reason in outcome.reasons],
            served_by=outcome.served_by,
            assigned=str(permission.arm),
            why=str(outcome.why),
            model_digest=permission.digest,
            revision=permission.revision,
            bucket=permission.bucket,
            stage=permission.stage,
            sandbox=self._sandbox(permission.stage),
            elapsed_ms=(time.monotonic() - asked.started) * 1000,
            reasons_pending=outcome.pending,
            idempotency_key=asked.key,
        )
        return made

    def _answered(self, asked: Asked, call: Call, answer: Scored | BaseException, now: float) -> None:
        """Take down how long a request waited for its model, and how long that took."""
        began = call.began or now
        self.metrics.waited(began - asked.started)
        asked.span.part("admission wait", asked.started, began)
        if call.began:
            asked.span.part("model call", began, now, None if isinstance(answer, Scored) else answer)

    def _record_all(self, made: Sequence[Decision], more: More) -> Sequence[Decision | IdempotencyConflict]:
        started = time.monotonic()
        standing = self.store.record_all(made, more)
        self.metrics.committed(time.monotonic() - started)
        return standing

    def _recorded(self, done: Sequence[Done]) -> None:
        new = []
        for asked, outcome, own, stands in done:
            with followed.on(asked.by):
                now = time.monotonic()
                if stands.decision_id == own.decision_id:
                    new.append((own, now - asked.started))
                try:
                    self._told(asked, outcome, own, stands, now)
                except Exception as error:
                    failed("a decision is on record, and what follows it failed", error)
        try:
            self.metrics.decided(new)
        except Exception as error:
            failed("decisions are on record, and were not counted", error)

    def _told(self, asked: Asked, outcome: Outcome, own: Decision, stands: Decision, now: float) -> None:
        asked.span.part("record", asked.behind, now)
        asked.span.say(decision_id=stands.decision_id, served_by=stands.served_by, why=stands.why)
        if stands.decision_id != own.decision_id:
            log.info("decision %s was asked for again", stands.decision_id)
            return
        # Who and why, and nothing of the record: not even whom it is about.
        elapsed_ms = (now - asked.started) * 1000
        tell(
            log,
            "decision %s by %s (%s), revision %d, %.1f ms",
            own.decision_id,
            own.served_by,
            own.why,
            own.revision,
            elapsed_ms,
            decision_id=own.decision_id,
            served_by=own.served_by,
            why=own.why,
            stage=own.stage,
            revision=own.revision,
            elapsed_ms=round(elapsed_ms, 1),
        )
        followed.remember(own.decision_id)
        if own.reasons_pending:
            self._explaining.look()
        if outcome.permission.shadow is not None:
            self._shadow.offer(own, outcome.permission.shadow)

    def said_by_fallback(self, record: Mapping[str, Any]) -> tuple[str | float, tuple[Reason, ...]]:
        """What the fallback decides, and why; it may raise anything."""
        answer = self._fallback.decide(record)
        return self._allowed(answer.decision), tuple(plain(reason) for reason in answer.reasons)

    def _allowed(self, decision: str | float) -> str | float:
        declared = self.contract.decision
        if isinstance(declared, Choice):
            for own in (declared.above, declared.below):
                if decision == own:
                    return own  # and not what is equal to it, and may be written otherwise
        elif declared.valid(float(decision)):
            return float(decision)
        raise ValueError("the fallback decided what the contract's decision cannot take")


_services: weakref.WeakSet[Service] = weakref.WeakSet()


def _forked() -> None:
    for service in list(_services):
        service.start_anew()


os.register_at_fork(after_in_child=_forked)
