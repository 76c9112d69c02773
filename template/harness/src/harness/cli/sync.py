"""`pilot sync`: what a flag service says, brought to where decisions read it."""

from __future__ import annotations

import logging
import signal
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import context
from harness.errors import CheckFailed, PilotError

if TYPE_CHECKING:
    from harness.control import Control
    from harness.settings import Settings
    from harness.sync.loop import Told

group = typer.Typer(
    help="Bring what a flag service says (pilot.toml [remote]) to this host: run, once, init.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print it as JSON, one document a line.")]


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    group.command()(run)
    group.command()(once)
    group.command()(init)
    app.add_typer(group, name="sync")


def run(
    every: Annotated[
        float | None,
        typer.Option(help="Seconds between two questions, instead of [remote] every_s.", min=0.1),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the flag service again and again, until Ctrl-C or SIGTERM.

    Says what changed, and once a minute that nothing did. No error ends it.
    """
    from harness.sync.loop import sync_again_and_again
    from harness.sync.once import source_of

    settings = context.settings()
    source = source_of(settings)
    every_s = _every(settings, every)
    ended = threading.Event()
    # Both are how it ends well. A question that is under way is short, and is waited for.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: ended.set())
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not as_json:
        context.warn(f"asking {source.named} for the flag {source.flag} every {every_s:g} s; Ctrl-C ends it")
    sync_again_and_again(settings, source, ended, _json_line if as_json else _line, every_s=every_s)


def once(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Ask the flag service once, as for cron.

    Exit 1 when it said no (a wrong token, an unknown flag, a rollout that is not understood), 3 when it could
    not be reached. Neither makes what it said before any younger.
    """
    from harness.sync.once import source_of, sync_once

    settings = context.settings()
    synced = sync_once(settings, source_of(settings))
    if as_json:
        context.say_json(synced.told())
    else:
        context.say(synced.line())
    if synced.refused:
        context.warn(synced.answer.note)
        raise typer.Exit(CheckFailed.exit_code)


def init() -> None:
    """Create the control table and the flag's row, at 0%, in the PostgreSQL of pilot.toml [remote]."""
    from harness.sync.once import source_of
    from harness.sync.postgres import ControlTable

    settings = context.settings()
    source = source_of(settings)
    if not isinstance(source, ControlTable):
        raise PilotError(
            "only a control table is made by this verb",
            where="pilot.toml [remote] source",
            mend=f"Make it in Unleash: one gradual rollout, groupId {settings.pilot.package}.",
        )
    source.create()
    context.say(f"{source.named}: the table pilot_control has a row for the flag {source.flag}.")
    context.say(f"  UPDATE pilot_control SET pct = 10 WHERE flag = '{source.flag}';  -- a share")
    context.say(f"  UPDATE pilot_control SET killed = true WHERE flag = '{source.flag}';  -- a stop")


def push(reason: str) -> dict[str, Any] | None:
    """Tell the flag service of a stop that is in force here; a failure is a warning and no more."""
    from harness.sync.push import push_kill

    try:
        settings = context.settings()
    except PilotError as error:
        context.warn(f"no flag service was told of the stop, if there is one: {error}")
        return None
    pushed = push_kill(settings, reason)
    if pushed.problem:
        context.warn(
            f"the model is stopped on this host, and the flag service was not told: {pushed.problem} "
            "Other hosts go on: stop them there, or switch the flag off yourself."
        )
    return pushed.told()


def describe(settings: Settings, control: Control, group: str) -> dict[str, Any] | None:
    """What `pilot status` tells of a remote control; None where there is none."""
    from harness.control import Remote, RemoteUnreadable

    found, allowed = control.remote.read(), control.remote.share(group)
    if found is None and settings.remote is None:
        return None
    told: dict[str, Any] = {
        "in_force": allowed if isinstance(allowed, int) else str(allowed),
        "max_stale_s": control.remote.max_stale_s,
        "named_in_pilot_toml": settings.remote is not None,
    }
    if isinstance(found, RemoteUnreadable):
        told["problem"] = found.why
    if isinstance(found, Remote):
        told |= found.model_dump(mode="json", exclude={"schema_version"})
        told["age_s"] = round(found.age_s(), 1)
        if found.group != group:
            told["problem"] = f"it is about the group '{found.group}', and this pilot draws from '{group}'"
    return told


def tell(found: dict[str, Any] | None) -> None:
    """Its lines of `pilot status`."""
    if found is None:
        return
    if "source" not in found:
        why = found.get("problem", "nothing was fetched yet: `pilot sync run`")
        context.say(f"  remote: NO MODEL DECIDES, {why}")
        return
    killed = "KILLED there" if found["killed"] else f"{found['pct']}% of entities"
    context.say(
        f"  remote: {killed}, as {found['source']} (flag {found['flag']}) said {_ago(found['age_s'])}"
    )
    if found["in_force"] == "remote_stale":
        ahead = "a clock was set" if found["age_s"] < 0 else f"it holds for {found['max_stale_s']:g} s"
        context.say(f"    TOO OLD, no model decides ({ahead}): `pilot sync once` says why nothing newer came")
        if not found["named_in_pilot_toml"]:
            context.say("    pilot.toml names no [remote] any more: delete remote.json if that is meant")
    if "problem" in found:
        context.say(f"    NO MODEL DECIDES: {found['problem']}")


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s ago" if seconds >= 0 else f"{-seconds:.0f} s ahead of this host's clock"


def _every(settings: Settings, stated: float | None) -> float:
    remote = settings.remote
    if remote is None or stated is None:
        return 5.0 if remote is None else remote.every_s
    if 2 * stated > remote.max_stale_s:
        raise PilotError(
            f"{stated:g} s is too long: an answer holds for {remote.max_stale_s:g} s",
            where="--every",
            mend="Choose at most half of it.",
        )
    return stated


def _line(told: Told) -> None:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    if told.synced is not None:
        context.say(f"{at} {told.synced.line()}")
        if told.synced.answer.note:
            context.say(f"{at} NO SUCH FLAG {told.synced.answer.note}")
        return
    context.say(f"{at} NOT FRESH {told.error}")


def _json_line(told: Told) -> None:
    import json

    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    said = {"synced": told.synced.told()} if told.synced else {"error": str(told.error)}
    typer.echo(json.dumps({"at": at, **said}, ensure_ascii=False))
