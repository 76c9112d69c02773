"""Reasons that took longer than a caller can wait: computed from the record afterwards, and put on record.

The store is the queue: a decision says that its reasons are pending until they are written, so whatever ends
the service meanwhile, the next one finds them. They are computed in a process of their own that stands back
behind decisions for the processor, and not while the model is stopped.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from harness.errors import PilotError
from harness.serving.logs import failed
from harness.serving.scored import Scored
from harness.store import Decision, DecisionStore

log = logging.getLogger("harness.serving")

LOOK_EVERY_S = 60.0
AT_ONCE = 100
# One whose reasons could not be computed is tried again; its model may be away for a while.
AGAIN_AFTER_S = 600.0


class Host(Protocol):
    """Where a model runs."""

    def score(self, digest: str, record: Mapping[str, Any]) -> Scored:
        """What the model says of a record, with all its reasons."""

    def close(self) -> None:
        """End it, whatever it is doing."""


class Explaining:
    """Gives decisions the reasons that they were recorded without.

    Args:
        host_factory: Makes where the models run; called on the thread, when there is something to do.
        store: Where the decisions are.
        may_run: Whether models may be run at all.
    """

    def __init__(
        self, host_factory: Callable[[], Host], store: DecisionStore, *, may_run: Callable[[], bool]
    ) -> None:
        self._host_factory = host_factory
        self._store = store
        self._may_run = may_run
        self.start_anew()

    def start_anew(self) -> None:
        """Know of nothing, as after a fork: threads do not come along."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._host: Host | None = None
        self._wanted = threading.Event()
        self._closed = False
        self._tried: dict[str, float] = {}

    def look(self) -> None:
        """There may be something to do: after a start there is what the last service did not get to."""
        self._wanted.set()
        if self._thread is None and not self._closed:
            with self._lock:
                if self._thread is None and not self._closed:
                    self._thread = threading.Thread(target=self._work, name="reasons", daemon=True)
                    self._thread.start()

    def close(self) -> None:
        """End the model's process; what is pending stays so."""
        with self._lock:
            self._closed, host = True, self._host
        self._wanted.set()
        if host is not None:
            host.close()

    def _work(self) -> None:
        while not self._closed:
            self._wanted.wait(LOOK_EVERY_S)
            self._wanted.clear()
            try:
                while not self._closed and self._some():
                    pass
            except Exception as error:
                if not self._closed:
                    failed("pending reasons could not be looked for", error)

    def _some(self) -> bool:
        """Do some of what is to do; False where nothing is left that can be done now."""
        if not self._may_run():
            return False
        now = time.monotonic()
        self._tried = {name: at for name, at in self._tried.items() if now - at < AGAIN_AFTER_S}
        pending = self._store.pending(AT_ONCE + len(self._tried))
        todo = [decision for decision in pending if decision.decision_id not in self._tried]
        # Another process may be about the same ones: from different ends both get on.
        random.shuffle(todo)
        for decision in todo:
            if self._closed or not self._may_run():
                return False
            self._explain(decision)
        return bool(todo)

    def _explain(self, decision: Decision) -> None:
        try:
            assert decision.model_digest is not None  # it was a model that could not explain in time
            said = self._ready().score(decision.model_digest, decision.record)
            self._store.reasons_given(decision.decision_id, [asdict(reason) for reason in said.reasons])
        except PilotError as error:
            self._tried[decision.decision_id] = time.monotonic()
            log.warning("the reasons of decision %s are still pending: %s", decision.decision_id, error)
        except Exception as error:
            self._tried[decision.decision_id] = time.monotonic()
            if not self._closed:
                failed(f"the reasons of decision {decision.decision_id} could not be computed", error)

    def _ready(self) -> Host:
        if self._host is None:
            host = self._host_factory()
            with self._lock:
                self._host, late = host, self._closed
            if late:  # nobody else would end it
                host.close()
        return self._host
