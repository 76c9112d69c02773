"""`pilot simulate`: production-like source systems."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Annotated

import typer

from harness.cli import context
from harness.errors import PilotError

SPEC = "simulation.yaml"


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(simulate)


def simulate(
    profile: Annotated[
        str, typer.Option(help="pilot: 10,000 rows, 2% missing. production: 10 million rows, 15-30% missing.")
    ] = "pilot",
    rows: Annotated[int | None, typer.Option(help="Rows of the largest table.", min=1)] = None,
    months: Annotated[int | None, typer.Option(help="Months of history.", min=1)] = None,
    missing: Annotated[
        str | None, typer.Option(help="Share of missing values, such as 0.02, or a range, such as 0.15-0.30.")
    ] = None,
    mess: Annotated[
        float | None, typer.Option(help="How mixed formats, duplicates and casing are, 0 to 1.")
    ] = None,
    drift: Annotated[
        float | None, typer.Option(help="How far the world moves over the months, 0 to 1.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The last day of the history.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same data.")] = None,
    next_: Annotated[
        bool, typer.Option("--next", help="A week later: the same systems, with rows added and changed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    """Fill this pilot's simulated source systems, as simulation.yaml describes them."""
    from harness.data.extract import embedded_folder
    from harness.data.origin import MANIFEST
    from harness.progress import working
    from harness.simulate import Parameters, Target, check_targets, deliver_next, embedded, read_specification
    from harness.simulate import simulate as fill
    from harness.source_kinds import CsvSource, PostgresSource

    settings = context.settings()
    foreign = [name for name in settings.sources if not settings.simulated(name)]
    if foreign:
        raise PilotError(
            f"[sources.{foreign[0]}] is not a simulated system, and a simulation would overwrite its data",
            where="pilot.toml",
            mend='Set url = "embedded" for a database and a path below var/ for files to simulate them.',
        )
    sized: dict[str, object] = {"--rows": rows, "--months": months, "--missing": missing, "--mess": mess}
    sized |= {"--drift": drift, "--until": until, "--seed": seed, "--profile": profile if next_ else None}
    given = [name for name, value in sized.items() if value not in (None, "pilot")]
    if next_ and given:
        raise PilotError(
            f"{given[0]} is for a simulation from the beginning",
            where="pilot simulate --next",
            mend="Leave it out: the next delivery is of the simulation that is there.",
        )
    parameters = Parameters.of(
        profile,
        rows=rows,
        months=months,
        missing=_shares(missing) if missing is not None else None,
        mess=mess,
        drift=drift,
        until=until.date() if until else None,
        seed=seed,
    )
    # Before any database is started: most mistakes are in that file.
    kinds = {
        name: Target(source.kind, "")
        for name, source in settings.sources.items()
        if isinstance(source, PostgresSource | CsvSource)
    }
    check_targets(read_specification(settings.path(SPEC)), kinds, settings.path(SPEC))
    # The manifest of last time stays until there is a new one: it names the content by its hash, so it says
    # nothing of what is half-way there, and what an interrupted simulation left alone is still simulated.
    manifest_file = settings.path(MANIFEST)
    manifest_file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack, working("simulate") as report:
        targets: dict[str, Target] = {}
        for name, source in settings.sources.items():
            if isinstance(source, PostgresSource):
                url = stack.enter_context(embedded.server(embedded_folder(settings, name)))
                targets[name] = Target("postgres", url)
            elif isinstance(source, CsvSource):
                targets[name] = Target("csv", str(settings.path(source.path)))
        if next_:
            manifest = deliver_next(settings.path(SPEC), manifest_file, targets, report)
        else:
            manifest = fill(settings.path(SPEC), parameters, targets, report)
    manifest.write(manifest_file)
    if as_json:
        brought = manifest.deliveries[-1] if next_ else {}
        context.say_json(
            {
                name: {"rows": made.rows, "digest": made.digest}
                | ({"delivered": brought[name].model_dump()} if name in brought else {})
                for name, made in manifest.tables.items()
            }
        )
        return
    for name, made in manifest.tables.items():
        last = manifest.deliveries[-1][name] if next_ else None
        told = f", {last.new:,} new, {last.changed:,} changed, {last.late:,} late" if last else ""
        context.say(f"  {name}: {made.rows:,} rows{told}")


def _shares(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise PilotError(
            f"'{text}' is no share", where="--missing", mend="Write 0.02, or a range such as 0.15-0.30."
        ) from None
