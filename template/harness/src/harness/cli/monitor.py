"""`pilot monitor`: whether live decisions are still like those that the model was judged on."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import context
from harness.errors import Inconclusive, PilotError

if TYPE_CHECKING:
    from harness.alerts import Delivered
    from harness.monitor.judge import Judged
    from harness.monitor.watch import Watch
    from harness.settings import Settings


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(monitor)


def monitor(
    now: Annotated[
        str, typer.Option(help="Look back from this moment, as 2026-01-31T12:00:00Z, instead of from now.")
    ] = "",
    no_act: Annotated[bool, typer.Option("--no-act", help="Only look: no action, no alert.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Compare live decisions with the model's reference, act as governance/monitoring.yaml says, and report.

    Exit 1 when a signal is breached or could not be measured, 3 when there was too little to say, else 0.
    """
    moment = moment_of(now, "--now") if now else datetime.now(UTC)
    settings = context.settings()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        watch, delivered = _run(settings, moment, act=not no_act)
    except Inconclusive:
        raise
    except Exception as error:
        if not no_act:
            _alert_of_crash(settings, error)
        raise
    if as_json:
        from harness.monitor.report import LATEST, document

        told = {"sent": delivered.sent, "repeated": delivered.repeated, "undelivered": delivered.undelivered}
        context.say_json({**document(watch), "alerts": told, "page": str(LATEST)})
    else:
        _tell(watch, delivered)
    if watch.exit_code:
        raise typer.Exit(watch.exit_code)


def _run(settings: Settings, moment: datetime, *, act: bool) -> tuple[Watch, Delivered]:
    from harness.alerts import Delivered
    from harness.monitor import report, watch
    from harness.progress import working

    with working("monitor") as tell:
        found = watch.look(settings, moment, tell)
        watch.act(settings, found, allowed=act)
        tell("report", 0.7)
        written = None
        try:
            written = report.write(settings, found)
        except Exception as error:  # the action is taken, and the alert still has to go out
            found.problems.append(
                f"the report was not written ({type(error).__name__}: {_first_line(error)})"
            )
        delivered = Delivered()
        if act:
            try:
                delivered = watch.tell(settings, found, settings.path(report.LATEST))
            except Exception as error:  # what was found is said here at least, and exits 1
                found.problems.append(f"nobody was told ({type(error).__name__}: {_first_line(error)})")
        if written is not None:
            tell("MLflow", 0.9)
            _log(settings, found, written.json.parent)
    return found, delivered


def _log(settings: Settings, found: Watch, folder: Any) -> None:
    from harness import tracking
    from harness.monitor.report import figures

    tags = {"verdict": found.verdict, "models": ",".join(model.digest for model in found.models)}
    try:
        tracking.note(settings, found.at.isoformat(timespec="seconds"), figures(found), tags, folder)
    except PilotError as error:  # a record less; what was found is on disk
        context.warn(str(error))
    except Exception as error:
        context.warn(f"MLflow does not take what the monitor found: {type(error).__name__}")


def _alert_of_crash(settings: Settings, error: Exception) -> None:
    from harness.monitor import watch

    try:
        watch.tell_of_crash(settings, error)
    except Exception as further:
        context.warn(f"no alert either: {_first_line(further)}")


def _tell(found: Watch, delivered: Delivered) -> None:
    from harness.monitor.report import LATEST

    context.say(f"{found.verdict.upper().replace('_', ' ')} (until {found.at:%Y-%m-%d %H:%M} UTC)")
    for model in found.models:
        context.say(f"  {model.role} {model.digest[:12]}")
        for each in sorted(model.signals, key=lambda one: found.judged.index(one)):
            context.say(f"    {_line(each)}")
            if each.problem:
                context.say(f"      {each.problem}")
            done = found.done_about(each)
            if done:
                context.say(f"      {done}; docs/runbook.md#{each.signal.runbook}")
    for problem in found.problems:
        context.warn(problem)
    if delivered.undelivered:
        context.warn(
            f"{delivered.undelivered} alerts reached nobody and are sent again next time: {delivered.problem}"
        )
    context.say(f"  {delivered.sent} alerts sent, {delivered.repeated} told today already; report: {LATEST}")


def _line(judged: Judged) -> str:
    figure = judged.figure
    value = ""
    if figure is not None:
        compared = "above" if figure.value > judged.signal.threshold else "threshold"
        value = f"{figure.name} {figure.value:.3f} ({compared} {judged.signal.threshold:g}); "
    return f"{judged.verdict.replace('_', ' '):<15}{judged.signal.id:<26}{value}{judged.why}"


def moment_of(text: str, option: str) -> datetime:
    """The moment that an option names, UTC.

    Raises:
        PilotError: It is none, or does not say its offset.
    """
    mend = "Write it as 2026-01-31T12:00:00Z."
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise PilotError(f"'{text}' is no moment", where=option, mend=mend) from error
    if found.tzinfo is None:
        raise PilotError(f"'{text}' does not say its offset", where=option, mend=mend)
    return found.astimezone(UTC)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
