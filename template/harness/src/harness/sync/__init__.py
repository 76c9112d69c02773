"""A flag service beyond this host: what it says is brought into remote.json, and a stop is told to it.

The service that decides never asks it. ``pilot sync`` does, at its own pace, and the file that it leaves is
one more of those that ``harness.control`` reads on every decision.
"""

from harness.sync.answers import Answer, Refused, Unreachable
from harness.sync.once import Synced, sync_once
from harness.sync.push import Pushed, push_kill

__all__ = ["Answer", "Pushed", "Refused", "Synced", "Unreachable", "push_kill", "sync_once"]
