"""Rows out of a file that somebody brings: CSV, JSON lines or Parquet, one after another."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import PilotError

BATCH = 10_000

Row = tuple[int, Mapping[str, Any] | str]


@dataclass(frozen=True)
class Source:
    """A file of rows.

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


def open_rows(file: Path, what: str, wanted: Sequence[str], takes: str) -> Source:
    """Look at a file before anything of it is taken.

    Args:
        file: A .csv, .jsonl, .ndjson or .parquet file.
        what: What its rows are, in the plural.
        wanted: Columns that it has to have.
        takes: The sentence that says which columns it takes.

    Raises:
        PilotError: It cannot be read, is of no known kind, or lacks a column.
    """
    kinds = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    if file.suffix.lower() not in kinds:
        raise PilotError(
            f"'{file.suffix or 'no ending'}' is no kind of file that {what} are read from",
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
    missing = [name for name in wanted if source.columns and name not in source.columns]
    if missing:
        raise PilotError(f"there is no column '{missing[0]}'", where=str(file), mend=takes)
    return source


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
