"""A chunk on its way: read and checked, taken up, with the models, and on record."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from harness.batch import records
from harness.batch.checks import Checks, Repeated
from harness.batch.deciding import Decided, Deciding, Taken, as_text
from harness.batch.source import Source
from harness.progress import Report
from harness.serving.bulk import Scores
from harness.serving.service import Service
from harness.store import Batch, Chunk
from harness.store.database import now

LEAST_S = 1e-3
Said = Mapping[str, tuple[np.ndarray, Scores]]


@dataclass(frozen=True)
class Read:
    """A chunk as it was read.

    Attributes:
        number: Its number, from 0.
        first: The place of its first record in the whole input.
        records: All of its records.
        broken: The rules that some of them break, by their place in the chunk.
    """

    number: int
    first: int
    records: pa.Table
    broken: dict[int, str]

    @property
    def kept(self) -> pa.Table:
        """The records that keep the contract."""
        return without(self.records, self.broken)

    @property
    def places(self) -> np.ndarray:
        """The places of these in the chunk."""
        return np.delete(np.arange(self.records.num_rows), list(self.broken))


class Chunks:
    """The chunks of an input, held against the contract.

    Args:
        source: What was brought.
        checks: The contract's rules.
        twice: What stands there twice.
        size: Records in a chunk.
        report: Hears how far this is.
        skip: How many chunks are passed over.

    Attributes:
        lines: Lines of the input that are no records, so far.
    """

    def __init__(
        self, source: Source, checks: Checks, twice: Repeated, size: int, report: Report, skip: int = 0
    ) -> None:
        self.lines: list[str] = []
        self._source, self._checks, self._twice = source, checks, twice
        self._size, self._report, self._skip = size, report, skip

    def __iter__(self) -> Iterator[Read]:
        began = time.monotonic()
        first = start = self._skip * self._size
        for part in self._source.parts(self._size, skip=start, report=self.lines.append):
            self._tell(first, start, time.monotonic() - began)
            broken = self._checks.broken(part)
            self._twice.add_to(broken, first, part.records.num_rows)
            yield Read(first // self._size, first, part.records, broken)
            first += part.records.num_rows

    def _tell(self, done: int, start: int, took_s: float) -> None:
        total = max(self._twice.rows, 1)
        pace = (done - start) / max(took_s, LEAST_S)
        left = f", {(total - done) / pace:,.0f} s left" if pace else ""
        self._report(f"{done:,} of {total:,} rows, {pace:,.0f} rows/s{left}", done / total)


def without(whole: pa.Table, rows: Mapping[int, str]) -> pa.Table:
    """The records but for those at these places."""
    if not rows:
        return whole
    keeps = np.ones(whole.num_rows, bool)
    keeps[list(rows)] = False
    return whole.filter(pa.array(keeps))


def scored(chunks: Chunks, deciding: Deciding) -> Iterator[tuple[Read, Taken, Said]]:
    """The chunks with what the models say of them; the next one is with the models meanwhile."""
    pool = ThreadPoolExecutor(1, "models")
    before: tuple[Read, Taken, Future[Said]] | None = None
    try:
        for read in chunks:
            taken = deciding.take_up(read.kept)
            scoring: Future[Said] = pool.submit(deciding.score, taken)
            if before is not None:
                yield *before[:2], before[2].result()
            before = read, taken, scoring
        if before is not None:
            yield *before[:2], before[2].result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Recorder:
    """Decides chunks and puts them on record.

    Args:
        service: Whose store it is, and who says what is under way.
        deciding: What decides.
        source: What was brought; a chunk of other bytes is not recorded.
        batch: The batch.
        folder: Where its files are.
        package: The pilot's package.
    """

    def __init__(
        self, service: Service, deciding: Deciding, source: Source, batch: Batch, folder: Path, package: str
    ) -> None:
        self._service, self._deciding, self._source = service, deciding, source
        self._batch, self._folder, self._package = batch, folder, package

    def record(self, read: Read, taken: Taken, said: Said) -> Chunk:
        """Decide a chunk by what is in force now; when this returns, its decisions are durable.

        Raises:
            PilotError: Its file cannot be written, or the input was changed.
            StoreUnavailable: It could not be recorded, so nothing of it was decided.
        """
        service, passage = self._service, self._service.underway.passage()
        try:
            passage.enter()
            while True:
                decided = self._deciding.settle(taken, said)
                chunk, table = self._written(read, taken, decided)
                # Writing took time in which somebody may have stopped the model; what is in force now counts.
                if self._deciding.still_holds(taken, decided):
                    break
            if not decided.by_model.any():
                passage.leave()
            self._source.check_unchanged()

            def beside(connection: sa.Connection) -> None:
                service.store.write(connection, records.as_decisions(table))

            service.store.batches.add(chunk, beside if chunk.in_decisions and chunk.rows else None)
        except BaseException:
            passage.leave()
            raise
        passage.decided()
        return chunk

    def _written(self, read: Read, taken: Taken, decided: Decided) -> tuple[Chunk, pa.Table]:
        places = read.places
        undecided = {int(places[row]): why for row, why in decided.undecided.items()}
        broken = dict(sorted({**read.broken, **undecided}.items()))
        table = without(self._table(read, taken, decided), decided.undecided)
        pairs = pa.TableGroupBy(table, ["served_by", "why"]).aggregate([([], "count_all")]).to_pylist()
        file = f"decisions-{read.number:05d}.parquet"
        aside = self._folder / f"set-aside-{read.number:05d}.parquet"
        chunk = Chunk(
            batch_id=self._batch.batch_id,
            chunk=read.number,
            file=file,
            sha256=records.written(table, self._folder / file),
            set_aside_sha256=records.set_aside(read.records, broken, aside),
            rows=table.num_rows,
            set_aside=len(broken),
            counts={(each["served_by"], each["why"]): each["count_all"] for each in pairs},
            broken=Counter(rule.partition(":")[0] for rules in broken.values() for rule in rules.split()),
            digests=tuple(sorted(filter(None, table["model_digest"].unique().to_pylist()))),
            revision=max(table["revision"].unique().to_pylist(), default=0),
            sandbox=any(table["sandbox"].unique().to_pylist()),
            in_decisions=bool(self._batch.terms["in_decisions"]),
            decided_at=taken.decided_at,
            ended_at=now(),
        )
        return chunk, table

    def _table(self, read: Read, taken: Taken, decided: Decided) -> pa.Table:
        whole, contract = taken.records, self._service.contract
        count = whole.num_rows
        keys = as_text(whole[contract.key])
        # Of one decision among many there is no time of its own.
        elapsed_ms = (time.perf_counter() - taken.started) * 1000 / max(count, 1)
        decided_at = pa.array([taken.decided_at], pa.string())
        return pa.table(
            {
                "decision_id": records.decision_ids(self._package, self._batch.batch_id, keys),
                "row": pa.array(read.places + read.first, pa.int64()),
                "decided_at": decided_at.take(pa.array(np.zeros(count, np.int32))),
                "record_key": keys,
                "entity": as_text(whole[contract.entity]),
                "record": whole.to_struct_array(),
                **decided.columns,
                "elapsed_ms": pa.array(np.full(count, elapsed_ms)),
            }
        )
