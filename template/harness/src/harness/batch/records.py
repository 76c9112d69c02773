"""What a batch leaves behind: decisions on record, what was set aside, and what is handed over."""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from harness.batch.source import Source
from harness.errors import PilotError
from harness.files import check_writable, sha256_of, write_durably
from harness.settings import NO_DOWNLOADS
from harness.store import Batch, Chunk, Decision

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "harness.batch")
ID_LENGTH, SHA1_DIGITS, UUID_DIGITS = 36, 40, 32
DASHES = (8, 13, 18, 23)
VERSION_AT, VARIANT_AT = 12, 16
# The variant takes the two highest bits of a digit: RFC 9562.
VARIANTS = np.zeros(256, np.uint8)
for _digit in b"0123456789abcdef":
    VARIANTS[_digit] = b"89ab"[int(chr(_digit), 16) & 3]
# What is not alike in many rows is smaller, and faster written, without a dictionary.
WITHOUT_DICTIONARY = ("decision_id", "row", "record_key", "score")
# What a consumer is told (harness.store.outbox), but for the record, which it brought itself.
HANDED_OVER = (
    "decision_id",
    "decided_at",
    "record_key",
    "entity",
    "decision",
    "score",
    "reasons",
    "served_by",
    "why",
    "model_digest",
    "revision",
    "stage",
    "sandbox",
)
REASONS = "_reasons"


def decision_ids(package: str, batch_id: str, keys: pa.Array) -> pa.Array:
    """A batch's decisions' ids: UUIDv5 of pilot, batch and record key, so the same again when repeated."""
    if not len(keys):
        return pa.array([], pa.string())
    prefix = NAMESPACE.bytes + f"{package}\0{batch_id}\0".encode()
    engine = _engine()
    engine.register("ids", pa.table({"key": keys}))
    try:
        hashed = engine.sql(
            "SELECT sha1($prefix::BLOB || encode(key)) AS hash FROM ids", params={"prefix": prefix}
        ).to_arrow_table()
    finally:
        engine.unregister("ids")
    column = hashed["hash"].combine_chunks()
    offset = column.offset * SHA1_DIGITS
    digits = np.frombuffer(column.buffers()[2], np.uint8)[offset : offset + len(keys) * SHA1_DIGITS]
    digits = digits.reshape(len(keys), SHA1_DIGITS)[:, :UUID_DIGITS].copy()
    digits[:, VERSION_AT] = ord("5")
    digits[:, VARIANT_AT] = VARIANTS[digits[:, VARIANT_AT]]
    text = np.full((len(keys), ID_LENGTH), ord("-"), np.uint8)
    text[:, [place for place in range(ID_LENGTH) if place not in DASHES]] = digits
    offsets = np.arange(0, ID_LENGTH * (len(keys) + 1), ID_LENGTH, dtype=np.int32)
    return pa.StringArray.from_buffers(len(keys), pa.py_buffer(offsets), pa.py_buffer(text))


@functools.cache
def _engine() -> duckdb.DuckDBPyConnection:
    # A million hashes in Python take as long as the model does.
    return duckdb.connect(config=NO_DOWNLOADS)


def written(table: pa.Table, file: Path) -> str:
    """Write a table, which has reached the disk when this returns; gives the file's SHA-256.

    Raises:
        PilotError: It cannot be written.
    """
    sink = pa.BufferOutputStream()
    dictionary = [each for each in _leaves(table.schema) if each not in WITHOUT_DICTIONARY]
    pq.write_table(table, sink, compression="zstd", compression_level=1, use_dictionary=dictionary)
    return _kept(memoryview(sink.getvalue()), file)


def _leaves(schema: pa.Schema) -> list[str]:
    """The columns that may have a dictionary, as Parquet names them; of a struct each, but for doubles."""
    found = []
    for field in schema:
        if pa.types.is_struct(field.type):
            inner = [field.type.field(at) for at in range(field.type.num_fields)]
            found += [f"{field.name}.{each.name}" for each in inner if not pa.types.is_floating(each.type)]
        else:
            found.append(field.name)
    return found


def _kept(content: bytes | memoryview, file: Path) -> str:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, content)
    except OSError as error:
        raise PilotError(
            f"cannot be written: {error.strerror}",
            where=str(file),
            mend="Free the disk, or make the place writable, and run the same command again: "
            "what is on record stays.",
        ) from error
    return hashlib.sha256(content).hexdigest()


def set_aside(records: pa.Table, broken: Mapping[int, str], file: Path) -> str | None:
    """Write the records that were not decided, with the rules that they broke; None where there are none."""
    if not broken:
        return None
    aside = records.take(pa.array(list(broken), pa.int64()))
    return written(aside.append_column(REASONS, pa.array(list(broken.values()), pa.string())), file)


def as_decisions(table: pa.Table) -> list[Decision]:
    """A chunk's decisions as the table of decisions takes them."""
    names = [field.name for field in fields(Decision) if field.name in table.column_names]
    made = []
    for row in table.select(names).to_pylist():
        told: dict[str, Any] = {name: json.loads(row[name]) for name in ("decision", "reasons")}
        made.append(Decision(**{**row, **told}))
    return made


def hand_over(chunk: Chunk, records: Path, to: Path, kind: str) -> Path:
    """Write what was decided where the consumer takes it; what is there already stays.

    Args:
        chunk: A chunk that is on record.
        records: The batch's folder.
        to: The folder that the consumer reads.
        kind: ``.parquet`` or ``.csv``.

    Raises:
        PilotError: It cannot be written, or something else is there under its name.
    """
    file = to / f"{chunk.batch_id}-{chunk.chunk:05d}{kind}"
    lazy = pl.scan_parquet(records / chunk.file).select(HANDED_OVER).rename({"model_digest": "model"})
    # The table of decisions has JSON there; a consumer wants the word, or the number.
    frame = lazy.with_columns(_told(pl.col("decision"))).collect()
    if file.exists():
        if not _holds(file, frame, kind):
            raise PilotError(
                "it is there already, and does not hold what this batch decided, so it is not announced",
                where=str(file),
                mend="Take it away or name another --to, and run the same command again: what is on record "
                "stays.",
            )
    elif kind == ".csv":
        _kept(frame.write_csv().encode(), file)
    else:
        written(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), file)
    return file


def _holds(file: Path, frame: pl.DataFrame, kind: str) -> bool:
    try:
        if kind == ".csv":
            return file.read_bytes() == frame.write_csv().encode()
        return pl.read_parquet(file).equals(frame)
    except (OSError, pl.exceptions.PolarsError):
        return False


def check_place(to: Path, source: Source) -> None:
    """See that decisions can be handed over there before any is made.

    Raises:
        PilotError: They cannot, or would be read as records when the batch goes on.
    """
    read = Path(source.name)
    if read.is_dir() and to.resolve().is_relative_to(read.resolve()):
        raise PilotError(
            "it lies in the folder that is read, where decisions would be taken for records",
            where=f"--to {to}",
            mend="Name a folder beside it.",
        )
    try:
        check_writable(to)
    except OSError as error:
        raise PilotError(
            f"decisions cannot be written there, and nothing was decided: {error.strerror}",
            where=f"--to {to}",
            mend="Name a folder that you may write, or one that is still to be made.",
        ) from error


def announce(to: Path, batch: Batch, files: Sequence[Path]) -> Path:
    """Say that all of a batch is there: each file with its SHA-256, under the batch's name.

    Raises:
        PilotError: It cannot be written.
    """
    listed = [{"file": file.name, "sha256": sha256_of(file)} for file in files]
    document = {"batch_id": batch.batch_id, "input_sha256": batch.input_sha256, "files": listed}
    file = to / f"{batch.batch_id}.json"
    _kept(json.dumps(document, indent=2).encode() + b"\n", file)
    return file


def _told(decision: pl.Expr) -> pl.Expr:
    return decision.map_elements(lambda text: str(json.loads(text)), return_dtype=pl.String)
