"""The one route that everybody waits for, answered without FastAPI's way to it.

Between the server and a route's handler FastAPI and the service's own middleware stack ten layers, which hold
what this route has not, or wrap each message of its answer anew. They take as long as the checks, the
contract and the control state together. The route stays among the others, for the schema and for every other
method; whatever is not exactly this one goes their way. What the service's own layers do is done here too, by
the same code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute

from harness.serving import whole
from harness.serving.door import MOST_QUERY, ours, with_ours
from harness.serving.metrics import Metrics
from harness.serving.observed import Observation
from harness.serving.strict import Strict
from harness.serving.underway import Answer, Application, Message

Refusals = Mapping[type[Exception], Callable[[Request, Any], Awaitable[Response]]]


class Served(FastAPI):
    """FastAPI's application, with something around it that may answer in its place.

    Attributes:
        around: Puts it around the application.
    """

    around: Callable[[Application], Application] = staticmethod(lambda inner: inner)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        await self.whole(scope, receive, send)

    @cached_property
    def whole(self) -> Application:
        """The application with what is around it: what a server calls where each layer counts."""
        return self.around(super().__call__)


class Straight:
    """Around an application: requests for one route go to its handler at once.

    Args:
        inner: FastAPI's application.
        app: The same as handlers know it.
        route: The route; its only method is POST, and its path has no parameters.
        refusals: What answers an exception of the handler, by its type.
        metrics: Where requests are counted.
        tls: Whether callers reach the service by TLS.
    """

    def __init__(
        self,
        inner: Application,
        *,
        app: FastAPI,
        route: APIRoute,
        refusals: Refusals,
        metrics: Metrics,
        tls: bool,
    ) -> None:
        self._inner = inner
        self._app = app
        self._route = route
        self._path = route.path
        self._handle = route.get_route_handler()
        self._refusals = dict(refusals)
        self._unforeseen = self._refusals.pop(Exception)
        self._metrics = metrics
        self._ours = whole.Same(ours(tls=tls))

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._inner(scope, receive, send)
            return
        # Where the path begins elsewhere, finding it is the router's business.
        if scope.get("root_path") or len(scope["query_string"]) > MOST_QUERY:
            await self._inner(scope, receive, send)
            return
        scope["app"] = self._app
        scope["route"], scope["endpoint"], scope["path_params"] = self._route, self._route.endpoint, {}
        request = Strict(scope, receive)
        response = None
        try:
            with Observation(self._metrics, scope) as seen, Answer():
                response = await self._answer(request)
                seen.code = response.status_code
                headers, same = [*response.raw_headers, seen.header], self._ours
                if not same.names.isdisjoint([name for name, _ in headers]):
                    headers, same = with_ours(headers, same.headers), whole.NONE
                await whole.answer(send, response.status_code, headers, bytes(response.body), same)
        except Exception as error:
            if response is None:
                response = await self._unforeseen(request, error)
                await response(scope, receive, send)
            raise  # for the server's log

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._handle(request)
        except Exception as error:
            for kind in type(error).__mro__:
                if kind in self._refusals:
                    return await self._refusals[kind](request, error)
            raise
