"""Decisions on many records at once, under the same control as the service's and on record like them.

``source`` reads what is brought, ``checks`` holds it against the contract, ``deciding`` decides a chunk,
``records`` writes what was decided, and ``run`` goes from chunk to chunk and on where it was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wanted:
    """What somebody asks for.

    Attributes:
        named: A file or folder, or ``records`` for the pilot's own.
        batch_id: The batch's name; by default made of the input's name and content.
        to: Where what was decided is written for a consumer; None for nowhere.
        deliver: Whether each decision goes to [downstream] as the service's do.
        reasons: How many reasons the model gives; None for as many as the service's.
    """

    named: str
    batch_id: str = ""
    to: Path | None = None
    deliver: bool = False
    reasons: int | None = None
