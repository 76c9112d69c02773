"""`pilot demo`: the whole way once, told as it happens, in this pilot's sandbox."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import typer

from harness import interruption
from harness.cli import context
from harness.cli.control import describe
from harness.cli.decide import ask, held_back
from harness.cli.run import check_git
from harness.errors import PilotError
from harness.settings import Settings

EXAMPLES = (1, 2, 3)
START_WITHIN_S = 60.0


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(demo)


def demo() -> None:
    """Simulate, run the pipeline, serve, decide, kill, decide again, arm, decide, and ask the gates."""
    settings = context.settings()
    check_git(settings.root)
    _check_harmless(settings)
    started = time.monotonic()

    _tell("Two unlike source systems, filled with simulated records.")
    _pilot("simulate")
    _tell("The pipeline: ingest, profile, validate, features, train, evaluate, package, publish.")
    _pilot("run")
    _tell("The service, as a process of its own.")
    with_service = _Service(settings)
    with with_service as url:
        made: list[dict[str, Any]] = []
        _tell("Three decisions, by the model.")
        made += _decide(settings, url, expected="model")
        _tell("Somebody stops the model.")
        _pilot("kill", "--reason", "demo: show that it stops")
        _tell("The same three records, decided by the fallback from the first request on.")
        made += _decide(settings, url, expected="fallback")
        _tell("The model may decide again.")
        _pilot("arm", "--reason", "demo: show that it starts again")
        made += _decide(settings, url, expected="model")
    _tell("What the store has on record, read back from the disk after the service ended.")
    _read_back(settings, made)
    _tell("The monitor: so few decisions say nothing, and nothing is never taken for fine.")
    _verdict("monitor")
    _tell("Whether this pilot may leave the sandbox, and what is missing: a new one may not.")
    _verdict("readiness")
    typer.echo(
        f"\nDone in {time.monotonic() - started:.0f} s. Next: `make ui` shows the run and the model, "
        "`.venv/bin/pilot status` what is in force; README.md says which files are yours."
    )


def _check_harmless(settings: Settings) -> None:
    if not settings.embedded:
        raise PilotError(
            "the demo simulates sources, and this pilot reads real ones",
            where="pilot.toml [sources]",
            mend="Use `pilot run` and `pilot serve` instead.",
        )
    found = describe(settings)
    if found["stage"] not in ("sandbox", "unknown"):
        raise PilotError(
            f"the demo belongs in the sandbox, and this pilot is in the stage '{found['stage']}'",
            where="pilot status",
            mend="Copy the template into a new folder to try things.",
        )
    if found["stopped"] and found["revision"]:
        raise PilotError(
            f"the models are stopped ({found['detail']}), and a demo is no reason to start them",
            where="pilot status",
            mend='Run `.venv/bin/pilot arm --reason "..."` first.',
        )


class _Service:
    """`pilot serve` as a process, on a port that the system chooses."""

    def __init__(self, settings: Settings) -> None:
        self._log = settings.path("var", "demo-service.log")

    def __enter__(self) -> str:
        typer.echo("$ pilot serve")
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                _command("serve", "--port", "0"),
                stdout=log,
                stderr=log,
                env={**_environment(), "PILOT_SERVING__LOG_FORMAT": "text"},
            )
        try:
            return self._address()
        except BaseException:
            self.__exit__()
            raise

    def _address(self) -> str:
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            text = self._log.read_text(encoding="utf-8")
            _, found, rest = text.partition("listening on ")
            if found and "\n" in rest:
                url = rest.splitlines()[0].strip()
                typer.echo(f"  listening on {url}")
                return url
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        last = self._log.read_text(encoding="utf-8").strip().splitlines()
        raise PilotError(
            f"the service did not start: {last[-1] if last else 'it said nothing'}",
            where=str(self._log),
            mend="Mend what it says and run the demo again.",
        )

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _decide(settings: Settings, url: str, *, expected: str) -> list[dict[str, Any]]:
    from harness.serving.tls import trusting

    made = []
    for number in EXAMPLES:
        record = held_back(settings, number)
        answer = ask(url, record, trusted=trusting(settings, url))
        reason = answer["reasons"][0] if answer["reasons"] else None
        because = f", because {reason['feature']} = {_short(reason['value'])}" if reason else ""
        by = answer["served_by"] if answer["served_by"] == "model" else f"fallback ({answer['why']})"
        score = "" if answer["score"] is None else f" {answer['score']:.3f}"
        typer.echo(f"  {number}: {answer['decision']:<6} by {by}{score}{because}")
        if answer["served_by"] != expected:
            raise PilotError(
                f"the {expected} was to decide, and the {answer['served_by']} did ({answer['why']})",
                where=f"decision {answer['decision_id']}",
                mend=f"{settings.path('var', 'demo-service.log')} has the service's own account.",
            )
        made.append(answer)
    return made


def _read_back(settings: Settings, made: list[dict[str, Any]]) -> None:
    from harness.store import DecisionStore

    store = DecisionStore(settings.sqlite_url(settings.store.url))
    try:
        for answer in made:
            found = store.get(answer["decision_id"])
            if found is None or found.decision != answer["decision"]:
                raise PilotError(
                    "a decision that was answered is not on record",
                    where=answer["decision_id"],
                    mend="This must not happen; please report it with var/demo-service.log.",
                )
            typer.echo(
                f"  {found.decided_at}  {found.record_key}  {found.decision}  {found.served_by} ({found.why})"
            )
    finally:
        store.close()
    typer.echo(f"  {len(made)} answered, {len(made)} on record")


def _tell(text: str) -> None:
    typer.echo(f"\n# {text}")


def _pilot(*arguments: str) -> None:
    typer.echo("$ pilot " + " ".join(json.dumps(part) if " " in part else part for part in arguments))
    sys.stdout.flush()
    code = interruption.run(_command(*arguments), env=_environment())
    if code:
        raise PilotError(
            f"it ended with exit code {code}, as told above",
            where=f"pilot {arguments[0]}",
            mend="Mend that and run the demo again.",
        )


def _verdict(verb: str) -> None:
    """Ask a verb that may well say no; its verdict, and the exit code that a scheduler would see."""
    typer.echo(f"$ pilot {verb}")
    done = subprocess.run(_command(verb), env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 3):
        raise PilotError(
            done.stderr.strip().removeprefix("pilot: ") or f"it ended with exit code {done.returncode}",
            where=f"pilot {verb}",
            mend="Mend that and run the demo again.",
        )
    lines = (line for line in done.stdout.splitlines() if line.partition(" ")[0].isupper())
    verdict = next(lines, done.stderr.strip())
    typer.echo(f"  {verdict}   (exit code {done.returncode})")


def _command(*arguments: str) -> list[str]:
    root = context.root()
    return [sys.executable, "-m", "harness.cli", *(["--root", str(root)] if root else []), *arguments]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONUNBUFFERED": "1"}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
