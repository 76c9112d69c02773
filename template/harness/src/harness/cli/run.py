"""`pilot run`: the pipeline, and the new model's way into the sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import context
from harness.errors import CheckFailed, PilotError


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(run)


def run(
    force: Annotated[bool, typer.Option("--force", help="Run every stage, changed or not.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Run the pipeline: ingest, validate, features, train, evaluate, package, publish.

    Stages whose inputs are unchanged are skipped. In the sandbox the new model becomes the challenger for
    every request; a stop that is in force stays in force.
    """
    from harness.control import offer
    from harness.pipeline import layout, stages
    from harness.pipeline.manifest import keep
    from harness.serving.proof import prove

    settings = context.settings()
    check_git(settings.root)
    ran = reproduce(settings.root, force=force)
    manifest = keep(settings.path(layout.PACKAGE), settings.path(settings.serving.models))
    prove(settings, manifest)
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
    if as_json:
        context.say_json({**outcome, "notes": notes})
        return
    skipped = [stage for stage in stages.NAMES if stage not in ran]
    if skipped:
        context.say(f"  unchanged: {', '.join(skipped)}")
    context.say(f"  model {manifest.digest[:12]} is packaged and registered as challenger")
    for note in notes:
        context.say(f"  {note}")


PROTOCOL = Path("var", "run", "stages.jsonl")


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
    if done.returncode != 0:
        raise PilotError(
            "this pilot is not in a git repository, which data versions and evidence need",
            where=str(root),
            mend='Run: git init -b main && git add -A && git commit -m "Start from pilot-template"',
        )


def reproduce(root: Path, *, force: bool) -> list[str]:
    """Let DVC run what changed.

    Returns:
        The stages that ran, in order.

    Raises:
        CheckFailed: A stage's check said no; the stage has told why.
        PilotError: A stage could not do its work; likewise.
    """
    protocol = root / PROTOCOL
    protocol.parent.mkdir(parents=True, exist_ok=True)
    protocol.unlink(missing_ok=True)
    environment = os.environ | {
        # The stages say `python`; it has to be this one.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PILOT_STAGE_PROTOCOL": str(protocol),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
    }
    if context.debug():
        environment["PILOT_DEBUG"] = "1"
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", *(["--force"] if force else [])]
    done = subprocess.run(command, cwd=root, env=environment, stdin=subprocess.DEVNULL, check=False)
    lines = protocol.read_text(encoding="utf-8").splitlines() if protocol.exists() else []
    entries = [json.loads(line) for line in lines]
    if done.returncode == 0:
        return [entry["stage"] for entry in entries]
    failed = next((entry for entry in entries if entry["exit_code"] != 0), None)
    if failed is None:
        raise PilotError(
            f"DVC stopped with exit code {done.returncode} before a stage could say why",
            where=str(root / "dvc.yaml"),
            mend="`.venv/bin/dvc repro -v` shows DVC's own account.",
        )
    if failed["exit_code"] == 130:
        raise KeyboardInterrupt
    kind = CheckFailed if failed["exit_code"] == 1 else PilotError
    raise kind(
        f"the stage '{failed['stage']}' stopped, as told above",
        where="pilot run",
        mend="Mend that and run again; finished stages are kept.",
    )
