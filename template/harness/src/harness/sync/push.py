"""Telling a flag service of a stop that is in force on this host already, so that it reaches the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from harness.errors import PilotError
from harness.settings import Settings
from harness.sync.once import source_of

# Whoever stops a model at night is not to wait for another server.
PUSH_WITHIN_S = 3.0


@dataclass(frozen=True)
class Pushed:
    """What came of telling a flag service.

    Attributes:
        source: The service; empty where pilot.toml names none.
        done: Whether it is switched off there.
        problem: Why not; empty when it is, and where there is none.
    """

    source: str = ""
    done: bool = False
    problem: str = ""

    def told(self) -> dict[str, Any] | None:
        """It as plain data; None where there is no flag service."""
        return asdict(self) if self.source else None


def push_kill(settings: Settings, reason: str) -> Pushed:
    """Switch the flag off at the service, for every host that syncs with it.

    It never raises: the stop on this host is in force, whatever comes of this.

    Args:
        settings: The pilot's settings.
        reason: Why; kept where the service keeps reasons.
    """
    if settings.remote is None:
        return Pushed()
    named: str = settings.remote.source
    try:
        source = source_of(settings, PUSH_WITHIN_S)
        named = source.named
        source.stop(reason)
    except PilotError as error:
        return Pushed(named, problem=str(error))
    except Exception as error:
        return Pushed(named, problem=f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}")
    return Pushed(named, done=True)
