"""`pilot drill`: shows in a scratch copy that a safety holds, and keeps the outcome as evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import context

if TYPE_CHECKING:
    from harness.readiness.drilled import Drilled

LIST = "list"
EXIT_CODES = {"passed": 0, "failed": 1, "inconclusive": 3}
MARKS = {"passed": "+", "failed": "-", "inconclusive": "?"}


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(drill)


def drill(
    name: Annotated[str, typer.Argument(help="The drill, such as kill; `list` says which there are.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Go through a drill in a scratch copy of this pilot; the pilot in use is not touched.

    Exit 0 when every check passed, 1 when one failed, 3 when there was too little to see. The outcome is kept
    in evidence/drills/ in every case.
    """
    if name == LIST:
        _list(as_json)
        return
    from harness.drills import drill as run
    from harness.drills import find

    chosen = find(name)
    if not as_json:
        context.say(chosen.shows)
    found = run(context.settings(), name)
    if as_json:
        context.say_json(found.model_dump(mode="json"))
    else:
        _tell(found)
    raise typer.Exit(EXIT_CODES[found.verdict])


def _list(as_json: bool) -> None:
    from harness.drills import DRILLS

    if as_json:
        context.say_json([{"name": each.name, "shows": each.shows} for each in DRILLS])
        return
    for each in DRILLS:
        context.say(f"{each.name:<8} {each.shows}")


def _tell(found: Drilled) -> None:
    from harness.readiness import drilled

    for check in found.checks:
        context.say_safely(f"  {MARKS[check.outcome]} {check.name}: {check.detail}")
    for name, value in found.figures.items():
        context.say_safely(f"    {name.replace('_', ' ')}: {'unknown' if value is None else value}")
    count = len(found.checks)
    bad = [check.name for check in found.checks if check.outcome != "passed"]
    kept = f"Kept in {drilled.path(found.drill)}."
    if found.passed:
        context.say(f"PASSED: {count} checks hold. {kept}")
    elif found.verdict == "failed":
        context.say(f"FAILED: {len(bad)} of {count} checks do not hold ({', '.join(bad)}). {kept}")
    else:
        context.say(f"INCONCLUSIVE: that is no pass ({', '.join(bad)} could not be seen). {kept}")
