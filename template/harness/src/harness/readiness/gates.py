"""The gates, as data: what is asked, in the order in which it is told, each from its first gate on.

The run, the data and the model come first; then the documents, the control folder, and what the stage in
force has shown; signatures come last.
"""

from __future__ import annotations

from harness.governance.checks import RULES
from harness.governance.rules import Rule
from harness.readiness import control, data, evidence, trial
from harness.readiness.case import Requirement

EVIDENCE: tuple[Requirement, ...] = (*evidence.REQUIREMENTS, *data.REQUIREMENTS)
DOCUMENTS: tuple[Rule, ...] = RULES
CONTROL: tuple[Requirement, ...] = control.REQUIREMENTS
TRIAL: tuple[Requirement, ...] = trial.REQUIREMENTS
SIGNATURES: tuple[Requirement, ...] = control.SIGNATURES
EVERY: tuple[Rule | Requirement, ...] = (*EVIDENCE, *DOCUMENTS, *CONTROL, *TRIAL, *SIGNATURES)
