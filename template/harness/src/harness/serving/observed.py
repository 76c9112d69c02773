"""Around every request: the name under which it can be followed, its trace, and that it is counted.

The name is the caller's ``X-Request-ID`` where it is well-formed, else one that is made here. It is in the
answer, in every line that is logged meanwhile, and goes to the consumer with the decision. A caller's
``traceparent`` (W3C Trace Context) is kept in the same way.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from harness.serving import followed, tracing
from harness.serving.followed import NAME, Followed
from harness.serving.metrics import Metrics
from harness.serving.underway import Application, Message
from harness.store.database import RANDOM

# What a log or a header can hold without harm, and what nobody needs more of.
WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")
W3C = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
UNKNOWN = "unmatched"
# Where a handler says in a word why it refuses, when the status alone does not.
WHY = "pilot.refused"
_NAME = NAME.lower().encode()


class Observation:
    """One request, from taking it up to the end of its answer; to be used with ``with``.

    Args:
        metrics: Where it is counted.
        scope: The request's.

    Attributes:
        code: The status of its answer; whoever answers says it here.
        header: The header by which its answer tells its name.
    """

    __slots__ = ("_metrics", "_scope", "_span", "_started", "code", "header")

    def __init__(self, metrics: Metrics, scope: Any) -> None:
        self._started = time.perf_counter()
        self._metrics = metrics
        self._scope = scope
        self.code = 500

    def __enter__(self) -> Observation:
        request_id, parent = _given(self._scope["headers"])
        self.header = _NAME, request_id.encode()
        self._span = tracing.span("request", parent=parent, kind="server")
        self._span.__enter__()
        # Not taken back: the server logs a failure after this, and a request has a context of its own.
        followed.begin(Followed(request_id, self._span.traceparent or parent))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        scope, handler = self._scope, _handler(self._scope)
        took_s = time.perf_counter() - self._started
        self._metrics.answered(handler, scope["method"], self.code, took_s, scope.get(WHY, ""))
        if self._span is not tracing.NOTHING:
            self._span.say(
                **{
                    "http.request.method": scope["method"],
                    "http.route": handler,
                    "http.response.status_code": self.code,
                }
            )
        self._span.__exit__(kind, error, trace)


class Observed:
    """Around an application.

    Args:
        app: The application.
        metrics: Where requests are counted.
    """

    def __init__(self, app: Application, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with Observation(self._metrics, scope) as seen:

            async def named(message: Message) -> None:
                if message["type"] == "http.response.start":
                    seen.code = message["status"]
                    message = {**message, "headers": [*message.get("headers", ()), seen.header]}
                await send(message)

            await self._app(scope, receive, named)


def _given(headers: list[tuple[bytes, bytes]]) -> tuple[str, str]:
    """The request's name and the trace that it is part of."""
    name = parent = ""
    for key, value in headers:
        if key == b"x-request-id":
            name = value.decode("latin-1")
        elif key == b"traceparent":
            parent = value.decode("latin-1")
    return (
        name if WELL_FORMED.fullmatch(name) else f"{RANDOM.getrandbits(128):032x}",
        parent if W3C.fullmatch(parent) else "",
    )


def _handler(scope: Any) -> str:
    """The route's own path: what a caller asked for may hold anything."""
    path = getattr(scope.get("route"), "path", "")
    # What is mounted, the team's own routes, counts together.
    mounted = scope.get("root_path", "").removeprefix(scope.get("app_root_path", ""))
    return str(path) or mounted or UNKNOWN
