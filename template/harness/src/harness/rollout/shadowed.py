"""What a model's time beside the decisions comes to, as the store tells it."""

from __future__ import annotations

from harness.store import Database, ShadowStore
from harness.store.shadow import Summary
from harness.store.shadow import summary as summed

__all__ = ["Summary", "summary"]


def summary(database: Database, digest: str, since: str) -> Summary:
    """A model's time in shadow, from ``since`` on (ISO 8601, UTC).

    Raises:
        StoreUnavailable: The database does not answer.
    """
    return summed(ShadowStore(database), digest, since)
