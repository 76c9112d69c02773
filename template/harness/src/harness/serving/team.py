"""A team's own routes: ``src/<package>/routes.py``, one function; each is answered below ``/team``.

The file may be absent. It holds::

    def routes(serving: Serving) -> list[Route]:

which is called once, before the service listens. Whatever is wrong with it is told in one line, and the
service does not start: a route that is silently missing would be noticed by whoever needs it. A route says
which scope its callers' tokens need, and cannot be declared without one. Nothing of the standard's will ever
lie below ``/team``.

The routes run apart from the service (harness.serving.apart): one that raises is a 500, one that hangs a 504,
and decisions are answered all the while. They are read from the work tree, as the fallback is: they belong to
the service and not to a model.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from harness import pilot
from harness.control import SCOPES, Scope
from harness.errors import PilotError, told
from harness.serving import tracing
from harness.serving.access import Guarded, Refused, refused, requires
from harness.serving.apart import Apart, Message
from harness.serving.calls import Busy, TooSlow
from harness.serving.schema import request_model

if TYPE_CHECKING:
    from harness.pilot import Contract
    from harness.serving.service import Service
    from harness.store import Decision

FILE = "routes.py"
PREFIX = "/team"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
IN_FLIGHT = 16
MOST_BYTES = 10 * 1024 * 1024

log = logging.getLogger("harness.serving")


@dataclass(frozen=True)
class Route:
    """One route of a team's own.

    Attributes:
        method: GET, POST, PUT, PATCH or DELETE.
        path: Its path below ``/team``, such as ``/summary`` or ``/customers/{number}``.
        answers: The function that answers, as FastAPI takes one: what it declares as parameters is read from
            the path, the query and the body, and what it returns is the answer.
        scope: What a caller's token has to allow; outside the open sandbox there is no answer without one.
    """

    method: str
    path: str
    answers: Callable[..., Any]
    scope: Scope


class Serving:
    """What the service offers to a team's own routes.

    Attributes:
        contract: What a record is.
    """

    def __init__(self, service: Service) -> None:
        self.contract: Contract = service.contract
        self._service = service
        self._model = request_model(service.contract)

    def decide(self, record: Mapping[str, Any]) -> Decision:
        """Decide one record just as ``POST /decide`` does: it is checked, and on record before this returns.

        Raises:
            RequestValidationError: The contract does not accept it; the caller gets a 422 that says why.
            FallbackFailed: There is no decision; the caller gets a 503.
            StoreUnavailable: It cannot be recorded, so there is none; the caller gets a 503.
        """
        try:
            parsed = self._model.model_validate(dict(record))
        except ValidationError as error:
            raise RequestValidationError(
                [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
            ) from error
        return self._service.decide(parsed.model_dump())


def load_routes(package: str, root: Path, service: Service) -> list[Route]:
    """What routes.py declares; nothing where there is no such file.

    Args:
        package: The team's package.
        root: The pilot's folder.
        service: What decides.

    Raises:
        PilotError: The file cannot be loaded, or declares what cannot be served.
    """
    try:
        file = pilot.load_routes(package)
        found = [] if file is None else file.routes(Serving(service))
        _check(found)
        _application(service, found)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() in a library is a failure like any other
        raise told(error, root, FILE) from error
    return list(found)


def _check(found: Any) -> None:
    """Raises PilotError where something is no route, or could not be asked for."""
    if not isinstance(found, list | tuple) or not all(isinstance(each, Route) for each in found):
        raise PilotError(
            f"routes() gave a {type(found).__name__} and no list of harness.serving.team.Route",
            where=FILE,
            mend="Return one Route for each path.",
        )
    for each in found:
        where = f"{FILE}, {each.method} {each.path}"
        if each.method not in METHODS:
            raise PilotError("there is no such method", where=where, mend=f"Use one of {', '.join(METHODS)}.")
        if not each.path.startswith("/"):
            mend = "Write it as '/summary'; it is answered at /team/summary."
            raise PilotError("the path does not begin with a slash", where=where, mend=mend)
        if each.scope not in SCOPES:
            raise PilotError(
                f"'{each.scope}' is no scope that a token can have",
                where=where,
                mend=f"Use one of {', '.join(SCOPES)}.",
            )
    places = [(each.method, each.path) for each in found]
    twice = sorted({f"{method} {path}" for method, path in places if places.count((method, path)) > 1})
    if twice:
        raise PilotError("it is declared twice", where=f"{FILE}, {twice[0]}", mend="Keep one of both.")


def _application(service: Service, routes: Sequence[Route]) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, telemetry=tracing.OF_FASTAPI)
    app.router.route_class = Guarded
    app.state.access = service.access
    app.state.most_bytes = MOST_BYTES
    for each in routes:
        try:
            app.add_api_route(
                each.path, each.answers, methods=[each.method], dependencies=[requires(each.scope)]
            )
        except Exception as error:  # FastAPI says in many ways that it cannot read a function
            raise PilotError(
                f"it cannot be served: {' '.join(str(error).split())[:200]}",
                where=f"{FILE}, {each.method} {each.path}",
                mend="Correct what the function takes and returns.",
            ) from error
    return app


class Team:
    """The application below ``/team``: callers are checked here, and only then is the team's code reached.

    Args:
        service: What decides.
        routes: The routes.
        handlers: How the service answers errors.
        budget_s: Seconds that a caller waits.
    """

    def __init__(
        self, service: Service, routes: Sequence[Route], handlers: Mapping[Any, Any], *, budget_s: float
    ) -> None:
        self._access = service.access
        self._budget_s = budget_s
        app = _application(service, routes)
        for kind, handler in handlers.items():
            app.add_exception_handler(kind, handler)
        self._routes = [(route, each) for route, each in zip(app.routes, routes, strict=True)]
        self._apart = Apart(app, places=IN_FLIGHT, budget_s=budget_s)

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        try:
            for message in await self._answer(Request(scope, receive)):
                await send(message)
        except Refused as error:
            await (await refused(Request(scope), error))(scope, receive, send)
        except _Told as told_:
            await JSONResponse({"error": told_.code, "detail": told_.detail}, told_.status)(
                scope, receive, send
            )

    async def _answer(self, request: Request) -> list[Message]:
        route = self._asked_for(request)
        of = f"{route.method} {PREFIX}{route.path}"
        self._access.check(request.headers.get("authorization"), route.scope, of=of)
        body = b""
        try:
            async for part in request.stream():
                body += part
                if len(body) > MOST_BYTES:
                    raise _Told(413, "too_large", f"A body may have {MOST_BYTES:,} bytes.")
        except ClientDisconnect:
            raise _Told(400, "incomplete", "The body ended before it was complete.") from None
        try:
            messages = await self._apart.call(request.scope, body)
        except Busy:
            log.error("%s is refused: every place is taken by calls that do not end", of)
            raise _Told(503, "busy", "Every place for routes of the team's is taken; try again.") from None
        except TooSlow:
            log.error("%s took longer than %g s", of, self._budget_s)
            raise _Told(504, "too_slow", f"It took longer than {self._budget_s:g} s.") from None
        if not _complete(messages):
            raise _Told(500, "unforeseen", "The route gave no answer; the service's log says where")
        return messages

    def _asked_for(self, request: Request) -> Route:
        found = [(route.matches(request.scope)[0], each) for route, each in self._routes]
        for match, each in found:
            if match is Match.FULL:
                return each
        if any(match is Match.PARTIAL for match, _ in found):
            raise _Told(405, "method_not_allowed", "The route takes another method.")
        raise _Told(404, "not_found", "There is no such route.")


class _Told(Exception):
    """An answer that is no route's."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        super().__init__(detail)


def _complete(messages: Sequence[Message]) -> bool:
    return (
        len(messages) > 1
        and messages[0]["type"] == "http.response.start"
        and not messages[-1].get("more_body", False)
    )
