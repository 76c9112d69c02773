"""`pilot outcomes FILE`: what came of decisions, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import context

if TYPE_CHECKING:
    from harness.monitor.intake import Intake


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(outcomes)


def outcomes(
    file: Annotated[Path, typer.Argument(help="A .csv, .jsonl or .parquet file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Record what came of decisions: a file with the contract's key and label, and known_at if there is one.

    The same file may be given twice. Rows that cannot be taken are refused with their reasons, exit 1; all
    others are on record by then.
    """
    from harness import pilot
    from harness.monitor import intake
    from harness.progress import working
    from harness.store import DecisionStore, OutcomeStore

    settings = context.settings()
    contract = pilot.load_contract(settings.pilot.package)
    source = intake.open_source(file, contract)
    store = DecisionStore(settings.sqlite_url(settings.store.url))
    try:
        with working("outcomes") as report:
            found = intake.take_in(source, contract, OutcomeStore(store.database), report)
    finally:
        store.close()
    if as_json:
        context.say_json(_document(found))
    else:
        _tell(found, contract.label)
    if found.refused:
        raise typer.Exit(1)


def _document(found: Intake) -> dict[str, Any]:
    return {
        "rows": found.rows,
        "added": found.recorded.added,
        "unchanged": found.recorded.unchanged,
        "unknown": found.recorded.unknown,
        "pending": found.pending,
        "refused": dict(found.refused),
        "refused_rows": [{"row": row, "reason": reason} for row, reason in found.named],
    }


def _tell(found: Intake, label: str) -> None:
    done = found.recorded
    context.say(f"{found.rows:,} rows: {done.added:,} outcomes recorded, {done.unchanged:,} known already")
    if found.pending:
        context.say(f"  {found.pending:,} without an outcome yet ('{label}' is empty)")
    if done.unknown:
        context.say(
            f"  {done.unknown:,} about records that were never decided here; kept, and no part of any figure"
        )
    for reason, count in found.refused.most_common():
        context.warn(f"{count:,} refused: {reason}")
    if found.refused:
        rows = ", ".join(str(row) for row, _ in found.named)
        more = " ..." if sum(found.refused.values()) > len(found.named) else ""
        context.warn(
            f"refused rows, counted from 1 without the header: {rows}{more}. "
            "Correct them and give the file again"
        )
