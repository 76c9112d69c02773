"""The entry point: options that every verb has, and how errors reach a person."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from harness import __version__, interruption
from harness.cli import (
    audit,
    context,
    control,
    decide,
    demo,
    drill,
    explain,
    flag,
    governance,
    lineage,
    load,
    monitor,
    outcomes,
    profile,
    readiness,
    replay,
    rollout,
    run,
    serve,
    shadow,
    simulate,
    sync,
    token,
    update,
)
from harness.errors import PilotError, unforeseen
from harness.settings import find_root

app = typer.Typer(
    name="pilot",
    help="Run, serve, stop and govern this pilot.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (
    simulate,
    run,
    replay,
    serve,
    decide,
    outcomes,
    profile,
    lineage,
    explain,
    monitor,
    shadow,
    control,
    audit,
    sync,
    flag,
    token,
    governance,
    readiness,
    rollout,
    drill,
    load,
    update,
    demo,
):
    group.register(app)


# Typer carries a copy of click and exports some of its errors only: their base is reached from one.
UsageProblem: type[typer.BadParameter] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    root: Annotated[
        Path | None, typer.Option(help="The pilot's folder; by default the nearest one upwards.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every verb; they stand before it."""
    context.choose(root=root, debug=debug)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and end the process.

    Exit codes: 0 ok, 1 a check failed, 2 wrong use, 3 inconclusive, 130 interrupted.
    """
    interruption.end_cleanly()
    sys.exit(_run(arguments))


def _root() -> Path:
    try:
        return (context.root() or find_root(Path.cwd())).resolve()
    except PilotError:
        return Path.cwd()


def _run(arguments: list[str] | None) -> int:
    try:
        code = app(args=arguments, standalone_mode=False)
    except PilotError as error:
        if context.debug():
            traceback.print_exc()
        typer.echo(f"pilot: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = interruption.EXIT_CODE
    except UsageProblem as error:
        typer.echo(f"pilot: {error.format_message()} (`pilot --help` says what there is)", err=True)
        return 2
    except BrokenPipeError:
        # The reader went away (`pilot status | head`); Python would complain once more at exit.
        sys.stderr.close()
        return 0
    except Exception as error:
        if context.debug():
            traceback.print_exc()
        if not interruption.asked_to_end():
            told = unforeseen(error, _root())
            typer.echo(f"pilot: {told}", err=True)
            return told.exit_code
        code = interruption.EXIT_CODE  # DuckDB, for one, makes an error of its own of Ctrl-C
    if code == interruption.EXIT_CODE:  # Typer makes a code of Ctrl-C, and says nothing
        typer.echo("pilot: interrupted; run it again, what was finished is kept", err=True)
    return code if isinstance(code, int) else 0
