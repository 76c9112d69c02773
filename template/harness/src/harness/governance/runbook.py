"""docs/runbook.md: what to do when a signal is raised, one section a signal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING

from harness.governance.markdown import Markdown
from harness.governance.rules import Gate, Problem, Rule
from harness.governance.values import Pending, Unfilled

if TYPE_CHECKING:
    from harness.governance.documents import Documents

SECTIONS = ("Stop", "Roll back")
DRILL_EVERY = timedelta(days=180)


class Runbook(Markdown):
    """The front matter.

    Attributes:
        last_drill: The day on which somebody last went through it.
    """

    last_drill: Pending[date]


def _drilled(documents: Documents) -> Iterator[Problem]:
    last, today = documents.runbook.last_drill, documents.facts.today
    if not isinstance(last, Unfilled) and not today - DRILL_EVERY <= last <= today:
        yield Problem("last_drill", f"{last} is not within the last {DRILL_EVERY.days} days")


RULES = (Rule("runbook.drilled", "early", "Go through it with those on call, and write the day.", _drilled),)
LATER: Mapping[str, Gate] = {"last_drill": "early"}
