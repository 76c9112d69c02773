"""Outcomes from a file into the store: each row is recorded, known already, still pending, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.contract import Choice, Contract
from harness.data.rows import Source, open_rows
from harness.progress import Report
from harness.serving.schema import KNOWN_AT, as_outcome, outcome_model
from harness.store import Outcome, OutcomeStore, Received

BATCH = 10_000
ROWS_NAMED = 20
WORDS = {"true": True, "false": False, "1": True, "0": False}


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


def open_source(file: Path, contract: Contract) -> Source:
    """Look at a file before anything of it is recorded.

    Raises:
        PilotError: It cannot be read, is of no known kind, or lacks a column.
    """
    wanted = (contract.key, contract.label)
    takes = f"It takes {' and '.join(wanted)}, and {KNOWN_AT} if you have it."
    return open_rows(file, "outcomes", wanted, takes)


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
