"""Decisions, durable before anybody has them."""

from harness.store.decisions import Decision, DecisionStore, StoreUnavailable

__all__ = ["Decision", "DecisionStore", "StoreUnavailable"]
