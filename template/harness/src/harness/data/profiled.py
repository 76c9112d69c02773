"""evidence/profile.json: what the data looks like, as counts, shares and shapes, and reading it back.

No value of a text is in it, save the categories that the contract declares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import PilotError

Kind = Literal["text", "number", "date", "time", "boolean", "other"]
RECORDS = "records"


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Shape(Strict):
    """One way in which the values of a text are written.

    Attributes:
        shape: The text with each digit as 9 (five and more as 9+) and each run of letters as A or a.
        rows: The rows that are written so.
    """

    shape: str
    rows: int


class Column(Strict):
    """A column.

    Attributes:
        type: The engine's type.
        kind: How it was profiled.
        missing: Rows without a value.
        blank: Rows with a text of blanks only.
        placeholders: Rows with a text that stands for no value, such as n/a or NULL.
        not_finite: Rows with NaN or an infinite number; they count as present.
        distinct: Different values; None where they were not counted.
        low: The smallest value, a date as ISO 8601; None for a text, and for what identifies somebody.
        high: The largest value, likewise.
        quantiles: The values at harness.data.profile.QUANTILES, likewise.
        true: Rows that are true, of a boolean.
        categories: Rows of each category that the contract declares.
        undeclared: Rows with another value than those.
        shapes: The most frequent shapes, the most frequent first.
        other_shapes: The rows of all other shapes.
    """

    type: str
    kind: Kind
    missing: int
    blank: int = 0
    placeholders: int = 0
    not_finite: int = 0
    distinct: int | None = None
    low: float | str | None = None
    high: float | str | None = None
    quantiles: tuple[float, ...] | tuple[str, ...] = ()
    true: int | None = None
    categories: dict[str, int] = {}
    undeclared: int = 0
    shapes: tuple[Shape, ...] = ()
    other_shapes: int = 0

    @property
    def absent(self) -> int:
        """Rows that tell nothing: missing, blank, a placeholder, or no finite number."""
        return self.missing + self.blank + self.placeholders + self.not_finite


class Table(Strict):
    """A table of the snapshot, or the records.

    Attributes:
        rows: How many.
        duplicates: Rows that are equal in every column to another one, less one of each.
        columns: Its columns by name.
    """

    rows: int
    duplicates: int
    columns: dict[str, Column]


class Coverage(Strict):
    """Which time the records cover, by the contract's event time.

    Attributes:
        field: The event time's name.
        first: The first day; None without records.
        last: The last day.
        months: Records a month, of the months that have any, the last 240.
        empty_months: Months between the first and the last without a record.
        longest_run: The most consecutive months that all have records.
        cycle_months: The length of a business cycle, as pilot.toml says.
        covers_cycle: Whether that run is at least as long.
    """

    field: str
    first: str | None = None
    last: str | None = None
    months: dict[str, int] = {}
    empty_months: int = 0
    longest_run: int = 0
    cycle_months: int
    covers_cycle: bool = False


class Represented(Strict):
    """A field beside the population that was declared for it.

    Attributes:
        labels: The categories or bands.
        declared: Their shares in the population.
        found: Their shares among the records that have a value.
        distance: The total variation distance of the two, 0 to 1: the share that would have to change.
        psi: Their population stability index.
        max_distance: The distance that pilot.toml allows.
    """

    labels: tuple[str, ...]
    declared: tuple[float, ...]
    found: tuple[float, ...]
    distance: float
    psi: float
    max_distance: float

    @property
    def alike(self) -> bool:
        """Whether the records are as near to the population as is asked for."""
        return self.distance <= self.max_distance


class Profile(Strict):
    """The whole file.

    Attributes:
        schema_version: Its layout.
        package: The pilot's package.
        origin: Simulated, a declared sample, or real data.
        digest: The snapshot's digest.
        tables: The snapshot's tables under ``raw.<name>``, and ``records``.
        label: The contract's label.
        coverage: The time that is covered.
        population: The fields that a population is declared for.
        population_source: Who says what the population is.
    """

    schema_version: Literal[1] = 1
    package: str
    origin: str
    digest: str
    tables: dict[str, Table]
    label: str
    coverage: Coverage
    population: dict[str, Represented] = {}
    population_source: str = ""

    def document(self) -> dict[str, Any]:
        """The same as plain data, without what is not there."""
        return self.model_dump(mode="json", exclude_defaults=True) | {"schema_version": self.schema_version}


def load_profile(file: Path, mend: str = "`pilot run` makes one.") -> Profile:
    """Read a profile.

    Raises:
        PilotError: It is not there, or not a profile of a layout that this version knows.
    """
    try:
        return Profile.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise PilotError("there is no profile", where=str(file), mend=mend) from error
    except OSError as error:
        raise PilotError(
            f"cannot be read: {error.strerror}", where=str(file), mend="Name the file of a profile."
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise PilotError(
            f"not a profile that this version can read: '{place}': {first['msg']}",
            where=str(file),
            mend="Make it anew with `pilot run`.",
        ) from error
