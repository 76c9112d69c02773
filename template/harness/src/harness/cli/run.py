"""`pilot run`: the pipeline, and the new model's way into the sandbox."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import context
from harness.errors import CheckFailed, PilotError
from harness.settings import Settings


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(run)


def run(
    force: Annotated[bool, typer.Option("--force", help="Run every stage, changed or not.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Read every source whole, and take its columns as they are now.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Run nothing: say whether dvc.lock belongs to what is here.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Run the pipeline: ingest, profile, validate, features, train, evaluate, package, publish.

    Stages whose inputs are unchanged are skipped. In the sandbox the new model becomes the challenger for
    every request; a stop that is in force stays in force. With --check, exit 1 names the stages that would
    run again; it needs no data.
    """
    from harness.pipeline import stages
    from harness.pipeline.params import load_params
    from harness.pipeline.reproduce import alone, changed, reproduce

    settings = context.settings()
    check_git(settings.root)
    # What DVC reads before any stage does: it would complain in its own terms.
    check_package(settings)
    load_params(settings.root)
    if check:
        with alone(settings.root):
            _say_changed(changed(settings.root), as_json=as_json)
        return
    with alone(settings.root) as lock:
        ran = reproduce(settings.root, force=force, full=full, lock=lock, debug=context.debug())
        outcome, notes = _offered(settings, ran)
    if as_json:
        context.say_json({**outcome, "notes": notes})
        return
    skipped = [stage for stage in stages.NAMES if stage not in ran]
    if skipped:
        context.say(f"  unchanged: {', '.join(skipped)}")
    context.say(f"  model {outcome['model'][:12]} is packaged and registered as challenger")
    for note in notes:
        context.say(f"  {note}")


def _say_changed(found: dict[str, list[str]] | None, *, as_json: bool) -> None:
    """Whether the last run still holds.

    Raises:
        CheckFailed: It does not.
    """
    if as_json:
        context.say_json({"committed": found is not None, "in_step": found == {}, "changed": found or {}})
    if found:
        causes = sorted({cause for each in found.values() for cause in each})
        raise CheckFailed(
            f"these stages would run again: {', '.join(found)}, because of {', '.join(causes)}",
            where="dvc.lock",
            mend="Run `pilot run`, and commit dvc.lock and evidence/ together with what changed.",
        )
    if as_json:
        return
    if found is None:
        context.say("No run has been committed yet, so there is nothing to reproduce.")
    else:
        context.say("In step: dvc.lock and evidence/ belong to this code, these parameters and these pins.")


def _offered(settings: Settings, ran: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Bring the new package to where the service finds it, and into the sandbox; what came of it."""
    from harness.control import offer
    from harness.pipeline import layout, lineage, record
    from harness.pipeline.manifest import keep
    from harness.serving.proof import prove

    manifest = keep(settings.path(layout.PACKAGE), settings.path(settings.serving.models))
    prove(settings, manifest)
    record.note(settings.root, manifest)
    outcome: dict[str, Any] = {
        "model": manifest.digest,
        "origin": manifest.origin,
        "data_digest": manifest.data,
        "ran": ran,
        "metrics": manifest.metrics,
    }
    notes = []
    if manifest.origin == "real":
        outcome["offered"] = False
        notes.append(
            "The data is real, so the model decides nothing in the sandbox. If it is a sample about nobody's "
            f'real case, add "{manifest.data}" to samples in pilot.toml [sandbox] and run again.'
        )
    else:
        state = offer(
            settings.path(settings.control.folder),
            digest=manifest.digest,
            flag_key=settings.pilot.package,
            reason="pilot run",
        )
        outcome["offered"] = state is not None
        if state is None:
            notes.append("This pilot has left the sandbox: the model decides once it is promoted.")
        elif state.latched:
            notes.append("The models are stopped and stay so; `pilot arm` starts them again.")
    if not manifest.metrics["model_beats_fallback"]:
        notes.append("The model does not beat the fallback: deciding without it is at least as good.")
    if lineage.code(settings.root)["git_dirty"] == "true":
        notes.append(
            "src or harness is not as it was committed, and MLflow has the run marked so. "
            "Commit, and run again, for one that can be traced."
        )
    return outcome, notes


def check_git(root: Path) -> None:
    """DVC and evidence hang on the repository.

    Raises:
        PilotError: git is missing, or the pilot is in no repository.
    """
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--show-toplevel"], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise PilotError("git is not installed", where="PATH", mend="Install git.") from error
    if "dubious ownership" in done.stderr:
        raise PilotError(
            "the repository belongs to another account, and git refuses to use it",
            where=str(root),
            mend=f"Run as its owner, or: git config --global --add safe.directory {root}",
        )
    if done.returncode != 0:
        raise PilotError(
            "this pilot is not in a git repository, which data versions and evidence need",
            where=str(root),
            mend='Run: git init -b main && git add -A && git commit -m "Start from pilot-template"',
        )


def check_package(settings: Settings) -> None:
    """Stages depend on the team's code as a folder.

    Raises:
        PilotError: It is not where pilot.toml says.
    """
    folder = settings.path("src", settings.pilot.package)
    if not folder.is_dir():
        raise PilotError(
            f"there is no folder src/{settings.pilot.package}",
            where="pilot.toml [pilot] package",
            mend="Name the folder below src/ that holds your five files, or restore it (git checkout).",
        )
