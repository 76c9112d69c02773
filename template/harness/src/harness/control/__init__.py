"""Whether a model may decide: local files, read on every decision, no network, no thread.

The request path asks ``Control.permission``; people act through ``kill``, ``arm`` and ``offer``.
"""

from harness.control.actions import Stop, arm, kill, offer
from harness.control.audit import read_audit
from harness.control.permission import Arm, Control, Permission, Why
from harness.control.readers import Reader, live, noted
from harness.control.state import SENTINEL, STAGES, Slot, Stage, State, StateUnreadable, read_state

__all__ = [
    "SENTINEL",
    "STAGES",
    "Arm",
    "Control",
    "Permission",
    "Reader",
    "Slot",
    "Stage",
    "State",
    "StateUnreadable",
    "Stop",
    "Why",
    "arm",
    "kill",
    "live",
    "noted",
    "offer",
    "read_audit",
    "read_state",
]
