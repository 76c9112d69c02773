"""`pilot rollback`, and `pilot control run` and `once`: taking the model back, by hand or by guardrail."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import context
from harness.cli.control import control_folder, on_call_group, reason_of

if TYPE_CHECKING:
    from harness.rollout.controller import Look
    from harness.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")]
# What is quiet is said once, and then every so often, as a sign of life.
SAID_EVERY_S = 3_600.0

control = typer.Typer(
    help="Guard the rollout: take the model back when a guardrail of governance/rollout.yaml is breached.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(rollback)
    app.add_typer(control, name="control")


def rollback(
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Take the model on trial back to shadow, in one step. Whoever may stop the model may do this.

    A champion beside it goes on deciding; without one the fallback decides. Nothing is promoted until `pilot
    arm`.
    """
    from harness.control import rights, roll_back

    folder, said = control_folder(), reason_of(reason)
    allowed = rights.on_call(folder, on_call_group(), verb="rollback")
    for note in allowed.notes:
        context.warn(note)
    done = roll_back(folder, reason=said, who=allowed.who.name)
    state = done.state
    if as_json:
        context.say_json(
            {
                "action": done.action,
                "taken": done.taken,
                "stage": state.stage if state else None,
                "revision": state.rev if state else None,
                "latched": state.latched if state else None,
                "held": state.held if state else None,
                "not_written": list(done.missing),
            }
        )
        return
    if done.action == "kill":
        context.say("STOPPED: a rollback was not possible, so no model decides any more.")
    else:
        assert state is not None  # a rollback without one has become a kill
        begin = "ROLLED BACK" if done.taken else "ROLLED BACK before already"
        decides = "the fallback decides" if state.latched else "the champion goes on deciding"
        context.say(f"{begin}: stage {state.stage} (revision {state.rev}), {decides}.")
    context.say('  Nothing is promoted until somebody runs `pilot arm --reason "..."`.')
    if done.missing:
        context.warn(f"this could not be written: {'; '.join(done.missing)}")


@control.command()
def once(as_json: AsJson = False) -> None:
    """Look once, as from cron, and take the model back where a guardrail is breached.

    Exit 0 when all is quiet, 1 when a guardrail is breached, 3 when there was too little to say.
    """
    settings = context.settings()
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    seen = _looked(settings)
    if as_json:
        context.say_json(seen.document())
    else:
        _tell(seen)
    raise typer.Exit(seen.exit_code)


@control.command()
def run(
    every: Annotated[float, typer.Option(min=0.1, help="Seconds from one look to the next.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print each look as a line of JSON.")] = False,
) -> None:
    """Look again and again, and take the model back on a breach. Ctrl-C or SIGTERM ends it."""
    from harness.rollout.controller import alone

    settings = context.settings()
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    with alone(settings):
        if not as_json:
            context.say(f"Guarding {settings.pilot.name}, every {every:g} s. Ctrl-C ends it.")
        try:
            _watch(settings, every, as_json)
        except KeyboardInterrupt:
            if not as_json:
                context.say("Ended. Nobody guards the rollout now.")


def _watch(settings: Settings, every: float, as_json: bool) -> None:
    said, said_at = "", 0.0
    while True:
        seen = _looked(settings)
        if as_json:
            typer.echo(json.dumps(seen.document(), ensure_ascii=False))
        else:
            verdicts = [each.verdict for each in seen.judged]
            gist = f"{seen.verdict} {seen.stage} {verdicts} {seen.idle} {seen.blind} {bool(seen.silence)}"
            if gist != said or seen.breached or time.monotonic() - said_at > SAID_EVERY_S:
                _tell(seen)
                said, said_at = gist, time.monotonic()
        time.sleep(every)


def _looked(settings: Settings) -> Look:
    """One look with all that follows from it; what cannot be told does not keep the next look away."""
    from harness.rollout import champion, controller

    seen = controller.act(settings, controller.look(settings, controller.present()))
    try:
        sent = controller.tell(settings, seen)
        if sent.undelivered:
            context.warn(
                f"{sent.undelivered} alerts reached nobody and are sent again next time: {sent.problem}"
            )
    except Exception as error:
        context.warn(f"nobody was told ({type(error).__name__}: {error})")
    owed = champion.pay(settings)
    if owed:
        context.warn(owed)
    return seen


def _tell(seen: Look) -> None:
    model = f", model {seen.digest[:12]}" if seen.digest else ""
    context.say(f"{seen.at:%Y-%m-%d %H:%M:%S} UTC  {seen.verdict.upper()}  stage {seen.stage}{model}")
    if seen.idle:
        context.say_safely(f"  nothing to guard: {seen.idle}")
    for each in sorted(seen.judged, key=lambda one: ("breached", "inconclusive", "quiet").index(one.verdict)):
        context.say_safely(f"  {each.verdict:<13}{each.name:<24}{each.why}")
    for told in seen.blind:
        context.say_safely(f"  cannot see: {told}")
    if seen.silence:
        context.say(f"  no breach, and somebody is told: {seen.silence}")
    if seen.done:
        context.say_safely(f"  {seen.done}. docs/runbook.md#roll-back")
