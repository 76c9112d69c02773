"""`pilot update`: the standard's files of a newer version, on a branch of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import context
from harness.settings import find_root


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(update)


def update(
    to: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The version; by default the newest release.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Merge the branch when nobody has to decide anything.")
    ] = False,
    tests: Annotated[bool, typer.Option(help="Run the pilot's fast tests on the update.")] = True,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report there too, as Markdown.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Bring the standard's files to a newer version of the template, on the branch template/VERSION.

    Your checkout is not touched, and may have changes that are not committed: the newest commit is updated,
    in a work tree of its own. Your files stay as they are; new ones of yours are added. What is left for you
    to decide is said. Exit 0 when it is done, 1 when somebody has to decide, 2 when it was refused: then
    nothing was changed.
    """
    from harness.updater import update as run

    options = [
        *(["--dry-run"] if dry_run else []),
        *(["--apply"] if apply else []),
        *([] if tests else ["--no-tests"]),
        *(["--report", str(_ready(report))] if report else []),
        *(["--json"] if as_json else []),
        *(["--debug"] if context.debug() else []),
    ]
    raise typer.Exit(run((context.root() or find_root(Path.cwd())).resolve(), to, options))


def _ready(report: Path) -> Path:
    report.resolve().parent.mkdir(parents=True, exist_ok=True)
    return report.resolve()
