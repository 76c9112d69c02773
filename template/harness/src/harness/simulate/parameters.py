"""How much to simulate, and how far from a tidy sample it is."""

from __future__ import annotations

from datetime import date
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.errors import PilotError


class Parameters(BaseModel):
    """The size, the period and the mess of simulated sources. Equal parameters give equal bytes.

    Attributes:
        rows: The size that simulation.yaml's row counts hang on.
        months: The length of the period that ends with ``until``.
        missing: The lowest and the highest share of missing values, 0 to 1; each column draws its own.
        mess: 0 writes every value in one format and nothing twice, 1 is as bad as the declaration allows.
        drift: How far ``drift()`` has moved when the period ends, 0 to 1.
        seed: Another seed gives other data of the same kind.
        until: The last day that the systems know of. Fixed by default, and not today, because data that
            changes with the calendar cannot be reproduced.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(default=10_000, ge=1, le=1_000_000_000)
    months: int = Field(default=24, ge=1, le=600)
    missing: tuple[float, float] = (0.02, 0.02)
    mess: float = Field(default=0.2, ge=0, le=1)
    drift: float = Field(default=0.0, ge=0, le=1)
    seed: int = Field(default=1, ge=0, lt=2**63)
    until: date = date(2026, 6, 30)

    @field_validator("missing")
    @classmethod
    def _ordered_shares(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not 0 <= low <= high <= 1:
            raise ValueError(f"{low} and {high} are not a lowest and a highest share between 0 and 1")
        return value

    @classmethod
    def of(cls, profile: str, **changes: Any) -> Parameters:
        """The parameters of a profile, with some of them changed; None leaves a parameter as it is.

        Raises:
            PilotError: There is no such profile, or a value is out of its range.
        """
        if profile not in PROFILES:
            raise PilotError(
                f"there is no profile '{profile}'",
                where="simulate",
                mend=f"Use one of {', '.join(PROFILES)}.",
            )
        given = {name: value for name, value in changes.items() if value is not None}
        try:
            return cls(**{**PROFILES[profile].model_dump(), **given})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise PilotError(
                first["msg"].removeprefix("Value error, "),
                where="simulate: " + ".".join(str(step) for step in first["loc"][:1]),
                mend="Give a value in that range.",
            ) from error


PROFILES: MappingProxyType[str, Parameters] = MappingProxyType(
    {
        # What a pilot gets to see, and what production then sends: the first of the ten failure modes.
        "pilot": Parameters(),
        "production": Parameters(rows=10_000_000, missing=(0.15, 0.30), mess=0.8),
    }
)
