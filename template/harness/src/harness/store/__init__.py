"""Decisions and what came of them, durable before anybody has them, and what has to reach the consumer.

``harness.store.shadow`` keeps what a model said that was run beside a decision.
"""

from harness.store.batches import Batch, BatchStore, Chunk
from harness.store.database import Database, StoreUnavailable, file_of
from harness.store.decisions import Decision, DecisionStore, IdempotencyConflict
from harness.store.outbox import DeadLetter, Outbox, Parcel, Waiting, put
from harness.store.outcomes import Outcome, OutcomeStore, Received
from harness.store.shadow import Pair, Shadowed, ShadowStore

__all__ = [
    "Batch",
    "BatchStore",
    "Chunk",
    "Database",
    "DeadLetter",
    "Decision",
    "DecisionStore",
    "IdempotencyConflict",
    "Outbox",
    "Outcome",
    "OutcomeStore",
    "Pair",
    "Parcel",
    "Received",
    "ShadowStore",
    "Shadowed",
    "StoreUnavailable",
    "Waiting",
    "file_of",
    "put",
]
