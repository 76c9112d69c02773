"""What must hold before a service listens; harness.serving.running runs it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from harness import pilot
from harness.address import loopback
from harness.alerts import FOLDER, Alert
from harness.alerts import Outbox as Alerts
from harness.control import Control, StateUnreadable, settings_control
from harness.errors import PilotError
from harness.pilot import Contract
from harness.serving.access import Access
from harness.serving.breaker import Rule
from harness.serving.confined import lacking
from harness.serving.explaining import Explaining
from harness.serving.host import ModelHost
from harness.serving.limits import Limits
from harness.serving.metrics import Metrics
from harness.serving.rates import Rates
from harness.serving.servers import LOAD_WITHIN_S
from harness.serving.service import Service
from harness.serving.shadow import Shadow, agreement
from harness.serving.team import Route, load_routes
from harness.settings import Settings
from harness.store import DecisionStore, Outbox, ShadowStore, put

# Of an address that is not known it is supposed that everybody reaches it.
UNKNOWN = "0.0.0.0"
EXPLAINS_WITHIN_S = 60.0


def build_service(settings: Settings, *, host: str | None = None) -> Service:
    """Everything that deciding needs. A model that cannot be loaded is no reason not to start.

    Args:
        settings: The pilot's settings.
        host: The address that the service will listen on; by default that of pilot.toml.

    Raises:
        PilotError: The contract, the fallback or the store is missing or unusable.
    """
    control = settings_control(settings)
    reached = settings.serving.host if host is None else host
    contract = pilot.load_contract(settings.pilot.package)
    store = DecisionStore(
        settings.sqlite_url(settings.store.url), alongside=(put,) if settings.downstream.url else ()
    )
    metrics = Metrics(settings.root, budget_s=settings.serving.budget_ms / 1000)
    return Service(
        contract=contract,
        fallback=pilot.load_fallback(settings.pilot.package),
        control=control,
        # What can be reached from elsewhere is open to nobody, whatever the stage becomes.
        access=_access(settings, control, reached),
        store=store,
        models=settings.path(settings.serving.models),
        reasons=settings.serving.reasons,
        in_flight=settings.serving.in_flight,
        budget_s=settings.serving.budget_ms / 1000,
        batch=settings.serving.batch,
        queue=settings.serving.queue,
        reasons_s=settings.serving.reasons_budget_ms / 1000,
        fallback_s=settings.serving.fallback_budget_ms / 1000,
        breaker=Rule(
            failures=settings.serving.breaker_failures,
            window_s=settings.serving.breaker_window_s,
            retry_s=settings.serving.breaker_retry_s,
        ),
        variables=settings.serving.model_environment,
        shadow=shadowing(settings, contract, control, store, metrics),
        metrics=metrics,
        explaining=Explaining(
            lambda: explaining_host(settings), store, may_run=lambda: not _stopped(control)
        ),
    )


def _access(settings: Settings, control: Control, reached: str) -> Access:
    said = settings.serving
    oidc = None
    if said.oidc is not None:  # with it comes cryptography, which takes a while to import
        from harness.serving.oidc import build_oidc

        oidc = build_oidc(said.oidc, settings.root)
    rates = Rates(said.rate_per_s, said.burst) if said.rate_per_s else None
    return Access(control, open_in_sandbox=said.open_in_sandbox and loopback(reached), oidc=oidc, rates=rates)


def shadowing(
    settings: Settings, contract: Contract, control: Control, store: DecisionStore, metrics: Metrics
) -> Shadow:
    """What runs models beside decisions; it starts nothing before the first of them."""
    return Shadow(
        lambda: shadow_host(settings, lambda: metrics.count("pilot_model_process_starts_total", "shadow")),
        ShadowStore(store.database),
        settings.serving.shadow_queue,
        settings.serving.shadow_budget_ms / 1000,
        may_run=control.may_shadow,
        agree=agreement(contract.decision),
        dropped=lambda: metrics.count("pilot_shadow_dropped_total"),
    )


def shadow_host(settings: Settings, started: Callable[[], None]) -> ModelHost:
    """Where models run beside: no right to write, bounded memory, and behind all others for the processor."""
    if lacking():
        logging.getLogger("harness.serving").warning("%s", lacking())
    return ModelHost(
        settings.path(settings.serving.models),
        reasons=0,
        in_flight=1,
        budget_s=settings.serving.shadow_budget_ms / 1000,
        limits=Limits(memory_bytes=settings.serving.shadow_memory_mb * 1024**2, may_write=False, nice=10),
        variables=settings.serving.model_environment,
        beside=True,
        started=started,
    )


def explaining_host(settings: Settings) -> ModelHost:
    """Where reasons are computed that found no time: behind all others for the processor, and in no hurry."""
    return ModelHost(
        settings.path(settings.serving.models),
        reasons=settings.serving.reasons,
        in_flight=1,
        budget_s=EXPLAINS_WITHIN_S,
        limits=Limits(nice=10),
        variables=settings.serving.model_environment,
        beside=True,
    )


def _stopped(control: Control) -> bool:
    try:
        state = control.state()
    except StateUnreadable:
        return True
    return state is None or state.latched or control.killed()


@dataclass(frozen=True)
class Prepared:
    """What a process needs to serve, before it listens.

    Attributes:
        settings: The pilot's settings.
        service: What decides.
        routes: The team's own.
    """

    settings: Settings
    service: Service
    routes: Sequence[Route]

    def load(self) -> None:
        """Load the models now, and not with the first request. One that cannot be loaded stops nobody."""
        try:
            self.service.model_state(wait_s=LOAD_WITHIN_S)
        except StateUnreadable as error:
            logging.getLogger("harness.serving").error("the fallback decides: %s", error)
        self.service.explain()


def prepare(settings: Settings, host: str | None) -> Prepared:
    """Build what a process needs, and hold it to what must hold before it may serve.

    Args:
        settings: The pilot's settings.
        host: The address that it will listen on; None where another server listens, and it is not known.

    Raises:
        PilotError: Something is missing or unusable, the address is not allowed in the stage, or routes.py
            cannot be served.
    """
    service = build_service(settings, host=UNKNOWN if host is None else host)
    check_stage(settings, service.control, host)
    return Prepared(settings, service, load_routes(settings.pilot.package, settings.root, service))


@contextmanager
def delivering(settings: Settings, service: Service) -> Iterator[None]:
    """Deliver decisions to the consumer meanwhile, where pilot.toml names one."""
    if not settings.downstream.url:
        yield
        return
    from harness.serving.delivery import Deliverer

    deliverer = Deliverer(
        Outbox(service.store.database),
        service.control,
        url=settings.downstream.url,
        secret=settings.downstream.secret.get_secret_value(),
        root=settings.root,
        alarm=lambda told: _alarm(settings, told),
    )
    deliverer.start()
    try:
        yield
    finally:
        deliverer.stop()


def _alarm(settings: Settings, told: str) -> None:
    alert = Alert("outbox", f"{settings.pilot.name}: a decision cannot be delivered", told)
    Alerts(settings.alerts.target, settings.path(FOLDER)).raise_all([alert])


def check_stage(settings: Settings, control: Control, host: str | None) -> None:
    """Hold the sandbox to the loopback, and every other stage to a state outside the work tree.

    Args:
        settings: The pilot's settings.
        control: What says which stage the pilot is in.
        host: The address; None where it is not known. Then nobody is let in without a token instead.

    Raises:
        PilotError: The host, the consumer's address or the control folder is not allowed.
    """
    try:
        state = control.state()
    except StateUnreadable:
        state = None
    if settings.downstream.url:
        from harness.serving.consumer import check_target

        check_target(settings.downstream.url, "unknown" if state is None else state.stage)
    if state is None or state.stage == "sandbox":
        if host is not None and not loopback(host):
            raise PilotError(
                f"the sandbox listens on the loopback only, not on {host}",
                where="pilot.toml [serving] host",
                mend='Use "127.0.0.1".',
            )
    elif control.folder.resolve().is_relative_to(settings.root):
        raise PilotError(
            f"in the stage '{state.stage}' the control state may not lie in the work tree, "
            "where `git clean` would delete it",
            where="pilot.toml [control] folder",
            mend="Move the folder outside, such as to /var/lib/<pilot>, and name it there.",
        )
