"""`pilot lineage`: from a model or a decision back to the bytes that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import context
from harness.errors import PilotError

if TYPE_CHECKING:
    from harness.lineage.chain import Chain
    from harness.lineage.steps import Run, Stage

NOBODYS = "what was decided, and about whom, is not told here"


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(lineage)


def lineage(
    decision: Annotated[str, typer.Option(help="The decision_id to begin at.", show_default=False)] = "",
    model: Annotated[
        str, typer.Option(help="The beginning of a model's digest; by default the last run's.")
    ] = "",
    openlineage: Annotated[
        Path | None,
        typer.Option(help="Write OpenLineage run events into this file, one a line.", dir_okay=False),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Write a picture into this file.", dir_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Follow a model, or a decision, back to its sources: tables, data, code and parameters, each by hash.

    Exit 1 when two records contradict each other, 3 when something is not here; it says what, and the mend.
    """
    from harness.files import whole_file
    from harness.lineage import drawn, events, trace
    from harness.lineage.openlineage import lines

    if decision and model:
        raise PilotError(
            "a decision names its model", where="pilot lineage", mend="Give --decision or --model."
        )
    found = trace(context.settings(), model=model, decision=decision)
    if svg is not None:
        with whole_file(svg) as beside:
            beside.write_text(drawn(found), encoding="utf-8")
    if openlineage is not None:
        with whole_file(openlineage) as beside:
            beside.write_text(lines(events(found)), encoding="utf-8")
    if as_json:
        context.say_json(found.document())
    else:
        _say(found)
    for trouble in found.troubles:
        context.warn(f"{trouble.where}: {trouble.what}. {trouble.mend}")
    if found.troubles:
        raise typer.Exit(1 if found.broken else 3)


def _say(found: Chain) -> None:
    if found.decided is not None:
        each = found.decided
        sandbox = ", in the sandbox" if each.sandbox else ""
        context.say(f"decision  {each.id} at {each.at}{sandbox}")
        context.say(f"  {NOBODYS}")
        context.say(f"  served by the {each.served_by} ({each.why}), assigned to the {each.assigned}")
        context.say(f"  stage {each.stage}, control revision {each.revision}")
        if found.model is None:
            context.say("  no model had a part in it: fallback.py decided")
    if found.model is not None:
        features = len(found.model.features)
        here = f"{found.model.package}: {found.model.files} files, {features} features"
        context.say(f"model     {found.model.digest}")
        context.say(f"  {here if found.model.package else 'its package is not here'}")
        if found.in_force is not None:
            stopped = ", stopped" if found.in_force.stopped else ""
            roles = " and ".join(found.model.roles) or "has no part in it"
            context.say(
                f"  in force: stage {found.in_force.stage}, revision {found.in_force.revision}{stopped}; "
                f"this model: {roles}"
            )
    if found.run is not None:
        _say_run(found.run)
    for path, md5 in found.trained_on.items():
        context.say_safely(f"  trained on  {path}, md5 {md5}")
    # Nearly always the same for every stage: then once is enough.
    codes = [stage.code for stage in found.stages if stage.code]
    common = codes[0] if codes and all(code == codes[0] for code in codes) else {}
    for path, md5 in sorted(common.items()):
        context.say_safely(f"  code  {md5:<36}  {path}")
    for stage in reversed(found.stages):
        _say_stage(stage, common)
    for source in found.sources:
        kind = f" ({source.kind})" if source.kind else ""
        context.say_safely(
            f"source    {source.system or 'unknown system'}{kind}, table {source.table}: {source.rows:,} rows"
        )


def _say_run(run: Run) -> None:
    where = {"here": "evidence/run.json", "commit": f"commit {run.name}", "mlflow": f"MLflow run {run.name}"}
    context.say(f"run       {run.at or 'at an unknown time'} ({where[run.place]})")
    if run.dvc_lock:
        context.say(f"  dvc.lock    sha256 {run.dvc_lock}")
    for name, tree in sorted(run.trees.items()):
        context.say_safely(f"  {name:<11} git tree {tree}")
    context.say_safely(f"  data        {run.origin}, sha256 {run.data}")


def _say_stage(stage: Stage, common: dict[str, str]) -> None:
    context.say_safely(f"stage     {stage.name}")
    code = {} if stage.code == common else stage.code
    for name, said in (("wrote", stage.outs), ("read", stage.ins), ("code", code)):
        for path, md5 in sorted(said.items()):
            context.say_safely(f"  {name:<6}{md5:<36}  {path}")
    if stage.settings:
        context.say(f"  pilot.toml  sha256 {stage.settings}")
    if stage.params:
        told = ", ".join(f"{name} = {value}" for name, value in stage.params.items())
        context.say_safely(f"  params.yaml {told}")
