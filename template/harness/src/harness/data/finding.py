"""What a probe found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["stop", "warn", "accepted"]
ACCEPT = "Or say why it is none: pilot.toml [data.probes.accepted]."


@dataclass(frozen=True)
class Finding:
    """What a probe found.

    Attributes:
        probe: Which probe.
        name: The feature, field or group.
        severity: Whether it stops the pipeline, warns, or was accepted.
        what: What was found.
        where: The file that it comes from.
        mend: What to do about it.
        value: The figure.
        bound: From where on the figure is a finding.
        accepted: Why somebody accepts it.
    """

    probe: str
    name: str
    severity: Severity
    what: str
    where: str
    mend: str
    value: float
    bound: float
    accepted: str = ""

    @property
    def id(self) -> str:
        """Its name: the probe and what it is about."""
        return f"{self.probe}:{self.name}"
