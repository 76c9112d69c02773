"""The one route that everybody waits for, answered without FastAPI's way to it.

Between its middleware and a route's handler FastAPI looks for the route and stacks four layers that hold what
this route has not: files, background tasks, dependencies that are closed afterwards. They take as long as the
checks, the contract and the control state together. The route stays among the others, for the schema and for
every other method; whatever is not exactly this one goes their way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from harness.serving.underway import Application, Message


class Straight:
    """Around an application: requests for one route go to its handler at once.

    Args:
        app: The application.
        route: The route; its only method is POST, and its path has no parameters.
        refusals: What answers an exception of the handler, by its type. One that is not among them is left to
            the application's outermost layer.
    """

    def __init__(
        self,
        app: Application,
        *,
        route: APIRoute,
        refusals: Mapping[type[Exception], Callable[[Request, Any], Awaitable[Response]]],
    ) -> None:
        self._app = app
        self._route = route
        self._path = route.path
        self._handle = route.get_route_handler()
        self._refusals = {kind: answer for kind, answer in refusals.items() if kind is not Exception}

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if scope.get("root_path"):  # where the path begins elsewhere, finding it is the router's business
            await self._app(scope, receive, send)
            return
        scope["route"], scope["endpoint"], scope["path_params"] = self._route, self._route.endpoint, {}
        request = Request(scope, receive)
        try:
            response = await self._handle(request)
        except Exception as error:
            answer = self._answer(type(error))
            if answer is None:
                raise
            response = await answer(request, error)
        await response(scope, receive, send)

    def _answer(self, kind: type[BaseException]) -> Callable[[Request, Any], Awaitable[Response]] | None:
        return next((self._refusals[each] for each in kind.__mro__ if each in self._refusals), None)
