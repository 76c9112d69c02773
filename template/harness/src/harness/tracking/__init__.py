"""Runs, data and models in MLflow: publish, monitor, rollout and lineage come here; serving never does."""

from harness.tracking.mlflow import Dataset, Run, Tracked, crown, find, note, publish

__all__ = ["Dataset", "Run", "Tracked", "crown", "find", "note", "publish"]
