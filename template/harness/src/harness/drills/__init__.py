"""Drills: each shows, in a scratch copy of the pilot and with its real commands, that a safety holds.

The pilot in use is not touched. A drill is one module with a class that satisfies ``Drill``; ``DRILLS`` lists
them, and ``drill`` runs one and gives the record that is kept as evidence.
"""

from harness.drills.catalogue import DRILLS, drill, find
from harness.drills.outcome import Check, Checks, Drill, Outcome, Scene, Verdict

__all__ = ["DRILLS", "Check", "Checks", "Drill", "Outcome", "Scene", "Verdict", "drill", "find"]
