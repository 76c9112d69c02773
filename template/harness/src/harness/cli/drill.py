"""`pilot drill`: shows in a scratch copy that a safety holds, and keeps the outcome as evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import context

if TYPE_CHECKING:
    from harness.readiness.drilled import Drilled

LIST, ALL = "list", "all"
# The worst first: of several drills it decides.
EXIT_CODES = {"failed": 1, "inconclusive": 3, "passed": 0}
MARKS = {"passed": "+", "failed": "-", "inconclusive": "?"}


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(drill)


def drill(
    name: Annotated[str, typer.Argument(help="Such as kill, or all; `list` says which.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Go through a drill in a scratch copy of this pilot; the pilot in use is not touched.

    Exit 0 when every check passed, 1 when one failed, 3 when there was too little to see. The outcome is kept
    in evidence/drills/ in every case. `all` goes through every drill, one after the other.
    """
    if name == LIST:
        _list(as_json)
        return
    from harness.drills import DRILLS, find
    from harness.drills import drill as run

    chosen = DRILLS if name == ALL else (find(name),)
    found = []
    for each in chosen:
        if not as_json:
            context.say(each.shows)
        found.append(run(context.settings(), each.name))
        if not as_json:
            _tell(found[-1])
    if as_json:
        documents = [each.model_dump(mode="json") for each in found]
        context.say_json(documents if name == ALL else documents[0])
    verdicts = {each.verdict for each in found}
    raise typer.Exit(next(code for verdict, code in EXIT_CODES.items() if verdict in verdicts))


def _list(as_json: bool) -> None:
    from harness.drills import DRILLS

    if as_json:
        context.say_json([{"name": each.name, "shows": each.shows} for each in DRILLS])
        return
    for each in DRILLS:
        context.say(f"{each.name:<12} {each.shows}")


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
