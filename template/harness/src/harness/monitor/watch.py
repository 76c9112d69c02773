"""One run of the monitor: count, judge, act, report, alert, in this order.

Nothing is kept from one run to the next but what the store, the control state and the alerts hold: a run that
was missed is made up for by the one after it. What is done to the model comes before anything is written or
sent, so that no full disk and no deaf mail server keeps it away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import polars as pl

from harness import pilot
from harness.alerts import FOLDER, Alert, Delivered, Outbox
from harness.control import Response, StateUnreadable, read_audit, respond, settings_control
from harness.data import engine
from harness.errors import Inconclusive, PilotError, unforeseen
from harness.governance import read
from harness.governance.monitoring import FILE, Monitoring
from harness.monitor import own
from harness.monitor.judge import EXIT_CODES, VERDICTS, Judged, Own, Verdict, judge
from harness.monitor.live import Counted, count_windows
from harness.monitor.windows import Span, trailing
from harness.pilot import Contract
from harness.pipeline.reference import Reference, load_reference
from harness.progress import Report
from harness.serving.schema import frame_schema
from harness.settings import Settings
from harness.store import DecisionStore

ALERTS = FOLDER
# Of several actions that are due, the one that stops most comes first.
GRAVEST_FIRST = ("kill", "rollback", "hold")


@dataclass(frozen=True)
class Watched:
    """One model that the state names, and what its signals say.

    Attributes:
        role: Champion or challenger.
        digest: The model.
        reference: What it is compared with.
        windows: The windows, the newest first.
        signals: What each signal says.
    """

    role: str
    digest: str
    reference: Reference
    windows: tuple[Counted, ...]
    signals: tuple[Judged, ...]


@dataclass(frozen=True)
class Acted:
    """What was done about breaches.

    Attributes:
        action: The declared action.
        signals: The signals that want it.
        response: What came of it; None when it was not taken.
        problem: Why it was not.
    """

    action: str
    signals: tuple[str, ...]
    response: Response | None = None
    problem: str = ""

    @property
    def said(self) -> str:
        """What was done, in a few words."""
        if self.response is None:
            return f"{self.action} NOT DONE: {self.problem}" if self.problem else f"{self.action} not taken"
        revision = f" (revision {self.response.state.rev})" if self.response.state else ""
        missing = f", WITHOUT {', '.join(self.response.missing)}" if self.response.missing else ""
        if not self.response.taken:
            return f"{self.response.action} in force since before{missing}"
        return f"{self.response.action} taken{revision}{missing}"


@dataclass
class Watch:
    """A run and what came of it.

    Attributes:
        at: The end of the newest window.
        document: governance/monitoring.yaml.
        models: What was found, by model.
        since: When a person last armed; nothing before it is looked at.
        actions: What was done.
        problems: What the run itself could not do.
    """

    at: datetime
    document: Monitoring
    models: tuple[Watched, ...]
    since: datetime | None = None
    actions: tuple[Acted, ...] = ()
    problems: list[str] = field(default_factory=list)

    @property
    def judged(self) -> list[Judged]:
        """Every signal of every model, the gravest first."""
        found = [each for model in self.models for each in model.signals]
        return sorted(found, key=lambda each: VERDICTS.index(each.verdict))

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict of all."""
        found = self.judged
        return found[0].verdict if found else "inconclusive"

    @property
    def exit_code(self) -> int:
        """1 for a breach, or a run that could not do its work; 3 where there was too little; else 0."""
        return 1 if self.problems else EXIT_CODES[self.verdict]

    def done_about(self, judged: Judged) -> str:
        """What was done about a signal, in words."""
        if judged.verdict == "failed":
            return "alert"
        if judged.verdict != "breached":
            return ""
        if judged.signal.action == "notify":
            return "alert"
        return next((each.said for each in self.actions if judged.signal.id in each.signals), "nothing")


def look(settings: Settings, now: datetime, report: Report) -> Watch:
    """Count and judge; nothing is done.

    Args:
        settings: This pilot's settings.
        now: The end of the newest window, UTC.
        report: Hears what is being done.

    Raises:
        Inconclusive: No model is named, or its package has no reference.
        PilotError: monitoring.yaml is wrong, or the store does not answer.
    """
    document = read(settings.path(FILE), Monitoring)
    folder = settings.path(settings.control.folder)
    since = last_armed(folder, now)
    most = max(signal.windows for signal in document.signals)
    spans = trailing(now, document.window_hours, most, since)
    received = trailing(now, document.outcome_window_hours, most, since)
    models = _models(settings)
    store = DecisionStore(settings.sqlite_url(settings.store.url))
    problems: dict[str, None] = {}
    try:
        found = []
        for number, (role, digest) in enumerate(models):
            report(f"{role} {digest[:12]}", (number + 0.2) / len(models))
            reference = load_reference(settings.path(settings.serving.models, digest))
            counted = count_windows(engine.embedded(settings), store, reference, digest, spans, received)
            measured = _own(settings, document, digest, store, spans)
            problems |= _of_no_signal(document, measured)
            signals = judge(document, reference, counted, measured)
            found.append(Watched(role, digest, reference, tuple(counted), tuple(signals)))
    finally:
        store.close()
    return Watch(now, document, tuple(found), since, problems=list(problems))


def act(settings: Settings, watch: Watch, *, allowed: bool) -> None:
    """Take the actions that the breached signals declare, each once, the gravest first.

    Args:
        settings: This pilot's settings.
        watch: What was found; the actions are noted in it.
        allowed: False only notes what would have been done.
    """
    wanted: dict[str, list[Judged]] = {}
    for each in watch.judged:
        if each.verdict == "breached" and each.signal.action != "notify":
            wanted.setdefault(each.signal.action, []).append(each)
    done: list[Acted] = []
    for action in GRAVEST_FIRST:
        if action in wanted:
            reason = "monitor: " + "; ".join(f"{each.signal.id}: {_reason(each)}" for each in wanted[action])
            # The state tells the last change only, and whoever reads it has to know of the graver one.
            reason += "".join(f" (after {each.action} for {', '.join(each.signals)})" for each in done)
            of = _champion(watch, wanted[action])
            done.append(_take(settings, action, wanted[action], reason, of=of, allowed=allowed))
    watch.actions = tuple(done)


def tell(settings: Settings, watch: Watch, page: Path) -> Delivered:
    """Alert about breaches and failures; those that are over are closed.

    Args:
        settings: This pilot's settings.
        watch: What was found and done.
        page: Where to read on.
    """
    alerts, ended = [], []
    for model in watch.models:
        for each in model.signals:
            trouble = f"{each.signal.id} {model.digest[:12]}"
            if each.verdict in ("breached", "failed"):
                alerts.append(Alert(trouble, *_message(settings, watch, model, each, page)))
            elif each.verdict == "ok":
                ended.append(trouble)
    if watch.problems:
        alerts.append(Alert("monitor", f"{settings.pilot.name}: the monitor", _without_quotes(watch, page)))
    else:
        ended.append("monitor")
    return Outbox(settings.alerts.target, settings.path(ALERTS)).raise_all(alerts, ended=ended)


def tell_of_crash(settings: Settings, error: Exception) -> Delivered:
    """Alert that the monitor itself failed; without the error's own words, which may quote data."""
    told = error if isinstance(error, PilotError) else unforeseen(error, settings.root)
    said = told.what if isinstance(error, PilotError) else type(error).__name__
    alert = Alert(
        "monitor",
        f"{settings.pilot.name}: the monitor failed, and nobody watches",
        f"{told.where}: {said}. Run `pilot monitor` to see it.",
    )
    return Outbox(settings.alerts.target, settings.path(ALERTS)).raise_all([alert])


def last_armed(folder: Path, now: datetime) -> datetime | None:
    """When a person last armed, by the audit: what was before, that person has judged.

    A damaged audit says nothing: then everything counts.
    """
    try:
        entries = read_audit(folder)
    except (ValueError, OSError):
        return None
    moments = [datetime.fromisoformat(entry["at"]) for entry in entries if entry["action"] == "arm"]
    return max((moment for moment in moments if moment <= now), default=None)


def _models(settings: Settings) -> list[tuple[str, str]]:
    folder = settings.path(settings.control.folder)
    try:
        state = settings_control(settings).state()
    except StateUnreadable as error:
        raise PilotError(
            f"the control state cannot be trusted, the fallback decides: {error}",
            where=str(folder),
            mend="Restore state.json from a backup, or delete it, then `pilot run` and `pilot arm`.",
        ) from error
    slots = [("challenger", state.challenger), ("champion", state.champion)] if state else []
    found: dict[str, str] = {}
    for role, slot in slots:
        if slot is not None:
            found.setdefault(slot.digest, role)
    if not found:
        raise Inconclusive(
            "no model is named, so there is nothing to watch",
            where=str(folder),
            mend="Run `pilot run`, or promote a model.",
        )
    return [(role, digest) for digest, role in found.items()]


def _own(
    settings: Settings, document: Monitoring, digest: str, store: DecisionStore, spans: Sequence[Span]
) -> Own:
    declared = [signal for signal in document.signals if signal.measure == "own"]
    count = max((signal.windows for signal in declared), default=1)
    contract = pilot.load_contract(settings.pilot.package)
    windows = [
        own.Window(span.start, span.end, digest, _reader(store, digest, span, contract))
        for span in spans[:count]
    ]
    names = [signal.id for signal in declared]
    measured, problems = own.measure(settings.pilot.package, settings.root, windows, names)
    return Own(measured, problems)


def _of_no_signal(document: Monitoring, measured: Own) -> dict[str, None]:
    """What went wrong in the team's own file and is no declared signal's: nobody may miss it."""
    declared = {signal.id for signal in document.signals if signal.measure == "own"}
    of_none = {name: said for name, said in measured.problems.items() if name not in declared}
    # What is wrong with the file says so itself.
    return {said if name == own.FILE else f"{name}: {said}": None for name, said in of_none.items()}


def _reader(store: DecisionStore, digest: str, span: Span, contract: Contract) -> Callable[[], pl.DataFrame]:
    names = (
        "decided_at",
        "record_key",
        "entity",
        "record",
        "decision",
        "score",
        "served_by",
        "assigned",
        "why",
    )
    schema = {name: pl.Float64 if name == "score" else pl.String for name in names}
    typed = frame_schema(contract)

    def value(name: str) -> pl.Expr:
        text = pl.col("record").struct.field(name)
        if typed[name] == pl.Boolean:
            return (text == "true").alias(name)
        if typed[name] == pl.Date:
            return text.str.to_date("%Y-%m-%d", strict=False).alias(name)
        return text.cast(typed[name], strict=False).alias(name)

    def read_all() -> pl.DataFrame:
        rows = [tuple(row) for part in store.made(digest, span.first, span.after) for row in part]
        frame = pl.DataFrame(rows, schema=schema, orient="row")
        texts = pl.col("record").str.json_decode(pl.Struct(dict.fromkeys(typed, pl.String)))
        return frame.with_columns(texts).with_columns(record=pl.struct(*(value(name) for name in typed)))

    return read_all


def _champion(watch: Watch, judged: Sequence[Judged]) -> str:
    """The champion's digest, where a signal is about it: a rollback of its rival would not help."""
    blamed = {id(each) for each in judged}
    champions = (each for each in watch.models if each.role == "champion")
    return next((each.digest for each in champions if blamed & {id(one) for one in each.signals}), "")


def _take(
    settings: Settings, action: str, judged: Sequence[Judged], reason: str, *, of: str, allowed: bool
) -> Acted:
    signals = tuple(dict.fromkeys(each.signal.id for each in judged))
    if not allowed:
        return Acted(action, signals)
    try:
        folder = settings.path(settings.control.folder)
        response = respond(folder, action, reason=reason, of=of)  # type: ignore[arg-type]
    except PilotError as error:
        return Acted(action, signals, problem=str(error))
    except OSError as error:
        return Acted(action, signals, problem=f"{error.filename}: {error.strerror}")
    return Acted(action, signals, response)


def _reason(judged: Judged) -> str:
    figure = judged.figure
    value = f"{figure.name} {figure.value:.3g} above {judged.signal.threshold:g}, " if figure else ""
    return f"{value}{judged.why}"


def _without_quotes(watch: Watch, page: Path) -> str:
    """The run's own troubles for an alert: what they say may quote an error, and that a record."""
    count = len(watch.problems)
    what = "one thing" if count == 1 else f"{count} things"
    return f"{what} could not be done. Run `pilot monitor` to see what. {page}"


def _message(settings: Settings, watch: Watch, model: Watched, judged: Judged, page: Path) -> tuple[str, str]:
    signal = judged.signal
    taken = (each.said for each in watch.actions if signal.id in each.signals)
    done = next(taken, "an alert is all that was asked for")
    what = _reason(judged)
    title = f"{settings.pilot.name}: {signal.id} {judged.verdict}"
    owner = signal.owner or watch.document.owner
    about = f"Model {model.digest[:12]} ({model.role}): {done}"
    return title, f"{what}. {about}. Next: docs/runbook.md#{signal.runbook} ({owner}). {page}"
