"""From chunk to chunk, and on where it was interrupted: a chunk counts once its row is in the store.

While a model's process scores one chunk, the one before is settled and recorded. The order of each chunk is:
permission, score, permission, file on the disk, permission, row in the store. What ends the process between
two of these leaves a chunk that was never decided, and the next run decides it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness import pilot
from harness.batch import Wanted, begun, records
from harness.batch.checks import Checks, repeated
from harness.batch.chunks import Chunks, Recorder, scored
from harness.batch.deciding import Deciding
from harness.batch.source import Source, open_source
from harness.batch.stopped import answering_to_stops
from harness.control import Arm, Why, noted
from harness.errors import PilotError
from harness.pilot import Contract
from harness.pipeline import layout
from harness.progress import Report
from harness.serving.breaker import Rule
from harness.serving.bulk import BulkModel
from harness.serving.server import build_service, check_stage
from harness.serving.service import Service
from harness.settings import Settings
from harness.store import Batch, Chunk
from harness.store.batches import check

OWN_RECORDS = "records"


@dataclass
class Told:
    """What became of a batch.

    Attributes:
        batch_id: Its name.
        rows: Records of the input.
        decided: Decisions on record, those of earlier runs included.
        set_aside: Records that were not decided.
        counts: Decisions by who served and why.
        broken: Records set aside by rule.
        malformed: Lines of CSV files that are no records.
        chunks: Chunks on record.
        kept: How many of these an earlier run had decided.
        folder: Where the records of the decisions are.
        files: What was written for a consumer.
        seconds: How long this run took.
        decided_now: How many decisions this run made.
    """

    batch_id: str
    rows: int
    folder: str
    decided: int = 0
    set_aside: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    malformed: int = 0
    chunks: int = 0
    kept: int = 0
    files: list[str] = field(default_factory=list)
    seconds: float = 0.0
    decided_now: int = 0

    def add(self, chunk: Chunk) -> None:
        """Count a chunk that is on record."""
        self.chunks += 1
        self.decided += chunk.rows
        self.set_aside += chunk.set_aside
        self.counts.update(chunk.counts)
        self.broken.update(chunk.broken)

    def document(self) -> dict[str, Any]:
        """The same as plain data."""
        by = [{"served_by": who, "why": why, "count": n} for (who, why), n in sorted(self.counts.items())]
        return {**asdict(self), "counts": by, "broken": dict(sorted(self.broken.items()))}


def run(settings: Settings, wanted: Wanted, report: Report) -> Told:
    """Decide a batch, or what is left of it.

    Args:
        settings: The pilot's settings.
        wanted: What somebody asks for.
        report: Hears what is being done, and how much of the whole is done.

    Raises:
        PilotError: The input, the batch or a place is not what it has to be; what is on record stays.
        StoreUnavailable: A chunk could not be recorded, so nothing of it was decided.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        contract, service, source = _opened(settings, wanted, stack)
        if wanted.to is not None:
            records.check_place(wanted.to, source)
        store, package = service.store.batches, settings.pilot.package
        folder = begun.folder_of(settings, store, begun.name_of(wanted, source))
        stack.enter_context(begun.alone(folder))
        batch = begun.gone_on(settings, wanted, store, source)
        size = int(batch.terms["rows_a_chunk"]) if batch else settings.batch.rows_a_chunk
        twice = repeated(source, contract, size, lambda rows: report(f"{rows:,} rows looked at", 0.0))
        if batch is None:
            batch = begun.begin(settings, wanted, store, source, folder=folder, rows=twice.rows)
        told = Told(batch.batch_id, batch.rows, str(folder))
        for chunk in store.chunks(batch.batch_id):
            check(chunk, folder / chunk.file)
            told.add(chunk)
        told.kept = told.chunks
        checks = Checks(settings, contract)
        stack.callback(checks.close)
        deciding = Deciding(service, contract, _models(settings, int(batch.terms["reasons"]), stack))
        recorder = Recorder(service, deciding, source, batch, folder, package)
        chunks = Chunks(source, checks, twice, size, report, skip=told.kept)
        stack.enter_context(_confirming(settings, service, batch.batch_id))
        for read, taken, said in scored(chunks, deciding):
            chunk = recorder.record(read, taken, said)
            told.add(chunk)
            told.decided_now += chunk.rows
        told.malformed = len(chunks.lines)
        if chunks.lines:
            records.written(pa.table({"line": chunks.lines}), folder / "malformed.parquet")
        if batch.ended_at is None:
            store.end(batch.batch_id)
        if wanted.to is not None:
            report("writing the files", 1.0)
            told.files = _handed_over(service, source, batch, folder, wanted.to)
    told.seconds = time.monotonic() - started
    return told


def rehearse(settings: Settings, wanted: Wanted, report: Report) -> dict[str, Any]:
    """Say what a batch would be, without asking a model and without recording anything.

    Raises:
        PilotError: The input or a place is not what it has to be.
    """
    with ExitStack() as stack:
        contract, service, source = _opened(settings, wanted, stack)
        checks = Checks(settings, contract)
        stack.callback(checks.close)
        size = settings.batch.rows_a_chunk
        twice = repeated(source, contract, size, lambda rows: report(f"{rows:,} rows looked at", 0.0))
        deciding = Deciding(service, contract, _models(settings, 0, stack))
        found: Counter[tuple[str, str, str | None]] = Counter()
        broken: Counter[str] = Counter()
        aside = 0
        chunks = Chunks(source, checks, twice, size, report)
        for read in chunks:
            aside += len(read.broken)
            broken.update(rule for rules in read.broken.values() for rule in rules.split())
            found += deciding.take_up(read.kept).assigned()
        would = [
            {
                "by": arm if why == Why.ASSIGNED else Arm.FALLBACK.value,
                "why": why,
                "model": digest,
                "count": count,
            }
            for (arm, why, digest), count in sorted(found.items(), key=str)
        ]
        return {
            "batch_id": begun.name_of(wanted, source),
            "rows": twice.rows,
            "set_aside": aside,
            "broken": dict(sorted(broken.items())),
            "malformed": len(chunks.lines),
            "would_decide": would,
        }


def _opened(settings: Settings, wanted: Wanted, stack: ExitStack) -> tuple[Contract, Service, Source]:
    if wanted.deliver and not settings.downstream.url:
        mend = "Name who receives decisions, or leave out --deliver: the files are the delivery then."
        raise PilotError("nobody is named to deliver to", where="pilot.toml [downstream] url", mend=mend)
    contract = pilot.load_contract(settings.pilot.package)
    named = Path(wanted.named)
    if wanted.named == OWN_RECORDS and not named.exists():
        named = settings.path(layout.RECORDS)
        if not named.is_file():
            mend = "Run `pilot run` first, or name a file."
            raise PilotError("there are no records yet", where=str(layout.RECORDS), mend=mend)
    source = open_source(named, contract)
    service = build_service(settings)
    stack.callback(service.close)
    check_stage(settings, service.control, settings.serving.host)
    return contract, service, source


def _models(settings: Settings, reasons: int, stack: ExitStack) -> Callable[[str], BulkModel]:
    """Models by their digest, each started when it is first asked for and ended with the stack."""
    serving, started = settings.serving, dict[str, BulkModel]()

    def model(digest: str) -> BulkModel:
        if digest not in started:
            started[digest] = BulkModel(
                settings.path(serving.models),
                digest,
                reasons=reasons,
                budget_s=settings.batch.budget_s,
                rule=Rule(serving.breaker_failures, serving.breaker_window_s, serving.breaker_retry_s),
                variables=serving.model_environment,
            )
            stack.callback(started[digest].close)
        return started[digest]

    return model


@contextmanager
def _confirming(settings: Settings, service: Service, batch_id: str) -> Iterator[None]:
    """Be among those whom `pilot kill` asks whether they have stopped."""
    url = f"pilot decide --batch, {batch_id}"
    with answering_to_stops(service) as address, noted(settings.root, service.control.folder, url, address):
        yield


def _handed_over(service: Service, source: Source, batch: Batch, folder: Path, to: Path) -> list[str]:
    """Write what is on record, and nothing else; the announcement comes last: all of it is there."""
    written = []
    for chunk in service.store.batches.chunks(batch.batch_id):
        check(chunk, folder / chunk.file)
        written.append(records.hand_over(chunk, folder, to, source.kind))
    return [str(file) for file in [*written, records.announce(to, batch, written)]]
