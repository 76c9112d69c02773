"""The thin wrapper around MLflow, the one file that imports it."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import PilotError, full
from harness.settings import Settings, without_password

if TYPE_CHECKING:
    from mlflow.entities import Run as LoggedRun
    from mlflow.tracking import MlflowClient

# MLflow adds who started a run, and where.
TOLD = ("git_tree", "git_tree_src", "git_dirty", "origin", "data_digest")
CHALLENGER, CHAMPION = "challenger", "champion"
# MLflow tries eight times for two minutes each. A server that is not there is told after the first question,
# which is a small one; uploads then get the time that they need. What a team sets in the environment stays.
AT_FIRST = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
LATER = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "120", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


@dataclass(frozen=True)
class Dataset:
    """Data that a run used.

    Attributes:
        name: Its path in the pilot.
        digest: The hash that DVC locked.
        context: What it was used for.
        location: Where it lies.
    """

    name: str
    digest: str
    context: str
    location: Path


@dataclass(frozen=True)
class Run:
    """What one run of the pipeline leaves in the tracking server.

    Attributes:
        digest: The packaged model's digest.
        params: Flat parameters.
        metrics: Flat figures.
        datasets: What it read and wrote.
        tags: Hashes of code and data, and whether the data is real.
        package: The packaged model's folder.
    """

    digest: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    datasets: list[Dataset]
    tags: Mapping[str, str]
    package: Path


@dataclass(frozen=True)
class Tracked:
    """A run as the tracking server has it.

    Attributes:
        run: Its id there.
        tags: Hashes of code and data, and whether the data was real.
        datasets: The hash that DVC locked, by the data's path.
    """

    run: str
    tags: Mapping[str, str]
    datasets: Mapping[str, str]


def publish(settings: Settings, run: Run) -> int:
    """Log a run and register its model under the alias ``challenger``.

    Returns:
        The registered model's version. A package that is registered already keeps its version and its
        files; the run is logged all the same.

    Raises:
        PilotError: The tracking server does not take it.
    """
    _quiet()
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    uri = settings.sqlite_url(settings.tracking.uri)
    try:
        local = _prepare(uri)
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        client = MlflowClient(uri, uri)
        with _patience(AT_FIRST):
            experiment = _experiment(client, settings.experiment, local)
        with (
            _patience(LATER),
            mlflow.start_run(
                experiment_id=experiment, run_name=run.digest[:12], tags=dict(run.tags)
            ) as logged,
        ):
            mlflow.set_tag("model_digest", run.digest)
            mlflow.log_params(dict(run.params))
            mlflow.log_metrics(dict(run.metrics))
            for dataset in run.datasets:
                mlflow.log_input(_described(dataset), context=dataset.context)
            registered = _registered(client, settings.experiment, run.digest)
            if registered is None:
                mlflow.log_artifacts(str(run.package), "package")
                registered = _register(client, settings.experiment, run, logged)
        client.set_registered_model_alias(settings.experiment, CHALLENGER, str(registered))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if full(error):
            raise  # told as what it is
        raise PilotError(
            f"MLflow does not take the run: {_reason(error)}",
            where=f"[tracking] uri ({without_password(uri)})",
            mend="Correct the address or bring the server back, then run again; the package is kept.",
        ) from error
    return registered


def note(
    settings: Settings, name: str, metrics: Mapping[str, float], tags: Mapping[str, str], folder: Path
) -> None:
    """Log what a monitor found, in an experiment beside the pilot's own.

    Args:
        settings: This pilot's settings.
        name: The run's name.
        metrics: Figures by name.
        tags: What it was about.
        folder: The files of the report.

    Raises:
        PilotError: The tracking server does not take it.
    """
    _quiet()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    uri = settings.sqlite_url(settings.tracking.uri)
    try:
        local = _prepare(uri)
        client = MlflowClient(uri, uri)
        with _patience(AT_FIRST):
            experiment = _experiment(client, f"{settings.experiment}-monitoring", local)
            run = client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id
            for figure, value in metrics.items():
                client.log_metric(run, figure, value)
            client.log_artifacts(run, str(folder))
            client.set_terminated(run)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise PilotError(
            f"MLflow does not take what the monitor found: {_reason(error)}",
            where=f"[tracking] uri ({without_password(uri)})",
            mend="Correct the address or bring the server back; the report is in var/monitor.",
        ) from error


def crown(settings: Settings, digest: str) -> int:
    """Move the alias ``champion`` to a registered model.

    Returns:
        Its version.

    Raises:
        PilotError: The tracking server does not take it, or knows no such model.
    """
    _quiet()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    uri = settings.sqlite_url(settings.tracking.uri)
    where = f"[tracking] uri ({without_password(uri)})"
    try:
        client = MlflowClient(uri, uri)
        with _patience(AT_FIRST):
            version = _registered(client, settings.experiment, digest)
            if version is not None:
                client.set_registered_model_alias(settings.experiment, CHAMPION, str(version))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        mend = "Correct the address or bring the server back."
        raise PilotError(f"MLflow does not name it: {_reason(error)}", where=where, mend=mend) from error
    if version is None:
        mend = "`pilot run` on the code that made it registers it."
        raise PilotError(f"no model {digest[:12]} is registered", where=where, mend=mend)
    return version


def find(settings: Settings, digest: str) -> Tracked | None:
    """The run that registered a model; None where nobody knows it, or the server cannot be asked."""
    uri = settings.sqlite_url(settings.tracking.uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return None  # asking would make one
    _quiet()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = MlflowClient(uri, uri)
        with _patience(AT_FIRST):
            named = f"name = '{settings.experiment}' and tags.model_digest = '{digest}'"
            for version in client.search_model_versions(named):
                if version.run_id:
                    run = client.get_run(version.run_id)
                    used = {each.dataset.name: each.dataset.digest for each in run.inputs.dataset_inputs}
                    tags = {name: value for name, value in run.data.tags.items() if name in TOLD}
                    return Tracked(str(run.info.run_id), tags, used)
    except (MlflowException, SQLAlchemyError, OSError):
        return None
    return None


def _quiet() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # Tells every error of the database with a traceback before it is raised, and we tell it in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Says of each attempt that it failed, with the address; we tell it once.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


@contextlib.contextmanager
def _patience(wanted: Mapping[str, str]) -> Iterator[None]:
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _prepare(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///"):
        return None
    folder = Path(uri.removeprefix("sqlite:///")).parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _experiment(client: MlflowClient, name: str, local: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # Stated, because MLflow would otherwise store a path that depends on the folder it was started in.
    location = (local / "artifacts").as_uri() if local is not None else None
    return str(client.create_experiment(name, artifact_location=location))


def _reason(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    for telling in ("Connection refused", "Name or service not known", "Name resolution", "timed out"):
        if telling in line:
            return f"the server cannot be reached ({telling})"
    return without_password(line[:300])


def _described(dataset: Dataset) -> Any:
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = resolve_dataset_source(str(dataset.location))
    return MetaDataset(source=source, name=dataset.name, digest=dataset.digest)


def _registered(client: MlflowClient, name: str, digest: str) -> int | None:
    versions = client.search_model_versions(f"name = '{name}' and tags.model_digest = '{digest}'")
    return max((int(version.version) for version in versions), default=None)


def _register(client: MlflowClient, name: str, run: Run, logged: LoggedRun) -> int:
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):
        client.create_registered_model(name)
    version = client.create_model_version(
        name,
        source=f"{logged.info.artifact_uri}/package",
        run_id=logged.info.run_id,
        tags={"model_digest": run.digest, **run.tags},
    )
    return int(version.version)
