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
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from harness.data_settings import Gap, Population, Probes, Spark
from harness.errors import PilotError
from harness.sections import Section
from harness.serving_settings import Batch, Downstream, Serving, Slo, Store
from harness.source_kinds import EMBEDDED, KINDS, CsvSource, PostgresSource, Source

FILE = "pilot.toml"
FLAG_NAME = r"[a-z][a-z0-9_.-]{0,62}"
# What the rollout says, by the standard API: harness.control.openfeature.
# What pydantic calls by Python's names.
NAMED = {"tuple": "the list", "dictionary": "the table"}
RESERVED_FLAGS = ("model_enabled", "model_arm")
# DuckDB downloads an extension when a query first needs it: from where, and what, is nobody's decision then.
NO_DOWNLOADS: dict[str, Any] = {"autoinstall_known_extensions": "false"}


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
        engine: The engine that bulk expressions run on: DuckDB in this process, or Spark.
        max_bad_share: The share of records, 0 to 1, that may break the contract before the pipeline stops.
        memory_limit: DuckDB's memory limit, such as "4GB"; empty leaves DuckDB's own, 80% of the machine.
        cycle_months: How long a business cycle is; records should cover one without a gap.
        population: Whom the system will decide about.
        probes: From where on probes warn and stop.
        gap: From where on production is worse than the pilot was.
        spark: Where Spark runs.
    """

    engine: Literal["duckdb", "spark"] = "duckdb"
    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    memory_limit: str = "2GB"
    cycle_months: int = Field(default=12, ge=1, le=240)
    population: Population = Population()
    probes: Probes = Probes()
    gap: Gap = Gap()
    spark: Spark = Spark()


class Sandbox(Section):
    """What counts as data that is not real.

    Attributes:
        samples: Digests, as `pilot run` prints them, of data sets in which nobody's real case is decided.
    """

    samples: tuple[str, ...] = ()


class Tracking(Section):
    """Where runs and models are registered.

    Attributes:
        uri: An MLflow tracking address; a relative SQLite path starts at the pilot's root.
        experiment: The experiment and the registered model's name; the package's name when empty.
    """

    uri: str = "sqlite:///var/mlflow/mlflow.db"
    experiment: str = ""


class Control(Section):
    """Where state.json, the KILL sentinel and the audit are kept, and who is on call.

    Attributes:
        folder: The control folder.
        on_call_group: The OS group that may stop the model; empty for whoever may write the folder.
    """

    folder: Path = Path("var/control")
    on_call_group: str = ""


class Remote(Section):
    """A flag service that may restrict the models further; `pilot sync` brings what it says here.

    Attributes:
        source: What kind of service it is.
        url: Its address: http(s) for Unleash, postgresql for a control table.
        flag: The flag's name there; the package's name when empty.
        project: Unleash only: the flag's project.
        environment: Unleash only: the environment that the token has to be for; needed to switch off.
        every_s: Seconds between two questions.
        max_stale_s: For how many seconds the last answer holds when no newer one comes.
        token: Unleash only: a backend token. Only the environment sets it.
        admin_token: Unleash only: a token that may switch the flag off. Only the environment sets it.
    """

    source: Literal["unleash", "postgres"]
    url: str
    flag: str = ""
    project: str = "default"
    environment: str = ""
    every_s: float = Field(default=5.0, ge=0.1, le=3600, allow_inf_nan=False)
    max_stale_s: float = Field(default=300.0, ge=1, le=86_400, allow_inf_nan=False)
    token: SecretStr = SecretStr("")
    admin_token: SecretStr = SecretStr("")

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str, info: ValidationInfo) -> str:
        if info.data.get("source") == "postgres":
            if not re.match(r"postgres(ql)?://\S", url):
                raise ValueError("write postgresql://host/database")
        elif not (re.match(r"https?://[^\s/]", url) and urlsplit(url).hostname):
            raise ValueError("write http://host or https://host, without /api")
        return url.rstrip("/")

    @field_validator("max_stale_s")
    @classmethod
    def _a_second_chance(cls, max_stale_s: float, info: ValidationInfo) -> float:
        if max_stale_s < 2 * info.data.get("every_s", 0):
            raise ValueError("at least twice every_s, or one answer that is late stops the model")
        return max_stale_s


class Flag(Section):
    """A feature flag of the team's own.

    Attributes:
        description: What it switches.
        on: The value for those that it is on for.
        off: The value for everybody else; of the same type.
    """

    description: str
    on: Any = True
    off: Any = False

    @field_validator("off")
    @classmethod
    def _alike(cls, off: Any, info: ValidationInfo) -> Any:
        on = info.data.get("on")
        kinds = {int: "number", float: "number"}
        if kinds.get(type(on), type(on)) != kinds.get(type(off), type(off)):
            raise ValueError(f"of another type than on ({type(off).__name__}, not {type(on).__name__})")
        if not isinstance(off, bool | str | int | float | list | dict):
            raise ValueError("true or false, a text, a number, a list or a table")
        return off


class Alerts(Section):
    """Whom an alert reaches: "log", or an Apprise address."""

    target: str = "log"


class Settings(BaseSettings):
    """Everything that varies between pilots and is not governance."""

    # A variable that is set to nothing counts as not set: CI sets every one that it knows, filled or not.
    model_config = SettingsConfigDict(
        env_prefix="PILOT_", env_nested_delimiter="__", env_ignore_empty=True, frozen=True, extra="forbid"
    )

    root: Path
    pilot: Pilot
    sources: dict[str, Source]
    data: Data = Data()
    sandbox: Sandbox = Sandbox()
    serving: Serving = Serving()
    batch: Batch = Batch()
    slo: Slo = Slo()
    store: Store = Store()
    downstream: Downstream = Downstream()
    tracking: Tracking = Tracking()
    control: Control = Control()
    alerts: Alerts = Alerts()
    remote: Remote | None = None
    flags: dict[str, Flag] = {}

    @field_validator("flags")
    @classmethod
    def _names(cls, flags: dict[str, Flag]) -> dict[str, Flag]:
        for name in flags:
            if name in RESERVED_FLAGS:
                raise ValueError(f"'{name}' is the harness's own flag; choose another name")
            if not re.fullmatch(FLAG_NAME, name):
                raise ValueError(f"'{name}' is no name: use a-z, 0-9, dot, hyphen and underscore")
        return flags

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
        if not isinstance(source, CsvSource):
            return False
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
    _no_secrets(values)
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


def _no_secrets(values: dict[str, Any]) -> None:
    for section, key in (("downstream", "secret"), ("remote", "token"), ("remote", "admin_token")):
        if key in _section(values, section):
            raise PilotError(
                "a secret does not belong into a file that is committed",
                where=f"{FILE} [{section}] {key}",
                mend=f"Remove it, make a new one, and set PILOT_{section.upper()}__{key.upper()}.",
            )
    url = _section(values, "remote").get("url")
    if isinstance(url, str) and without_password(url) != url:
        raise PilotError(
            "a password does not belong into a file that is committed",
            where=f"{FILE} [remote] url",
            mend="Change it, write the address without it here, and set PILOT_REMOTE__URL.",
        )


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _explain(error: ErrorDetails) -> PilotError:
    # A list's element stands behind its key, and is no table.
    found = list(error["loc"])
    while len(found) > 1 and isinstance(found[-1], int):
        found.pop()
    location = [str(part) for part in found]
    kind = ""
    if location[:1] == ["sources"] and len(location) > 3:
        kind = location.pop(2)  # pydantic adds the tag of the union, which nobody wrote
    *section, key = location
    where = f"{FILE} [{'.'.join(section)}]" if section else FILE
    if error["type"] == "extra_forbidden":
        other = next((name for name, keys in KINDS.items() if name != kind and key in keys), "")
        if kind and other:
            return PilotError(
                f"a source of kind \"{kind}\" has no '{key}'",
                where=where,
                mend=f'Remove it, or write kind = "{other}".',
            )
        known = KINDS.get(kind) or _keys(section)
        near = difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(
            key, [name for keys in KINDS.values() for name in keys] if kind else [], n=1
        )
        near = near or [name for name in known if name.startswith(f"{key}_")][:1]
        mend = f"Did you mean '{near[0]}'?" if near else "Remove it."
        return PilotError(f"unknown key '{key}'", where=where, mend=mend)
    if error["type"] == "union_tag_invalid":
        return PilotError(
            f'there is no source of kind "{error["ctx"]["tag"]}"',
            where=f"{FILE} [{'.'.join(location)}]",
            mend=f"Use one of {', '.join(KINDS)}.",
        )
    if error["type"] == "missing":
        return PilotError(f"'{key}' is missing", where=where, mend="Add it.")
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    # TOML has lists and tables.
    message = re.sub(r"^(a )?(tuple|dictionary) ", lambda found: f"{NAMED[found[2]]} ", message)
    message = message.replace("a valid tuple", "a list").replace(" after validation", "")
    return PilotError(f"'{key}': {message}", where=where, mend="Correct it here or in the environment.")


def _keys(section: Iterable[str]) -> list[str]:
    model: Any = Settings
    for name in section:
        field = model.model_fields.get(name) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        model = next(
            (each for each in get_args(field.annotation) if each is not type(None)), field.annotation
        )
    return [name for name in getattr(model, "model_fields", {}) if name != "root"]
