"""`pilot audit`: who changed what, when and why, and whether the record is as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import context
from harness.errors import CheckFailed

if TYPE_CHECKING:
    from harness.control.audit import AuditBroken

group = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    group.callback()(audit)
    group.command()(verify)
    app.add_typer(group, name="audit")


def audit(called: typer.Context, as_json: AsJson = False) -> None:
    """Who changed what, when and why; exit 1 when a line was changed, removed or put in.

    Whoever may write the control folder can forge the whole record: keep a copy of it elsewhere.
    """
    if called.invoked_subcommand is not None:
        return
    entries = _read(_folder())
    if as_json:
        context.say_json(entries)
        return
    for entry in entries:
        revision = "-" if entry["revision"] is None else entry["revision"]
        what = f"{entry['action']:<7} rev {revision}"
        context.say_safely(f"{entry['at']}  {what}  {entry['actor']}: {entry['reason']}")
    context.say(f"{len(entries)} entries, each follows from the one before it")


def verify(as_json: AsJson = False) -> None:
    """Whether every line is there and as it was written; exit 1 with the first one that is not."""
    from harness.control import read_audit
    from harness.control.audit import AuditBroken

    folder = _folder()
    try:
        entries = read_audit(folder)
    except AuditBroken as error:
        if as_json:
            context.say_json({"intact": False, "line": error.line, "what": str(error)})
            raise typer.Exit(1) from None
        raise _broken(error) from error
    if as_json:
        context.say_json({"intact": True, "entries": len(entries)})
        return
    context.say(f"INTACT: {len(entries)} entries, each follows from the one before it, and none is missing.")


def _read(folder: Path) -> list[dict[str, Any]]:
    from harness.control import read_audit
    from harness.control.audit import AuditBroken

    try:
        return read_audit(folder)
    except AuditBroken as error:
        raise _broken(error) from error


def _broken(error: AuditBroken) -> CheckFailed:
    return CheckFailed(
        str(error), where="audit", mend="Compare the file with a backup and find out who changed it."
    )


def _folder() -> Path:
    settings = context.settings()
    return settings.path(settings.control.folder)
