"""`pilot store`: the database of decisions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import context

if TYPE_CHECKING:
    from harness.store import Database

group = typer.Typer(
    help="The database of decisions: its revision, what leaves it, and copies for a warehouse.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    group.command()(status)
    group.command()(upgrade)
    group.command()(erase)
    group.command()(prune)
    group.command()(export)
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


def erase(
    entity: Annotated[str, typer.Option(help="The entity, as decisions name it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase what the store has of a person, in its copies too; what was counted stays, under nobody's name.

    Deliveries that still wait are not made. What the consumer has is beyond reach, and is counted.
    """
    from harness.progress import working
    from harness.store import Database, erasure, migrations

    database = _open(upgrade=True)
    try:
        there = erasure.found(database, entity)
        copies = migrations.copies(database.file)
        if not yes:
            _confirm(f"{there.decisions:,} decisions are erased for good. Go on?", as_json)
        with working("erase") as report:
            done = erasure.erase(database, entity, report)
            for copy in copies:
                _erase_copy(Database(f"sqlite:///{copy}", upgrade=False), entity)
    finally:
        database.close()
    _audit("erase", f"{done.decisions} decisions, {done.outcomes} outcomes about one entity")
    beyond = _beyond(done.delivered)
    if as_json:
        context.say_json({**asdict(done), "copies": [str(copy) for copy in copies], "beyond_reach": beyond})
        return
    context.say(
        f"erased: {done.decisions:,} decisions, {done.outcomes:,} outcomes, {done.keys:,} idempotency keys; "
        f"{done.withdrawn:,} deliveries withdrawn; {len(copies)} copies of the store"
    )
    context.say("Beyond reach, and yours to see to:")
    for line in beyond:
        context.say(f"  {line}")


def prune(
    days: Annotated[
        int | None, typer.Option(help="Instead of pilot.toml [store] retention_days.", min=1)
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Delete; without, it is only counted.")] = False,
    as_json: Json = False,
) -> None:
    """Delete decisions that are older than their time, with their outcomes.

    By default it says what it would do. A decision that is not delivered yet stays.
    """
    from datetime import UTC, datetime, timedelta

    from harness.errors import PilotError
    from harness.progress import working
    from harness.store import erasure

    kept_for = days or context.settings().store.retention_days
    if not kept_for:
        raise PilotError(
            "nobody said how long decisions are kept",
            where="pilot.toml [store] retention_days",
            mend="Write the number of days there, or give --days.",
        )
    before = (datetime.now(UTC) - timedelta(days=kept_for)).isoformat(timespec="microseconds")
    database = _open(upgrade=True)
    try:
        with working("prune") as report:
            done = erasure.prune(database, before, apply=apply, report=report)
    finally:
        database.close()
    if apply:
        _audit("prune", f"{done.decisions} decisions, {done.outcomes} outcomes from before {before[:10]}")
    if as_json:
        context.say_json({"before": before, "applied": apply, **asdict(done)})
        return
    word = "deleted" if apply else "would be deleted (--apply does it)"
    context.say(
        f"{done.decisions:,} decisions and {done.outcomes:,} outcomes from before {before[:10]} {word}"
    )
    if done.undelivered:
        context.say(f"  {done.undelivered:,} as old are kept: they are not delivered yet")


def export(
    to: Annotated[Path, typer.Option(help="The folder; what is there already stays.")],
    as_json: Json = False,
) -> None:
    """Write decisions, outcomes and shadow as Parquet, one file a table and day (UTC), for other programs.

    A day is written when it is over. SHA256SUMS lists the files; a run that was broken off goes on there.
    """
    from harness.progress import working
    from harness.store import export as exporting

    database = _open(upgrade=True)
    try:
        with working("export") as report:
            done = exporting.export(database, to, report=report)
    finally:
        database.close()
    if as_json:
        context.say_json({"to": str(to), **asdict(done)})
        return
    context.say(
        f"{len(done.written):,} files with {done.rows:,} rows written, {done.kept:,} were there already"
    )


def _confirm(question: str, as_json: bool) -> None:
    import sys

    from harness.errors import PilotError

    if as_json or not sys.stdin.isatty():
        raise PilotError("nobody is there to be asked", where="pilot store erase", mend="Give --yes.")
    typer.confirm(question, abort=True)


def _erase_copy(copy: Database, entity: str) -> None:
    from harness.store import erasure
    from harness.store.database import TURNS

    try:
        erasure.erase(copy, entity)
    finally:
        copy.close()
        if copy.file is not None:
            copy.file.with_name(copy.file.name + TURNS).unlink(missing_ok=True)


def _audit(action: str, what: str) -> None:
    from harness.control import audit
    from harness.control.identity import actor
    from harness.control.state import writing

    settings = context.settings()
    folder = settings.path(settings.control.folder)
    with writing(folder):
        audit.append(folder, actor=actor(), action=action, reason=what, revision=None)


def _beyond(delivered: int) -> list[str]:
    return [
        f"{delivered:,} decisions that the consumer has",
        "the files of batches, whose decisions lie beside the store",
        "backups of the store, and what `pilot store export` has written",
        "source systems, snapshots of the training data below var/, and models trained on them",
    ]


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
