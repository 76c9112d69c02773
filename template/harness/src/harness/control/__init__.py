"""Whether a model may decide: local files, read on every decision, no network, no thread.

The request path asks ``Control.permission`` and, for the caller, ``Tokens.find``; people act through
``kill``, ``arm``, ``offer`` and ``sample``, and in ``harness.control.tokens`` through ``issue`` and
``revoke``; the monitor acts through ``respond``.
"""

from harness.control.actions import Stop, arm, kill, offer, sample
from harness.control.audit import read_audit
from harness.control.configured import settings_control
from harness.control.permission import Arm, Control, Permission, Why
from harness.control.readers import Reader, live, noted
from harness.control.remote import Remote, RemoteRule, RemoteUnreadable
from harness.control.responses import Response, hold, respond, roll_back
from harness.control.state import SENTINEL, STAGES, Slot, Stage, State, StateUnreadable, read_state
from harness.control.tokens import SCOPES, Scope, Token, Tokens, TokensUnreadable

__all__ = [
    "SCOPES",
    "SENTINEL",
    "STAGES",
    "Arm",
    "Control",
    "Permission",
    "Reader",
    "Remote",
    "RemoteRule",
    "RemoteUnreadable",
    "Response",
    "Scope",
    "Slot",
    "Stage",
    "State",
    "StateUnreadable",
    "Stop",
    "Token",
    "Tokens",
    "TokensUnreadable",
    "Why",
    "arm",
    "hold",
    "kill",
    "live",
    "noted",
    "offer",
    "read_audit",
    "read_state",
    "respond",
    "roll_back",
    "sample",
    "settings_control",
]
