"""One decision, from a validated record to a durable answer. No HTTP here."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.control import Arm, Control, Permission, Why
from harness.errors import PilotError
from harness.pilot import Choice, Contract, FallbackFile, Reason
from harness.serving.scorer import ScoreInvalid, Scorer, load_scorer, plain
from harness.serving.workers import Busy, TooSlow, Workers
from harness.store import Decision, DecisionStore
from harness.store.decisions import now

log = logging.getLogger("harness.serving")

LOAD_AGAIN_AFTER_S = 10.0


class FallbackFailed(Exception):
    """The fallback could not decide; there is no decision, and never the model's instead."""


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
        store: DecisionStore,
        models: Path,
        reasons: int,
        in_flight: int,
        budget_s: float,
    ) -> None:
        self.contract = contract
        self.control = control
        self.store = store
        self._fallback = fallback
        self._models = models
        self._reasons = reasons
        self._workers = Workers(in_flight, budget_s)
        self._loaded: dict[str, Scorer] = {}
        self._failed: dict[str, tuple[float, PilotError]] = {}
        self._loading = threading.Lock()
        # A service that starts without a readable state is held to the loopback, as the sandbox is.
        self._last_known_stage = "sandbox"

    def decide(self, record: Mapping[str, Any]) -> Decision:
        """Decide one record.

        Raises:
            FallbackFailed: The model was not to decide or could not, and the fallback raised.
            StoreUnavailable: The decision could not be made durable, so there is none.
        """
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
        self.store.record(decision)
        return decision

    def model_state(self) -> dict[str, str]:
        """Each model that the state names, by digest: ``loaded``, or why it is not."""
        state = self.control.state()
        slots = [] if state is None else [slot for slot in (state.champion, state.challenger) if slot]
        found = {}
        for slot in slots:
            try:
                self._scorer(slot.digest)
            except PilotError as error:
                found[slot.digest] = str(error)
            else:
                found[slot.digest] = "loaded"
        return found

    def _sandbox(self, stage: str) -> bool:
        # A state that vanishes from a service in use does not turn its decisions into play.
        if stage != "unknown":
            self._last_known_stage = stage
        return self._last_known_stage == "sandbox"

    def _outcome(self, record: Mapping[str, Any], entity: str) -> _Outcome:
        permission = self.control.permission(entity)
        if permission.arm is Arm.FALLBACK or permission.digest is None:
            return self._by_fallback(record, permission, permission.why)
        try:
            scorer = self._scorer(permission.digest)
        except PilotError:
            return self._by_fallback(record, permission, Why.MODEL_UNAVAILABLE)
        if permission.stage == "sandbox" and scorer.manifest.origin == "real":
            return self._by_fallback(record, permission, Why.REAL_DATA_IN_SANDBOX)
        try:
            scored = self._workers.call(lambda: scorer.score(record))
        except Busy:
            return self._by_fallback(record, permission, Why.MODEL_BUSY)
        except TooSlow:
            log.error("the model took longer than its budget")
            return self._by_fallback(record, permission, Why.MODEL_TOO_SLOW)
        except ScoreInvalid:
            log.exception("the model gave no valid score")
            return self._by_fallback(record, permission, Why.SCORE_INVALID)
        except KeyboardInterrupt:
            raise
        except (
            BaseException
        ):  # sys.exit() in a library, or a native library's panic, must not end the service
            log.exception("the model failed")
            return self._by_fallback(record, permission, Why.MODEL_FAILED)
        # Scoring takes time in which somebody may have stopped the model; what is in force now counts.
        after = self.control.permission(entity)
        if after.digest != permission.digest:
            return self._by_fallback(
                record, after, after.why if after.arm is Arm.FALLBACK else Why.MODEL_REPLACED
            )
        return _Outcome(
            after,
            Why.ASSIGNED,
            scorer.decision.of(scored.score),
            scored.reasons,
            scored.score,
        )

    def _by_fallback(self, record: Mapping[str, Any], permission: Permission, why: Why) -> _Outcome:
        try:
            answer = self._fallback.decide(record)
            decision = self._allowed(answer.decision)
            reasons = tuple(plain(reason) for reason in answer.reasons)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            log.exception("the fallback failed")
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

    def _scorer(self, digest: str) -> Scorer:
        scorer = self._loaded.get(digest)
        if scorer is not None:
            return scorer
        with self._loading:
            scorer = self._loaded.get(digest)
            if scorer is not None:
                return scorer
            failed = self._failed.get(digest)
            if failed is not None and time.monotonic() - failed[0] < LOAD_AGAIN_AFTER_S:
                raise failed[1]
            try:
                scorer = load_scorer(self._models, digest, self._reasons)
            except PilotError as error:
                log.error("model not loaded: %s", error)
                self._failed[digest] = time.monotonic(), error
                raise
            self._loaded[digest] = scorer
            return scorer
