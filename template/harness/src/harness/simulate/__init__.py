"""Production-like sources: unlike systems, filled with data whose mess and drift are parameters.

What the data is about stands in the pilot's simulation.yaml. Nothing here knows it.
"""

from harness.simulate.deliver import Target
from harness.simulate.digest import Fingerprint, csv_relation, fingerprint
from harness.simulate.manifest import Manifest
from harness.simulate.parameters import PROFILES, Parameters
from harness.simulate.run import check_targets, deliver_next, simulate
from harness.simulate.spec import read_specification

__all__ = [
    "PROFILES",
    "Fingerprint",
    "Manifest",
    "Parameters",
    "Target",
    "check_targets",
    "csv_relation",
    "deliver_next",
    "fingerprint",
    "read_specification",
    "simulate",
]
