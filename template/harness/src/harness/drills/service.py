"""The copy's service as a drill starts and ends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from harness.drills.scratch import ScratchPilot
from harness.errors import PilotError
from harness.testing import Service

WORKERS = 4
END_WITHIN_S = 20.0


@contextmanager
def served(pilot: ScratchPilot, workers: int = WORKERS, /, **variables: str) -> Iterator[Service]:
    """Run the service for a while, on several workers.

    Args:
        pilot: The copy.
        workers: How many.
        variables: Environment variables beside the copy's own.

    Raises:
        PilotError: It does not start.
    """
    try:
        service = Service(pilot.copy, "", "--workers", str(workers), **variables)
    except AssertionError as error:
        logs = sorted((pilot.copy.root / "var").glob("service-*.log"), key=lambda log: log.stat().st_mtime)
        lines = logs[-1].read_text(encoding="utf-8").strip().splitlines() if logs else []
        told = [line.removeprefix("pilot: ") for line in lines if line.startswith("pilot: ")]
        last = (told or lines or ["it said nothing"])[-1]
        raise PilotError(
            f"the service of the scratch copy does not start: {last}",
            where="pilot serve",
            mend="Mend what it says; `pilot serve` here says the same.",
        ) from error
    try:
        yield service
    finally:
        end(service, signal.SIGTERM)


def end(service: Service, how: signal.Signals) -> None:
    """End a service and every process that it started; SIGKILL reaches all of them at once."""
    try:
        whole = [psutil.Process(service.process.pid)]
        whole += whole[0].children(recursive=True)
    except psutil.Error:
        whole = []
    for each in whole if how == signal.SIGKILL else whole[:1]:
        with suppress(psutil.Error):
            each.send_signal(how)
    _, left = psutil.wait_procs(whole, timeout=END_WITHIN_S)
    for each in left:
        with suppress(psutil.Error):
            each.kill()
    service.process.wait()
