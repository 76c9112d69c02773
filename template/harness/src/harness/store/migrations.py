"""How a store of an earlier version becomes one of this version.

Each step is an Alembic revision below ``revisions/``. All steps that a store lacks are one transaction, with
both databases: a step that fails leaves the store as it was. A revision adds, and what it adds has a default,
or takes away an index, so that a service of the version before goes on beside it until it is started anew.
"""

from __future__ import annotations

import ast
import glob
import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from harness.files import whole_file
from harness.store.database import HEAD, SPACE, StoreUnavailable, metadata, revision, version

log = logging.getLogger("harness.store")

FOLDER = Path(__file__).parent / "revisions"
# Seconds that a change of a table waits for those who use it: behind it, everybody waits.
LOCK_WITHIN_S, UPGRADE_WITHIN_S = 10, 600
# Among the advisory locks of the database.
MIGRATING = 0
BEFORE = ".before-"
# What tells a table of decisions from another's of the same name.
KNOWN_BY = {"sequence", "decision_id", "decided_at", "record_key", "entity", "record", "served_by"}


@dataclass(frozen=True)
class Revision:
    """A step of the store's schema.

    Attributes:
        number: Its name.
        brings: What it brings, in a sentence.
    """

    number: str
    brings: str


def revisions() -> list[Revision]:
    """Every step that this code knows, in order."""
    return [
        Revision(file.stem[1:5], (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n")[0])
        for file in sorted(FOLDER.glob("v*.py"))
    ]


def copies(file: Path | None) -> list[Path]:
    """The copies of SQLite's file that upgrades have kept; they hold what was in it then."""
    return (
        []
        if file is None
        else sorted(file.parent.glob(f"{glob.escape(file.name)}{BEFORE}[0-9][0-9][0-9][0-9]"))
    )


def bring_up(engine: sa.Engine, file: Path | None, where: str) -> None:
    """Bring a store up to ``HEAD``, or make a new one; of several processes one does it.

    Args:
        engine: What connects to it.
        file: SQLite's file, of which a copy is kept.
        where: The store, as messages call it.

    Raises:
        StoreUnavailable: The store is of a later version, no store at all, or a step failed; nothing changed.
    """
    try:
        with engine.connect() as plain:
            connection = plain.execution_options(pilot_writes=True)
            with connection.begin():
                _alone(connection)
                found = revision(connection)
                if found == HEAD:
                    return  # another process was first
                if found is None and not sa.inspect(connection).has_table("decisions"):
                    metadata.create_all(connection)
                    version.create(connection)
                    connection.execute(version.insert().values(version_num=HEAD))
                    return
                _check(connection, found, where)
                kept = _kept(file)
                if file is not None:
                    # What a step takes away may hold somebody's name, and nobody comes by its pages later.
                    connection.exec_driver_sql("PRAGMA secure_delete=ON")
                _step(connection)
    except sa.exc.DBAPIError as error:
        raise StoreUnavailable(
            f"the store could not be brought to revision {HEAD}, and is as it was: "
            f"{str(error.orig).strip().splitlines()[0]}",
            where=where,
            mend="Mend that and start again, or run `pilot store upgrade`.",
        ) from error
    told = f"; the copy {kept} is as it was" if kept else ""
    log.warning("the store is brought from revision %s to %s%s", found or "none", HEAD, told)


def _alone(connection: sa.Connection) -> None:
    # SQLite's transaction has begun with its lock.
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{UPGRADE_WITHIN_S}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({SPACE}, {MIGRATING})")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WITHIN_S}s'")


def _check(connection: sa.Connection, found: str | None, where: str) -> None:
    if found is None:
        columns = {each["name"] for each in sa.inspect(connection).get_columns("decisions")}
        if not columns >= KNOWN_BY:
            raise StoreUnavailable(
                "there is a table 'decisions' that is not this store's",
                where=where,
                mend="Name a database of its own in pilot.toml, [store] url.",
            )
    elif found not in {each.number for each in revisions()}:
        raise StoreUnavailable(
            f"the store is of a later version (revision {found}) than this code (revision {HEAD})",
            where=where,
            mend="Start the version that it was last used with, or a later one.",
        )


def _kept(file: Path | None) -> Path | None:
    """A copy of SQLite's file as it is now: the transaction that calls this keeps all writers out."""
    if file is None:
        return None
    copy = file.with_name(f"{file.name}{BEFORE}{HEAD}")
    try:
        with whole_file(copy) as part:
            source, target = sqlite3.connect(file), sqlite3.connect(part)
            try:
                source.backup(target)
            finally:
                target.close()
                source.close()
            part.chmod(file.stat().st_mode & 0o777)
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(
            f"no copy of the store could be made before it is changed: {error}",
            where=str(copy),
            mend="Free the disk, or make the folder writable.",
        ) from error
    return copy


def _step(connection: sa.Connection) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(FOLDER.parent), version_locations=[str(FOLDER)])
    with EnvironmentContext(
        Config(), script, fn=lambda found, _: script._upgrade_revs(HEAD, found), destination_rev=HEAD
    ) as environment:
        environment.configure(connection=connection, version_table=version.name)
        with environment.begin_transaction():
            environment.run_migrations()
