"""Decisions on their way to the consumer, in a thread that no decision ever waits for.

Each is posted at least once: the ``Idempotency-Key`` is the decision's id, by which a consumer knows one that
it has already. Decisions about one entity arrive in their order, so one that fails holds back the later ones
of its entity, and no others. One that the consumer refuses again and again while it takes others is given up,
and holds its entity's later ones back until somebody decides. Of several services of a pilot, on a host or
with PostgreSQL on several, one delivers and the others stand by.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.control import Control, StateUnreadable
from harness.errors import PilotError
from harness.serving.consumer import Concerns, Consumer, Problem, check_target
from harness.serving.logs import failed
from harness.store import Outbox, Parcel, StoreUnavailable
from harness.store.outbox import DELIVERED, WITHHELD

log = logging.getLogger("harness.delivery")

LOCK = Path("var", "run", "delivery.lock")


@dataclass(frozen=True)
class Pace:
    """How fast it goes; all in seconds unless it says otherwise.

    Attributes:
        idle: Between two looks into the outbox, unless a whole batch was in it.
        first_wait: After an entity's first failure; each further one doubles it.
        longest_wait: What an entity's waits grow to.
        pause: After failures that speak of the consumer as a whole; each further pause is twice as long.
        longest_pause: What pauses grow to.
        connect: How long a connection may take.
        answer: How long the consumer may be silent.
        note: How long a delivery may go without being noted, and would be repeated after a crash.
        stand_by: Between two tries to become the one that delivers.
        batch: How many decisions are fetched at once.
        in_a_row: How many such failures in a row it takes.
        retried: How many entities that failed before are tried again between two batches of the others.
        held: How many entities are held back before no others are tried.
        refused: After how many attempts a decision is given up that the consumer refuses, while it takes
            others.
        tried: After how many attempts one is given up that fails in any other way, while others do not.
    """

    idle: float = 0.2
    first_wait: float = 0.5
    longest_wait: float = 60.0
    pause: float = 0.5
    longest_pause: float = 30.0
    connect: float = 3.0
    answer: float = 10.0
    note: float = 1.0
    stand_by: float = 1.0
    batch: int = 50
    in_a_row: int = 3
    retried: int = 3
    held: int = 500
    refused: int = 10
    tried: int = 50


class Deliverer:
    """Takes decisions from the outbox to the consumer.

    Args:
        outbox: Where they wait.
        control: What says which stage the pilot is in.
        url: Where they are posted to.
        secret: What they are signed with; empty leaves them unsigned.
        root: The pilot's folder, below which the lock lies.
        pace: How fast it goes.
        alarm: Whom to tell that a delivery was given up.
    """

    def __init__(
        self,
        outbox: Outbox,
        control: Control,
        *,
        url: str,
        secret: str,
        root: Path,
        pace: Pace | None = None,
        alarm: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._outbox = outbox
        self._control = control
        self._pace = pace or Pace()
        self._consumer = Consumer(url, secret, connect_s=self._pace.connect, answer_s=self._pace.answer)
        self._lock = root / LOCK
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._alarm = alarm
        self._holds: Callable[[], bool] = lambda: False
        self._held: dict[str, _Held] = {}
        self._succeeded_at = 0.0
        self._in_a_row = 0
        self._pauses = 0
        self._said = ""

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self, within_s: float = 2.0) -> None:
        """End. What is not delivered by now is delivered after the next start."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(within_s)

    def _run(self) -> None:
        with closing(self._consumer):
            while not self._ending.is_set():
                try:
                    with self._outbox.alone() if self._outbox.shared else self._alone() as holds:
                        if holds is not None:
                            self._holds = holds
                            self._deliver()
                except StoreUnavailable as error:
                    self._say(f"nothing is delivered: {error}")
                except OSError as error:
                    self._say(f"nothing is delivered: {self._lock}: {error.strerror}")
                except Exception as error:
                    failed("delivering failed, and is taken up again", error)
                self._ending.wait(self._pace.stand_by)

    def _deliver(self) -> None:
        # Another one may have gone on meanwhile; what this one held back is tried anew.
        self._held = {}
        while not self._ending.is_set() and self._holds():
            try:
                wait = self._round()
            except StoreUnavailable as error:
                self._say(f"nothing is delivered: {error}")
                wait = self._pace.stand_by
            self._ending.wait(wait)

    def _round(self) -> float:
        """Deliver what can be delivered now; gives the seconds until the next round.

        First whoever has not failed, then some of those who have: nobody waits behind a stranger's failure.
        """
        others = self._held if len(self._held) < self._pace.held else None
        parcels = [] if others is None else self._outbox.first(self._pace.batch, without=others)
        due = sorted((held.until, entity) for entity, held in self._held.items())
        retried = [entity for until, entity in due if until <= time.monotonic()][: self._pace.retried]
        parcels += self._outbox.first(self._pace.batch, of=retried) if retried else []
        notes = _Notes(self._outbox, self._pace.note)
        try:
            for parcel in parcels:
                if self._ending.is_set():
                    break
                if parcel.entity in notes.fallen:
                    continue
                if not self._allowed():
                    return self._paused()
                if self._outbox.shared and not self._holds():
                    return 0.0  # another host delivers by now, and may be further
                if parcel.sandbox and not self._consumer.here:
                    # Decided about nothing real: no business of a real consumer once the pilot is let out.
                    notes.withhold(parcel)
                    continue
                self._attempt(parcel, notes)
                if self._in_a_row >= self._pace.in_a_row:
                    return self._paused()
        finally:
            notes.write()
        # What is delivered is noted in the decisions' own database, so not after each of them.
        return 0.0 if len(parcels) >= self._pace.batch else self._pace.idle

    def _allowed(self) -> bool:
        # Before each, and not once a start: a stage changes under a service that runs.
        try:
            check_target(self._consumer.url, self._stage())
        except PilotError as error:
            self._say(f"nothing is delivered: {error}")
            return False
        return True

    def _stage(self) -> str:
        try:
            state = self._control.state()
        except StateUnreadable:
            return "unknown"
        return "unknown" if state is None else state.stage

    def _attempt(self, parcel: Parcel, notes: _Notes) -> None:
        problem = self._consumer.post(parcel)
        if problem is None:
            notes.arrived(parcel)
            self._succeeded(parcel.entity)
            return
        if self._hopeless(parcel, problem):
            self._give_up(parcel, problem, notes)
            return
        log.warning("decision %s is not delivered yet: %s", parcel.decision_id, problem.what)
        notes.fell(parcel, problem.what)
        if problem.concerns is Concerns.EVERYTHING:
            self._in_a_row = self._pace.in_a_row
            return
        if parcel.entity not in self._held:  # one that fails again says nothing new about the others
            self._in_a_row = self._in_a_row + 1 if problem.concerns is Concerns.PERHAPS_ALL else 0
        found = self._held.get(parcel.entity, _Held(0.0, 0, time.monotonic()))
        wait = _doubled(self._pace.first_wait, found.failures, self._pace.longest_wait)
        self._held[parcel.entity] = _Held(time.monotonic() + wait, found.failures + 1, found.since)

    def _hopeless(self, parcel: Parcel, problem: Problem) -> bool:
        # A wrong secret or address is refused as well, with every decision. Only a consumer that has taken
        # others since this one first failed speaks of this one.
        held = self._held.get(parcel.entity)
        if held is None or self._succeeded_at <= held.since or problem.concerns is Concerns.EVERYTHING:
            return False
        refused = problem.concerns is Concerns.THIS_ONE
        return parcel.attempts + 1 >= (self._pace.refused if refused else self._pace.tried)

    def _give_up(self, parcel: Parcel, problem: Problem, notes: _Notes) -> None:
        self._held.pop(parcel.entity, None)
        notes.lost(parcel, problem.what)
        notes.write()
        told = (
            f"decision {parcel.decision_id} is given up after {parcel.attempts + 1} attempts: "
            f"{problem.what}. Later ones about the same entity wait behind it: `pilot outbox list`, then "
            "retry or drop"
        )
        log.error("%s", told)
        try:
            self._alarm(told)
        except Exception as error:
            failed("the alarm reached nobody", error)

    def _succeeded(self, entity: str) -> None:
        self._held.pop(entity, None)
        self._succeeded_at = time.monotonic()
        if self._pauses:
            log.info("the consumer takes decisions again")
            # What failed while it was away did not fail by itself.
            self._held = {each: _Held(0.0, held.failures, held.since) for each, held in self._held.items()}
        self._in_a_row = self._pauses = 0
        self._said = ""

    def _paused(self) -> float:
        self._in_a_row = 0
        self._pauses += 1
        return _doubled(self._pace.pause, self._pauses - 1, self._pace.longest_pause)

    def _say(self, what: str) -> None:
        # Once, and not with every try.
        if what != self._said:
            log.error("%s", what)
        self._said = what

    @contextmanager
    def _alone(self) -> Iterator[Callable[[], bool] | None]:
        """Be the only one on this host; yields what asks whether this is still so."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield lambda: self._stands(stream)

    def _stands(self, lock: IO[str]) -> bool:
        # Whoever deletes the file lets another service lock a new one.
        try:
            return os.path.samestat(os.fstat(lock.fileno()), self._lock.stat())
        except OSError:
            return False


@dataclass(frozen=True)
class _Held:
    until: float
    failures: int
    since: float


class _Notes:
    """What came of a round, written into the outbox now and then."""

    def __init__(self, outbox: Outbox, every_s: float) -> None:
        self._outbox = outbox
        self._every_s = every_s
        self._since = time.monotonic()
        self._arrived: list[int] = []
        self._withheld: list[int] = []
        self._errors: dict[int, str] = {}
        self._lost: dict[int, str] = {}
        self.fallen: set[str] = set()

    def arrived(self, parcel: Parcel) -> None:
        self._arrived.append(parcel.sequence)
        if time.monotonic() - self._since > self._every_s:
            self.write()

    def withhold(self, parcel: Parcel) -> None:
        self._withheld.append(parcel.sequence)

    def fell(self, parcel: Parcel, error: str) -> None:
        self._errors[parcel.sequence] = error
        self.fallen.add(parcel.entity)

    def lost(self, parcel: Parcel, error: str) -> None:
        self._lost[parcel.sequence] = error
        self.fallen.add(parcel.entity)

    def write(self) -> None:
        arrived, self._arrived = self._arrived, []
        withheld, self._withheld = self._withheld, []
        errors, self._errors = self._errors, {}
        self._outbox.settle(arrived, DELIVERED)
        self._outbox.settle(withheld, WITHHELD)
        self._outbox.failed(errors)
        lost, self._lost = self._lost, {}
        self._outbox.give_up(lost)
        self._since = time.monotonic()


def _doubled(first: float, times: int, longest: float) -> float:
    return min(longest, first * 2.0 ** min(times, 30))
