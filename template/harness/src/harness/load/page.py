"""What a load test found, in words, and as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from markupsafe import Markup

from harness.monitor.page import Plot, opened
from harness.readiness.loaded import PLANNED_SHARE, LoadTest, Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEMPLATE = "load.html.j2"
HEADLINES = {"met": "The SLO held", "missed": "The SLO did not hold", "inconclusive": "Nothing is shown"}
TONES = {"met": "ok", "missed": "breached", "inconclusive": "inconclusive"}
GOOD, BAD, SOFT, INK = "#15803d", "#c2410c", "#9aa5b1", "#334155"


def page(pilot: str, test: LoadTest) -> str:
    """The whole page."""
    return opened(TEMPLATE).render(
        pilot=pilot,
        test=test,
        headline=f"{HEADLINES[test.verdict]} at {test.volume.rate_per_s:,g} requests a second",
        tone=TONES[test.verdict],
        knee=knee(test),
        target="a scratch copy of the pilot" if test.trees else "a running service",
        plots=list(_plots(test)),
        steps=in_order(test),
        whys=list(_whys(test)),
    )


def in_order(test: LoadTest) -> list[Step]:
    """The stated volume and all other rates, the lowest first."""
    return sorted((test.volume, *test.steps), key=lambda each: (each.rate_per_s, each != test.volume))


def knee(test: LoadTest) -> str:
    """Where the service stops keeping up, and what follows for the number of replicas, in one sentence."""
    if test.knee_per_s is None:
        if not test.steps:
            return "No other rate was tried."
        return "At none of the rates that were tried did the SLO hold."
    at = f"{test.knee_per_s:,.0f} requests a second"
    share = f"{PLANNED_SHARE:.0%}"
    many = "replica" if test.replicas == 1 else "replicas"
    needed = f"The stated volume takes {test.replicas} {many}, each loaded to {share} of that"
    if test.knee_ended_by == "slo":
        return f"The knee is at {at}: beyond, the SLO does not hold. {needed}."
    kept = "the client could ask for no more" if test.knee_ended_by == "client" else "no more was tried"
    return f"The SLO held at {at}, and {kept}. {needed}, or fewer."


def _whys(test: LoadTest) -> Iterator[tuple[float, str, str, int]]:
    for each in in_order(test):
        for why, count in each.fallbacks.items():
            yield each.rate_per_s, "the fallback decided", why.replace("_", " "), count
        for why, count in each.errors.items():
            yield each.rate_per_s, "no decision", why, count


def _plots(test: LoadTest) -> Iterator[Plot]:
    import matplotlib

    from harness.monitor.plots import STYLE, drawn

    with matplotlib.rc_context(STYLE):
        waits, got = _waits(test), _got(test)
    bounds = f"p95 {test.slo.p95_ms:g} ms and p99 {test.slo.p99_ms:g} ms are promised"
    yield Plot("Waiting, by rate", f"{bounds}, at {test.slo.rate_per_s:g} a second", Markup(drawn(waits)))
    yield Plot("Decisions, by rate", "Within the p99 that is promised; dashed: all", Markup(drawn(got)))


def _axes(test: LoadTest) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xlabel("requests a second")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.axvline(test.slo.rate_per_s, color=SOFT, linewidth=1)
    if test.knee_per_s is not None and test.steps:
        axes.axvline(test.knee_per_s, color=INK, linewidth=1, linestyle=":")
    return figure, axes


def _waits(test: LoadTest) -> Figure:
    figure, axes = _axes(test)
    steps = [each for each in in_order(test) if each.decided]
    rates = [each.rate_per_s for each in steps]
    for name, colour in (("p50", SOFT), ("p95", GOOD), ("p99", BAD)):
        values = [getattr(each, f"{name}_ms") for each in steps]
        axes.plot(rates, values, color=colour, marker="o", markersize=4, label=name)
    axes.axhline(test.slo.p99_ms, color=BAD, linewidth=1, linestyle="--")
    axes.axhline(test.slo.p95_ms, color=GOOD, linewidth=1, linestyle="--")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g} ms")
    axes.tick_params(axis="y", which="minor", labelleft=False)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return figure


def _got(test: LoadTest) -> Figure:
    figure, axes = _axes(test)
    steps = in_order(test)
    rates = [each.rate_per_s for each in steps]
    model = [each.decided - sum(each.fallbacks.values()) for each in steps]
    lines = (
        ("all in time", [each.goodput_per_s for each in steps], GOOD, "-"),
        ("all", [each.throughput_per_s for each in steps], INK, "--"),
        (
            "by the model",
            [
                each.throughput_per_s * by / max(each.decided, 1)
                for each, by in zip(steps, model, strict=True)
            ],
            BAD,
            ":",
        ),
    )
    for name, values, colour, style in lines:
        axes.plot(rates, values, color=colour, linestyle=style, marker="o", markersize=4, label=name)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f} /s")
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return figure
