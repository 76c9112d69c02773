"""The tables of pilot.toml that say how decisions are served, kept and delivered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from harness.address import loopback
from harness.sections import Section

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
# harness.control.tokens has the same, which stands above this module.
Allowed = Literal["decide", "outcomes", "feedback", "read", "operate", "approve"]

SECRET_AT_LEAST = 16
MOST_WORKERS = 64


class Oidc(Section):
    """Callers whose tokens an identity provider of the organisation issues, beside `pilot token`.

    Attributes:
        issuer: What the claim ``iss`` has to say.
        audience: What the claim ``aud`` has to name.
        jwks_url: Where the issuer publishes its keys; https, or http on this machine.
        jwks_file: The same from a file, in place of the address.
        algorithms: What a token may be signed with; all of them need the issuer's private key.
        scope_claim: The claim that says what its holder may do: a list, or words with blanks between them.
        scopes: What each of these words allows here.
        name_claim: The claim that logs call the caller by; choose one that names a service and no person.
        leeway_s: Seconds that two clocks may differ.
        refresh_s: Seconds between two looks at the keys.
        max_stale_s: For how many seconds keys hold when no newer look succeeds; then they let nobody in.
    """

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    jwks_url: str = ""
    jwks_file: Path | None = None
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256"), min_length=1)
    scope_claim: str = "scope"
    scopes: dict[str, tuple[Allowed, ...]] = Field(min_length=1)
    name_claim: str = "sub"
    leeway_s: float = Field(default=30, ge=0, le=300, allow_inf_nan=False)
    refresh_s: float = Field(default=300, ge=1, le=86_400, allow_inf_nan=False)
    max_stale_s: float = Field(default=86_400, ge=60, le=604_800, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Oidc:
        if bool(self.jwks_url) == (self.jwks_file is not None):
            raise ValueError("name jwks_url or jwks_file, and not both")
        parts = urlsplit(self.jwks_url)
        if self.jwks_url and not (
            parts.hostname
            and (parts.scheme == "https" or (parts.scheme == "http" and loopback(parts.hostname)))
        ):
            raise ValueError("jwks_url begins with https://, or http:// on this machine")
        return self


class Serving(Section):
    """The decision service.

    Attributes:
        host: The address to listen on; the sandbox accepts the loopback only.
        port: The TCP port to listen on; 0 lets the system choose.
        workers: How many processes answer; each holds the models in memory, and ``in_flight`` is for each.
        reasons: How many reasons a decision carries.
        budget_ms: Milliseconds that a caller waits for the model before the fallback decides; a call that
            takes longer is ended with the model's process, which starts again.
        in_flight: How many calls of one model may wait or be under way at once; what comes beyond them is the
            fallback's.
        batch: How many records a call of a model carries at most: whatever waits goes together, and as many
            as fit well into the budget. 1 has each record scored alone.
        fallback_budget_ms: Milliseconds within which the fallback has to have decided after that; a request
            that it has not decided by then is answered with 503.
        queue: How many requests may wait for the fallback or for their record in each process; what comes
            beyond them is answered with 503, at once.
        reasons_budget_ms: Milliseconds of a call that reasons may take. What takes longer is answered
            without, marked as pending, and put on record afterwards.
        breaker_failures: After how many failures of a model within the window the fallback decides without
            asking it: exceptions, invalid scores, time-outs and the end of its process count.
        breaker_window_s: Seconds within which these failures count.
        breaker_retry_s: Seconds after which one request tries the model again; a model that needs longer to
            start is given twice that time.
        model_environment: Names of environment variables that a model's process has beside those that Python
            and libraries need. The model's code can read whatever is in them, a secret too.
        routes_budget_ms: Milliseconds that a caller waits for a route of the team's own.
        shadow_queue: How many decisions may wait for the model in shadow; what finds no place is dropped.
        shadow_budget_ms: Milliseconds after which that model's answer counts as too slow.
        shadow_memory_mb: Megabytes of address space that its process may take. That is more than it uses: the
            example model uses 130 and reserves 1,200 with 2 processors, 1,800 with 32.
        log_format: How the service logs: ``text``, ``json``, or ``auto``: text on a terminal, else JSON.
        models: Where packaged models are kept, one folder a digest.
        open_in_sandbox: Whether the sandbox, which only this machine reaches, answers callers without a
            token. In every other stage each caller needs one.
        max_body_kb: Kilobytes that a request's body may have; outcomes and the team's own routes have more.
        connections: How many connections a process holds; beyond it one that waits gives up its place.
        request_timeout_s: Seconds in which a request has to arrive, its headers and then its body.
        rate_per_s: How many requests a second each caller has in each process, on average; 0 for no limit.
        burst: How many of them may come at once; 0 for twice the rate.
        tls_certificate: The certificate and its chain, PEM; without one the service speaks plain HTTP.
        tls_key: Its private key, PEM, which nobody else may read.
        oidc: Callers whom an identity provider knows.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=MOST_WORKERS)
    reasons: int = Field(default=3, ge=0, le=20)
    budget_ms: int = Field(default=1_000, ge=1, le=60_000)
    in_flight: int = Field(default=8, ge=1, le=32)
    batch: int = Field(default=64, ge=1, le=1_024)
    fallback_budget_ms: int = Field(default=1_000, ge=1, le=60_000)
    queue: int = Field(default=1_024, ge=1, le=100_000)
    reasons_budget_ms: int = Field(default=100, ge=1, le=60_000)
    breaker_failures: int = Field(default=5, ge=1, le=10_000)
    breaker_window_s: float = Field(default=10, gt=0, le=3_600)
    breaker_retry_s: float = Field(default=5, gt=0, le=3_600)
    model_environment: tuple[str, ...] = ()
    routes_budget_ms: int = Field(default=10_000, ge=1, le=300_000)
    shadow_queue: int = Field(default=256, ge=1, le=100_000)
    shadow_budget_ms: int = Field(default=1_000, ge=1, le=60_000)
    shadow_memory_mb: int = Field(default=4_096, ge=256, le=1_048_576)
    log_format: Literal["auto", "json", "text"] = "auto"
    models: Path = Path("var/models")
    open_in_sandbox: bool = True
    max_body_kb: int = Field(default=64, ge=1, le=10_240)
    connections: int = Field(default=10_000, ge=8, le=1_000_000)
    request_timeout_s: float = Field(default=10, ge=0.1, le=600, allow_inf_nan=False)
    rate_per_s: float = Field(default=0, ge=0, le=1_000_000, allow_inf_nan=False)
    burst: int = Field(default=0, ge=0, le=10_000_000)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    oidc: Oidc | None = None

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Serving:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are named together")
        return self

    @model_validator(mode="after")
    def _a_burst_of_something(self) -> Serving:
        if self.burst and not self.rate_per_s:
            raise ValueError("burst limits nobody without rate_per_s; set both")
        return self

    @field_validator("model_environment")
    @classmethod
    def _names_of_variables(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is no name of an environment variable")
            if name.upper().startswith("PILOT_"):
                raise ValueError(f"no model reads {name}, which is the harness's own; choose another name")
        return names


class Slo(Section):
    """What callers are promised, and at which volume; `pilot load` holds the service to it.

    Attributes:
        rate_per_s: The stated volume: requests a second in the busiest hour, over all replicas.
        p95_ms: Milliseconds within which 95 of 100 decisions are there, from when they were asked for.
        p99_ms: Milliseconds within which 99 of 100 are there.
        max_fallback_share: The share of decisions, 0 to 1, that the fallback may make at that volume.
        max_error_share: The share of requests, 0 to 1, that may get no decision.
    """

    rate_per_s: float = Field(default=50.0, gt=0, le=20_000, allow_inf_nan=False)
    p95_ms: float = Field(default=200.0, gt=0, le=60_000, allow_inf_nan=False)
    p99_ms: float = Field(default=500.0, gt=0, le=60_000, allow_inf_nan=False)
    max_fallback_share: float = Field(default=0.01, ge=0, le=1)
    max_error_share: float = Field(default=0.001, ge=0, le=1)

    @field_validator("p99_ms")
    @classmethod
    def _in_order(cls, p99_ms: float, info: ValidationInfo) -> float:
        if p99_ms < info.data.get("p95_ms", 0):
            raise ValueError("at least p95_ms: more of them are to be there by then")
        return p99_ms


class Store(Section):
    """Where decisions are recorded, and for how long.

    Attributes:
        url: An SQLAlchemy URL; a relative SQLite path starts at the pilot's root.
        retention_days: After how many days `pilot store prune` deletes decisions; 0 keeps them.
    """

    url: str = "sqlite:///var/decisions.db"
    retention_days: int = Field(default=0, ge=0, le=36_500)


class Downstream(Section):
    """Who receives each decision.

    Attributes:
        url: The address that each decision is posted to; empty for nobody. The sandbox delivers to this
            machine only.
        secret: What deliveries are signed with; empty leaves them unsigned. Only the environment sets it.
    """

    url: str = ""
    secret: SecretStr = SecretStr("")

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        if url and not (re.match(r"https?://[^\s/]", url) and urlsplit(url).hostname):
            raise ValueError("write http://host/path or https://host/path, or leave it empty")
        return url

    @field_validator("secret")
    @classmethod
    def _hard_to_guess(cls, secret: SecretStr) -> SecretStr:
        if 0 < len(secret.get_secret_value()) < SECRET_AT_LEAST:
            raise ValueError(f"a secret has {SECRET_AT_LEAST} characters at least")
        return secret


class Batch(Section):
    """Decisions on many records at once.

    Attributes:
        folder: Where the records of these decisions are kept; it belongs into the backup of the store.
        rows_a_chunk: How many records are decided together, and how many a stop throws away at most, twice.
        budget_s: Seconds that the model may take for a chunk before the fallback decides it.
    """

    folder: Path = Path("var/batches")
    rows_a_chunk: int = Field(default=100_000, ge=1, le=1_000_000)
    budget_s: float = Field(default=60.0, gt=0, le=3_600, allow_inf_nan=False)
