"""The page of a run: Jinja2 fills in monitor.html.j2, plots stand in it as SVG, and it needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

from harness.data.tally import Tally
from harness.monitor.judge import Found, Judged
from harness.monitor.live import Counted
from harness.monitor.watch import Watch, Watched
from harness.settings import Settings

TEMPLATE = "monitor.html.j2"
MOST_PLOTS = 12
HEADLINES = {
    "breached": "Something has changed",
    "failed": "A signal could not be measured",
    "inconclusive": "Too little to say",
    "ok": "Nothing has changed",
    "not_applicable": "Nothing to watch",
}
WORDS = {
    "breached": "breached",
    "failed": "failed",
    "inconclusive": "too little",
    "ok": "ok",
    "not_applicable": "not applicable",
    "short": "too little",
}
# What a figure is, for people, and whether it reads as a percentage.
MEASURES: dict[str, tuple[str, bool]] = {
    "psi": ("population stability index", False),
    "js": ("Jensen–Shannon distance", False),
    "missing_share": ("rise of the missing share", True),
    "new_category_share": ("share of new values", True),
    "vanished_category_share": ("share of the value that is gone", True),
    "score_psi": ("population stability index", False),
    "score_js": ("Jensen–Shannon distance", False),
    "decision_rate": ("change of the decision rate", True),
    "model_failure_share": ("share of failures", True),
    "performance_drop": ("loss", True),
    "fairness_gap": ("growth of the gap", True),
    "own": ("value", False),
}


@dataclass(frozen=True)
class Plot:
    """A drawing of one column.

    Attributes:
        title: What it shows.
        caption: The window, and how many records.
        svg: The drawing.
    """

    title: str
    caption: str
    svg: Markup


def pages(settings: Settings, watch: Watch, runbooks: Sequence[str]) -> list[str]:
    """The whole page, for each place that it is to lie in; it is drawn once.

    Args:
        settings: This pilot's settings.
        watch: The run.
        runbooks: Where the runbook lies, from each place.
    """
    template = opened(TEMPLATE)
    models = [_model(watch, model) for model in watch.models]
    headline = HEADLINES[watch.verdict]
    return [
        template.render(
            pilot=settings.pilot.name,
            watch=watch,
            headline=headline,
            words=WORDS,
            models=models,
            runbook=runbook,
        )
        for runbook in runbooks
    ]


def opened(name: str) -> Template:
    """A template beside this file; what is filled in is escaped, and what is not there is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"day": _day, "number": _number}
    return environment.get_template(name)


def _model(watch: Watch, model: Watched) -> dict[str, Any]:
    counts = {verdict: 0 for verdict in HEADLINES}
    for each in model.signals:
        counts[each.verdict] += 1
    ordered = sorted(model.signals, key=lambda each: list(HEADLINES).index(each.verdict))
    return {
        "role": model.role,
        "digest": model.digest,
        "reference": model.reference,
        "windows": list(reversed(model.windows)),
        "counts": {verdict: count for verdict, count in counts.items() if count},
        "signals": [_signal(watch, model, each) for each in ordered],
        "plots": _plots(model),
    }


def _signal(watch: Watch, model: Watched, judged: Judged) -> dict[str, Any]:
    signal = judged.signal
    words, percent = _measure(signal.measure, signal.figure, model.reference.decided.kind)
    names = [name for name in judged.names if judged.figure is None or name != judged.figure.name]
    return {
        "signal": signal,
        "verdict": judged.verdict,
        "why": judged.why,
        "problem": judged.problem,
        "measure": words,
        "figure": judged.figure,
        "value": _number(judged.figure.value, percent) if judged.figure else "–",
        "threshold": _number(signal.threshold, percent),
        "others": names,
        "done": watch.done_about(judged),
        "owner": signal.owner or watch.document.owner,
        "strip": [
            _cell(found, counted, judged, percent)
            for found, counted in reversed(list(zip(judged.windows, model.windows, strict=False)))
        ],
    }


def _cell(found: Found, counted: Counted, judged: Judged, percent: bool) -> dict[str, str]:
    figure = next(
        (each for each in found.figures if judged.figure is None or each.name == judged.figure.name), None
    )
    end = (counted.received if judged.signal.measure == "performance_drop" else counted.span).end
    return {
        "state": found.state,
        "text": _number(figure.value, percent) if figure and found.state != "short" else "·",
        "title": f"until {_day(end)}: {WORDS[found.state]}, {found.samples:,} records",
    }


def _measure(measure: str, figure: str | None, kind: str) -> tuple[str, bool]:
    if kind == "amount" and measure in ("decision_rate", "fairness_gap"):
        return f"{MEASURES[measure][0]}, in standard deviations", False
    if measure == "performance_drop":
        name = figure or ("accuracy" if kind == "choice" else "mae")
        names = {"accuracy": "loss of accuracy", "f1": "loss of F1", "mae": "rise of the mean absolute error"}
        return names[name], True
    return MEASURES[measure]


def _plots(model: Watched) -> list[Plot]:
    wanted: list[tuple[str, Counted]] = []
    for judged in model.signals:
        for found, counted in zip(judged.windows, model.windows, strict=False):
            for name in _columns(judged, found):
                known = name in model.reference.fields or not name
                if known and all(name != other for other, _ in wanted):
                    wanted.append((name, counted))
    return [_plot(model, name, counted) for name, counted in wanted[:MOST_PLOTS]]


def _columns(judged: Judged, found: Found) -> list[str]:
    """The columns whose distribution shows why a window breaches; the score's has no name of its own."""
    if judged.signal.measure in ("score_psi", "score_js"):
        return [""] if found.breaches else []
    if judged.signal.measure == "fairness_gap" or judged.verdict != "breached":
        return []
    return sorted(found.breaches & set(judged.names))


def _plot(model: Watched, name: str, counted: Counted) -> Plot:
    from harness.monitor.plots import beside

    profile = model.reference.fields[name] if name else model.reference.scores
    live: Tally = counted.fields[name] if name else counted.scores
    return Plot(
        name or "the model's score",
        f"{live.total:,} live decisions until {_day(counted.span.end)}, "
        f"{profile.tally.total:,} held-back records",
        Markup(beside(profile.bins.labels, profile.tally, live)),  # matplotlib escapes the labels
    )


def _day(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _number(value: float, percent: bool = False) -> str:
    if not math.isfinite(value):
        return "∞"
    if percent:
        return f"{value * 100:.1f}%"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"
