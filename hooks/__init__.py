"""The conventions of a pilot, as checks that only read.

A check reads the files of a pilot and what git knows of them, and runs nothing of the pilot's: so the same
checks serve the hooks of a pilot and a platform team that looks at many pilots at once.
"""

from pilot_template.hooks.check import Check, Severity, run
from pilot_template.hooks.checks import CHECKS
from pilot_template.hooks.result import Finding, Outcome, Skipped, Status, Unknown
from pilot_template.hooks.tree import Tree

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Outcome",
    "Severity",
    "Skipped",
    "Status",
    "Tree",
    "Unknown",
    "run",
]
