"""Runs, data and models in MLflow. The publish stage and the monitor come here; serving never does."""

from harness.tracking.mlflow import Dataset, Run, crown, note, publish

__all__ = ["Dataset", "Run", "crown", "note", "publish"]
