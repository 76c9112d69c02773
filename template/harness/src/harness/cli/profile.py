"""`pilot profile` and `pilot gap`: what the data is like, and how far the pilot's was from production's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import context
from harness.errors import PilotError
from harness.files import whole_file

if TYPE_CHECKING:
    from harness.data.gap import Gap
    from harness.data.profiled import Profile, Table

MOST = 12


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(profile)
    app.command()(gap)


def profile(
    keep_as_pilot: Annotated[
        bool,
        typer.Option(
            "--keep-as-pilot", help="Keep it as the pilot's, to hold production's against it later."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON.")] = False,
) -> None:
    """Say what the last `pilot run` found in the data: all of it, by evidence/profile.json."""
    from harness.data.profiled import load_profile
    from harness.pipeline import layout

    settings = context.settings()
    file = settings.path(layout.PROFILE)
    found = load_profile(file)
    if keep_as_pilot:
        _keep(file, settings.path(layout.PILOT_PROFILE))
    if as_json:
        context.say_json(found.document())
        return
    for name, table in found.tables.items():
        _say_table(name, table)
    _say_rest(found)
    if keep_as_pilot:
        context.say(f"  kept as {layout.PILOT_PROFILE}; commit it, and later `pilot gap` compares with it")


def _keep(file: Path, kept: Path) -> None:
    """Keep the profile as the pilot's.

    Raises:
        PilotError: Another one is kept: production's own profile in its place would show no gap at all.
    """
    if kept.exists() and kept.read_bytes() != file.read_bytes():
        raise PilotError(
            "another profile is kept as the pilot's",
            where=str(kept),
            mend="Delete it first, if that pilot is no longer what you compare with.",
        )
    with whole_file(kept) as beside:
        beside.write_bytes(file.read_bytes())


def _say_table(name: str, table: Table) -> None:
    share = table.duplicates / table.rows if table.rows else 0.0
    context.say(f"{name}: {table.rows:,} rows, {table.duplicates:,} of them exact duplicates ({share:.1%})")
    absent = sorted(((each.absent, column) for column, each in table.columns.items()), reverse=True)
    told = [f"{column} {number / table.rows:.1%}" for number, column in absent if number]
    if told:
        context.say(f"  absent: {', '.join(told[:MOST])}{' and more' if len(told) > MOST else ''}")
    mixed = {column: len(each.shapes) for column, each in table.columns.items() if len(each.shapes) > 1}
    if mixed and name != "records":
        told = [f"{column} {number}" for column, number in sorted(mixed.items(), key=lambda one: -one[1])]
        context.say(f"  written in several ways: {', '.join(told[:MOST])}")
    for column, each in table.columns.items():
        if each.undeclared:
            context.say(
                f"  {column}: {each.undeclared:,} rows in categories that contract.py does not declare"
            )


def _say_rest(found: Profile) -> None:
    covered = found.coverage
    if covered.first is None:
        context.say(f"{covered.field}: no record has a date")
    else:
        empty = f", {covered.empty_months} months between without a record" if covered.empty_months else ""
        whole = "covers" if covered.covers_cycle else "does not cover"
        context.say(
            f"{covered.field}: {covered.first} to {covered.last}{empty}; {covered.longest_run} months "
            f"in a row, which {whole} a business cycle of {covered.cycle_months}"
        )
    if not found.population:
        context.say(
            "population: none is declared in pilot.toml [data.population], so nobody knows if this is like it"
        )
    for name, each in found.population.items():
        verdict = "like" if each.alike else "NOT like"
        worst = max(
            zip(each.labels, each.found, each.declared, strict=True), key=lambda one: abs(one[1] - one[2])
        )
        context.say(
            f"{name}: {verdict} the population; {each.distance:.1%} of the records would have to differ "
            f"({each.max_distance:.1%} are allowed), most in {worst[0]}: {worst[1]:.1%}, "
            f"not {worst[2]:.1%}"
        )


def gap(
    pilot_profile: Annotated[
        Path | None, typer.Argument(help="The pilot's profile; by default evidence/pilot-profile.json.")
    ] = None,
    production_profile: Annotated[
        Path | None, typer.Argument(help="Production's profile; by default evidence/profile.json.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Compare the data that the pilot saw with production's: what will hurt, the worst first, and the mend.

    Exit 0 when nothing is beyond the bounds of pilot.toml [data.gap], 1 when something is, 3 when the two
    cannot be compared.
    """
    from harness.data.gap import compare
    from harness.data.profiled import load_profile
    from harness.pipeline import layout

    settings = context.settings()
    kept = pilot_profile or settings.path(layout.PILOT_PROFILE)
    before = load_profile(
        kept, "Run `pilot profile --keep-as-pilot` while the data is the pilot's, or name a file."
    )
    now = load_profile(production_profile or settings.path(layout.PROFILE))
    found = compare(before, now, settings.data.gap)
    if html is not None:
        from harness.monitor.gap_page import page

        with whole_file(html) as beside:
            beside.write_text(page(settings.pilot.name, before, now, found), encoding="utf-8")
    if as_json:
        context.say_json(found.document())
    else:
        _say_gap(found, html)
    if found.worse:
        raise typer.Exit(1)


def _say_gap(found: Gap, html: Path | None) -> None:
    worse = found.worse
    context.say(
        f"{len(worse)} of {len(found.findings)} differences will hurt ({found.rows[0]:,} records in the "
        f"pilot, {found.rows[1]:,} in production)"
    )
    for alike in found.troubles:
        context.say(f"{alike[0].severity:<7}{alike[0].kind}: {alike[0].hurts}")
        for each in alike[:MOST]:
            context.say(f"    {each.place}: {each.what}")
        if len(alike) > MOST:
            context.say(f"    and {len(alike) - MOST} more: --json and --html FILE have all of them")
        context.say(f"    mend: {alike[0].mend}")
    if html is not None:
        context.say(f"  page: {html}")
