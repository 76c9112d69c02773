"""Outcomes from a file into the store: each row is recorded, known already, still pending, or refused."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import PilotError
from harness.pilot import Choice, Contract
from harness.progress import Report
from harness.serving.schema import KNOWN_AT, as_outcome, outcome_model
from harness.store import Outcome, OutcomeStore, Received

BATCH = 10_000
ROWS_NAMED = 20
WORDS = {"true": True, "false": False, "1": True, "0": False}

Row = tuple[int, Mapping[str, Any] | str]


@dataclass
class Intake:
    """What became of a file's rows.

    Attributes:
        rows: How many there are.
        recorded: What the store did with those that it got.
        pending: Rows whose outcome is empty: not known yet.
        refused: How many rows were refused for each reason.
        named: The numbers of the first rows refused, with their reasons; a file's rows count from 1.
    """

    rows: int = 0
    recorded: Received = field(default_factory=Received)
    pending: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    named: list[tuple[int, str]] = field(default_factory=list)

    def refuse(self, row: int, reason: str) -> None:
        """Count a row that cannot be taken."""
        self.refused[reason] += 1
        if len(self.named) < ROWS_NAMED:
            self.named.append((row, reason))


@dataclass(frozen=True)
class Source:
    """A file of outcomes.

    Attributes:
        file: The file.
        digest: Its SHA-256.
        columns: Its columns, so far as they are known before it is read.
        rows: Its rows by number, each with how much of the file is read by then, 0 to 1. A row that cannot
            be read is the reason.
        text: Whether all values are text.
    """

    file: Path
    digest: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[tuple[Row, float]]]
    text: bool = False


def open_source(file: Path, contract: Contract) -> Source:
    """Look at a file before anything of it is recorded.

    Raises:
        PilotError: It cannot be read, is of no known kind, or lacks a column.
    """
    kinds = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    if file.suffix.lower() not in kinds:
        raise PilotError(
            f"'{file.suffix or 'no ending'}' is no kind of file that outcomes are read from",
            where=str(file),
            mend="Bring .csv, .jsonl or .parquet.",
        )
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        source = kinds[file.suffix.lower()](file, digest)
    except OSError as error:
        raise PilotError(
            f"cannot be read: {error.strerror}", where=str(file), mend="Name a readable file."
        ) from error
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        said = (str(error) or "unreadable").splitlines()[0]
        raise PilotError(
            f"not {file.suffix.lower()[1:]}: {said}", where=str(file), mend="Write it anew, as UTF-8."
        ) from error
    wanted = (contract.key, contract.label)
    missing = [name for name in wanted if source.columns and name not in source.columns]
    if missing:
        raise PilotError(
            f"there is no column '{missing[0]}'",
            where=str(file),
            mend=f"It takes {' and '.join(wanted)}, and {KNOWN_AT} if you have it.",
        )
    return source


def take_in(source: Source, contract: Contract, store: OutcomeStore, report: Report) -> Intake:
    """Record a file's outcomes, ten thousand at a time; what is recorded stays, whatever comes after.

    Raises:
        StoreUnavailable: The store does not take them. The file can be given again.
    """
    found = Intake()
    accept = _acceptor(source, contract, found)
    rows = source.rows()
    while part := list(islice(rows, BATCH)):
        batch = [outcome for (number, row), _ in part if (outcome := accept(number, row)) is not None]
        found.rows += len(part)
        if batch:
            found.recorded += store.add(batch, source=f"file {source.digest}", once=True)
        report(f"{found.rows:,} rows", part[-1][1])
    return found


def _acceptor(
    source: Source, contract: Contract, found: Intake
) -> Callable[[int, Mapping[str, Any] | str], Outcome | None]:
    model = outcome_model(contract)
    choice = isinstance(contract.decision, Choice)
    kinds = {contract.key: contract.field(contract.key).type}

    def accept(number: int, row: Mapping[str, Any] | str) -> Outcome | None:
        if isinstance(row, str):
            found.refuse(number, row)
            return None
        values = {name: row[name] for name in (contract.key, contract.label, KNOWN_AT) if name in row}
        if source.text:
            values = {name: value or None for name, value in values.items()}
        if values.get(contract.label, "") is None:
            found.pending += 1
            return None
        if source.text:
            values[contract.label] = _word(values.get(contract.label), choice)
            values[contract.key] = _typed(values.get(contract.key), kinds[contract.key])
        try:
            return as_outcome(contract, model.model_validate(values))
        except ValidationError as error:
            first = error.errors()[0]
            said = first["msg"].removeprefix("Value error, ")
            found.refuse(number, f"{first['loc'][0]}: {said[0].lower()}{said[1:]}")
            return None

    return accept


def _word(text: Any, choice: bool) -> Any:
    """A label written as text: true, false, 1, 0, or a number; anything else stays, and is refused."""
    if choice:
        return WORDS.get(str(text).strip().lower(), text)
    try:
        return float(str(text))
    except ValueError:
        return text


def _typed(text: Any, kind: str) -> Any:
    try:
        return int(text) if kind == "integer" else float(text) if kind == "number" else text
    except (TypeError, ValueError):
        return text


def _csv(file: Path, digest: str) -> Source:
    size = max(file.stat().st_size, 1)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        header = tuple(next(csv.reader(stream, strict=True), ()))
    if not header:
        raise ValueError("it has no first line with the columns' names")

    def rows() -> Iterator[tuple[Row, float]]:
        with file.open("rb") as raw:
            # What is no UTF-8 arrives as half a surrogate pair, which the contract's key refuses by itself.
            reader = csv.reader(line.decode("utf-8", errors="surrogateescape") for line in raw)
            next(reader)
            for number, values in enumerate(reader, start=1):
                fits = len(values) == len(header)
                row = (
                    dict(zip(header, values, strict=True))
                    if fits
                    else "the row has too many or too few columns"
                )
                yield (number, row), raw.tell() / size

    return Source(file, digest, header, rows, text=True)


def _json_lines(file: Path, digest: str) -> Source:
    size = max(file.stat().st_size, 1)

    def rows() -> Iterator[tuple[Row, float]]:
        with file.open("rb") as raw:
            for number, line in enumerate(raw, start=1):
                if not line.strip():
                    continue
                yield (number, _object(line)), raw.tell() / size

    return Source(file, digest, (), rows)


def _object(line: bytes) -> Mapping[str, Any] | str:
    try:
        found = json.loads(line)
    except ValueError:
        return "the line is not JSON"
    return found if isinstance(found, dict) else "the line is no JSON object"


def _parquet(file: Path, digest: str) -> Source:
    import pyarrow.parquet

    opened = pyarrow.parquet.ParquetFile(file)
    total = max(opened.metadata.num_rows, 1)

    def rows() -> Iterator[tuple[Row, float]]:
        number = 0
        for batch in opened.iter_batches(batch_size=BATCH):
            for row in batch.to_pylist():
                number += 1
                # Dates and times as JSON would have them.
                said = {
                    name: each.isoformat() if hasattr(each, "isoformat") else each
                    for name, each in row.items()
                }
                yield (number, said), number / total

    return Source(file, digest, tuple(opened.schema_arrow.names), rows)
