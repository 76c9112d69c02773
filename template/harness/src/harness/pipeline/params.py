"""params.yaml: what a team tunes between runs. DVC reruns the stages that a changed value feeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import PilotError
from harness.pipeline.layout import PARAMS


class Split(BaseModel):
    """How records are divided by time.

    Attributes:
        test_share: The share of records, the latest ones, that the model is judged on and never sees.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    test_share: float = Field(default=0.25, gt=0, lt=1)


class Params(BaseModel):
    """The whole file.

    Attributes:
        split: How records are divided.
        train: Handed to model.py as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split = Split()
    train: dict[str, Any] = Field(default_factory=dict)


def load_params(root: Path) -> Params:
    """Read params.yaml.

    Raises:
        PilotError: It is missing, not YAML, or holds a value that cannot be.
    """
    try:
        values = yaml.safe_load((root / PARAMS).read_text(encoding="utf-8")) or {}
        return Params.model_validate(values)
    except OSError as error:
        raise PilotError(
            f"cannot be read: {error.strerror}", where=str(PARAMS), mend="Restore it (git checkout)."
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = f"not valid YAML: {getattr(error, 'problem', None) or 'unreadable'}"
        where = f"{PARAMS} line {mark.line + 1}" if mark else str(PARAMS)
        raise PilotError(said, where=where, mend="Correct that line.") from error
    except UnicodeDecodeError as error:
        raise PilotError("not UTF-8 text", where=str(PARAMS), mend="Save it as UTF-8.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise PilotError(
            f"'{where}': {first['msg'][0].lower()}{first['msg'][1:]}", where=str(PARAMS), mend="Correct it."
        ) from error
