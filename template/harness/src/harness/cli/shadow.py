"""`pilot shadow`: the model that runs beside decisions, and how it compares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import context
from harness.cli.control import Reason, control_folder, reason_of
from harness.cli.monitor import moment_of

if TYPE_CHECKING:
    from harness.monitor.shadow import Compared

AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]
# The report names more; these are enough for a terminal.
SHOWN_WORST = 5

group = typer.Typer(
    help="The model that runs beside decisions and makes none: compare it, choose its sample.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    group.command()(report)
    group.command()(sample)
    app.add_typer(group, name="shadow")


def report(
    model: Annotated[
        str, typer.Option(help="The beginning of a model's digest; by default the model on trial.")
    ] = "",
    since: Annotated[
        str, typer.Option(help="Only decisions from this moment on, as 2026-01-31T12:00:00Z.")
    ] = "",
    html: Annotated[
        Path | None, typer.Option(help="Write a page with plots to this file as well.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the model in shadow with what was decided: agreement, scores, time, outcomes, where they part.

    Exit 3 when there are too few pairs, or over too short a time, to say anything; it says what is missing.
    """
    from harness.monitor import shadow_report
    from harness.progress import working

    begin = _since(since)
    settings = context.settings()
    with working("shadow") as tell:
        found = shadow_report.look(settings, tell, model=model, since=begin)
        if html is not None:
            tell("page", 1.0)
            shadow_report.write_page(settings, found, html)
    if as_json:
        context.say_json({**shadow_report.document(found), "page": None if html is None else str(html)})
    else:
        _tell(found, html)
    if found.missing:
        raise typer.Exit(3)


def sample(
    percent: Annotated[int, typer.Argument(help="The share of entities, 0 to 100.", min=0, max=100)],
    reason: Reason,
    as_json: AsJson = False,
) -> None:
    """Run the model on trial beside that share of the entities for which it does not decide.

    No decision changes by it. 0 ends it without touching the rollout.
    """
    from harness import control
    from harness.control import rights

    folder, said = control_folder(), reason_of(reason)
    with rights.attempt(folder, "sample", "operate") as who:
        state = control.sample(folder, percent, reason=said, who=who)
    if as_json:
        context.say_json({"shadow_pct": state.shadow_pct, "revision": state.rev})
        return
    context.say(
        f"SHADOW {state.shadow_pct}% (revision {state.rev}): of the entities for which the model on trial "
        "does not decide."
    )


def _since(text: str) -> str:
    if not text:
        return ""
    return moment_of(text, "--since").isoformat(timespec="microseconds")


def _tell(found: Compared, html: Path | None) -> None:
    from harness.store.shadow import FAILED

    counts, agreement = found.counts, found.agreement
    stretch = ""
    if counts.first_at and counts.last_at:
        stretch = f", {_moment(counts.first_at)} to {_moment(counts.last_at)} UTC"
    where = " (sandbox: no gate counts it)" if found.sandbox else ""
    head = "TOO LITTLE" if found.missing else "ENOUGH"
    context.say(
        f"{head}: model {found.digest[:12]} in shadow, {counts.by_status['ok']:,} pairs{stretch}{where}"
    )
    for each in found.missing:
        context.say(f"  {each}")
    if agreement.value is not None and agreement.interval is not None:
        low, high = agreement.interval
        context.say(
            f"  {'agreement':<12}{agreement.value:.1%} (95%: {low:.1%} to {high:.1%}), "
            f"{agreement.count:,} of {agreement.of:,}"
        )
    if counts.total:
        failed = ", ".join(f"{counts.by_status[each]:,} {each.replace('_', ' ')}" for each in FAILED)
        context.say(f"  {'failed':<12}{found.rate(*FAILED):.1%} ({failed})")
        context.say(
            f"  {'not asked':<12}{found.rate('dropped'):.1%} "
            f"({counts.by_status['dropped']:,} of {counts.total:,} dropped)"
        )
    if found.elapsed_ms is not None:
        context.say(f"  {'time':<12}median {found.elapsed_ms[0]:.3g} ms, p99 {found.elapsed_ms[1]:.3g} ms")
    _tell_scores(found)
    for part in found.segments:
        if part.agreement.value is not None:
            name = f"{part.field}: {part.label}"
            context.say_safely(f"  {name:<32}{part.agreement.value:.1%} of {part.agreement.of:,}")
    for name, why in found.left_out.items():
        context.say_safely(f"  not divided by {name}: {why}")
    _tell_worst(found)
    if html is not None:
        context.say(f"  page: {html}")


def _tell_scores(found: Compared) -> None:
    if found.deltas is not None:
        low, _, high = found.deltas.percentiles
        context.say(
            f"  {'scores':<12}{found.deltas.mean:+.3g} in the mean, 90% between {low:+.3g} and {high:+.3g} "
            f"({found.deltas.pairs:,} pairs of two models)"
        )
    if found.truth is not None:
        truth = found.truth
        both = (truth.served_error, truth.shadow_error)
        if found.choice:
            served, beside = (f"{1 - error:.1%} right" for error in both)
        else:
            served, beside = (f"mean error {error:.3g}" for error in both)
        context.say(
            f"  {'outcomes':<12}{truth.outcomes:,} known; {served} as decided, {beside} in shadow; "
            f"better alone {truth.served_better:,} and {truth.shadow_better:,} times "
            f"(chance {truth.chance:.2g})"
        )


def _tell_worst(found: Compared) -> None:
    if found.worst:
        context.say("  furthest apart:")
    for each in found.worst[:SHOWN_WORST]:
        better = {"served": "; the decision was better", "shadow": "; the shadow was better"}
        context.say_safely(
            f"    {each.pair.decision_id} {each.pair.served} beside {each.pair.shadow} "
            f"({each.distance:.3g} apart{better.get(each.better or '', '')})"
        )


def _moment(written: str) -> str:
    return written[:16].replace("T", " ")
