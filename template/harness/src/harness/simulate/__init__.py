"""Production-like sources: unlike systems, filled with data whose mess and drift are parameters.

What the data is about stands in the pilot's simulation.yaml. Nothing here knows it.
"""

from harness.simulate.deliver import Target
from harness.simulate.digest import Fingerprint, csv_relation, fingerprint
from harness.simulate.manifest import Manifest
from harness.simulate.parameters import PROFILES, Parameters
from harness.simulate.run import simulate

__all__ = [
    "PROFILES",
    "Fingerprint",
    "Manifest",
    "Parameters",
    "Target",
    "csv_relation",
    "fingerprint",
    "simulate",
]
