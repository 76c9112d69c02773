"""Runs, data and models in MLflow. Only the publish stage comes here; serving never does."""

from harness.tracking.mlflow import Dataset, Run, publish

__all__ = ["Dataset", "Run", "publish"]
