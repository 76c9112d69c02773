"""`pilot explain`: one decision, from the request to the consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import context

if TYPE_CHECKING:
    from harness.lineage.explained import Explained


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(explain)


def explain(
    decision: Annotated[str, typer.Argument(help="A decision_id, or the beginning of one.")],
    redact: Annotated[
        bool, typer.Option(help="Show no value of the record, the decision or the outcome.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say of one decision what was asked, who decided and why, and what became of it.

    It shows the record to whoever may read the store. Exit 1 when two records contradict each other, 3 when
    something is not here; it says what, and the mend.
    """
    from harness.lineage.explained import explain as follow

    found = follow(context.settings(), decision)
    if redact:
        found = found.redacted()
    if as_json:
        context.say_json(found.document())
    else:
        _say(found)
    for trouble in found.troubles:
        context.warn(f"{trouble.where}: {trouble.what}. {trouble.mend}")
    if found.troubles:
        raise typer.Exit(1 if found.broken else 3)


def _say(found: Explained) -> None:
    made = found.decision
    sandbox = ", in the sandbox" if made.sandbox else ""
    context.say(f"decision  {made.decision_id} at {made.decided_at}{sandbox}")
    context.say_safely(f"  about       {made.entity or 'nobody in particular'}, record {made.record_key}")
    for name, value in made.record.items():
        context.say_safely(f"  given       {name} = {value}")
    score = "" if made.score is None else f", score {made.score:.4g}"
    context.say_safely(f"  decided     {made.decision}{score}, in {made.elapsed_ms:.1f} ms")
    context.say(f"  by          the {made.served_by} ({made.why}), assigned to the {made.assigned}")
    for reason in made.reasons:
        effect = "" if reason.get("effect") is None else f" ({reason['effect']:+.3f})"
        context.say_safely(f"  because     {reason['feature']} = {reason['value']}{effect}")
    if made.reasons_pending:
        context.say("  because     the reasons took too long, and are still to be put on record")
    elif not made.reasons:
        context.say("  because     no reasons are on record")
    bucket = "no bucket was drawn" if made.bucket is None else f"bucket {made.bucket} of 100"
    context.say(f"control   stage {made.stage}, revision {made.revision}, {bucket}")
    for entry in found.entries:
        since = "in force" if entry["revision"] == made.revision else "ended by"
        told = f"{entry['action']} (revision {entry['revision']}) at {entry['at']} by {entry['actor']}"
        context.say_safely(f"  {since:<10}  {told}: {entry['reason']}")
    _say_model(found)
    _say_after(found)
    context.say(f"log       grep {made.decision_id} in the service's: its line has request_id and trace_id")


def _say_model(found: Explained) -> None:
    model, run = found.chain.model, found.chain.run
    if model is None:
        context.say("model     none had a part in it")
    else:
        context.say(f"model     {model.digest}")
        context.say_safely(f"  package     {model.package or 'not here'}")
    if run is not None:
        when = run.at or "at an unknown time"
        context.say_safely(f"  run         {when}, on data {run.data[:12]} ({run.origin})")
        context.say(f"  sources     pilot lineage --decision {found.decision.decision_id}")


def _say_after(found: Explained) -> None:
    if found.beside is not None:
        context.say_safely(f"beside    model {found.beside['digest'][:12]}: {_beside(found.beside)}")
    context.say_safely(f"outcome   {_outcome(found.outcome)}")
    context.say_safely(f"delivery  {_delivery(found.delivery)}")


def _beside(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return str(row["status"])
    agrees = "the same" if row["agrees"] else "something else"
    return f"{row['decision']}, {agrees}, in {row['elapsed_ms']:.1f} ms"


def _outcome(row: dict[str, Any] | None) -> str:
    if row is None:
        return "none is known so far"
    known = f", known since {row['known_at']}" if row["known_at"] else ""
    return f"{row['outcome']}{known}, received {row['received_at']} from {row['source']}"


def _delivery(row: dict[str, Any] | None) -> str:
    if row is None:
        return "no consumer was named when it was decided"
    tries = f"{row['attempts']} attempt{'' if row['attempts'] == 1 else 's'}"
    if row["settled_at"]:
        return f"{row['state']} at {row['settled_at']}, {tries}"
    last = f", the last at {row['attempted_at']}: {row['error']}" if row["attempted_at"] else ""
    return f"{row['state']} since {row['queued_at']}, {tries}{last}"
