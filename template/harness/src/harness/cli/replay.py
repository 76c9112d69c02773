"""`pilot replay`: what was set aside, looked at again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import context


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(replay)


def replay(
    file: Annotated[
        Path | None, typer.Argument(help="Corrected records: .csv, .jsonl or .parquet.", show_default=False)
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", help="Write what was set aside, with reasons, to this .csv.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Look again at the records that `pilot run` set aside.

    Without a file: which of them keep the contract of today, exit 1 while some do not. With one: the next
    `pilot run` has its records in the place of those set aside, for as long as the source's own break the
    contract; exit 1 when rows were refused, the others are taken by then.
    """
    from harness.errors import PilotError

    if file is not None and export is not None:
        raise PilotError(
            "a file to read and one to write", where="pilot replay", mend="Do one after the other."
        )
    if export is not None:
        _export(export, as_json)
    elif file is not None:
        _take(file, as_json)
    else:
        _again(as_json)


def _again(as_json: bool) -> None:
    from harness import pilot
    from harness.monitor import replay
    from harness.progress import working

    settings = context.settings()
    contract = pilot.load_contract(settings.pilot.package)
    with working("replay") as report:
        report("checks", 0.1)
        found = replay.again(settings, contract)
    left = found.rows - found.keep
    if as_json:
        context.say_json({"rows": found.rows, "keep": found.keep, "rules": found.rules})
    else:
        context.say(f"{found.rows:,} records were set aside; {found.keep:,} keep the contract now")
        for rule, count in found.rules.items():
            context.say(f"  {count:,} break {rule}")
        if found.keep:
            context.say("`pilot run` takes in those that keep it.")
        if left:
            context.say(
                "Mend the source, or: pilot replay --export FILE.csv, correct it, pilot replay FILE.csv"
            )
    if left:
        raise typer.Exit(1)


def _export(file: Path, as_json: bool) -> None:
    from harness.monitor import replay

    rows = replay.export(context.settings(), file)
    if as_json:
        context.say_json({"rows": rows, "file": str(file)})
        return
    context.say(
        f"{rows:,} records written to {file}. They are what people entrusted to you: delete it afterwards."
    )


def _take(file: Path, as_json: bool) -> None:
    from harness import pilot
    from harness.monitor import replay
    from harness.progress import working

    settings = context.settings()
    contract = pilot.load_contract(settings.pilot.package)
    with working("replay") as report:
        report("rows", 0.1)
        found = replay.take(settings, contract, file)
    if as_json:
        context.say_json(
            {
                "rows": found.rows,
                "taken": found.taken,
                "corrections": found.kept,
                "refused": dict(found.refused),
                "refused_rows": [{"row": row, "reason": reason} for row, reason in found.named],
            }
        )
    else:
        context.say(f"{found.rows:,} rows: {found.taken:,} corrected records taken")
        if found.taken:
            context.say("`pilot run` has them in the place of those set aside.")
        for reason, count in found.refused.most_common():
            context.warn(f"{count:,} refused: {reason}")
        if found.refused:
            rows = ", ".join(str(row) for row, _ in found.named)
            more = " ..." if sum(found.refused.values()) > len(found.named) else ""
            context.warn(f"refused rows, counted from 1 without the header: {rows}{more}")
    if found.refused:
        raise typer.Exit(1)
