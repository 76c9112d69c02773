"""What was set aside, looked at again: by the contract of today, or as somebody has corrected it."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import ValidationError

from harness.contract import Choice, Contract, FieldType
from harness.control.identity import actor
from harness.data import checks, corrections, engine
from harness.data.rows import open_rows
from harness.errors import PilotError
from harness.files import whole_file
from harness.pipeline import layout
from harness.serving.schema import request_model
from harness.settings import Settings

ROWS_NAMED = 20
WORDS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class Again:
    """Records that were set aside, by the contract of today.

    Attributes:
        rows: How many were set aside.
        keep: How many of them keep the contract now.
        rules: How many break each rule still, the most broken first.
    """

    rows: int
    keep: int
    rules: dict[str, int]


@dataclass
class Taken:
    """What became of a file of corrected records.

    Attributes:
        rows: How many it has.
        taken: How many take the place of one that was set aside.
        refused: How many were refused for each reason.
        named: The numbers of the first rows refused, with their reasons; rows count from 1.
        kept: How many corrections there are now.
    """

    rows: int = 0
    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    named: list[tuple[int, str]] = field(default_factory=list)
    kept: int = 0

    def refuse(self, row: int, reason: str) -> None:
        """Count a row that cannot be taken."""
        self.refused[reason] += 1
        if len(self.named) < ROWS_NAMED:
            self.named.append((row, reason))


def again(settings: Settings, contract: Contract) -> Again:
    """Check what was set aside once more.

    Raises:
        PilotError: There is no quarantine, or it is of another contract.
    """
    file = _quarantine(settings)
    backend = engine.embedded(settings)
    records = backend.read_parquet(file, table_name="aside").drop(checks.REASONS)
    checks.check_schema(records, contract)
    quality, _, _ = checks.check(records, contract)
    broken = {rule: count for rule, count in quality.rules.items() if count}
    broken = {rule: count for rule, count in broken.items() if contract.severity(rule) != "warn"}
    ordered = dict(sorted(broken.items(), key=lambda item: -item[1]))
    return Again(quality.rows, quality.rows - quality.bad, ordered)


def export(settings: Settings, file: Path) -> int:
    """Write what was set aside, with its reasons, as a CSV file to correct. Only its owner may read it.

    Returns:
        How many records it has.

    Raises:
        PilotError: There is no quarantine, the file exists, or it cannot be written.
    """
    source = pq.ParquetFile(_quarantine(settings))
    if file.exists():
        raise PilotError("it is there already", where=str(file), mend="Name another, or move it away.")
    if file.suffix.lower() != ".csv":
        raise PilotError("what was set aside is written as CSV", where=str(file), mend="Name a .csv file.")
    try:
        with whole_file(file) as beside:
            private = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(private, "w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, source.schema_arrow.names)
                writer.writeheader()
                for batch in source.iter_batches():
                    writer.writerows(_written(row) for row in batch.to_pylist())
    except OSError as error:
        raise PilotError(
            f"cannot be written: {error.strerror}", where=str(file), mend="Name a folder of yours."
        ) from error
    return int(source.metadata.num_rows)


def take(settings: Settings, contract: Contract, file: Path) -> Taken:
    """Take corrected records in; the next `pilot run` has them in the place of those set aside.

    A record is taken when one of its key was set aside and it keeps the contract, as a request has to.

    Raises:
        PilotError: The file cannot be read or lacks a column, or there is no quarantine.
    """
    names = [*(each.name for each in contract.fields), contract.label]
    source = open_rows(file, "corrected records", names, "Begin with `pilot replay --export FILE.csv`.")
    aside = pq.read_table(_quarantine(settings), columns=[contract.key]).column(0).to_pylist()
    missing = set(aside)
    accept = request_model(contract)
    found, good = Taken(), {}
    stamp = {corrections.BY: actor(), corrections.AT: datetime.now(UTC).isoformat(timespec="seconds")}
    for (number, row), _ in source.rows():
        found.rows += 1
        if isinstance(row, str):
            found.refuse(number, row)
            continue
        try:
            record = _record(row, contract, accept, text=source.text)
        except ValueError as error:
            found.refuse(number, str(error))
            continue
        key = record[contract.key]
        if key not in missing:
            found.refuse(number, f"{contract.key}: no record that was set aside has it")
        elif key in good:
            found.refuse(number, f"{contract.key}: the file has it twice")
        else:
            good[key] = {**record, **stamp}
    found.taken = len(good)
    if good:
        folder = settings.path(layout.CORRECTIONS)
        folder.mkdir(parents=True, exist_ok=True)
        found.kept = corrections.keep(folder, contract, list(good.values()))
    return found


def _quarantine(settings: Settings) -> Path:
    file = settings.path(layout.QUARANTINE)
    if not file.is_file():
        raise PilotError(
            "nothing was set aside yet", where=str(layout.QUARANTINE), mend="Run `pilot run` first."
        )
    return file


def _written(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values as ``take`` reads them: truths in lower case, dates by ISO 8601."""
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in row.items()}


def _record(row: Mapping[str, Any], contract: Contract, accept: type[Any], *, text: bool) -> dict[str, Any]:
    kinds: dict[str, FieldType] = {each.name: each.type for each in contract.fields}
    values = {name: row.get(name) for name in kinds}
    label = row.get(contract.label)
    if text:
        values = {name: _typed(value or None, kinds[name]) for name, value in values.items()}
        label = _typed(label or None, "boolean" if isinstance(contract.decision, Choice) else "number")
    choice = isinstance(contract.decision, Choice)
    fits = (
        isinstance(label, bool) if choice else isinstance(label, int | float) and not isinstance(label, bool)
    )
    if label is not None and not fits:
        raise ValueError(f"{contract.label}: it is no outcome")
    try:
        return {**accept.model_validate(values).model_dump(), contract.label: label}
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        where = f"{first['loc'][0]}: " if first["loc"] else ""
        raise ValueError(f"{where}{said}") from None


def _typed(value: Any, kind: FieldType) -> Any:
    """A value written as text; what cannot be read stays as it is, and is refused by the contract."""
    if value is None:
        return None
    try:
        if kind in ("integer", "number"):
            return int(value) if kind == "integer" else float(value)
    except ValueError:
        return value
    return WORDS.get(value.strip().lower(), value) if kind == "boolean" else value
