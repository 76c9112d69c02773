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
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from harness.contract import Amount, Choice, Contract, Field, FieldType, Volume
from harness.errors import PilotError
from harness.rules import Rule

if TYPE_CHECKING:
    from types import ModuleType

    import ibis.expr.types as ir
    import narwhals as nw
    import numpy as np
    import polars as pl

    from harness.serving.team import Route, Serving

__all__ = [
    "Amount",
    "Answer",
    "Choice",
    "Contract",
    "ContractFile",
    "Expectation",
    "FallbackFile",
    "FeaturesFile",
    "Field",
    "FieldType",
    "ModelFile",
    "Reason",
    "Record",
    "RoutesFile",
    "Rule",
    "SourcesFile",
    "Table",
    "Value",
    "Volume",
    "importing_without",
    "load_contract",
    "load_fallback",
    "load_features",
    "load_model",
    "load_routes",
    "load_sources",
    "mount",
]

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


@dataclass(frozen=True)
class Expectation:
    """What holds of the source tables before they are joined; sources.py gives some in ``expectations``.

    Attributes:
        name: What reports call it.
        broken: The rows that are against it: those of one table that another knows nothing of, or a table's
            one row of figures where the median is a hundred times what it was.
        meaning: What it says, in the expert's words.
        severity: ``stop``: the pipeline stops, and the records of the last run stay. ``warn``: it is told.
        at_most: How many rows may be against it.
        vouched_by: The role or person who answers for it.
        mend: What to do.
    """

    name: str
    broken: ir.Table
    meaning: str
    severity: Literal["stop", "warn"] = "stop"
    at_most: int = 0
    vouched_by: str = ""
    mend: str = ""


class SourcesFile(Protocol):
    """``sources.py``: which tables come from which system, and how they join into records.

    It may have a function ``expectations(tables)`` as well, which gives ``Expectation`` of the tables.
    """

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
        which is why they may not look across rows, and may use what both were seen to compute alike only:
        ``harness.pipeline.verbs`` lists it.
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
