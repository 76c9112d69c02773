"""The record of a finished simulation: what was asked for, and what each table then contained."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import PilotError
from harness.simulate.digest import Fingerprint
from harness.simulate.parameters import Parameters


class Delivered(BaseModel):
    """What a later delivery brought of one table.

    Attributes:
        rows: All rows that its system got.
        new: Rows that were not there in any version.
        changed: Further versions, of new rows and of others.
        late: New and changed ones that were written before the newest row of the delivery before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    new: int
    changed: int
    late: int


class Manifest(BaseModel):
    """What a simulation filled. Written last: no manifest means that no simulation finished.

    Attributes:
        parameters: What was asked for.
        tables: What each filled table holds, its rows and digest, by its name in simulation.yaml.
        first: The SHA-256 of this file as the first delivery left it; empty while there is no other.
        distinct: The same of each database's table without rows that are there twice, once there is another.
        deliveries: What each later delivery brought, by the table's name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: Parameters
    tables: dict[str, Fingerprint]
    first: str = ""
    distinct: dict[str, Fingerprint] = {}
    deliveries: tuple[dict[str, Delivered], ...] = ()

    def write(self, path: Path) -> None:
        """Write the manifest so that a reader sees all of it or the one before."""
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        # Without what is not there yet: the file of a first delivery is as it always was.
        absent = set() if self.deliveries else {"first", "distinct", "deliveries"}
        beside.write_text(self.model_dump_json(indent=2, exclude=absent) + "\n", encoding="utf-8")
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read what ``write`` wrote.

        Raises:
            PilotError: The file is missing or is not a manifest.
        """
        mend = "Run `pilot simulate` again."
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise PilotError(
                "the manifest of the simulation is missing", where=str(path), mend=mend
            ) from error
        except (OSError, ValidationError, UnicodeDecodeError) as error:
            raise PilotError(
                "the manifest of the simulation cannot be read", where=str(path), mend=mend
            ) from error
