"""`pilot readiness`, `promote` and `approve`: whether the pilot may go on, and two people who let it."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

from harness.cli import context
from harness.cli.control import reason_of
from harness.errors import PilotError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.control import Stage
    from harness.control.identity import Actor
    from harness.readiness import Missing, Report
    from harness.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the audit.")]


# How each group of checks that is no document is called.
TITLES = {
    "evidence": "The run, the data and the model",
    "control": "The settings and the control folder",
    "trial": "What the stage in force has shown",
    "signatures": "The signatures",
}
STILL_OPEN = "still TODO"


class GateName(StrEnum):
    """The gates, each the way into the stage of its name."""

    SHADOW = "shadow"
    EARLY = "early"
    BROAD = "broad"
    FULL = "full"


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(readiness)
    app.command()(promote)
    app.command()(approve)


def readiness(
    gate: Annotated[
        GateName | None, typer.Option(help="The gate; by default the one after the stage in force.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What is missing for the next stage, who has to mend it, and how.

    Exit 0 when the pilot is ready, 1 when it is refused, 3 when something could not be established.
    """
    from harness.readiness import examine

    report = examine(context.settings(), gate.value if gate else None)
    if as_json:
        context.say_json(report.document())
    else:
        _tell(report)
    raise typer.Exit(report.exit_code)


def promote(reason: Reason, as_json: AsJson = False) -> None:
    """Propose the next stage. The gate is asked first; somebody else has to approve.

    Exit 1 or 3 with the gate's list when it does not let the pilot through.
    """
    from harness.control import proposals, rights
    from harness.readiness import examine

    settings, said = context.settings(), reason_of(reason)
    folder = settings.path(settings.control.folder)
    with rights.attempt(folder, "promote", "operate") as who:
        report = examine(settings)
        if report.exit_code or report.percent is None:
            _refused(report, as_json, "proposed", folder, who)
        proposal = proposals.propose(
            folder,
            target=cast("Stage", report.gate),
            source=cast("Stage", report.stage),
            revision=report.revision,
            model=report.model,
            percent=report.percent,
            evidence=report.evidence,
            gate=report.digest,
            reason=said,
            who=who,
        )
    if as_json:
        context.say_json({"proposed": True, **proposal.model_dump()})
        return
    moved = f"{proposal.source} → {proposal.target}, model {proposal.model[:12]}, {proposal.percent}%"
    context.say(f"PROPOSED: {moved}. Nothing has changed yet.")
    context.say('  Somebody else has to approve it: `pilot approve --reason "..."`')


def approve(reason: Reason, as_json: AsJson = False) -> None:
    """Put the proposed stage in force, as somebody else than the proposer. The gate is asked again."""
    from harness.control import proposals, rights
    from harness.readiness import examine

    settings, said = context.settings(), reason_of(reason)
    folder = settings.path(settings.control.folder)
    with rights.attempt(folder, "approve", "approve") as who:
        proposal = proposals.waiting(folder, who)
        report = examine(settings)
        if report.exit_code:
            _refused(report, as_json, "approved", folder, who)
        evidence = (report.evidence, report.digest)
        rests_on = (report.gate, report.revision, report.model, report.percent, *evidence)
        said_then = (proposal.target, proposal.revision, proposal.model, proposal.percent, proposal.evidence)
        if rests_on != (*said_then, proposal.gate):
            raise PilotError(
                "what the gate rests on has changed since this was proposed",
                where=str(folder / proposals.PROPOSAL),
                mend="Have it proposed again: `pilot promote`.",
            )
        state = proposals.approve(folder, proposal, flag_key=settings.pilot.package, reason=said, who=who)
    unnamed = _champion(settings, proposal.model) if state.stage == "full" else ""
    if as_json:
        found = {"stage": state.stage, "revision": state.rev, "percent": proposal.percent}
        context.say_json({"approved": True, **found, "champion_not_named": unnamed or None})
        return
    context.say(f"APPROVED: stage {state.stage} is in force (revision {state.rev}, {proposal.percent}%).")
    if unnamed:
        context.warn(unnamed)


def _champion(settings: Settings, digest: str) -> str:
    """Have MLflow name the champion; gives what kept it from that. The stage is in force in any case."""
    from harness.rollout import champion

    return champion.owe(settings, digest)


def _refused(report: Report, as_json: bool, done: str, folder: Path, who: Actor) -> NoReturn:
    from harness.control import rights

    rights.refuse(folder, who, f"nothing was {done}: {_verdict(report)}")
    if as_json:
        context.say_json({done: False, **report.document()})
    else:
        _tell(report)
        context.warn(f"nothing was {done}: the gate '{report.gate}' does not let the pilot through")
    raise typer.Exit(report.exit_code or 1)


def _tell(report: Report) -> None:
    context.say(f"{report.pilot}: stage {report.stage}, gate {report.gate}")
    for about, found in groupby(report.missing, key=lambda each: each.about):
        context.say("")
        for line in _lines(about, list(found)):
            for part in _wrapped(line):
                context.say_safely(part)
    context.say("")
    context.say(_verdict(report))


def _wrapped(line: str) -> list[str]:
    """The line as a terminal takes it; whole where a program reads it."""
    if not sys.stdout.isatty():
        return [line]
    width = max(shutil.get_terminal_size().columns, 40)
    return textwrap.wrap(
        line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _lines(about: str, found: list[Missing]) -> Iterator[str]:
    """One line a finding; what is still open in one document comes in one line."""
    owners = list(dict.fromkeys(each.owner for each in found))
    title = TITLES.get(about, about)
    yield f"{title} · {owners[0]}" if len(owners) == 1 else title
    for owner in owners:
        if len(owners) > 1:
            yield f"  for {owner}"
        open_fields: list[str] = []
        for each in (each for each in found if each.owner == owner):
            if each.what == STILL_OPEN and each.about not in TITLES:
                open_fields.append(each.field)
                continue
            mark = "?" if each.status == "unknown" else "-"
            where = f"{each.field}: " if each.field else ""
            yield f"  {mark} {where}{each.what}. {each.mend}"
        if open_fields:
            yield f"  - {len(open_fields)} still TODO: {', '.join(_together(open_fields))}"


def _together(fields: list[str]) -> Iterator[str]:
    """Fields of one part named together: ``value (kpi, unit)``."""
    for top, below in groupby(fields, key=lambda field: field.partition(".")[0]):
        rest = [name for name in (field.partition(".")[2] for field in below) if name]
        yield f"{top} ({', '.join(rest)})" if rest else top


def _verdict(report: Report) -> str:
    refused = sum(each.status == "refused" for each in report.missing)
    unknown = len(report.missing) - refused
    counted = f"{report.checks} checks, {refused} things to mend"
    if report.verdict == "refused":
        also = f", {unknown} that could not be established" if unknown else ""
        return f"REFUSED at {report.gate}: {counted}{also}."
    if report.verdict == "inconclusive":
        return f"INCONCLUSIVE at {report.gate}: {unknown} things could not be established; that is no pass."
    return f"READY for {report.gate}: {report.checks} checks hold."
