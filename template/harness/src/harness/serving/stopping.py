"""``POST /control/kill``: the same as `pilot kill`, for people on call who have no shell on this host.

A stop is never refused for what it says: whatever the body is, the model is stopped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from harness import control
from harness.control import confirmation
from harness.control.identity import Actor
from harness.errors import PilotError
from harness.serving.access import Caller, requires

if TYPE_CHECKING:
    from harness.serving.service import Service

PATH = "/control/kill"
MOST_BYTES = 16 * 1024
NO_REASON = "(no reason given)"

log = logging.getLogger("harness.serving")


class StopIn(BaseModel):
    """Why; a stop needs no reason, and no body either."""

    reason: str = Field(default=NO_REASON, description="Why; it is kept in the audit")


class StopOut(BaseModel):
    """The stop, which is in force, and who has confirmed it."""

    stopped: bool
    confirmed: bool = Field(description="Whether every process that serves on this host has confirmed it")
    revision: int | None
    not_written: list[str] = Field(description="What could not be written beside the stop, and why")
    last_model_decision: str | None
    workers: list[dict[str, Any]]


def attach(app: FastAPI, service: Service, root: Path | None) -> None:
    """Add the route to the application.

    Args:
        app: The application.
        service: What decides.
        root: The pilot's folder, below which the processes that serve are noted; None where none are.
    """

    async def stop(request: Request, caller: Annotated[Caller, requires("operate")]) -> JSONResponse:
        """Stop the model on this host: every request that starts from now on is decided by the fallback."""
        reason = _reason(await _body(request))
        # Not among the threads that decide: a stop waits for no place there.
        return await asyncio.to_thread(_stop, service.control.folder, root, caller, reason)

    body = {"required": False, "content": {"application/json": {"schema": StopIn.model_json_schema()}}}
    app.post(PATH, response_model=StopOut, openapi_extra={"requestBody": body})(stop)


def _stop(folder: Path, root: Path | None, caller: Caller, reason: str) -> JSONResponse:
    who = Actor(
        f"token {caller.name}" if caller.name else "a caller without a token", os.getuid(), token=True
    )
    try:
        done = control.kill(folder, reason=reason, who=who)
    except PilotError as error:
        log.error("%s", error)
        return JSONResponse({"error": "not_stopped", "detail": str(error)}, status_code=503)
    missing = list(done.missing)

    def elsewhere(other: Path) -> None:
        if other == folder.resolve():
            return
        try:
            missing.extend(control.kill(other, reason=reason, who=who).missing)
        except PilotError as error:
            missing.append(str(error))

    words = confirmation.every_word(root, stop=elsewhere) if root is not None else []
    return JSONResponse(
        StopOut(
            stopped=True,
            confirmed=all(word.confirmed for word in words),
            revision=None if done.state is None else done.state.rev,
            not_written=missing,
            last_model_decision=confirmation.last_decision(words),
            workers=[word.document() for word in words],
        ).model_dump()
    )


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            return b""
    return body


def _reason(body: bytes) -> str:
    try:
        said = json.loads(body)["reason"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return NO_REASON
    return said.strip()[:MOST_BYTES] or NO_REASON if isinstance(said, str) else NO_REASON
