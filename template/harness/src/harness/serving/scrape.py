"""``GET /metrics``: the page that Prometheus reads, and what is looked up for it.

What the store and the control state say is looked up when the page is asked for, on a thread of its own: the
page comes without the store's part when the store does not answer, and no decision waits for either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Waited
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fastapi import FastAPI, Request, Response

from harness import __version__
from harness.control import StateUnreadable
from harness.control.state import Stage, State
from harness.serving.access import requires
from harness.serving.metrics import Samples
from harness.store import Outbox, StoreUnavailable

if TYPE_CHECKING:
    from harness.serving.service import Service

PATH = "/metrics"
STORE_WITHIN_S = 2.0
# Another scrape within that time, by a second Prometheus say, asks the store nothing new.
STORE_FOR_S = 5.0
STAGES = (*get_args(Stage), "unknown")
ROLES = ("champion", "challenger")


def attach(app: FastAPI, service: Service, root: Path | None) -> None:
    """Add the route to the application, and have the models looked at from time to time.

    Args:
        app: The application.
        service: What decides.
        root: The pilot's folder; None where it is not known, and neither is the commit.
    """
    threads = ThreadPoolExecutor(1, "metrics-page")
    store = _Store(service)
    commit = "" if root is None else git_commit(root)
    service.metrics.watch(lambda: _sample_models(service))

    def page(accept: str) -> tuple[bytes, str]:
        now = {
            "pilot_build_info": [((__version__, commit), 1.0)],
            **_control(service),
            **store.looked_up(),
        }
        return service.metrics.page(now, accept)

    async def metrics(request: Request) -> Response:
        """What the service counts and measures, for Prometheus."""
        here = asyncio.get_running_loop()
        content, kind = await here.run_in_executor(threads, page, request.headers.get("accept", ""))
        return Response(content, headers={"content-type": kind})

    app.get(PATH, dependencies=[requires("read")], response_class=Response)(metrics)


def _sample_models(service: Service) -> None:
    standing = service.host.standing()
    for role, digest in _named(_state(service)).items():
        seen = standing.get(digest)
        service.metrics.put("pilot_models_loaded", float(seen is not None and seen.loaded), role)
        service.metrics.put("pilot_breaker_open", float(seen is not None and seen.left_alone), role)
    service.metrics.put("pilot_queue_depth", float(service.waiting))


def _control(service: Service) -> Mapping[str, Any]:
    state = _state(service)
    stage = "unknown" if state is None else state.stage
    # What is not known, or cannot be read, lets no model decide.
    stopped = state is None or state.latched or service.control.killed()
    return {
        "pilot_control_revision": [((), 0.0 if state is None else float(state.rev))],
        "pilot_control_stage": [((each,), float(each == stage)) for each in STAGES],
        "pilot_control_stopped": [((), float(stopped))],
        "pilot_model_info": [((role, digest), 1.0) for role, digest in _named(state).items()],
    }


def _state(service: Service) -> State | None:
    try:
        return service.control.state()
    except StateUnreadable:
        return None


def _named(state: State | None) -> dict[str, str]:
    """The digest of each model that the state names, by its role."""
    slots = {} if state is None else {role: getattr(state, role) for role in ROLES}
    return {role: slot.digest for role, slot in slots.items() if slot is not None}


class _Store:
    """What the store says, asked for on a thread of its own: one question at a time, and no long wait."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._threads = ThreadPoolExecutor(1, "metrics-store")
        self._asked: Future[Samples] | None = None
        self._at = 0.0

    def looked_up(self) -> Samples:
        """The samples; ``pilot_store_up`` 0 and no others when the store does not answer in time."""
        asked = self._asked
        if asked is None or (asked.done() and time.monotonic() - self._at > STORE_FOR_S):
            self._at = time.monotonic()
            asked = self._asked = self._threads.submit(self._ask)
        try:
            return asked.result(STORE_WITHIN_S)
        except (Waited, StoreUnavailable):
            return {"pilot_store_up": [((), 0.0)]}

    def _ask(self) -> Samples:
        store = self._service.store
        store.ping()
        waiting = Outbox(store.database).waiting()
        return {
            "pilot_store_up": [((), 1.0)],
            "pilot_outbox_waiting": [((), float(waiting.count))],
            "pilot_outbox_dead": [((), float(getattr(waiting, "dead", 0)))],
            "pilot_outbox_withheld": [((), float(waiting.withheld))],
            "pilot_outbox_oldest_age_seconds": [((), _age_s(waiting.oldest))],
        }


def _age_s(since: str | None) -> float:
    if since is None:
        return 0.0
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds())


def git_commit(root: Path) -> str:
    """The commit that is checked out, in hexadecimal digits; empty where that is not known, as in an image.

    Read from git's files: a service starts no programs, and an image need not have git.
    """
    try:
        found = next((each / ".git" for each in (root, *root.parents) if (each / ".git").exists()), None)
        if found is None:
            return ""
        if found.is_file():  # a work tree beside another
            found = (found.parent / found.read_text().partition(":")[2].strip()).resolve()
        head = (found / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return _hexadecimal(head)
        name = head.removeprefix("ref: ")
        shared = found
        if (found / "commondir").is_file():
            shared = (found / (found / "commondir").read_text().strip()).resolve()
        for folder in (found, shared):
            if (folder / name).is_file():
                return _hexadecimal((folder / name).read_text().strip())
        packed = (shared / "packed-refs").read_text().splitlines()
        return _hexadecimal(next((line.split()[0] for line in packed if line.endswith(f" {name}")), ""))
    except (OSError, ValueError):
        return ""


def _hexadecimal(text: str) -> str:
    return text if len(text) in (40, 64) and set(text) <= set("0123456789abcdef") else ""
