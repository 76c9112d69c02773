"""The control that a pilot's settings ask for: the one place that knows which of them concern it."""

from __future__ import annotations

from harness.control.permission import Control
from harness.control.remote import RemoteRule
from harness.settings import Settings


def settings_control(settings: Settings) -> Control:
    """Read the control folder that pilot.toml names, by the rule that it states for a remote control."""
    remote = settings.remote
    rule = None if remote is None else RemoteRule(max_stale_s=remote.max_stale_s)
    return Control(settings.path(settings.control.folder), remote=rule)
