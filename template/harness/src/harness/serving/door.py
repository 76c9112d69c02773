"""What every request passes and every answer bears, whatever the endpoint.

An answer is for its caller alone: nothing keeps it, frames it or takes it for something else. There is no
CORS: no page of another origin may read an answer. What is not there is answered alike, whatever was asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from harness.serving.headers import HEADERS, HSTS, Header, Headers
from harness.serving.rates import Left
from harness.serving.strict import Unwelcome
from harness.serving.underway import Application, Message

MOST_QUERY = 2_048


class RefusalOut(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="What programs go by")
    detail: str = Field(description="What people read")


class FieldOut(BaseModel):
    """What is wrong with one field; never its value."""

    field: str
    message: str


class InvalidOut(BaseModel):
    """What is wrong with what was sent."""

    error: str
    fields: list[FieldOut]


def answers(*, body: bool, limited: bool) -> dict[int | str, dict[str, Any]]:
    """The refusals that an endpoint may give besides its own, for the published schema.

    Args:
        body: Whether it reads a body.
        limited: Whether a caller has only so many requests.
    """
    found: dict[int | str, dict[str, Any]] = {
        401: {"model": RefusalOut, "description": "No valid token"},
        403: {"model": RefusalOut, "description": "A token without the scope"},
        503: {
            "model": RefusalOut,
            "description": "Nothing was done: it could not be recorded, or not be decided",
        },
    }
    if limited:
        found[429] = {"model": RefusalOut, "description": "More requests than the caller has"}
    if body:
        found |= {
            400: {"model": RefusalOut, "description": "The request is ambiguous or incomplete"},
            413: {"model": RefusalOut, "description": "The body is too large"},
            415: {
                "model": RefusalOut,
                "description": "The body is said to be something else than JSON in UTF-8",
            },
            422: {
                "model": InvalidOut | RefusalOut,
                "description": "The body is no JSON, or breaks the contract",
            },
        }
    return found


class TooMany(Exception):
    """The caller has had its requests.

    Attributes:
        left: What it has left.
    """

    def __init__(self, left: Left) -> None:
        self.left = left
        super().__init__("too many requests")


def ours(*, tls: bool) -> Headers:
    """The security headers that every answer bears.

    Args:
        tls: Whether callers reach the service by TLS.
    """
    return (*HEADERS, HSTS) if tls else HEADERS


def with_ours(theirs: Iterable[Header], ours: Headers) -> list[Header]:
    """An answer's headers with those of ours that it lacks."""
    found = list(theirs)
    names = {name for name, _ in found}
    return found + [each for each in ours if each[0] not in names]


class Door:
    """Around an application: its answers bear the security headers that they lack.

    Args:
        app: The application.
        tls: Whether callers reach it by TLS.
    """

    def __init__(self, app: Application, *, tls: bool = False) -> None:
        self._app = app
        self._ours = ours(tls=tls)

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

        async def bearing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = with_ours(message.get("headers", ()), self._ours)
            await send(message)

        if len(scope["query_string"]) > MOST_QUERY:
            detail = f"A query string may have {MOST_QUERY:,} bytes."
            await JSONResponse({"error": "too_large", "detail": detail}, 414)(scope, receive, bearing)
            return
        await self._app(scope, receive, bearing)


async def unwelcome(_request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that was not looked into."""
    assert isinstance(error, Unwelcome)
    return JSONResponse({"error": error.code, "detail": error.detail}, error.status)


async def too_many(_request: Request, error: Exception) -> JSONResponse:
    """The answer to a caller that has had its requests."""
    assert isinstance(error, TooMany)
    detail = f"More requests than this caller has; the next one in {error.left.headers['Retry-After']} s."
    return JSONResponse({"error": "too_many", "detail": detail}, 429, headers=error.left.headers)


async def not_here(_request: Request, error: Exception) -> JSONResponse:
    """The answer where nothing is, or nothing by that method; it repeats nothing of what was asked."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        code, detail = "not_found", "There is nothing here."
    elif error.status_code == 405:
        code, detail = "method_not_allowed", "This takes another method."
    else:
        code, detail = "refused", "The request cannot be answered."
    return JSONResponse({"error": code, "detail": detail}, error.status_code, headers=error.headers)
