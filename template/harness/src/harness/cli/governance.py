"""`pilot governance check`, `schema` and `lock`: the documents, their schemas, what signatures stand for."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from harness.cli import context

AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]

app = typer.Typer(
    name="governance",
    help="Check, describe and lock the governance documents.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(above: typer.Typer) -> None:
    """Add this group's verbs."""
    above.add_typer(app)


@app.command()
def check(as_json: AsJson = False) -> None:
    """Read every document: exit 1 with one line for each mistake or contradiction.

    A value that is still TODO is no mistake here; `pilot readiness` says from which gate on it is one.
    """
    from harness.governance.checks import contradictions
    from harness.governance.documents import KINDS, read_all

    documents, findings = read_all(context.settings().root)
    findings = [*findings, *contradictions(documents)]
    if as_json:
        context.say_json({"valid": not findings, "findings": [asdict(each) for each in findings]})
    else:
        for each in findings:
            context.say_safely(str(each))
        if not findings:
            context.say(f"{len(KINDS)} documents are valid; `pilot readiness` says what is still open")
    if findings:
        raise typer.Exit(1)


@app.command()
def schema(
    only_check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 when one is out of date.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the JSON Schemas that editors use into harness/schemas."""
    from harness.governance.schemas import FOLDER, export, schemas, stale

    changed = stale() if only_check else export()
    if as_json:
        context.say_json({"folder": str(FOLDER), "schemas": sorted(schemas()), "changed": changed})
    else:
        verb = "is out of date: `pilot governance schema` renews it" if only_check else "renewed"
        for name in changed:
            context.say(f"{name} {verb}")
        if not changed:
            context.say(f"{len(schemas())} schemas are up to date")
    if changed and only_check:
        raise typer.Exit(1)


@app.command()
def lock(as_json: AsJson = False) -> None:
    """Write evidence/evidence.lock.json, which signatures name, and the model card's figures."""
    from harness.readiness.lock import write

    digest, new = write(context.settings().root)
    if as_json:
        context.say_json({"evidence": digest, "new": new})
        return
    context.say(f"{'locked' if new else 'unchanged'}: {digest}")
    if new:
        context.say("  Commit it with docs/model-card.md; signatures in governance/rollout.yaml name it.")
