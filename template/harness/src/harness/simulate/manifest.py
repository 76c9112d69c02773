"""The record of a finished simulation: what was asked for, and what each table then contained."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import PilotError
from harness.simulate.digest import Fingerprint
from harness.simulate.parameters import Parameters


class Manifest(BaseModel):
    """What a simulation filled. Written last: no manifest means that no simulation finished.

    Attributes:
        parameters: What was asked for.
        tables: Each filled table's rows and digest, by the table's name in simulation.yaml.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: Parameters
    tables: dict[str, Fingerprint]

    def write(self, path: Path) -> None:
        """Write the manifest so that a reader sees all of it or the one before."""
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
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
