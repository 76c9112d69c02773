"""The store's database: one engine and its rules, shared by the tables that lie in it.

SQLite runs in WAL mode with ``synchronous=FULL``, so a commit has reached the disk when it returns.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from harness.errors import PilotError
from harness.settings import without_password

# How long a writer waits for the others before there is no decision.
BUSY_S = 5
CONNECT_WITHIN_S = 5

# Every table of the store is declared on it, so that whoever opens the store finds them all.
metadata = sa.MetaData()


class StoreUnavailable(PilotError):
    """The store did not take the record, so there is no decision."""


class Database:
    """One open database, SQLite or any other that SQLAlchemy reaches.

    Args:
        url: An SQLAlchemy URL; its tables are created where they are missing.

    Raises:
        StoreUnavailable: It cannot be opened.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
            if parsed.get_backend_name() == "sqlite" and parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = _engine(parsed)
            if parsed.get_backend_name() == "sqlite":
                sa.event.listen(self.engine, "connect", _durable)
            _create(self.engine)
            named = parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:")
            self._file = Path(str(parsed.database)) if named else None
            self._opened = _identity(self._file) if self._file is not None else None
        except (sa.exc.SQLAlchemyError, OSError, ModuleNotFoundError, ValueError) as error:
            raise StoreUnavailable(
                f"the store cannot be opened: {_cause(error)}",
                where=without_password(url),
                mend="Correct [store] url in pilot.toml, or make the place writable.",
            ) from error
        self._where = without_password(self.engine.url.render_as_string())
        self._turn = threading.Lock() if self.engine.dialect.name == "sqlite" else None

    @contextmanager
    def writing(self, what: str, mend: str) -> Iterator[sa.Connection]:
        """A transaction; when the block ends well, what it wrote has reached the disk.

        Args:
            what: What could not be done, for the message if it fails.
            mend: What the reader does about it.

        Raises:
            StoreUnavailable: Nothing of it was written.
        """
        with self._in_turn(what, mend), self.connected(what, mend) as connection, connection.begin():
            yield connection
        self.check_file()  # after the commit: it may have gone into a file that was deleted meanwhile

    @contextmanager
    def connected(
        self, what: str = "the store does not answer", mend: str = "Bring the database back."
    ) -> Iterator[sa.Connection]:
        """A connection for reading.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        try:
            with self.engine.connect() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise StoreUnavailable(f"{what}: {_cause(error)}", where=self._where, mend=mend) from error

    def check_file(self) -> None:
        """Refuse to go on with a file that is no longer there under its name.

        Raises:
            StoreUnavailable: SQLite's file was deleted or replaced while it was open.
        """
        # SQLite goes on writing to a deleted file without complaint, and nobody will ever find the record.
        if self._file is not None and _identity(self._file) != self._opened:
            raise StoreUnavailable(
                "the store's file was deleted or replaced while it was open",
                where=str(self._file),
                mend="Restore it from a backup if records were in it, and restart the service.",
            )

    @property
    def folder(self) -> Path | None:
        """Where SQLite's file lies; None for any other database."""
        return None if self._file is None else self._file.parent

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def _in_turn(self, what: str, mend: str) -> Iterator[None]:
        # SQLite's writers wait for its lock asleep, and some of them for seconds. Here they queue up first.
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=BUSY_S):
            raise StoreUnavailable(f"{what}: the database is busy", where=self._where, mend=mend)
        try:
            yield
        finally:
            self._turn.release()


def now() -> str:
    """The present moment as the store writes it: UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        return sa.create_engine(url, hide_parameters=True)
    # A host that does not answer is not to hold a start, or a decision, up for minutes.
    limited = url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query
    options = {"connect_timeout": CONNECT_WITHIN_S} if limited else {}
    return sa.create_engine(url, pool_pre_ping=True, connect_args=options, hide_parameters=True)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _create(engine: sa.Engine) -> None:
    # Processes that start at once all find no table, and all but one come second, at each table anew.
    for _ in metadata.tables:
        try:
            metadata.create_all(engine)
            return
        except sa.exc.DBAPIError:
            continue
    metadata.create_all(engine)


def _durable(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_S * 1000}")
    cursor.close()


def _cause(error: BaseException) -> str:
    original = getattr(error, "orig", None)
    if isinstance(error, sa.exc.DataError | sa.exc.IntegrityError):
        return type(original or error).__name__  # its text quotes the value that the database refused
    return str(original or error).strip().splitlines()[0]
