"""The record of every decision.

A decision counts only once it is here: SQLite runs in WAL mode with ``synchronous=FULL``, so a commit has
reached the disk when it returns, and the service answers after the commit.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from harness.errors import PilotError
from harness.settings import without_password

# How long a writer waits for the others before there is no decision.
BUSY_S = 5

metadata = sa.MetaData()

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("decision_id", sa.String(36), nullable=False, unique=True),
    sa.Column("decided_at", sa.String(32), nullable=False, index=True),
    sa.Column("record_key", sa.Text, nullable=False, index=True),
    sa.Column("entity", sa.Text, nullable=False, index=True),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("reasons", sa.Text, nullable=False),
    sa.Column("served_by", sa.String(16), nullable=False),
    sa.Column("assigned", sa.String(16), nullable=False),
    sa.Column("why", sa.String(32), nullable=False),
    sa.Column("model_digest", sa.String(64)),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("bucket", sa.Integer),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("sandbox", sa.Boolean, nullable=False),
    sa.Column("elapsed_ms", sa.Float, nullable=False),
)

CONNECT_WITHIN_S = 5
JSON_COLUMNS = ("record", "decision", "reasons")


class StoreUnavailable(PilotError):
    """The store did not take the record, so there is no decision."""


@dataclass(frozen=True)
class Decision:
    """One decision as it was made.

    Attributes:
        decision_id: UUID, the name by which the decision can be followed.
        decided_at: UTC time at which the request was taken up, ISO 8601 with microseconds.
        record_key: The record's key, as text.
        entity: The entity the decision is about, as text; rollout buckets hang on it.
        record: The validated request.
        decision: What was decided.
        score: The model's score; None when the fallback decided.
        reasons: Why, strongest first; each with feature, value and effect.
        served_by: ``model`` or ``fallback``.
        assigned: The arm that the rollout assigned (``champion``, ``challenger`` or ``fallback``), which
            differs from what served when the model failed. Analyse by this one.
        why: What led to ``served_by``, one of a fixed set (harness.control.Why).
        model_digest: The digest of the assigned model; None when there was none.
        revision: The control state's revision that was in force; 0 when there was no readable state.
        bucket: The entity's rollout bucket, 1 to 100; None when the state was not consulted that far.
        stage: The stage that was in force.
        sandbox: Whether this was a decision about nothing real.
        elapsed_ms: Milliseconds from taking up the request to handing the record to the store.
    """

    decision_id: str
    decided_at: str
    record_key: str
    entity: str
    record: dict[str, Any]
    decision: str | float
    score: float | None
    reasons: list[dict[str, Any]]
    served_by: str
    assigned: str
    why: str
    model_digest: str | None
    revision: int
    bucket: int | None
    stage: str
    sandbox: bool
    elapsed_ms: float


class DecisionStore:
    """The decisions table, in SQLite or in any database that SQLAlchemy reaches."""

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
            if parsed.get_backend_name() == "sqlite" and parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = _engine(parsed)
            if parsed.get_backend_name() == "sqlite":
                sa.event.listen(self._engine, "connect", _durable)
            _create(self._engine)
            named = parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:")
            self._file = Path(str(parsed.database)) if named else None
            self._opened = _identity(self._file) if self._file is not None else None
        except (sa.exc.SQLAlchemyError, OSError, ModuleNotFoundError, ValueError) as error:
            raise StoreUnavailable(
                f"the store cannot be opened: {_cause(error)}",
                where=without_password(url),
                mend="Correct [store] url in pilot.toml, or make the place writable.",
            ) from error
        self._where = without_password(self._engine.url.render_as_string())
        self._insert = decisions.insert()
        self._turn = threading.Lock() if self._engine.dialect.name == "sqlite" else None

    def record(self, decision: Decision) -> None:
        """Write one decision; when this returns, the record has reached the disk.

        Raises:
            StoreUnavailable: It could not be written. Nothing was decided.
        """
        row = asdict(decision)
        for column in JSON_COLUMNS:
            row[column] = json.dumps(row[column], ensure_ascii=False, allow_nan=False, default=str)
        what = "the decision could not be recorded"
        mend = "Free the disk or bring the database back; until then nothing is decided."
        with self._in_turn(what, mend), self._connected(what, mend) as connection, connection.begin():
            connection.execute(self._insert, row)
        self._check_file()  # after the commit: it may have gone into a file that was deleted meanwhile

    def get(self, decision_id: str) -> Decision | None:
        """The decision of that id; None when it was never made."""
        query = sa.select(decisions).where(decisions.c.decision_id == decision_id)
        return next(self._read(query), None)

    def latest(self, count: int) -> list[Decision]:
        """The last ``count`` decisions, newest first."""
        return list(self._read(sa.select(decisions).order_by(decisions.c.sequence.desc()).limit(count)))

    def counts(self) -> dict[tuple[str, str], int]:
        """How many decisions there are for each pair of served_by and why."""
        query = sa.select(decisions.c.served_by, decisions.c.why, sa.func.count()).group_by(
            decisions.c.served_by, decisions.c.why
        )
        with self._connected() as connection:
            return {(served_by, why): count for served_by, why, count in connection.execute(query)}

    def last_model_decision(self) -> str | None:
        """When a model last decided, as an ISO 8601 UTC time; None when it never did."""
        query = sa.select(sa.func.max(decisions.c.decided_at)).where(decisions.c.served_by == "model")
        with self._connected() as connection:
            found: str | None = connection.execute(query).scalar()
        return found

    def ping(self) -> None:
        """Whether a decision could be recorded now, short of recording one.

        Raises:
            StoreUnavailable: The database does not answer, has no table, or its file is not the one that this
                process opened.
        """
        self._check_file()
        with self._connected() as connection:
            connection.execute(sa.select(decisions.c.sequence).limit(1))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _check_file(self) -> None:
        # SQLite goes on writing to a deleted file without complaint, and nobody will ever find the record.
        if self._file is not None and _identity(self._file) != self._opened:
            raise StoreUnavailable(
                "the store's file was deleted or replaced while it was open",
                where=str(self._file),
                mend="Restore it from a backup if records were in it, and restart the service.",
            )

    def _read(self, query: sa.Select[Any]) -> Iterator[Decision]:
        with self._connected() as connection:
            for row in connection.execute(query).mappings():
                values = {name: value for name, value in row.items() if name != "sequence"}
                for column in JSON_COLUMNS:
                    values[column] = json.loads(values[column])
                yield Decision(**values)

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

    @contextmanager
    def _connected(
        self, what: str = "the store does not answer", mend: str = "Bring the database back."
    ) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise StoreUnavailable(f"{what}: {_cause(error)}", where=self._where, mend=mend) from error


def now() -> str:
    """The present moment as the store writes it: UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        return sa.create_engine(url)
    # A host that does not answer is not to hold a start, or a decision, up for minutes.
    limited = url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query
    options = {"connect_timeout": CONNECT_WITHIN_S} if limited else {}
    return sa.create_engine(url, pool_pre_ping=True, connect_args=options)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _create(engine: sa.Engine) -> None:
    try:
        metadata.create_all(engine)
    except sa.exc.DBAPIError:
        # Two processes that start at once both find no table, and one of them comes second.
        metadata.create_all(engine)


def _durable(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_S * 1000}")
    cursor.close()


def _cause(error: BaseException) -> str:
    original = getattr(error, "orig", None)
    return str(original or error).strip().splitlines()[0]
