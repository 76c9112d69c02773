"""Batches: many decisions that were made at once, recorded in files of their own and one row here for each.

A decision of a batch is on record once its chunk has a row in ``batch_chunks``, and the row is written after
the chunk's file has reached the disk. A file that no row names is no record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from harness.files import sha256_of
from harness.store.database import Database, StoreUnavailable, metadata, now

if TYPE_CHECKING:
    import polars as pl

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("batch_id", sa.String(128), primary_key=True),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("input_sha256", sa.String(64), nullable=False),
    # What decides which rows a chunk has and what is in it; a batch goes on with the same only.
    sa.Column("terms", sa.Text, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.String(32), nullable=False),
    sa.Column("ended_at", sa.String(32)),
)

batch_chunks = sa.Table(
    "batch_chunks",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("batch_id", sa.String(128), nullable=False, index=True),
    sa.Column("chunk", sa.Integer, nullable=False),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("set_aside_sha256", sa.String(64)),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("set_aside", sa.Integer, nullable=False),
    # JSON: [served_by, why, count] each; rule: count; and the digests of the models that were assigned.
    sa.Column("counts", sa.Text, nullable=False),
    sa.Column("broken", sa.Text, nullable=False),
    sa.Column("digests", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("sandbox", sa.Boolean, nullable=False),
    # Whether the decisions stand in the table of decisions as well; then that one speaks for them.
    sa.Column("in_decisions", sa.Boolean, nullable=False),
    sa.Column("decided_at", sa.String(32), nullable=False, index=True),
    sa.Column("ended_at", sa.String(32), nullable=False),
    sa.UniqueConstraint("batch_id", "chunk"),
)

MODEL = "model"
MODEL_ARMS = ("champion", "challenger")


@dataclass(frozen=True)
class Batch:
    """A batch as it was begun.

    Attributes:
        batch_id: Its name.
        folder: Where its files lie, absolute.
        input: What was read, as it was named.
        input_sha256: The digest of all that was read.
        terms: What has to be the same for it to go on.
        rows: How many rows the input has.
        started_at: ISO 8601, UTC.
        ended_at: When its last chunk was on record; None while it is not.
    """

    batch_id: str
    folder: str
    input: str
    input_sha256: str
    terms: Mapping[str, Any]
    rows: int
    started_at: str
    ended_at: str | None = None


@dataclass(frozen=True)
class Chunk:
    """A part of a batch whose decisions are on record.

    Attributes:
        batch_id: The batch.
        chunk: Its number, from 0.
        file: The name of the file with its decisions, in the batch's folder.
        sha256: That file's digest.
        set_aside_sha256: The digest of the file with the rows that break the contract; None where none do.
        rows: How many decisions.
        set_aside: How many rows were set aside, or could not be decided.
        counts: How many decisions for each pair of served_by and why.
        broken: How many of those set aside broke each rule.
        digests: The models that were assigned.
        revision: The highest revision that was in force.
        sandbox: Whether any of it was about nothing real.
        in_decisions: Whether the table of decisions has them too.
        decided_at: When it was taken up, ISO 8601, UTC; every decision of it has this time.
        ended_at: When it was handed to the store.
    """

    batch_id: str
    chunk: int
    file: str
    sha256: str
    set_aside_sha256: str | None
    rows: int
    set_aside: int
    counts: Mapping[tuple[str, str], int]
    broken: Mapping[str, int]
    digests: tuple[str, ...]
    revision: int
    sandbox: bool
    in_decisions: bool
    decided_at: str
    ended_at: str


class Made(NamedTuple):
    """A decision as ``DecisionStore.made`` gives it; record and decision are JSON."""

    decided_at: str
    record_key: str
    entity: str
    record: str
    decision: str
    score: float | None
    served_by: str
    assigned: str
    why: str


class BatchStore:
    """The batches' tables, and the files that they name.

    Args:
        database: The open database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, batch: Batch) -> None:
        """Put a new batch on record.

        Raises:
            StoreUnavailable: It could not be written.
        """
        row = vars(batch) | {"terms": json.dumps(dict(batch.terms), sort_keys=True)}
        with self._writing() as connection:
            connection.execute(batches.insert(), row)

    def batch(self, batch_id: str) -> Batch | None:
        """The batch of that name; None when there is none."""
        query = sa.select(batches).where(batches.c.batch_id == batch_id)
        with self._database.connected() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else Batch(**{**row, "terms": json.loads(row["terms"])})

    def add(self, chunk: Chunk, alongside: Callable[[sa.Connection], None] | None = None) -> None:
        """Put a chunk on record: when this returns, its decisions count, and have reached the disk.

        Args:
            chunk: The chunk; its file is there, whole and durable.
            alongside: What is written in the same transaction.

        Raises:
            StoreUnavailable: It could not be written, so nothing of it was decided.
        """
        row = vars(chunk) | {
            "counts": json.dumps([[*pair, count] for pair, count in sorted(chunk.counts.items())]),
            "broken": json.dumps(dict(chunk.broken)),
            "digests": json.dumps(chunk.digests),
        }
        with self._writing() as connection:
            connection.execute(batch_chunks.insert(), row)
            if alongside is not None:
                alongside(connection)

    def end(self, batch_id: str) -> None:
        """Note that every chunk of a batch is on record."""
        change = batches.update().where(batches.c.batch_id == batch_id).values(ended_at=now())
        with self._writing() as connection:
            connection.execute(change)

    def chunks(self, batch_id: str = "") -> list[Chunk]:
        """The chunks on record, in the order in which they were recorded; of one batch, or of all."""
        query = sa.select(batch_chunks).order_by(batch_chunks.c.sequence)
        if batch_id:
            query = query.where(batch_chunks.c.batch_id == batch_id)
        with self._database.connected() as connection:
            return [_chunk(dict(row)) for row in connection.execute(query).mappings()]

    def counts(self) -> dict[tuple[str, str], int]:
        """How many decisions stand in files only, for each pair of served_by and why."""
        found: dict[tuple[str, str], int] = {}
        for chunk in self._in_files():
            for pair, count in chunk.counts.items():
                found[pair] = found.get(pair, 0) + count
        return found

    def last(self, *, by_model: bool = False, real: bool = False) -> str | None:
        """When anything was last decided in a batch, ISO 8601, UTC; None when nothing was.

        Args:
            by_model: Only what a model decided.
            real: Only what was decided outside the sandbox.
        """
        times = [
            chunk.decided_at
            for chunk in self._in_files()
            if (not by_model or any(served_by == MODEL for served_by, _ in chunk.counts))
            and not (real and chunk.sandbox)
        ]
        return max(times, default=None)

    def find(self, decision_id: str) -> dict[str, Any] | None:
        """The decision of that id, with the columns of the table of decisions; None when no batch made it.

        Raises:
            StoreUnavailable: A file that it may be in is missing or was changed.
        """
        for chunk, file in self._files(self._in_files()):
            import polars as pl

            lazy = pl.scan_parquet(file)
            if not lazy.select(hit=(pl.col("decision_id") == decision_id).any()).collect().item():
                continue
            check(chunk, file)
            row = lazy.filter(pl.col("decision_id") == decision_id).drop("row").collect().row(0, named=True)
            return {**row, "record": {name: _plain(value) for name, value in row["record"].items()}}
        return None

    def made(self, digest: str, start: str, end: str) -> Iterator[list[Made]]:
        """As ``DecisionStore.made``, of the decisions that stand in files only: one list for each chunk."""
        chosen = [chunk for chunk in self._in_files(digest) if start <= chunk.decided_at < end]
        for frame in self._frames(chosen, digest):
            yield [Made(*row) for row in frame.select(Made._fields).iter_rows()]

    def decided(self, keys: Collection[str]) -> set[str]:
        """Which of these records were decided in a batch."""
        chunks = self._in_files() if keys else []
        if not chunks:
            return set()
        import polars as pl  # of which a service has no need that never made a batch

        wanted = pl.DataFrame({"record_key": list(keys)}, schema={"record_key": pl.String})
        found: set[str] = set()
        for _, file in self._files(chunks):
            there = pl.scan_parquet(file).select("record_key").join(wanted.lazy(), "record_key", "semi")
            found |= set(there.collect()["record_key"])
        return found

    def latest(self, digest: str, keys: Sequence[str]) -> pl.DataFrame:
        """The last decision in files that a model was to make on each of these records.

        Returns:
            Columns record_key, decided_at, decision and record, both of these as JSON; one row a key.
        """
        import polars as pl

        columns = {name: pl.String for name in ("record_key", "decided_at", "decision", "record")}
        wanted = pl.DataFrame({"record_key": list(keys)}, schema={"record_key": pl.String})
        found = [pl.DataFrame(schema=columns)]
        for frame in self._frames(self._in_files(digest), digest, wanted):
            found.append(frame.filter(pl.col("assigned").is_in(MODEL_ARMS)).select(list(columns)))
        return pl.concat(found).unique("record_key", keep="last", maintain_order=True)

    def place(self, batch: Batch) -> Path:
        """Where a batch's files are now: beside SQLite's file if it was moved together with them."""
        folder = Path(batch.folder)
        if not folder.is_dir() and (home := self._database.folder) is not None:
            moved = home / folder.parent.name / folder.name
            return moved if moved.is_dir() else folder
        return folder

    def _in_files(self, digest: str = "") -> list[Chunk]:
        query = sa.select(batch_chunks).where(batch_chunks.c.in_decisions.is_(False))
        with self._database.connected() as connection:
            rows = connection.execute(query.order_by(batch_chunks.c.sequence)).mappings().all()
        found = [_chunk(dict(row)) for row in rows]
        return [chunk for chunk in found if chunk.rows and (not digest or digest in chunk.digests)]

    def _files(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Path]]:
        places: dict[str, Path] = {}
        for chunk in chunks:
            if chunk.batch_id not in places:
                batch = self.batch(chunk.batch_id)
                places[chunk.batch_id] = Path() if batch is None else self.place(batch)
            file = places[chunk.batch_id] / chunk.file
            if not file.is_file():
                raise _damaged(file, "a file with decisions of a batch is missing")
            yield chunk, file

    def _frames(
        self, chunks: Sequence[Chunk], digest: str, wanted: pl.DataFrame | None = None
    ) -> Iterator[pl.DataFrame]:
        import polars as pl

        for chunk, file in self._files(chunks):
            check(chunk, file)
            lazy = pl.scan_parquet(file).filter(pl.col("model_digest") == digest)
            if wanted is not None:
                lazy = lazy.join(wanted.lazy(), "record_key", "semi", maintain_order="left")
            yield lazy.with_columns(pl.col("record").struct.json_encode()).collect()

    def _writing(self) -> Any:
        return self._database.writing(
            "the batch could not be recorded",
            "Free the disk or bring the database back, and run the same command again.",
        )


def check(chunk: Chunk, file: Path) -> None:
    """Hold a file of decisions against what was recorded of it.

    Raises:
        StoreUnavailable: It is missing, or it is not the one that was recorded.
    """
    try:
        found = sha256_of(file)
    except OSError as error:
        raise _damaged(file, f"a file with decisions of a batch cannot be read: {error.strerror}") from error
    if found != chunk.sha256:
        raise _damaged(file, "a file with decisions of a batch is not the one that was recorded")


def _damaged(file: Path, what: str) -> StoreUnavailable:
    return StoreUnavailable(what, where=str(file), mend="Bring it back from a backup; it is the record.")


def _chunk(row: dict[str, Any]) -> Chunk:
    del row["sequence"]
    counts = {(served_by, why): count for served_by, why, count in json.loads(row["counts"])}
    return Chunk(
        **{
            **row,
            "counts": counts,
            "broken": json.loads(row["broken"]),
            "digests": tuple(json.loads(row["digests"])),
            "sandbox": bool(row["sandbox"]),
            "in_decisions": bool(row["in_decisions"]),
        }
    )


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
