"""The store's database: one engine and its rules, shared by the tables that lie in it.

SQLite runs in WAL mode with ``synchronous=FULL``, so a commit has reached the disk when it returns. Its
writers, of all processes of the host, take turns (harness.store.turns).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from harness.errors import PilotError
from harness.settings import without_password
from harness.store.turns import NotInTime, Turns

# How long a writer waits for the others before there is no decision.
BUSY_S = 5
# How long a start waits for another one's migration.
UPGRADE_WITHIN_S = 600
CONNECT_WITHIN_S = 5

# What a transaction that writes is told apart by: SQLite's takes the lock at once, and so never finds at its
# first change that another has changed what it read.
WRITES = "pilot_writes"
TURNS = ".turns"

# The schema's revision that this code is written for: the last in harness/store/revisions.
HEAD = "0005"

# Every table of the store is declared on it, so that whoever opens the store finds them all.
metadata = sa.MetaData()
# Not Alembic's own name for it: the database may be shared with something else that migrates.
version = sa.Table(
    "pilot_store_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)


# Names are to be unlike any other, and no secret: asking the system for each would cost a change of threads.
# The team's code may seed the module's own numbers, and a fork would go on with its parent's.
RANDOM = random.Random()
os.register_at_fork(after_in_child=RANDOM.seed)

# A number of our own among the advisory locks of a database.
SPACE = 0x70696C6F
_TAKE = sa.text("SELECT pg_try_advisory_lock(:space, :number)")


class StoreUnavailable(PilotError):
    """The store did not take the record, so there is no decision."""


class Database:
    """One open database, SQLite or any other that SQLAlchemy reaches.

    Args:
        url: An SQLAlchemy URL; its tables are created where they are missing.
        upgrade: Whether a store of an earlier version is brought up to this one; without, it is opened as it
            is, to be looked at.

    Attributes:
        engine: What connects to it.
        file: SQLite's file; None for another database, and for one in memory.

    Raises:
        StoreUnavailable: It cannot be opened, could not be brought up to this version, or is of a later one.
    """

    def __init__(self, url: str, *, upgrade: bool = True) -> None:
        self._where = without_password(url)
        try:
            parsed = _with_driver(sa.make_url(url))
            self.file = _file(parsed)
            if self.file is not None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            self.engine = _engine(parsed)
            self._turns = _turns(self.engine, self.file)
            if upgrade:
                self._bring_up()
            self._opened = _identity(self.file) if self.file is not None else None
        except (sa.exc.SQLAlchemyError, OSError, ModuleNotFoundError, ValueError) as error:
            raise StoreUnavailable(
                f"the store cannot be opened: {_cause(error)}",
                where=self._where,
                mend="Correct [store] url in pilot.toml, or make the place writable.",
            ) from error
        self._where = without_password(self.engine.url.render_as_string())

    @contextmanager
    def writing(self, what: str, mend: str) -> Iterator[sa.Connection]:
        """A transaction; when the block ends well, what it wrote has reached the disk.

        Args:
            what: What could not be done, for the message if it fails.
            mend: What the reader does about it.

        Raises:
            StoreUnavailable: Nothing of it was written.
        """
        with (
            self._in_turn(what, mend),
            self.connected(what, mend, writes=True) as connection,
            connection.begin(),
        ):
            yield connection
        self.check_file()  # after the commit: it may have gone into a file that was deleted meanwhile

    @contextmanager
    def connected(
        self,
        what: str = "the store does not answer",
        mend: str = "Bring the database back.",
        *,
        writes: bool = False,
    ) -> Iterator[sa.Connection]:
        """A connection for reading, unless it says that it ``writes``.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        try:
            with self.engine.connect() as connection:
                yield connection.execution_options(**{WRITES: writes})
        except sa.exc.SQLAlchemyError as error:
            if self.file is not None and isinstance(error, sa.exc.OperationalError):
                # One that was opened without the right to write, or beside a full disk, would stay so.
                self.engine.dispose()
            raise StoreUnavailable(f"{what}: {_cause(error)}", where=self._where, mend=mend) from error

    @contextmanager
    def alone(self, number: int) -> Iterator[Callable[[], bool] | None]:
        """Be the only one on all hosts, where the database can tell: a lock of PostgreSQL's session.

        Args:
            number: What it is about, one number for each thing.

        Yields:
            What asks whether this is still so; None where another one is, or could not be asked.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        with self.connected() as connection:
            # Not back into the pool: the lock lasts for as long as the connection.
            connection.detach()
            held = connection.execute(_TAKE, {"space": SPACE, "number": number}).scalar()
            connection.commit()
            yield (lambda: _answers(connection)) if held else None

    def check_file(self) -> None:
        """Refuse to go on with a file that is no longer there under its name.

        Raises:
            StoreUnavailable: SQLite's file was deleted or replaced while it was open.
        """
        # SQLite goes on writing to a deleted file without complaint, and nobody will ever find the record.
        if self.file is not None and _identity(self.file) != self._opened:
            raise StoreUnavailable(
                "the store's file was deleted or replaced while it was open",
                where=str(self.file),
                mend="Restore it from a backup if records were in it, and restart the service.",
            )

    def revision(self) -> tuple[str | None, bool]:
        """The store's revision, None for one that is older than revisions are; and whether there is none yet.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        with self.connected() as connection:
            found = revision(connection)
            return found, found is None and not sa.inspect(connection).has_table("decisions")

    @property
    def folder(self) -> Path | None:
        """Where SQLite's file lies; None for any other database."""
        return None if self.file is None else self.file.parent

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()
        if self._turns is not None:
            self._turns.close()

    def _bring_up(self) -> None:
        with self.engine.connect() as connection:
            if revision(connection) == HEAD:
                return  # and Alembic, which takes long to import, is not needed
        from harness.store.migrations import bring_up

        # Before SQLite's own lock, which no writer waits for as long as a migration may take.
        turn = nullcontext() if self._turns is None else self._turns.turn(UPGRADE_WITHIN_S)
        try:
            with turn:
                bring_up(self.engine, self.file, self._where)
        except NotInTime as error:
            raise StoreUnavailable(
                "another process has been changing the store for too long",
                where=self._where,
                mend="Look at `pilot store status`, and start again when it is done.",
            ) from error

    @contextmanager
    def _in_turn(self, what: str, mend: str) -> Iterator[None]:
        if self._turns is None:
            yield
            return
        with ExitStack() as turn:
            try:
                turn.enter_context(self._turns.turn(BUSY_S))
            except NotInTime as error:
                raise StoreUnavailable(
                    f"{what}: the database is busy", where=self._where, mend=mend
                ) from error
            yield


def revision(connection: sa.Connection) -> str | None:
    """The store's revision as it says itself; None for one that is new, or older than revisions are."""
    if not sa.inspect(connection).has_table(version.name):
        return None
    found: str | None = connection.execute(sa.select(version.c.version_num)).scalar()
    return found


def now() -> str:
    """The present moment as the store writes it: UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def decision_name() -> str:
    """A UUID of version 7 (RFC 9562, section 5.7): milliseconds since 1970, then 74 random bits.

    An index takes names that grow one after another; each that is wholly random falls on a page of its own,
    which is read, written and made durable for it alone. In a store of 400,000 decisions a commit of 15 wrote
    43% less.
    """
    milliseconds = time.time_ns() // 1_000_000
    high, low = RANDOM.getrandbits(12), RANDOM.getrandbits(62)
    digits = f"{milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _answers(connection: sa.Connection) -> bool:
    try:
        connection.execute(sa.select(1))
        connection.commit()
    except sa.exc.SQLAlchemyError:
        return False
    return True


def file_of(url: str) -> Path | None:
    """The file that holds a store; None where no file does, and for what is no URL."""
    try:
        return _file(sa.make_url(url))
    except sa.exc.ArgumentError:
        return None


def _file(url: sa.URL) -> Path | None:
    lies_in_a_file = url.get_backend_name() == "sqlite" and url.database not in ("", ":memory:")
    return Path(url.database) if lies_in_a_file and url.database else None


def _with_driver(url: sa.URL) -> sa.URL:
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, hide_parameters=True)
        sa.event.listen(engine, "connect", _durable)
        sa.event.listen(engine, "begin", _begin)
        return engine
    # A host that does not answer is not to hold a start, or a decision, up for minutes.
    limited = url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query
    options = {"connect_timeout": CONNECT_WITHIN_S} if limited else {}
    engine = sa.create_engine(
        url,
        pool_pre_ping=True,
        connect_args=options,
        hide_parameters=True,
        isolation_level="READ COMMITTED",
    )
    if url.get_backend_name() == "postgresql":
        sa.event.listen(engine, "connect", _bounded)
    return engine


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _turns(engine: sa.Engine, file: Path | None) -> Turns | None:
    if engine.dialect.name != "sqlite":
        return None
    return Turns(None if file is None else file.with_name(file.name + TURNS))


def _durable(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # Python's driver would begin a transaction when it sees fit, and none around a change of the schema.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_S * 1000:.0f}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _bounded(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET lock_timeout = {BUSY_S * 1000:.0f}")
    # Of a host that has vanished the server lets go within seconds, and with it of the lock of who delivers.
    cursor.execute("SET tcp_keepalives_idle = 5")
    cursor.execute("SET tcp_keepalives_interval = 5")
    cursor.execute("SET tcp_keepalives_count = 3")
    cursor.close()
    connection.commit()


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    directly(connection, "BEGIN IMMEDIATE" if writes else "BEGIN")


def directly(connection: sa.Connection, statement: str, values: Sequence[Any] = ()) -> None:
    """Have SQLite's own driver run a statement on a connection to it, in the transaction that is open there.

    Raises:
        sqlalchemy.exc.DBAPIError: What SQLAlchemy raises in its place; the values are not in it.
    """
    driver: Any = connection.connection.driver_connection
    errors = connection.dialect.loaded_dbapi.Error
    try:
        driver.execute(statement, values)
    except errors as error:
        raise sa.exc.DBAPIError.instance(
            statement, None, error, errors, hide_parameters=True, dialect=connection.dialect
        ) from error


def _cause(error: BaseException) -> str:
    original = getattr(error, "orig", None)
    if isinstance(error, sa.exc.DataError | sa.exc.IntegrityError):
        return type(original or error).__name__  # its text quotes the value that the database refused
    return str(original or error).strip().splitlines()[0]
