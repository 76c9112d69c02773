"""The gap between the pilot's data and production's as one HTML page: it needs no network."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from harness.data.gap import Gap
from harness.data.gap_kinds import KINDS
from harness.data.profiled import RECORDS, Column, Profile
from harness.monitor import gap_plots
from harness.monitor.page import Plot, opened

TEMPLATE = "gap.html.j2"
MOST_MISSING, MOST_FORMATS, MOST_RANGES = 16, 4, 6
TONES = {"high": "breached", "medium": "inconclusive", "low": "ok"}


def page(pilot_name: str, pilot: Profile, production: Profile, gap: Gap) -> str:
    """The whole page."""
    return opened(TEMPLATE).render(
        pilot=pilot_name,
        gap=gap,
        before=pilot,
        now=production,
        tones=TONES,
        kinds=KINDS,
        plots=_plots(pilot, production, gap),
        rows=[
            (name, pilot.tables.get(name), production.tables.get(name))
            for name in sorted({*pilot.tables, *production.tables})
        ],
    )


def _plots(pilot: Profile, production: Profile, gap: Gap) -> list[Plot]:
    found = [_missing(pilot, production), _time(pilot, production)]
    wanted = [each for each in gap.findings if each.worse and each.kind in ("formats.new", "formats.mix")]
    columns = list(dict.fromkeys((each.table, each.column) for each in wanted))
    found += [_formats(pilot, production, *place) for place in columns[:MOST_FORMATS]]
    numbers = [
        name
        for name, each in production.tables[RECORDS].columns.items()
        if each.quantiles and each.kind == "number"
    ]
    ranged = [each.column for each in gap.findings if each.kind.startswith("range.")]
    ordered = [
        name
        for name in dict.fromkeys([*ranged, *numbers])
        if name in pilot.tables[RECORDS].columns and name in numbers
    ]
    found += [_range(pilot, production, name) for name in ordered[:MOST_RANGES]]
    return [each for each in found if each is not None]


def _missing(pilot: Profile, production: Profile) -> Plot | None:
    rows: list[tuple[float, str, float, float]] = []
    for name, table in production.tables.items():
        before = pilot.tables.get(name)
        if before is None or not before.rows or not table.rows:
            continue
        for column, each in table.columns.items():
            if column in before.columns:
                left, right = before.columns[column].absent / before.rows, each.absent / table.rows
                rows.append((right - left, f"{name.removeprefix('raw.')}.{column}", left, right))
    some = [row for row in sorted(rows, key=lambda row: (-row[0], row[1])) if row[2] or row[3]][:MOST_MISSING]
    if not some:
        return None
    svg = gap_plots.shares([row[1] for row in some], [row[2] for row in some], [row[3] for row in some])
    return Plot(
        "What is missing", "Rows without a value, with blanks, or with a word such as n/a", Markup(svg)
    )


def _time(pilot: Profile, production: Profile) -> Plot | None:
    if not pilot.coverage.months or not production.coverage.months:
        return None
    covered = production.coverage
    caption = f"Records by the month of {covered.field}; {covered.empty_months} months have none"
    return Plot(
        "Which time is covered", caption, Markup(gap_plots.months(pilot.coverage.months, covered.months))
    )


def _formats(pilot: Profile, production: Profile, table: str, column: str) -> Plot:
    both = [profile.tables[table].columns[column] for profile in (pilot, production)]
    counts = [{each.shape: each.rows for each in one.shapes} for one in both]
    total = [max(sum(count.values()) + one.other_shapes, 1) for count, one in zip(counts, both, strict=True)]
    shapes = sorted({*counts[0], *counts[1]}, key=lambda shape: (-counts[1].get(shape, 0), shape))[:10]
    # Blanks at the ends are what many of them differ in.
    labels = [shape.replace(" ", "␣") for shape in shapes]
    left, right = (
        [count.get(shape, 0) / size for shape in shapes] for count, size in zip(counts, total, strict=True)
    )
    caption = "9 is a digit, A and a are letters in a row, ␣ is a blank"
    return Plot(
        f"How {table.removeprefix('raw.')}.{column} is written",
        caption,
        Markup(gap_plots.shares(labels, left, right)),
    )


def _range(pilot: Profile, production: Profile, name: str) -> Plot | None:
    before, now = (profile.tables[RECORDS].columns[name] for profile in (pilot, production))
    if not before.quantiles or not now.quantiles:
        return None
    return Plot(
        name,
        f"{_told(before)} in the pilot, {_told(now)} in production",
        Markup(gap_plots.ranges(before, now)),
    )


def _told(column: Column) -> str:
    figures: tuple[Any, ...] = (column.low, column.high)
    return " to ".join(f"{float(value):,.4g}" for value in figures)
