"""Save the pilot's model as MLflow does, and print a request for it.

Run by a Python that has MLflow and LightGBM: ``mlflow_model.py MODEL.txt FOLDER``.
"""

from __future__ import annotations

import json
import sys

import lightgbm
import mlflow.lightgbm

booster = lightgbm.Booster(model_file=sys.argv[1])
mlflow.lightgbm.save_model(booster, sys.argv[2])
names = booster.feature_name()
print(json.dumps({"dataframe_split": {"columns": names, "data": [[1.0] * len(names)]}}))
