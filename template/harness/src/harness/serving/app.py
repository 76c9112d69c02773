"""HTTP around the service."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

from harness import __version__
from harness.control import StateUnreadable
from harness.encoding import Encoder
from harness.serving import followed, outcomes, schema, scrape, stopping, tracing
from harness.serving.access import Access, Guarded, Refused, header, refused, requires
from harness.serving.calls import Overloaded
from harness.serving.door import Door, TooMany, not_here, too_many, unwelcome
from harness.serving.headers import PLAIN
from harness.serving.lag import ARRIVED
from harness.serving.observed import WHY, Observed
from harness.serving.service import FallbackFailed, Service
from harness.serving.straight import Served, Straight
from harness.serving.strict import Unwelcome
from harness.serving.team import PREFIX, Route, Team
from harness.serving.underway import Answering
from harness.store import Decision, IdempotencyConflict, StoreUnavailable

MOST_KEY = 255
KEY = re.compile(rf"[!-~]{{1,{MOST_KEY}}}")


class ReasonOut(BaseModel):
    """One reason: the feature or rule, its value, and its contribution to the score."""

    feature: str
    value: str | int | float | bool | None
    effect: float | None


class DecisionOut(BaseModel):
    """A decision that is on record."""

    decision_id: str = Field(description="The name under which the decision can be followed")
    decision: str | float
    score: float | None = Field(description="The model's score; null when the fallback decided")
    reasons: list[ReasonOut]
    served_by: str = Field(description="model or fallback")
    why: str = Field(description="What led to who decided")
    model: str | None = Field(description="The assigned model's digest")
    revision: int = Field(description="The control state that was in force")
    sandbox: bool = Field(description="True for a decision about nothing real")
    reasons_pending: bool = Field(
        description="Whether the reasons took longer than there was time; they are put on record later"
    )


class UnavailableOut(BaseModel):
    """Why no decision can be recorded; what is behind it is told to callers who are let in."""

    status: str
    detail: str = ""


# What of the open endpoints' answers is for callers who are let in.
FOR_CALLERS = ("checks", "commit", "detail", "models")


def create_app(
    service: Service,
    *,
    name: str,
    routes: Sequence[Route] = (),
    routes_budget_s: float = 10.0,
    root: Path | None = None,
    most_bytes: int = 64 * 1024,
    tls: bool = False,
) -> Served:
    """The application: decide, outcomes, control/kill, metrics, ``/health`` and ``/ready``.

    The last two are open to everybody, because a stop asks ``/health`` whether it was heard; what is behind
    their answers is told to callers who are let in. ``/openapi.json`` is for those who may ask for decisions.

    Args:
        service: What decides.
        name: The pilot's name.
        routes: The team's own, which are answered below ``/team``.
        routes_budget_s: Seconds that a caller of one of these waits.
        root: The pilot's folder, below which the processes that serve are noted; None where none are.
        most_bytes: How long a body may be, where an endpoint says nothing else.
        tls: Whether callers reach it by TLS.
    """
    app = Served(
        title=name,
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=tracing.OF_FASTAPI,
    )
    app.router.route_class = Guarded
    app.state.access = service.access
    app.state.most_bytes = most_bytes
    record_model = schema.request_model(service.contract)

    def decide(
        record: schema.Request,
        idempotency_key: Annotated[str | None, Header(pattern=f"^{KEY.pattern}$")] = None,
    ) -> Any:
        """Decide one record; the decision is durable before this answers.

        A request with the header Idempotency-Key that is sent again gets the decision of the first time.
        """

    async def decided(request: Request) -> Response:
        record = await _record(request, record_model)
        arrived = request.scope.get("state", {}).get(ARRIVED)
        made = await service.decided(record, key=_key(request), arrived=arrived)
        return _Written(made)

    # The contract is only known at run time, and FastAPI reads the body's model from the annotation.
    decide.__annotations__["record"] = Annotated[record_model, Body()]
    decide.__annotations__["return"] = DecisionOut
    app.router.add_api_route(
        "/decide",
        decide,
        methods=["POST"],
        response_model=DecisionOut,
        dependencies=[requires("decide")],
        route_class_override=_answered_by(decided),
    )
    route = app.router.routes[-1]
    assert isinstance(route, APIRoute)
    app.around = lambda inner: Straight(
        inner, app=app, route=route, refusals=HANDLERS, metrics=service.metrics, tls=tls
    )
    # What is added first is the innermost.
    app.add_middleware(Answering)
    app.add_middleware(Door, tls=tls)
    outcomes.attach(app, service)
    stopping.attach(app, service, root)
    scrape.attach(app, service, root)
    commit = scrape.git_commit(root) if root is not None else ""

    # Not in a thread: calls that wait for a model may have them all, and a stop asks whether it was heard.
    @app.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        """Whether the process answers, and what is in force; it asks no store, which may be away."""
        told = {"status": "ok", "version": __version__, "commit": commit, **in_force(service)}
        return _to(request, told)

    unready: dict[int | str, dict[str, Any]] = {
        503: {"model": UnavailableOut, "description": "No decision can be recorded"}
    }

    @app.get("/ready", responses=unready)
    def ready(request: Request) -> JSONResponse:
        """Whether decisions can be made and recorded: 200 also when the fallback makes them all."""
        seen, models = in_force(service), _models(service)
        checks = {"store": _asked(service), "control": seen.get("detail", "ok"), **_loaded(models)}
        told = {"version": __version__, "commit": commit, **seen, "models": models, "checks": checks}
        if checks["store"] != "ok":
            # Its sentence also where it always was.
            why = {"status": "unavailable", **told, "detail": checks["store"]}
            return JSONResponse(_to(request, why), status_code=503)
        return JSONResponse(_to(request, {"status": "ready", **told}))

    @app.get("/openapi.json", include_in_schema=False, dependencies=[requires("decide")])
    async def published() -> JSONResponse:
        """What the service answers, as OpenAPI has it."""
        return JSONResponse(app.openapi())

    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    if routes:
        app.mount(PREFIX, Team(service, routes, HANDLERS, budget_s=routes_budget_s))
    # The last one is the outermost: what another refuses is counted too.
    app.add_middleware(Observed, metrics=service.metrics)
    return app


def _to(request: Request, found: dict[str, Any]) -> dict[str, Any]:
    """What a caller may be told: to one who is not let in, nothing of paths, models and what went wrong."""
    access: Access = request.app.state.access
    if access.knows(request.headers.get("authorization")):
        return found
    return {name: value for name, value in found.items() if name not in FOR_CALLERS}


def _answered_by(handler: Callable[[Request], Coroutine[Any, Any, Response]]) -> type[APIRoute]:
    """A guarded route that this handler answers; its function says no more than what the schema shows.

    FastAPI would look at each request's dependencies, and validate and serialise the answer, of which every
    part is the service's own: a third of what a decision costs.
    """

    class Handled(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            return handler

    class GuardedAndHandled(Guarded, Handled):
        """The caller is checked first, as on every other route."""

    return GuardedAndHandled


async def _record(request: Request, model: type[schema.Request]) -> dict[str, Any]:
    try:
        # Not dict(...), which goes through the fields one by one.
        return dict(vars(model.model_validate(await request.json())))
    except ValidationError as error:
        told = error.errors(include_input=False, include_url=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in told]) from error


def _key(request: Request) -> str | None:
    """The caller's name for the request, within the names that are the same token's."""
    given = header(request, b"idempotency-key")
    if given is None:
        return None
    if not KEY.fullmatch(given):
        raise _KeyInvalid
    access = request.app.state.access
    caller = access.check(header(request, b"authorization"), "decide", of="POST /decide")
    return f"{caller.name}:{given}"


class _KeyInvalid(Exception):
    """The header Idempotency-Key holds what is no key."""


class _Written(Response):
    """A decision as its caller gets it."""

    def __init__(self, made: Decision) -> None:
        self.status_code = 200
        self.background = None
        self.body = _encode(
            {
                "decision_id": made.decision_id,
                "decision": made.decision,
                "score": made.score,
                "reasons": made.reasons,
                "served_by": made.served_by,
                "why": made.why,
                "model": made.model_digest,
                "revision": made.revision,
                "sandbox": made.sandbox,
                "reasons_pending": made.reasons_pending,
            }
        )
        self.raw_headers = [
            (b"content-length", b"%d" % len(self.body)),
            (b"content-type", b"application/json"),
        ]


_encode = Encoder(json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def in_force(service: Service) -> dict[str, Any]:
    """The stage, the revision and whether a stop is in force, as this process sees it now."""
    try:
        state = service.control.state()
    except StateUnreadable as error:
        return {"stage": "unknown", "revision": 0, "stopped": True, "detail": str(error)}
    if state is None:
        return {"stage": "unknown", "revision": 0, "stopped": True, "detail": "no control state yet"}
    return {
        "stage": state.stage,
        "revision": state.rev,
        "stopped": service.control.killed() or state.latched,
        "remote": _remote(service, state.flag_key),
    }


def _remote(service: Service, group: str) -> str | int | None:
    """The share that a remote control allows, or why none; None where there is no remote control."""
    remote = service.control.remote
    return remote.share(group) if remote.required or remote.read() is not None else None


def _asked(service: Service) -> str:
    """``ok``, or why the store would take no decision."""
    try:
        service.store.ping()
    except StoreUnavailable as error:
        return str(error)
    return "ok"


def _loaded(models: dict[str, str]) -> dict[str, str]:
    """Each model by the beginning of its digest: ``ok``, or why the fallback decides in its place."""
    return {f"model {digest[:12]}": "ok" if told == "loaded" else told for digest, told in models.items()}


def _models(service: Service) -> dict[str, str]:
    try:
        return service.model_state()
    except StateUnreadable:
        return {}


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Without the values: a refused record may hold personal data, and a NaN in it is no JSON.
    found = [
        {"field": "body", "message": f"not valid JSON: {item['ctx']['error']}"}
        if item["type"] == "json_invalid"
        else {"field": _field(item["loc"]), "message": _plain(item["msg"])}
        for item in error.errors()
    ]
    what = "outcome" if request.url.path == outcomes.PATH else "record"
    if request.url.path.startswith(f"{PREFIX}/"):
        what = "request"
    return JSONResponse({"error": f"invalid_{what}", "fields": found}, status_code=422)


def _field(location: tuple[int | str, ...]) -> str:
    # JSON may name a field by half a surrogate pair, which cannot be sent back.
    return ".".join(str(part) for part in location[1:]).encode(errors="replace").decode() or "body"


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]


async def _unforeseen(_request: Request, error: Exception) -> JSONResponse:
    # It is answered outside of what names the request, and bears the headers, in every other answer.
    return JSONResponse(
        {"error": "unforeseen", "detail": f"{type(error).__name__}; the service's log says where"},
        status_code=500,
        headers={**PLAIN, followed.NAME: followed.followed().request_id},
    )


def _refused(code: str) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    # Asynchronous, because any other is run on a thread, and refusals come when there is no time for that.
    async def handler(request: Request, error: Exception) -> JSONResponse:
        request.scope[WHY] = code
        return JSONResponse(
            {"error": code, "detail": str(error)}, status_code=503, headers={"Retry-After": "1"}
        )

    return handler


async def _no_key(_request: Request, _error: Exception) -> JSONResponse:
    detail = f"The header Idempotency-Key is 1 to {MOST_KEY} visible ASCII characters, such as a UUID."
    return JSONResponse({"error": "invalid_idempotency_key", "detail": detail}, status_code=422)


async def _other_record(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "idempotency_conflict", "detail": str(error)}, status_code=422)


HANDLERS: dict[type[Exception], Any] = {
    RequestValidationError: _invalid,
    Refused: refused,
    Unwelcome: unwelcome,
    TooMany: too_many,
    HTTPException: not_here,
    StoreUnavailable: _refused("not_recorded"),
    FallbackFailed: _refused("fallback_failed"),
    Overloaded: _refused("overloaded"),
    IdempotencyConflict: _other_record,
    _KeyInvalid: _no_key,
    Exception: _unforeseen,
}
