"""Reference beside live, as bars: SVG that stands in the page."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # without pyplot: no window, no list of open figures, half the import

from harness.data.tally import Tally

REFERENCE_COLOUR, LIVE_COLOUR, INK = "#9aa5b1", "#c2410c", "#334155"
LONGEST_LABEL = 14
STYLE: dict[Any, Any] = {
    # Text stays text: smaller, searchable, and in the page's own font.
    "svg.fonttype": "none",
    "svg.hashsalt": "pilot",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def beside(labels: tuple[str, ...], reference: Tally, live: Tally) -> str:
    """Bars of shares, a pair for each bin; missing values are the last one where there are any."""
    before, now = _shares(reference), _shares(live)
    names = [short(label) for label in (*labels, "(missing)")]
    shown = [at for at in range(len(names)) if before[at] or now[at]]
    places = np.arange(len(shown))
    written = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.bar(places - 0.2, before[shown], 0.4, color=REFERENCE_COLOUR, label="held-back records")
        axes.bar(places + 0.2, now[shown], 0.4, color=LIVE_COLOUR, label="live")
        axes.set_xticks(places, [names[at] for at in shown], rotation=35, ha="right")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
        figure.legend(loc="outside upper right", ncols=2, frameon=False)
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return inline(written.getvalue())


def drawn(figure: Figure) -> str:
    """A finished figure as SVG that stands in the page."""
    written = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return inline(written.getvalue())


def _shares(tally: Tally) -> np.ndarray:
    counts = np.array([*tally.counts, tally.missing], dtype=float)
    shares: np.ndarray = counts / max(counts.sum(), 1.0)
    return shares


def short(label: str) -> str:
    """A label that leaves room for its neighbours."""
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def inline(svg: str) -> str:
    """The drawing alone, as wide as its place: without the XML head, and with no address in it to go to."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*" height="[^"]*"|(<svg[^>]*?) height="[^"]*"', r"\1\2", body, count=1
    )
