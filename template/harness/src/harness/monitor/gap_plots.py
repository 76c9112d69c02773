"""The pilot's data beside production's, as SVG that stands in the page."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.data.profiled import Column
from harness.monitor.plots import INK, LIVE_COLOUR, REFERENCE_COLOUR, STYLE, drawn

WIDE, HIGH, A_ROW = 6.4, 2.9, 0.34
# Beyond that many times the middle, the middle would be a dot at the edge.
SKEWED = 50
LONGEST_NAME = 34


def shares(labels: Sequence[str], pilot: Sequence[float], production: Sequence[float]) -> str:
    """A pair of bars for each label, 0 to 1."""
    figure, axes = _begun(0.9 + A_ROW * len(labels))
    places = np.arange(len(labels))
    axes.barh(places - 0.2, pilot, 0.4, color=REFERENCE_COLOUR, label="pilot")
    axes.barh(places + 0.2, production, 0.4, color=LIVE_COLOUR, label="production")
    axes.set_yticks(places, [_name(label) for label in labels])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.margins(y=0.02)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return drawn(figure)


def months(pilot: dict[str, int], production: dict[str, int]) -> str:
    """Each month's share of the records; a month without a bar has none."""
    figure, axes = _begun(HIGH)
    names = sorted({*pilot, *production})
    places = np.arange(len(names))
    for found, colour, label, shift in (
        (pilot, REFERENCE_COLOUR, "pilot", -0.2),
        (production, LIVE_COLOUR, "production", 0.2),
    ):
        total = max(sum(found.values()), 1)
        axes.bar(
            places + shift, [found.get(name, 0) / total for name in names], 0.4, color=colour, label=label
        )
    every = max(1, len(names) // 12)
    axes.set_xticks(places[::every], names[::every], rotation=35, ha="right")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.margins(x=0.01)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return drawn(figure)


def ranges(pilot: Column, production: Column) -> str:
    """Where the values lie: all of them, the middle 90%, the middle half, and the median."""
    figure, axes = _begun(1.9)
    highest = 0.0
    for place, (column, colour) in enumerate(((pilot, REFERENCE_COLOUR), (production, LIVE_COLOUR))):
        if column.low is None or column.high is None:
            continue
        points = [float(value) for value in column.quantiles]
        axes.plot((float(column.low), float(column.high)), (place, place), color=colour, linewidth=1)
        axes.plot((points[2], points[-3]), (place, place), color=colour, linewidth=5, solid_capstyle="butt")
        axes.plot((points[3], points[-4]), (place, place), color=colour, linewidth=12, solid_capstyle="butt")
        axes.plot(points[4], place, "o", color=INK, markersize=4)
        highest = max(highest, abs(float(column.high)) / max(abs(points[4]), 1e-9))
    if highest > SKEWED:
        axes.set_xscale("symlog")
    axes.set_yticks((0, 1), ("pilot", "production"))
    axes.set_ylim(1.6, -0.6)
    return drawn(figure)


def _begun(high: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDE, high), layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _name(label: str) -> str:
    return label if len(label) <= LONGEST_NAME else f"{label[: LONGEST_NAME - 1]}…"
