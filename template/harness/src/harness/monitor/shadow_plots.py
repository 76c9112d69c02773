"""A model in shadow beside what was decided, as SVG that stands in the page."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from harness.monitor.plots import INK, LIVE_COLOUR, REFERENCE_COLOUR, STYLE, drawn, short
from harness.monitor.shadow import Deltas, Segment

WIDE, HIGH, A_ROW = 6.4, 2.9, 0.3


def differences(deltas: Deltas) -> str:
    """How far the score in shadow is from the one that decided, as a histogram."""
    figure, axes = _begun(HIGH)
    edges = np.array(deltas.edges)
    middle = (edges[:-1] + edges[1:]) / 2
    axes.bar(middle, deltas.counts, np.diff(edges) * 0.9, color=LIVE_COLOUR)
    axes.axvline(0, color=INK, linewidth=1)
    axes.axvline(deltas.mean, color=REFERENCE_COLOUR, linewidth=2, linestyle="--", label="mean")
    axes.set_xlabel("score in shadow less the score that decided")
    axes.set_ylabel("pairs")
    figure.legend(loc="outside upper right", frameon=False)
    return drawn(figure)


def scores(deltas: Deltas) -> str:
    """Both scores of each pair, as a grid; the darker, the more pairs."""
    figure, axes = _begun(HIGH)
    ends = np.linspace(deltas.low, deltas.high, len(deltas.grid) + 1)
    grid = np.array(deltas.grid, dtype=float).T
    colours = LinearSegmentedColormap.from_list("pairs", ["#fde8dc", LIVE_COLOUR])
    # Without a bar of colours: matplotlib draws that as an image, which the page does not let in.
    axes.pcolormesh(
        ends, ends, np.ma.masked_equal(grid, 0), cmap=colours, norm=LogNorm(1, max(float(grid.max()), 2.0))
    )
    axes.plot([deltas.low, deltas.high], [deltas.low, deltas.high], color=INK, linewidth=1)
    axes.set_aspect("equal")
    axes.set_xlabel("score that decided")
    axes.set_ylabel("score in shadow")
    return drawn(figure)


def agreement(segments: Sequence[Segment]) -> str:
    """Agreement in each part of the pairs, with its interval."""
    figure, axes = _begun(0.9 + A_ROW * len(segments))
    for row, each in enumerate(segments):
        value, interval = each.agreement.value, each.agreement.interval
        if value is None or interval is None:
            continue
        axes.plot(interval, (row, row), color=REFERENCE_COLOUR, linewidth=4, solid_capstyle="round")
        axes.plot(value, row, "o", color=LIVE_COLOUR, markersize=6)
    axes.set_yticks(range(len(segments)), [f"{short(each.field)}: {short(each.label)}" for each in segments])
    axes.set_ylim(len(segments) - 0.4, -0.6)
    axes.set_xlim(-0.01, 1.01)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="x", color="#e2e8f0")
    return drawn(figure)


def _begun(high: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDE, high), layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
