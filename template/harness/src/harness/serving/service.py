"""One decision, from a validated record to a durable answer. No HTTP here."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.control import Arm, Control, Permission, Why
from harness.errors import PilotError
from harness.pilot import Choice, Contract, FallbackFile, Reason
from harness.serving import followed, tracing
from harness.serving.access import Access
from harness.serving.breaker import BreakerOpen, Rule
from harness.serving.calls import Busy, TooSlow
from harness.serving.host import ModelDied, ModelHost
from harness.serving.logs import FIELDS, failed
from harness.serving.metrics import Metrics
from harness.serving.scored import ScoreInvalid, plain
from harness.serving.shadow import Shadow
from harness.serving.underway import Underway
from harness.store import Decision, DecisionStore
from harness.store.database import now

log = logging.getLogger("harness.serving")


WAIT_FOR_MODELS_S = 10.0


class FallbackFailed(Exception):
    """The fallback could not decide; there is no decision, and never the model's instead."""


class _RealData(Exception):
    """A model of real data, which does not decide in the sandbox."""


@dataclass(frozen=True)
class _Outcome:
    permission: Permission
    why: Why
    decision: str | float
    reasons: tuple[Reason, ...]
    score: float | None = None

    @property
    def served_by(self) -> str:
        return "fallback" if self.score is None else "model"


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
        breaker: Rule = Rule(),  # noqa: B008 - frozen
        variables: Sequence[str] = (),
        shadow: Shadow,
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
        self.host = ModelHost(
            models,
            reasons=reasons,
            in_flight=in_flight,
            budget_s=budget_s,
            breaker=breaker,
            variables=variables,
            started=lambda: metrics.count("pilot_model_process_starts_total", "decision"),
        )
        # A service that starts without a readable state is held to the loopback, as the sandbox is.
        self._last_known_stage = "sandbox"
        self._state_seen = False
        self._left_the_sandbox = False

    def decide(self, record: Mapping[str, Any]) -> Decision:
        """Decide one record.

        Raises:
            FallbackFailed: The model was not to decide or could not, and the fallback raised.
            StoreUnavailable: The decision could not be made durable, so there is none.
        """
        with self.underway.decision():
            return self._decide(record)

    def _decide(self, record: Mapping[str, Any]) -> Decision:
        started = time.perf_counter()
        decided_at = now()
        given = record[self.contract.entity]
        entity = "" if given is None else str(given)
        outcome = self._outcome(record, entity)
        permission = outcome.permission
        decision = Decision(
            decision_id=str(uuid.uuid4()),
            decided_at=decided_at,
            record_key=str(record[self.contract.key]),
            entity=entity,
            record=dict(record),
            decision=outcome.decision,
            score=outcome.score,
            reasons=[asdict(reason) for reason in outcome.reasons],
            served_by=outcome.served_by,
            assigned=permission.arm.value,
            why=outcome.why.value,
            model_digest=permission.digest,
            revision=permission.revision,
            bucket=permission.bucket,
            stage=permission.stage,
            sandbox=self._sandbox(permission.stage),
            elapsed_ms=(time.perf_counter() - started) * 1000,
        )
        recording = time.perf_counter()
        with tracing.span("record"):
            self.store.record(decision)
        self.metrics.committed(time.perf_counter() - recording)
        self._told(decision, time.perf_counter() - started)
        if permission.shadow is not None:
            self._shadow.offer(decision, permission.shadow)
        return decision

    def _told(self, decision: Decision, seconds: float) -> None:
        """Say that a decision is on record, in the log and to whoever counts."""
        # Who and why, and nothing of the record: not even whom it is about.
        fields = {
            "decision_id": decision.decision_id,
            "served_by": decision.served_by,
            "why": decision.why,
            "stage": decision.stage,
            "revision": decision.revision,
            "elapsed_ms": round(seconds * 1000, 1),
        }
        log.info(
            "decision %s by %s (%s), revision %d, %.1f ms",
            decision.decision_id,
            decision.served_by,
            decision.why,
            decision.revision,
            seconds * 1000,
            extra={FIELDS: fields},
        )
        followed.remember(decision.decision_id)
        tracing.say(decision_id=decision.decision_id, served_by=decision.served_by, why=decision.why)
        self.metrics.decided(decision, seconds)

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

    def close(self) -> None:
        """End the models' processes, and those beside, and let go of the store."""
        self._shadow.close()
        self.host.close()
        self.store.close()
        self.metrics.close()

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

    def _outcome(self, record: Mapping[str, Any], entity: str) -> _Outcome:
        permission = self._permission(entity)
        if permission.arm is Arm.FALLBACK or permission.digest is None:
            return self._by_fallback(record, permission, permission.why)
        try:
            if permission.stage == "sandbox" and self.host.manifest(permission.digest).origin == "real":
                raise _RealData
            with tracing.span("model call") as span:
                span.say(model=permission.digest)
                scored = self.host.score(permission.digest, record)
        except Exception as error:
            return self._by_fallback(record, permission, _why(error))
        # Scoring takes time in which somebody may have stopped the model; what is in force now counts.
        self.underway.entering()
        after = self._permission(entity)
        if after.digest != permission.digest:
            return self._by_fallback(
                record, after, after.why if after.arm is Arm.FALLBACK else Why.MODEL_REPLACED
            )
        return _Outcome(
            after,
            Why.ASSIGNED,
            scored.decision,
            scored.reasons,
            scored.score,
        )

    def _by_fallback(self, record: Mapping[str, Any], permission: Permission, why: Why) -> _Outcome:
        self.underway.left_to_the_fallback()
        try:
            answer = self._fallback.decide(record)
            decision = self._allowed(answer.decision)
            reasons = tuple(plain(reason) for reason in answer.reasons)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failed("the fallback failed", error)
            raise FallbackFailed(type(error).__name__) from error
        return _Outcome(permission, why, decision, reasons)

    def _allowed(self, decision: str | float) -> str | float:
        declared = self.contract.decision
        if isinstance(declared, Choice):
            if decision in (declared.above, declared.below):
                return decision
        elif declared.valid(float(decision)):
            return float(decision)
        raise ValueError("the fallback decided what the contract's decision cannot take")


def _why(error: Exception) -> Why:
    """What to record of a model that did not answer; what the model did wrong is logged besides."""
    match error:
        case _RealData():
            return Why.REAL_DATA_IN_SANDBOX
        case PilotError():
            return Why.MODEL_UNAVAILABLE
        case BreakerOpen():
            return Why.BREAKER_OPEN
        case Busy():
            return Why.MODEL_BUSY
        case TooSlow():
            log.error("the model took longer than its budget")
            return Why.MODEL_TOO_SLOW
        case ScoreInvalid():
            failed("the model gave no valid score", error)
            return Why.SCORE_INVALID
        case ModelDied():
            failed("the model died", error)
            return Why.MODEL_DIED
    failed("the model failed", error)
    return Why.MODEL_FAILED
