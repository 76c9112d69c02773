"""All drills, and how one is run."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from harness import __version__
from harness.control.identity import actor
from harness.drills.data_quality import DataQuality
from harness.drills.integration import Integration
from harness.drills.kill import Kill
from harness.drills.outcome import Drill, Scene
from harness.drills.overload import Overload
from harness.drills.scratch import scratch_pilot
from harness.errors import PilotError
from harness.progress import working
from harness.readiness import drilled
from harness.settings import Settings

DRILLS: tuple[Drill, ...] = (Kill(), DataQuality(), Integration(), Overload())


def find(name: str) -> Drill:
    """The drill of that name.

    Raises:
        PilotError: There is none.
    """
    for each in DRILLS:
        if each.name == name:
            return each
    known = ", ".join([*(each.name for each in DRILLS), "all", "list"])
    raise PilotError(f"there is no drill '{name}'", where="pilot drill", mend=f"Use one of: {known}.")


def drill(settings: Settings, name: str) -> drilled.Drilled:
    """Run a drill in a scratch copy, and keep what came of it as evidence, also when it failed.

    Raises:
        PilotError: There is no such drill, or the pilot has no packaged model, records or repository; no
            evidence is written then.
    """
    chosen = find(name)
    with working(f"drill {name}") as report:
        report("a scratch copy of the pilot", 0.0)
        with scratch_pilot(settings) as pilot:
            outcome = chosen.run(Scene(pilot, report))
            found = drilled.Drilled(
                drill=name,
                passed=outcome.verdict == "passed",
                verdict=outcome.verdict.value,
                produced_at=datetime.now(UTC).replace(microsecond=0),
                produced_by=actor(),
                harness=__version__,
                cores=os.cpu_count() or 1,
                trees=pilot.trees,
                model=pilot.model,
                figures=outcome.figures,
                checks=tuple(
                    drilled.Checked(name=each.name, outcome=each.verdict.value, detail=each.detail)
                    for each in outcome.checks
                ),
            )
    drilled.write(settings.root, found)
    return found
