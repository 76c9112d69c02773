"""SIGKILL under load, to whichever process: what a caller was given is on record, once."""

from __future__ import annotations

import itertools
import json
import random
import signal
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from drilling import drillable
from harness.drills.load import Caller
from harness.drills.scratch import ScratchPilot, scratch_pilot
from harness.drills.service import end, served
from harness.drills.stops import decides
from harness.load.generator import Generator, Target, due
from harness.store import DecisionStore
from harness.store.decisions import decisions
from harness.testing import Service

__all__ = ["drillable"]

WORKERS = 2
RATE = 60.0
# Between two kills, at random: a worker is back within a second or two, so some hit one that just starts.
BETWEEN_S = (0.05, 0.6)
AT_A_TIME_S = 1.5
FORKSERVER = "harness.serving.forkserver"


def test_decisions_that_callers_have_outlive_kill_9(drillable: Any) -> None:
    killed, given = rounds(drillable, count=2, kills=2)
    assert killed == {"worker": 2, "beside": 2, "service": 2}
    assert given >= 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_decisions_that_callers_have_outlive_two_hundred_kills(drillable: Any) -> None:
    killed, given = rounds(drillable, count=20, kills=9)
    assert killed["service"] == 20
    assert sum(killed.values()) == 200
    assert given > 1_000


def test_a_decision_that_is_not_on_record_is_noticed(drillable: Any) -> None:
    """The look at the store is worth something: a row that is taken away is missed."""
    with scratch_pilot(drillable.settings()) as pilot:
        with served(pilot, 1) as service, Generator() as asking:
            found = asking.run(
                Target(service.url, bodies(pilot), pilot.token()), due(20, 0.5, "constant", 1), ids=True
            )
        with closing(pilot.copy.store()) as store:
            ids = [each for each in found.ids if each]
            assert len(ids) == 10
            assert not_once(store, ids) == {}
            with store.database.engine.begin() as connection:
                connection.execute(sa.delete(decisions).where(decisions.c.decision_id == ids[3]))
            assert not_once(store, ids) == {ids[3]: 0}
            assert not_once(store, [ids[0], *ids[4:], ids[0]]) == {ids[0]: 1}


def rounds(tiny: Any, *, count: int, kills: int) -> tuple[Counter[str], int]:
    """Serve, load, kill this and that, then everything at once; again, on the same store.

    Returns:
        How many of which were killed, and how many decisions callers were given.
    """
    chance, killed = random.Random(), Counter[str]()
    ids: list[str] = []
    with scratch_pilot(tiny.settings()) as pilot, Generator() as asking:
        token = pilot.token()
        for _ in range(count):
            with served(pilot, WORKERS) as service:
                caller = Caller(service.url, pilot.records, token)
                assert decides(caller, within_s=60), caller.last
                loaded = Loaded(asking, Target(service.url, bodies(pilot), token))
                for number in range(kills):
                    time.sleep(chance.uniform(*BETWEEN_S))
                    kind = ("worker", "beside")[number % 2]
                    kill_one(service, kind, chance)
                    killed[kind] += 1
                    assert service.process.poll() is None, service.said()
                time.sleep(chance.uniform(*BETWEEN_S))
                end(service, signal.SIGKILL)
                killed["service"] += 1
                ids += [answer.decision_id for answer in caller.answers if answer.decision_id]
                ids += loaded.ids()
        with closing(pilot.copy.store()) as store:
            assert not_once(store, ids) == {}
    return killed, len(ids)


class Loaded:
    """Requests that keep coming, in the background, until they are no longer wanted."""

    def __init__(self, asking: Generator, target: Target) -> None:
        self._found: list[str] = []
        self._over = threading.Event()

        def ask() -> None:
            for turn in itertools.count():
                moments = due(RATE, AT_A_TIME_S, "poisson", turn)
                given = asking.run(target, moments, connections=8, answer_within_s=1.0, ids=True)
                self._found += [each for each in given.ids if each]
                if self._over.is_set():
                    return

        self._thread = threading.Thread(target=ask, name="loaded", daemon=True)
        self._thread.start()

    def ids(self) -> list[str]:
        """The decisions that callers were given; no more are asked for."""
        self._over.set()
        self._thread.join()
        return self._found


def bodies(pilot: ScratchPilot) -> list[str]:
    return [json.dumps(record) for record in pilot.records]


def kill_one(service: Service, kind: str, chance: random.Random) -> None:
    """SIGKILL to a worker, or to a process beside one: a model's, or one that those come from."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(psutil.Error):  # one has just ended
            every = psutil.Process(service.process.pid).children(recursive=True)
            beside = [each for each in every if FORKSERVER in " ".join(each.cmdline())]
            # What the supervisor itself started answers nobody.
            workers = [each for each in every if each not in beside and each.ppid() != service.process.pid]
            if found := workers if kind == "worker" else beside:
                chance.choice(found).kill()
                return
        time.sleep(0.01)
    raise AssertionError(f"there was no process of the kind '{kind}' to kill\n{service.said()}")


def not_once(store: DecisionStore, ids: list[str]) -> dict[str, int]:
    """Decisions that callers were given and that are not on record exactly once, or were given twice."""
    with store.database.engine.connect() as connection:
        on_record = Counter(connection.execute(sa.select(decisions.c.decision_id)).scalars())
    given = Counter(ids)
    return {each: on_record[each] for each in given if on_record[each] != 1 or given[each] != 1}
