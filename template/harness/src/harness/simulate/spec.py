"""simulation.yaml: the world that a pilot's sources come from, as data that the team owns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from harness.errors import PilotError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The names that every expression can use, so no column may take them.
GIVEN = ("row", "time", "moment", "year", "copy")


def _share_or_range(value: Any) -> Any:
    if isinstance(value, str) and value != "usual":
        low, _, high = value.partition("-")
        try:
            return (float(low), float(high or low))
        except ValueError:
            raise ValueError("give 'usual', a share such as 0.1, or a range such as 0.15-0.30") from None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (float(value), float(value))
    return value


def _expression(value: Any) -> Any:
    # YAML reads `flag: true` and `factor: 2` as values; in SQL they are expressions like any other.
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


Expression = Annotated[str, BeforeValidator(_expression), Field(min_length=1)]
Missing = Annotated[Literal["usual"] | tuple[float, float], BeforeValidator(_share_or_range)]
DateStyle = Literal["iso", "german", "us"]
MoneyStyle = Literal["code_first", "code_last_german", "code_first_plain", "symbol"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Money(_Part):
    """An amount that a system keeps as text.

    Attributes:
        currency: The currency's code, an expression such as ``'EUR'`` over the table's own columns.
        styles: How it is written; a tidy system uses the first one only.
    """

    currency: Expression = "'EUR'"
    styles: tuple[MoneyStyle, ...] = Field(
        default=("code_first", "code_last_german", "code_first_plain", "symbol"), min_length=1
    )


class Column(_Part):
    """One column, and what goes wrong with it on its way into the system.

    Attributes:
        sql: The true value. It may use the columns above it, what was looked up, and the given names.
        missing: The share of values that are lost: ``usual`` for the run's own range, a share, or a range.
        dates: The formats of a date kept as text; a tidy system uses the first one only.
        money: How an amount is kept as text.
        casing: Whether some values come in upper or lower case.
        blanks: Whether some values come with stray blanks around them.
        names: For file drops: the year from which on a name was used.
    """

    sql: Expression
    missing: Missing | None = None
    dates: tuple[DateStyle, ...] = ()
    money: Money | None = None
    casing: bool = False
    blanks: bool = False
    names: dict[int, str] = {}

    @model_validator(mode="after")
    def _possible(self) -> Column:
        if isinstance(self.missing, tuple) and not 0 <= self.missing[0] <= self.missing[1] <= 1:
            raise ValueError("missing: a share lies between 0 and 1, the lower end of a range first")
        if self.dates and self.money:
            raise ValueError("a column is a date or money, not both")
        return self


class Lookup(_Part):
    """A row of another table that each row belongs to.

    Attributes:
        table: The other table; its columns are then ``<lookup>.<column>``.
        at: Where in that table, from 0 (its first row) to 1 (its last).
    """

    table: str
    at: Expression


class Near(_Part):
    """Rows that come a second time, changed.

    Attributes:
        share: The share of rows concerned when mess is 1.
        change: New values by column; an expression may use every column of the row.
    """

    share: float = Field(ge=0, le=1)
    change: dict[str, Expression] = Field(min_length=1)


class Duplicates(_Part):
    """Rows that come twice.

    Attributes:
        exact: The share of rows that come twice unchanged when mess is 1.
        near: Rows that come again, changed.
    """

    exact: float = Field(default=0.0, ge=0, le=1)
    near: Near | None = None


class Files(_Part):
    """One file a year, as a system drops it.

    Attributes:
        name: The file's name with ``{year}`` in it.
        since: The year of the first file; the last is that of the run's last day.
        where: Which rows a year's file holds; the expression may use ``year``.
    """

    name: str = Field(pattern=r"^[^/{}]*\{year\}[^/{}]*\.csv$")
    since: int = Field(ge=1900, le=2200)
    where: Expression = "true"

    def glob(self) -> str:
        """The pattern of all the files."""
        return self.name.replace("{year}", "*")


class Next(_Part):
    """What each later delivery brings. In its expressions ``before()`` is the last day of the one before.

    Attributes:
        new: How many rows are added; with ``each``, those are that ``where`` lets in by then.
        late: The share of the new rows that were written before the last day that was known.
        delay: Their new values by column.
        changed: The share of the rows that are there which come again, changed; of files, of the newest one.
        change: Their new values by column.
        by: The column that says when a row was written, for counting late ones.
    """

    new: Expression = "0"
    late: float = Field(default=0.0, ge=0, le=1)
    delay: dict[str, Expression] = {}
    changed: float = Field(default=0.0, ge=0, le=1)
    change: dict[str, Expression] = {}
    by: str = ""


class Table(_Part):
    """One table: of a system, or of the hidden world behind the systems when it names none.

    Attributes:
        system: The system that keeps it.
        rows: How many rows; the expression may use ``rows()`` and ``months()``.
        each: Instead of ``rows``: the table of which each row gives one row here, under its name.
        where: With ``each``: which of its rows do.
        lookup: Rows of other tables, by the name that expressions use.
        time: When in the period the row happened, from 0 (its first day) to 1 (its last moment).
        columns: The columns in order; those that begin with ``_`` are for other expressions only.
        duplicates: Rows that come twice.
        files: For systems that drop files: the files.
        next: What each later delivery brings (`pilot simulate --next`).
    """

    system: str = ""
    rows: Expression | None = None
    each: str | None = None
    where: Expression = "true"
    lookup: dict[str, Lookup] = {}
    time: Expression | None = None
    columns: dict[str, Annotated[Column, BeforeValidator(lambda v: v if isinstance(v, dict) else {"sql": v})]]
    duplicates: Duplicates = Duplicates()
    files: Files | None = None
    next: Next = Next()

    @model_validator(mode="after")
    def _consistent(self) -> Table:
        if (self.rows is None) == (self.each is None):
            raise ValueError("give either 'rows' or 'each'")
        if self.files and not self.system:
            raise ValueError("'files' needs the 'system' that drops them")
        names = [*self.columns, *self.lookup, *([self.each] if self.each else [])]
        for name in names:
            if not _NAME.fullmatch(name) or name.lower() in GIVEN:
                raise ValueError(f"'{name}' cannot be a name here: use letters, digits and _, not {GIVEN}")
        if len({name.lower() for name in names}) < len(names):
            raise ValueError("columns and lookups need names that differ in more than case")
        if self.system and not self.delivered():
            raise ValueError("every column begins with _, so the system would get none")
        if not self.files and any(column.names for column in self.columns.values()):
            raise ValueError("'names' over the years need 'files'")
        near = self.duplicates.near.change if self.duplicates.near else {}
        by = {self.next.by: ""} if self.next.by else {}
        named = {"duplicates.near.change": near, "next.delay": self.next.delay, "next.by": by}
        for place, changes in {**named, "next.change": self.next.change}.items():
            for name in changes:
                if name not in self.columns:
                    raise ValueError(f"{place}: there is no column '{name}'")
        return self

    def delivered(self) -> dict[str, Column]:
        """The columns that the system gets."""
        return {name: column for name, column in self.columns.items() if not name.startswith("_")}


class Specification(_Part):
    """All tables, each after those that it looks up."""

    tables: dict[str, Table] = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> Specification:
        earlier: dict[str, Table] = {}
        for name, table in self.tables.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{name}' cannot be a table's name: use letters, digits and _")
            for other in _references(table):
                if other not in earlier:
                    raise ValueError(f"tables.{name}: the table '{other}' must be declared above it")
                if earlier[other].files:
                    raise ValueError(
                        f"tables.{name}: '{other}' has a row for each year; use the table behind it"
                    )
            for lookup in table.lookup.values():
                if earlier[lookup.table].each:
                    raise ValueError(
                        f"tables.{name}: to be looked up, '{lookup.table}' needs 'rows', not 'each'"
                    )
            earlier[name] = table
        return self

    def systems(self) -> list[str]:
        """The systems that get tables, in the order in which they are first named."""
        return list(dict.fromkeys(table.system for table in self.tables.values() if table.system))


def _references(table: Table) -> Iterator[str]:
    if table.each:
        yield table.each
    for lookup in table.lookup.values():
        yield lookup.table


def read_specification(path: Path) -> Specification:
    """Read simulation.yaml.

    Raises:
        PilotError: The file is missing, is not YAML, or says something that cannot be; names file and key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PilotError(
            "the description of the simulated sources cannot be read",
            where=str(path),
            mend="Restore it (git checkout) or write one.",
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark else ""
        raise PilotError(
            f"it is not YAML: {getattr(error, 'problem', None) or 'unreadable'}",
            where=f"{path}{place}",
            mend="Correct the line; an expression with a colon or a # needs quotes around it.",
        ) from error
    try:
        return Specification.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        unknown = first["type"] in {"extra_forbidden", "invalid_key"}
        raise PilotError(
            "the key is unknown" if unknown else first["msg"].removeprefix("Value error, "),
            where=": ".join([str(path), ".".join(str(step) for step in first["loc"])]).rstrip(": "),
            mend=(
                "Remove it or correct its spelling; inside { } an expression with a comma needs quotes."
                if unknown
                else "Correct the value."
            ),
        ) from error
