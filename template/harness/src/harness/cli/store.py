"""`pilot store`: the database of decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import context

if TYPE_CHECKING:
    from harness.store import Database

group = typer.Typer(
    help="The database of decisions: what revision it is of, and bringing it up to date.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    group.command()(status)
    group.command()(upgrade)
    app.add_typer(group, name="store")


def status(as_json: Json = False) -> None:
    """Say of what revision the store is, and what it lacks. It changes nothing.

    Exit 1 when the store has to be brought up to date, or is of a later version than this code.
    """
    found = _status()
    if as_json:
        context.say_json(found)
    else:
        _tell(found)
    if not found["current"]:
        raise typer.Exit(1)


def upgrade(as_json: Json = False) -> None:
    """Bring the store up to this version, as a service does when it starts.

    Everything is one transaction: a step that fails leaves the store as it was. Of SQLite's file a copy is
    kept beside it.
    """
    from harness.progress import working

    before = _status()
    if not before["current"]:
        with working("store"):
            _open(upgrade=True).close()
    after = _status()
    if as_json:
        context.say_json({"before": before["revision"], **after})
        return
    if before["current"]:
        context.say(f"the store is up to date (revision {after['revision']})")
        return
    context.say(f"the store is brought from revision {before['revision'] or 'none'} to {after['revision']}")
    for copy in after["copies"]:
        context.say(f"  a copy of what it was: {copy}")


def _open(*, upgrade: bool) -> Database:
    from harness.store import Database

    settings = context.settings()
    return Database(settings.sqlite_url(settings.store.url), upgrade=upgrade)


def _status() -> dict[str, Any]:
    from harness.settings import without_password
    from harness.store import migrations
    from harness.store.database import HEAD

    database = _open(upgrade=False)
    try:
        found, empty = database.revision()
        known = migrations.revisions()
        missing = [] if empty else [each for each in known if found is None or each.number > found]
        return {
            "store": without_password(database.engine.url.render_as_string()),
            "revision": found,
            "head": HEAD,
            "current": empty or found == HEAD,
            "empty": empty,
            "missing": [{"revision": each.number, "brings": each.brings} for each in missing],
            "copies": [str(copy) for copy in migrations.copies(database.file)],
        }
    finally:
        database.close()


def _tell(found: dict[str, Any]) -> None:
    if found["empty"]:
        context.say(f"{found['store']}: there is none yet; the first start makes it")
    elif found["current"]:
        context.say(f"{found['store']}: up to date (revision {found['revision']})")
    else:
        context.say(
            f"{found['store']}: revision {found['revision'] or 'none'}, this code needs {found['head']}"
        )
        for each in found["missing"]:
            context.say(f"  {each['revision']}: {each['brings']}")
        mend = "`pilot store upgrade` brings them, and so does the next start of the service."
        context.say(
            mend if found["missing"] else "It is of a later version: start the one that it was used with."
        )
    for copy in found["copies"]:
        context.say(f"  a copy from before an upgrade, with what was in it: {copy}")
