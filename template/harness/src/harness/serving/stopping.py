"""``POST /control/kill``: the same as `pilot kill`, for people on call who have no shell on this host.

A stop is never refused for what it says: whatever the body is, the model is stopped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from harness import control
from harness.control import confirmation
from harness.control.identity import Actor
from harness.serving.access import Caller, requires

if TYPE_CHECKING:
    from harness.serving.service import Service

PATH = "/control/kill"
MOST_BYTES = 16 * 1024
STOPS_AT_ONCE = 4
NO_REASON = "(no reason given)"

log = logging.getLogger("harness.serving")


class StopIn(BaseModel):
    """Why; a stop needs no reason, and no body either."""

    reason: str = Field(default=NO_REASON, description="Why; it is kept in the audit")


class StopOut(BaseModel):
    """The stop, which is in force, and who has confirmed it."""

    stopped: bool
    confirmed: bool | None = Field(
        description="Whether every process that serves on this host has confirmed it; null where that is "
        "not known, because the one that answers, or all, could leave no note of themselves"
    )
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

    threads = ThreadPoolExecutor(STOPS_AT_ONCE, "stop")
    threads.submit(os.getpid)  # its first thread is there before anybody could have taken the last one

    async def stop(request: Request, caller: Annotated[Caller, requires("operate")]) -> JSONResponse:
        """Stop the model on this host: every request that starts from now on is decided by the fallback."""
        reason = _reason(await _body(request))
        # Not among the threads that decide, nor those that put refusals on record: a stop waits for nobody.
        here = asyncio.get_running_loop()
        return await here.run_in_executor(threads, _stop, service.control.folder, root, caller, reason)

    body = {"required": False, "content": {"application/json": {"schema": StopIn.model_json_schema()}}}
    app.post(PATH, response_model=StopOut, openapi_extra={"requestBody": body})(stop)


def _stop(folder: Path, root: Path | None, caller: Caller, reason: str) -> JSONResponse:
    who = Actor(
        f"token {caller.name}" if caller.name else "a caller without a token", os.getuid(), token=True
    )
    missing: list[str] = []
    failed: list[str] = []

    def stop(there: Path) -> control.Stop | None:
        # One folder that takes no stop keeps no other from being stopped.
        try:
            done = control.kill(there, reason=reason, who=who)
        except Exception as error:
            log.error("%s", error)
            failed.append(str(error))
            return None
        missing.extend(done.missing)
        return done

    def elsewhere(other: Path) -> None:
        if other != folder.resolve():
            stop(other)

    done = stop(folder)
    words: list[confirmation.Word] = []
    try:
        words = confirmation.every_word(root, stop=elsewhere) if root is not None else []
    except Exception as error:
        log.error("the services of this host could not be asked whether they see the stop: %s", error)
    out = StopOut(
        stopped=not failed,
        confirmed=confirmation.verdict(words, own=os.getpid()),
        revision=None if done is None or done.state is None else done.state.rev,
        not_written=missing,
        last_model_decision=confirmation.last_decision(words),
        workers=[word.document() for word in words],
    ).model_dump()
    if failed:
        return JSONResponse({"error": "not_stopped", "detail": "; ".join(failed), **out}, status_code=503)
    return JSONResponse(out)


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return b""
    except ClientDisconnect:  # whoever asked for the stop need not wait for its answer
        return b""
    return body


def _reason(body: bytes) -> str:
    try:
        said = json.loads(body)["reason"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return NO_REASON
    return said.strip()[:MOST_BYTES] or NO_REASON if isinstance(said, str) else NO_REASON
