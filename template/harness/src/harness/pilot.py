"""The protocol that a pilot's five files satisfy, and the one place where they are loaded.

Each file is loaded only when a role needs it: ingest loads ``sources``, training loads ``model``, and the
service loads ``contract``, ``fallback`` and, where there is one, ``routes`` from the work tree and everything
else from the packaged model, so that what was trained is what decides.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

from harness.errors import PilotError

if TYPE_CHECKING:
    from types import ModuleType

    import ibis.expr.types as ir
    import narwhals as nw
    import numpy as np
    import polars as pl

    from harness.serving.team import Route, Serving

FieldType = Literal["text", "integer", "number", "boolean", "date"]
Value = str | int | float | bool | None
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """One table or file drop of a source system, under the name that ``records`` receives it by.

    Attributes:
        name: The key in the mapping handed to ``records``.
        system: The system's name in pilot.toml, ``[sources.<system>]``.
        table: The table's name in a database, ``schema.table`` allowed; the same as ``name`` when left out.
        files: For file systems: a glob below the system's path. Files are read as text and joined by
            column name, so that a column renamed over the years arrives under each of its names. Each row
            also carries ``_file``, its file's name, and ``_row``, its place over all files, from 1. For
            systems of kind ``files`` the name decides: ``.parquet`` keeps its types.
        key: The column, or columns, that identify a row.
        watermark: A column that only grows when a row is added or changed: a timestamp, a date, ISO 8601 as
            text, or a whole number. With ``key`` and ``watermark`` only what is newer is read, and
            ``records`` receives the newest version of each row; it carries no ``_row`` then. Without a
            watermark the table is read whole each time. Rows that the system deletes stay until
            ``pilot run --full``.
        lookback: How far behind the newest watermark rows are read again, for those that were written late:
            a time, one day where nothing is said; for whole numbers a number, which has to be said.
    """

    name: str
    system: str
    table: str = ""
    files: str = ""
    key: str | tuple[str, ...] = ()
    watermark: str = ""
    lookback: timedelta | int | None = None

    def __post_init__(self) -> None:
        back = self.lookback.total_seconds() if isinstance(self.lookback, timedelta) else self.lookback or 0
        if self.watermark and not self.keys:
            what, mend = "a watermark without a key", "Name the column that identifies a row: key=."
        elif self.lookback is not None and not self.watermark:
            what, mend = "a lookback without a watermark", "Name the column that grows: watermark=."
        elif back < 0:
            what, mend = "a lookback below zero", "It says how far back to read: write it without the sign."
        else:
            return
        raise PilotError(f"the table '{self.name}' has {what}", where="sources.py", mend=mend)

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that identify a row; none where no key was named."""
        return tuple(filter(None, (self.key,) if isinstance(self.key, str) else self.key))

    @property
    def incremental(self) -> bool:
        """Whether only what is new is read."""
        return bool(self.watermark)


@dataclass(frozen=True)
class Field:
    """One value of the record that a decision is asked for.

    Attributes:
        name: The key in the request and the column in the data.
        type: ``text``, ``integer``, ``number``, ``boolean`` or ``date`` (ISO 8601).
        meaning: What the value says, for the data card and for the people who vouch for it.
        unit: The unit of measurement, where there is one.
        low: The smallest valid value, inclusive.
        high: The largest valid value, inclusive.
        categories: The allowed values of a text; empty means any text.
        required: Whether the value must be present. A value that may be absent may also be null.
        vouched_by: The role or person who answers for the rule.
    """

    name: str
    type: FieldType
    meaning: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    required: bool = True
    vouched_by: str = ""


@dataclass(frozen=True)
class Choice:
    """A yes-or-no decision: ``above`` from the threshold on, ``below`` under it.

    Attributes:
        above: The decision when the score reaches the threshold.
        below: The decision when it does not.
        threshold: The score, between 0 and 1, from which ``above`` is decided.
    """

    above: str
    below: str
    threshold: float = 0.5

    def of(self, score: float) -> str:
        """The decision that belongs to a score between 0 and 1."""
        return self.above if score >= self.threshold else self.below

    def valid(self, score: float) -> bool:
        """Whether a score is one that a model may give."""
        return 0.0 <= score <= 1.0


@dataclass(frozen=True)
class Amount:
    """A decision that is a number, as a regression gives it.

    Attributes:
        unit: The unit of the number.
        low: The smallest value that may be decided, inclusive.
        high: The largest value that may be decided, inclusive.
    """

    unit: str
    low: float
    high: float

    def of(self, score: float) -> float:
        """The decision that belongs to a score: the score itself."""
        return score

    def valid(self, score: float) -> bool:
        """Whether a score lies in the stated range; NaN and infinity do not."""
        return self.low <= score <= self.high


@dataclass(frozen=True)
class Contract:
    """What a record is, declared once and used for bulk checks, the request's schema and the data card.

    Attributes:
        key: The field that identifies a record; unique in the data.
        entity: The field that identifies whom the decision is about; rollout buckets hang on it. It may be
            the key itself where every record stands alone.
        event_time: The date field that says when the decision is due; the data is divided by it. Where the
            true date is missing, any date that grows with the records will do.
        label: The column with the outcome: true or false for a Choice, a number for an Amount, null while
            it is not known. It is in the data and never in a request.
        label_arrives_after_days: Days after ``event_time`` before which no outcome can be known.
        decision: What is decided, and how a score becomes it.
        fields: Every value of the request, key, entity and event time included.
        groups: Fields whose groups are compared for fairness.
    """

    key: str
    entity: str
    event_time: str
    label: str
    label_arrives_after_days: int
    decision: Choice | Amount
    fields: tuple[Field, ...]
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        for role in (self.key, self.entity, self.event_time, *self.groups):
            if role not in names:
                raise PilotError(
                    f"'{role}' is named as a key, entity, event time or group and is not among the fields",
                    where="contract.py",
                    mend=f"Add a Field named '{role}'.",
                )
        if len(set(names)) != len(names):
            repeated = sorted({name for name in names if names.count(name) > 1})
            raise PilotError(
                f"these fields are declared twice: {', '.join(repeated)}",
                where="contract.py",
                mend="Keep one of each.",
            )
        if self.label in names:
            raise PilotError(
                f"the label '{self.label}' is among the request's fields",
                where="contract.py",
                mend="Take it out: an outcome is not known when the decision is asked for.",
            )
        for declared in self.fields:
            if declared.type not in get_args(FieldType):
                raise PilotError(
                    f"the field '{declared.name}' has the unknown type '{declared.type}'",
                    where="contract.py",
                    mend=f"Use one of {', '.join(get_args(FieldType))}.",
                )

    def field(self, name: str) -> Field:
        """The field of that name.

        Raises:
            KeyError: There is none.
        """
        for declared in self.fields:
            if declared.name == name:
                return declared
        raise KeyError(name)


@dataclass(frozen=True)
class Reason:
    """Why a decision came out as it did, in terms that the person who acts on it knows.

    Attributes:
        feature: The feature or rule that spoke.
        value: Its value for this record.
        effect: Its contribution to the score; positive pushes the score up. None for a rule.
    """

    feature: str
    value: Value
    effect: float | None = None


@dataclass(frozen=True)
class Answer:
    """What the fallback decides.

    Attributes:
        decision: A value that the contract's decision can take.
        reasons: The rule that applied.
    """

    decision: str | float
    reasons: tuple[Reason, ...] = field(default=())


class SourcesFile(Protocol):
    """``sources.py``: which tables come from which system, and how they join into records."""

    tables: Sequence[Table]

    def records(self, tables: Mapping[str, ir.Table]) -> ir.Table:
        """Join the source tables into records: the contract's fields and the label, null while unknown."""
        ...


class ContractFile(Protocol):
    """``contract.py``: what a record is."""

    contract: Contract


class FeaturesFile(Protocol):
    """``features.py``: one function for training in bulk and for serving a single record."""

    def features(self) -> Mapping[str, nw.Expr]:
        """Each feature's name and its expression over the record's fields; a number, row by row.

        The expressions are built once and then run on the engine for training and on Polars for serving,
        which is why they may not look across rows.
        """
        ...


class ModelFile(Protocol):
    """``model.py``: the only file that knows the modelling library. Never pickle."""

    def train(self, features: pl.DataFrame, label: np.ndarray, params: Mapping[str, Any]) -> Any:
        """Fit a model on features (n rows) and labels, shape (n,)."""
        ...

    def save(self, model: Any, folder: Path) -> None:
        """Write the model into the empty folder, in the library's own format."""
        ...

    def load(self, folder: Path) -> Any:
        """Read what ``save`` wrote."""
        ...

    def predict(self, model: Any, features: pl.DataFrame) -> np.ndarray:
        """Scores, shape (n,): probabilities for a Choice, values for an Amount."""
        ...

    def reasons(self, model: Any, features: pl.DataFrame, count: int) -> list[list[Reason]]:
        """The ``count`` strongest reasons of each row, strongest first."""
        ...


class FallbackFile(Protocol):
    """``fallback.py``: the decision without any model."""

    def decide(self, record: Record) -> Answer:
        """Decide from the record alone; this must not fail for any record that the contract accepts."""
        ...


class RoutesFile(Protocol):
    """``routes.py``, which may be absent: what the service answers beside the standard's own routes."""

    def routes(self, serving: Serving) -> Sequence[Route]:
        """The routes, each answered below ``/team``; called once, before the service listens."""
        ...


ROLES: dict[str, tuple[str, ...]] = {
    "sources": ("tables", "records"),
    "contract": ("contract",),
    "features": ("features",),
    "model": ("train", "save", "load", "predict", "reasons"),
    "fallback": ("decide",),
    "routes": ("routes",),
}


def load_sources(package: str) -> SourcesFile:
    """Load the pilot's sources.py."""
    return cast(SourcesFile, _load(package, "sources"))


def load_contract(package: str) -> Contract:
    """Load the contract that the pilot's contract.py declares."""
    declared = cast(ContractFile, _load(package, "contract")).contract
    if not isinstance(declared, Contract):
        raise PilotError(
            f"'contract' is a {type(declared).__name__}",
            where=f"{package}/contract.py",
            mend="Make it a harness.pilot.Contract.",
        )
    return declared


def load_features(package: str) -> FeaturesFile:
    """Load the pilot's features.py."""
    return cast(FeaturesFile, _load(package, "features"))


def load_model(package: str) -> ModelFile:
    """Load the pilot's model.py."""
    return cast(ModelFile, _load(package, "model"))


def load_fallback(package: str) -> FallbackFile:
    """Load the pilot's fallback.py."""
    return cast(FallbackFile, _load(package, "fallback"))


def load_routes(package: str) -> RoutesFile | None:
    """Load the pilot's routes.py; None where it has none."""
    if importlib.util.find_spec(f"{package}.routes") is None:
        return None
    return cast(RoutesFile, _load(package, "routes"))


@contextmanager
def importing_without(*names: str) -> Iterator[None]:
    """Let a library be imported as if some of its optional companions were not installed.

    LightGBM, for one, imports scikit-learn and pandas when it finds them, for interfaces that a service never
    calls; together they double the time to start and the memory of every worker. What was imported before
    stays as it is.
    """
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def mount(folder: Path, name: str) -> str:
    """Make a folder of Python files importable under ``name``, beside the work tree's own package.

    Two packaged models may carry different versions of a file; each is mounted under a name of its own.

    Returns:
        ``name``, for the ``load_*`` functions.
    """
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None:
            raise PilotError(
                "the packaged code cannot be imported",
                where=str(folder),
                mend="Run `pilot run` to package the model again.",
            )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]  # half a package must not pass for one at the next attempt
            raise
    return name


def _load(package: str, role: str) -> ModuleType:
    where = f"{package}/{role}.py"
    try:
        module = importlib.import_module(f"{package}.{role}")
    except ModuleNotFoundError as error:
        if error.name in {package, f"{package}.{role}"}:
            raise PilotError(
                "the file is missing",
                where=where,
                mend="Run `make setup` if the package was not installed, or restore the file (git checkout).",
            ) from error
        mend = "Add it to the dependencies in pyproject.toml and run `make setup`."
        if (error.name or "").startswith(f"{package}."):
            mend = "There is no such file: restore it (git checkout), or correct the import."
        raise PilotError(
            f"it imports '{error.name}', which is not installed", where=where, mend=mend
        ) from error
    except SyntaxError as error:
        # It may stand in another file that this one imports.
        file = f"{package}/{Path(error.filename).name}" if error.filename else where
        what = f"line {error.lineno} is not valid Python: {error.msg}"
        raise PilotError(what, where=file, mend="Correct it.") from error
    missing = [name for name in ROLES[role] if name not in vars(module)]
    if missing:
        raise PilotError(
            f"{', '.join(missing)} is not defined",
            where=where,
            mend="Define it; harness.pilot says what it takes and returns.",
        )
    return module
