"""What a lineage is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Trouble:
    """Why the chain cannot be followed to its end.

    Attributes:
        kind: ``broken``: two records contradict each other. ``missing``: something is not here.
        where: The file or system concerned.
        what: What is wrong.
        mend: What the reader does about it.
    """

    kind: Literal["broken", "missing"]
    where: str
    what: str
    mend: str


@dataclass(frozen=True)
class Source:
    """One table of a source system, as ingest read it.

    Attributes:
        system: Its name in pilot.toml; empty where that was not recorded.
        kind: What kind of system pilot.toml says it is; empty where it no longer names it.
        uri: Its address, without account, password and options; empty where it has none.
        table: The table's name in sources.py.
        rows: The number of its rows that records could be made of.
        columns: Each column's type, by name; empty where no profile says.
    """

    system: str
    kind: str
    uri: str
    table: str
    rows: int
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, as dvc.lock has it.

    Attributes:
        name: The stage.
        ins: DVC's MD5 of each file or folder that it read, by path.
        code: The same of the code and pins that it ran.
        outs: The same of what it wrote.
        params: What params.yaml said to it, flat.
        settings: SHA-256 over what pilot.toml said to it; empty where it asked for nothing there.
    """

    name: str
    ins: dict[str, str]
    code: dict[str, str]
    outs: dict[str, str]
    params: dict[str, Any]
    settings: str = ""


@dataclass(frozen=True)
class Run:
    """The run that made a model.

    Attributes:
        place: Where it is on record: ``here`` (evidence/), ``commit`` or ``mlflow``.
        name: The commit's or MLflow's id; empty for ``here``.
        at: When it ended, ISO 8601; empty where only MLflow knows it.
        dvc_lock: The SHA-256 of its dvc.lock; empty where only MLflow knows it.
        trees: The git tree hashes of the code that ran.
        origin: ``simulated``, ``sample`` or ``real``.
        data: The digest of the snapshot's content.
        datasets: DVC's MD5 of its data by path, where only MLflow knows the run.
    """

    place: Literal["here", "commit", "mlflow"]
    name: str
    at: str
    dvc_lock: str
    trees: dict[str, str]
    origin: str
    data: str
    datasets: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A packaged model.

    Attributes:
        digest: Its name.
        package: Where its package lies, from the pilot's root; empty where it does not.
        features: The features that it takes, in order.
        files: How many files it has.
        roles: What it is in the control state: ``champion``, ``challenger``, both, or nothing.
    """

    digest: str
    package: str
    features: tuple[str, ...]
    files: int
    roles: tuple[str, ...]


@dataclass(frozen=True)
class InForce:
    """The control state, as far as it says who decides.

    Attributes:
        stage: The stage.
        revision: The state's revision.
        stopped: Whether nothing may decide but the fallback.
    """

    stage: str
    revision: int
    stopped: bool


@dataclass(frozen=True)
class Decided:
    """A decision without what it was about: neither record, entity, reasons nor what was decided.

    Attributes:
        id: Its name.
        at: When, ISO 8601, UTC.
        served_by: ``model`` or ``fallback``.
        assigned: The arm that the rollout assigned.
        why: What led to ``served_by``.
        model: The digest of the assigned model; None when there was none.
        stage: The stage that was in force.
        revision: The control state's revision that was in force.
        sandbox: Whether it was about nothing real.
    """

    id: str
    at: str
    served_by: str
    assigned: str
    why: str
    model: str | None
    stage: str
    revision: int
    sandbox: bool
