"""pilot.toml and the environment, read once into one frozen object.

The environment wins over the file, so that secrets and per-host values need no edit:
``PILOT_SERVING__PORT=9000`` replaces ``port`` in ``[serving]``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from harness.errors import PilotError

FILE = "pilot.toml"
EMBEDDED = "embedded"
# DuckDB downloads an extension when a query first needs it: from where, and what, is nobody's decision then.
NO_DOWNLOADS: dict[str, Any] = {"autoinstall_known_extensions": "false"}


class Section(BaseModel):
    """A table of pilot.toml; an unknown key is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Pilot(Section):
    """Who and what this pilot is."""

    name: str
    package: str
    purpose: str
    use_case: Literal["classification", "regression"]
    team: str
    owner: str
    on_call: str
    risk_tier: Literal["minimal", "limited", "high"]
    data_classification: Literal["public", "internal", "confidential", "restricted"]


class Data(Section):
    """How bulk data is handled.

    Attributes:
        engine: The engine that bulk expressions run on.
        max_bad_share: The share of records, 0 to 1, that may break the contract before the pipeline stops.
        memory_limit: DuckDB's memory limit, such as "4GB"; empty leaves DuckDB's own default.
    """

    engine: Literal["duckdb"] = "duckdb"
    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    memory_limit: str = ""


class PostgresSource(Section):
    """A PostgreSQL database; ``url`` is "embedded" for the simulated one."""

    kind: Literal["postgres"]
    url: str = EMBEDDED


class CsvSource(Section):
    """A folder into which a system drops CSV files."""

    kind: Literal["csv"]
    path: Path


Source = Annotated[PostgresSource | CsvSource, Field(discriminator="kind")]


class Sandbox(Section):
    """What counts as data that is not real.

    Attributes:
        samples: Digests, as `pilot run` prints them, of data sets in which nobody's real case is decided.
    """

    samples: tuple[str, ...] = ()


class Serving(Section):
    """The decision service.

    Attributes:
        host: The address to listen on; the sandbox accepts the loopback only.
        port: The TCP port to listen on; 0 lets the system choose.
        reasons: How many reasons a decision carries.
        budget_ms: Milliseconds that a caller waits for the model before the fallback decides.
        in_flight: How many model calls may be under way at once.
        models: Where packaged models are kept, one folder a digest.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    reasons: int = Field(default=3, ge=0, le=20)
    budget_ms: int = Field(default=1_000, ge=1, le=60_000)
    in_flight: int = Field(default=8, ge=1, le=32)
    models: Path = Path("var/models")


class Store(Section):
    """Where decisions are recorded: an SQLAlchemy URL; a relative SQLite path starts at the pilot's root."""

    url: str = "sqlite:///var/decisions.db"


class Tracking(Section):
    """Where runs and models are registered.

    Attributes:
        uri: An MLflow tracking address; a relative SQLite path starts at the pilot's root.
        experiment: The experiment and the registered model's name; the package's name when empty.
    """

    uri: str = "sqlite:///var/mlflow/mlflow.db"
    experiment: str = ""


class Control(Section):
    """Where state.json, the KILL sentinel and the audit are kept."""

    folder: Path = Path("var/control")


class Alerts(Section):
    """Whom an alert reaches: "log", or an Apprise address."""

    target: str = "log"


class Settings(BaseSettings):
    """Everything that varies between pilots and is not governance."""

    model_config = SettingsConfigDict(
        env_prefix="PILOT_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    root: Path
    pilot: Pilot
    sources: dict[str, Source]
    data: Data = Data()
    sandbox: Sandbox = Sandbox()
    serving: Serving = Serving()
    store: Store = Store()
    tracking: Tracking = Tracking()
    control: Control = Control()
    alerts: Alerts = Alerts()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then the file's values."""
        return env_settings, init_settings

    def path(self, *parts: str | Path) -> Path:
        """An absolute path below the pilot's root; an absolute argument stays as it is."""
        return self.root.joinpath(*parts)

    def sqlite_url(self, url: str) -> str:
        """The same URL with a relative SQLite path made absolute; other URLs unchanged.

        One absolute address keeps a client and a server from opening two databases (mlflow#23525).
        """
        prefix = "sqlite:///"
        if not url.startswith(prefix) or url.startswith(prefix + "/"):
            return url
        return prefix + str(self.path(url.removeprefix(prefix)))

    @property
    def experiment(self) -> str:
        """The name under which runs and models are registered."""
        return self.tracking.experiment or self.pilot.package

    @property
    def embedded(self) -> bool:
        """Whether every source is one that `pilot simulate` may fill."""
        return all(self.simulated(name) for name in self.sources)

    def simulated(self, system: str) -> bool:
        """Whether `pilot simulate` may fill this system: the embedded database, or a folder below var/."""
        source = self.sources[system]
        if isinstance(source, PostgresSource):
            return source.url == EMBEDDED
        return self.path(source.path).resolve().is_relative_to(self.path("var").resolve())


def without_password(url: str) -> str:
    """A URL as it may be shown: a password in it is replaced by three stars."""
    # Up to the last @: an unescaped one in the password is a mistake, and no reason to show what follows it.
    hidden = re.sub(r"(?<=://)([^/@:]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&][a-z]*password=)[^&]*", r"\1***", hidden, flags=re.IGNORECASE)


def find_root(start: Path) -> Path:
    """The nearest folder from ``start`` upwards that holds a pilot.toml.

    Raises:
        PilotError: There is none.
    """
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder
    raise PilotError(
        f"no {FILE} here or in any folder above",
        where=str(start),
        mend="Change into the pilot's folder, or name it with --root.",
    )


def load_settings(root: Path | None = None) -> Settings:
    """Read pilot.toml at ``root`` (by default the nearest one upwards) and the environment.

    Raises:
        PilotError: The file is missing, unreadable, or says something that cannot be.
    """
    folder = find_root(Path.cwd()) if root is None else root.resolve()
    file = folder / FILE
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PilotError(
            "the file is missing", where=str(file), mend="Change into the pilot's folder."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PilotError(f"not valid TOML: {error}", where=str(file), mend="Correct that line.") from error
    except OSError as error:
        raise PilotError(
            f"cannot be read: {error.strerror}", where=str(file), mend="Give yourself the right to read it."
        ) from error
    if "root" in values:
        raise PilotError("unknown key 'root'", where=FILE, mend="Remove it.")
    try:
        # A variable PILOT_ROOT is not to send the service elsewhere than `pilot kill`.
        return Settings(root=folder, **values).model_copy(update={"root": folder})
    except ValidationError as error:
        # An unknown key first: misspelt, it is missing under its right name as well.
        found = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        raise _explain(found[0]) from error
    except SettingsError as error:
        raise PilotError(
            f"a variable cannot be read: {error}",
            where="environment",
            mend="Set single values, as in PILOT_SERVING__PORT=9000.",
        ) from error


def _explain(error: ErrorDetails) -> PilotError:
    location = [str(part) for part in error["loc"]]
    kind = ""
    if location[:1] == ["sources"] and len(location) > 3:
        kind = location.pop(2)  # pydantic adds the tag of the union, which nobody wrote
    *section, key = location
    where = f"{FILE} [{'.'.join(section)}]" if section else FILE
    if error["type"] == "extra_forbidden":
        other = next((name for name, keys in _KINDS.items() if name != kind and key in keys), "")
        if kind and other:
            return PilotError(
                f"a source of kind \"{kind}\" has no '{key}'",
                where=where,
                mend=f'Remove it, or write kind = "{other}".',
            )
        known = _KINDS.get(kind) or _keys(section)
        near = difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(
            key, [name for keys in _KINDS.values() for name in keys] if kind else [], n=1
        )
        mend = f"Did you mean '{near[0]}'?" if near else "Remove it."
        return PilotError(f"unknown key '{key}'", where=where, mend=mend)
    if error["type"] == "union_tag_invalid":
        return PilotError(
            f'there is no source of kind "{error["ctx"]["tag"]}"',
            where=f"{FILE} [{'.'.join(location)}]",
            mend=f"Use one of {', '.join(_KINDS)}.",
        )
    if error["type"] == "missing":
        return PilotError(f"'{key}' is missing", where=where, mend="Add it.")
    message = error["msg"][0].lower() + error["msg"][1:]
    return PilotError(f"'{key}': {message}", where=where, mend="Correct it here or in the environment.")


_KINDS = {"postgres": list(PostgresSource.model_fields), "csv": list(CsvSource.model_fields)}


def _keys(section: Iterable[str]) -> list[str]:
    model: Any = Settings
    for name in section:
        field = model.model_fields.get(name) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        model = field.annotation
    return [name for name in getattr(model, "model_fields", {}) if name != "root"]
