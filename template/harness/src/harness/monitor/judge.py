"""Signals: the measures of each window held against threshold and chance, and k of n windows counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from harness.errors import PilotError
from harness.governance.monitoring import FILE, Monitoring, Signal
from harness.monitor import measures
from harness.monitor.live import Counted
from harness.monitor.measures import Comparison
from harness.monitor.own import Measured
from harness.pipeline.reference import Profile, Reference

Verdict = Literal["breached", "failed", "inconclusive", "ok", "not_applicable"]
EXIT_CODES: dict[Verdict, int] = {"breached": 1, "failed": 1, "inconclusive": 3, "ok": 0, "not_applicable": 0}
T = TypeVar("T")
# The gravest first.
VERDICTS: tuple[Verdict, ...] = ("breached", "failed", "inconclusive", "ok", "not_applicable")


@dataclass(frozen=True)
class Found:
    """One window of one signal.

    Attributes:
        state: Whether it breaches; ``short`` when there was too little to say.
        samples: Records or outcomes in the window.
        figures: What was measured, the furthest first; those that stand on too little are left out.
        breaches: The names of those that are above the threshold and further off than chance explains.
    """

    state: Literal["breached", "ok", "short"]
    samples: int
    figures: tuple[Comparison, ...] = ()
    breaches: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Judged:
    """What a signal says.

    Attributes:
        signal: What was watched.
        verdict: What came of it.
        windows: Each window, the newest first.
        figure: The figure that the verdict stands on; None when there was too little.
        why: The verdict in words, without personal data.
        problem: What went wrong in the team's own file, for the verdict ``failed``; may quote its error.
    """

    signal: Signal
    verdict: Verdict
    windows: tuple[Found, ...] = ()
    figure: Comparison | None = None
    why: str = ""
    problem: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that breaches in enough windows, the most often breaching first."""
        counts: dict[str, int] = {}
        for window in self.windows:
            for name in window.breaches:
                counts[name] = counts.get(name, 0) + 1
        enough = [name for name, count in counts.items() if count >= self.signal.breaches]
        return tuple(sorted(enough, key=lambda name: (-counts[name], name)))


@dataclass(frozen=True)
class Own:
    """What the team's own file measured.

    Attributes:
        windows: Each window's figures by signal, the newest first.
        problems: What went wrong, by signal.
    """

    windows: Sequence[Mapping[str, Measured]] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


def judge(document: Monitoring, reference: Reference, windows: Sequence[Counted], own: Own) -> list[Judged]:
    """Judge every signal, in the order of the document.

    Args:
        document: What is watched.
        reference: What live decisions are compared with.
        windows: The counted windows, the newest first; at least as many as any signal wants.
        own: What the team's own file measured.

    Raises:
        PilotError: A signal names a field or a figure that the reference does not have.
    """
    return [_signal(signal, document.false_alarms, reference, windows, own) for signal in document.signals]


def _signal(
    signal: Signal, false_alarms: float, reference: Reference, windows: Sequence[Counted], own: Own
) -> Judged:
    if signal.measure == "own":
        return _own(signal, own)
    compare, reason = comparer(signal, reference)
    if compare is None:
        return Judged(signal, "not_applicable", why=reason)
    found = tuple(_window(signal, false_alarms, *compare(each)) for each in windows[: signal.windows])
    return decide(signal, found)


def decide(signal: Signal, windows: tuple[Found, ...]) -> Judged:
    """The verdict over the windows.

    A signal is breached when one and the same figure breaches in as many windows as it takes, and
    inconclusive when windows that say too little could still bring it there.
    """
    counts: dict[str, int] = {}
    for window in windows:
        for name in window.breaches:
            counts[name] = counts.get(name, 0) + 1
    most = max(counts.values(), default=0)
    short = signal.windows - sum(1 for window in windows if window.state != "short")
    name = _telling(windows, counts)
    figure = next((each for window in windows for each in window.figures if each.name == name), None)
    if most >= signal.breaches:
        why = f"{most} of {len(windows)} windows breach, {signal.breaches} are enough"
        return Judged(signal, "breached", windows, figure, why)
    if most + short >= signal.breaches:
        why = f"{short} of {signal.windows} windows hold fewer than {signal.min_samples:,} {_unit(signal)}"
        return Judged(signal, "inconclusive", windows, figure, why)
    why = f"{most} of {len(windows)} windows breach" if most else "no window breaches"
    if not most and figure is not None and figure.value > signal.threshold:
        why = "no window breaches: chance alone brings as much over so few records"
    return Judged(signal, "ok", windows, figure, why)


def _telling(windows: Sequence[Found], counts: Mapping[str, int]) -> str:
    """The figure to show: the one that breaches most often, else the furthest of the newest window."""
    furthest = [window.figures[0] for window in windows if window.figures]
    if not counts:
        return furthest[0].name if furthest else ""
    newest = {each.name: each.value for window in reversed(windows) for each in window.figures}
    return max(counts, key=lambda name: (counts[name], newest.get(name, -math.inf), name))


def _unit(signal: Signal) -> str:
    return "outcomes" if signal.measure == "performance_drop" else "decisions"


def _window(signal: Signal, false_alarms: float, samples: int, figures: list[Comparison]) -> Found:
    enough = [each for each in figures if each.samples >= signal.min_samples]
    if samples < signal.min_samples or not enough:
        return Found("short", samples)
    # All figures of a signal together are to breach by chance no more often than is allowed.
    allowed = false_alarms / len(enough)
    breaches = frozenset(
        each.name for each in enough if each.value > signal.threshold and each.confirmed(allowed)
    )
    ordered = tuple(sorted(enough, key=lambda each: (each.name not in breaches, -each.value)))
    return Found("breached" if breaches else "ok", samples, ordered, breaches)


def _own(signal: Signal, own: Own) -> Judged:
    if signal.id in own.problems:
        why = "it could not be measured"
        return Judged(signal, "failed", why=why, problem=own.problems[signal.id])
    found = []
    for window in own.windows[: signal.windows]:
        given = window[signal.id]
        if given.value is None or given.samples < signal.min_samples:
            found.append(Found("short", given.samples))
            continue
        figure = Comparison(signal.id, given.value, 0.0, given.samples, given.detail)
        breached = given.value > signal.threshold
        breaches = frozenset({signal.id}) if breached else frozenset()
        found.append(Found("breached" if breached else "ok", given.samples, (figure,), breaches))
    return decide(signal, tuple(found))


Comparer = Callable[[Counted], tuple[int, list[Comparison]]]


def comparer(signal: Signal, reference: Reference) -> tuple[Comparer | None, str]:
    """How a signal measures a window: a function that gives its samples and its figures.

    Returns:
        The function, or None and why there is nothing that could be measured.

    Raises:
        PilotError: It names a field or a figure that the reference does not have.
    """
    if signal.measure == "fairness_gap":
        return _fairness(signal, reference)
    if signal.over != "all" or signal.measure in _BY_FIELD:
        return _fields(signal, reference)
    choice = reference.decided.kind == "choice"
    if signal.measure in ("score_psi", "score_js"):
        scores = measures.psi if signal.measure == "score_psi" else measures.jensen_shannon
        return lambda w: (w.scores.present, [scores("score", reference.scores.tally, w.scores)]), ""
    if signal.measure == "decision_rate":
        before = reference.model.sums
        return (
            lambda w: (w.decisions.decisions, [measures.decision_rate(before, w.decisions, choice=choice)]),
            "",
        )
    if signal.measure == "model_failure_share":
        return (
            lambda w: (
                w.decisions.decisions,
                [measures.model_failure_share(w.failed, w.decisions.decisions, signal.threshold)],
            ),
            "",
        )
    figure = signal.figure or ("accuracy" if choice else "mae")
    if (figure == "mae") == choice:
        raise PilotError(
            f"'{figure}' is no figure of a decision that is {'a choice' if choice else 'an amount'}",
            where=f"{FILE} {signal.id}.figure",
            mend=f"Use {'accuracy or f1' if choice else 'mae'}, or leave it out.",
        )
    sums = reference.model.sums
    return lambda w: (w.outcomes.outcomes, [measures.performance_drop(sums, w.outcomes, figure)]), ""


_FieldMeasure = Callable[[str, Profile, Counted], Comparison]
_BY_FIELD: dict[str, tuple[_FieldMeasure, str]] = {
    "psi": (lambda n, p, w: measures.psi(n, p.tally, w.fields[n]), ""),
    "js": (lambda n, p, w: measures.jensen_shannon(n, p.tally, w.fields[n]), ""),
    "missing_share": (lambda n, p, w: measures.missing_share(n, p.tally, w.fields[n]), ""),
    "new_category_share": (lambda n, p, w: measures.new_category_share(n, p.tally, w.fields[n]), "category"),
    "vanished_category_share": (
        lambda n, p, w: measures.vanished_category_share(n, p.bins.labels, p.tally, w.fields[n]),
        "category",
    ),
}


def _fields(signal: Signal, reference: Reference) -> tuple[Comparer | None, str]:
    measure, kind = _BY_FIELD[signal.measure]
    wanted = _named(signal, reference.fields, reference)
    chosen = {name: profile for name, profile in wanted.items() if kind in ("", profile.kind)}
    if signal.over != "all" and len(chosen) < len(wanted):
        raise PilotError(
            f"'{next(name for name in wanted if name not in chosen)}' is a number, and has no categories",
            where=f"{FILE} {signal.id}.over",
            mend="Take it out, or write all.",
        )
    if not chosen:
        return (
            None,
            "no field of the record is a category" if kind else "no field of the record can be compared",
        )
    return (
        lambda w: (w.decisions.decisions, [measure(name, profile, w) for name, profile in chosen.items()]),
        "",
    )


def _fairness(signal: Signal, reference: Reference) -> tuple[Comparer | None, str]:
    wanted = _named(signal, reference.groups, reference)
    if not wanted:
        return None, "contract.py names no groups that can be told apart"
    spread = 1.0 if reference.decided.kind == "choice" else math.sqrt(reference.model.sums.variance)
    before = {
        name: {label: figures.sums for label, figures in groups.items()} for name, groups in wanted.items()
    }

    def compare(window: Counted) -> tuple[int, list[Comparison]]:
        figures = [
            gap
            for name, groups in before.items()
            for gap in measures.fairness_gaps(name, groups, window.groups.get(name, {}), spread=spread)
        ]
        return window.decisions.decisions, figures

    return compare, ""


def _named(signal: Signal, known: Mapping[str, T], reference: Reference) -> Mapping[str, T]:
    if signal.over == "all":
        return {name: value for name, value in known.items() if name not in signal.without}
    for name in signal.over:
        if name not in known:
            reason = reference.left_out.get(name, "the model's reference knows no such field")
            raise PilotError(
                f"'{name}' cannot be watched: {reason}",
                where=f"{FILE} {signal.id}.over",
                mend=f"Use some of {', '.join(known) or 'none'}, or all.",
            )
    return {name: known[name] for name in signal.over}
