"""`pilot kill`, `arm` and `status`: who decides, and since when."""

from __future__ import annotations

import contextlib
import os
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from harness.cli import context, sync
from harness.errors import CheckFailed, Inconclusive, PilotError
from harness.settings import FILE, Control, Settings, find_root, without_password

if TYPE_CHECKING:
    from harness.control import Slot, Stop
    from harness.control.confirmation import Word
    from harness.control.identity import Actor
    from harness.store import Waiting


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(kill)
    app.command()(arm)
    app.command()(status)


Reason = Annotated[str, typer.Option(help="Why; it is kept in the audit.")]


def kill(
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit. A stop needs none.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Stop the model: every request that starts from now on is decided by the fallback.

    Every process of this pilot that serves on this host is asked until it has confirmed that it sees the stop
    and that no decision by a model is under way any more; exit 3, with names, when one has not, and exit 1
    when a folder that they read takes no stop. Where no process has left a note, nobody confirms.
    """
    from harness.control import confirmation, rights

    own = control_folder().resolve()
    allowed = rights.on_call(own, on_call_group())
    for note in allowed.notes:
        context.warn(note)
    failed: list[str] = []

    def stopped(folder: Path) -> Stop | None:
        # One folder that takes no stop keeps no other from being stopped, nor the flag service.
        try:
            return _stopped(folder, reason, allowed.who)
        except Exception as error:
            failed.append(_failed(folder, error))
            context.warn(failed[-1])
            return None

    def elsewhere(folder: Path) -> None:
        if folder != own:  # whatever a service's own environment says, it is stopped where it looks
            stopped(folder)

    stop = stopped(own)
    words, unasked = [], ""
    try:
        words = confirmation.every_word(context.root() or find_root(Path.cwd()), stop=elsewhere)
    except Exception as error:
        unasked = f"{type(error).__name__}: {error}"
        context.warn(f"the services of this host could not be asked whether they see the stop: {unasked}")
    pushed = sync.push(reason)
    revision = None if stop is None or stop.state is None else stop.state.rev
    last = confirmation.last_decision(words)
    if as_json:
        context.say_json(
            {
                "stopped": not failed,
                "confirmed": None if unasked else confirmation.verdict(words),
                "revision": revision,
                "folder": str(own),
                "not_stopped": failed,
                "not_written": [] if stop is None else list(stop.missing),
                "last_model_decision": last,
                "workers": [word.document() for word in words],
                "remote": pushed,
            }
        )
    else:
        at = "" if revision is None else f" (revision {revision})"
        heard = "" if unasked else f" {_told(words, last)}"
        if failed:
            context.say(f"NOT STOPPED EVERYWHERE: stderr says where not.{heard}")
        else:
            context.say(f"STOPPED{at}.{heard}")
            context.say("  Every request that starts from now on is decided by the fallback.")
        if pushed and pushed["done"]:
            context.say(f"  Switched off at {pushed['source']} as well, for every host that syncs with it.")
        context.say('  `pilot arm --reason "..."` lets the model decide again.')
    silent = [word for word in words if not word.confirmed]
    for word in silent:
        context.warn(_unconfirmed(word))
    if failed:
        raise typer.Exit(CheckFailed.exit_code)
    if silent or unasked:
        raise typer.Exit(Inconclusive.exit_code)


def _failed(folder: Path, error: Exception) -> str:
    if isinstance(error, PilotError):
        return str(error)
    what = f"THE MODEL WAS NOT STOPPED: {type(error).__name__}: {error}"
    return f"{folder}: {what}. Create the file KILL there by any means."


def _told(words: list[Word], last: str | None) -> str:
    if not words:
        return "No service of this pilot has left a note on this host, so nobody was there to confirm it."
    confirmed = sum(word.confirmed for word in words)
    told = f"{confirmed} of {len(words)} workers confirm it"
    unheard = "" if all(word.heard for word in words) else " that is known"
    if last is None:
        return f"{told}; there was no decision by a model{unheard}."
    return f"{told}; the last decision by a model{unheard}: {_moment(last)}."


def _moment(at: str) -> str:
    """A moment of today as the time alone: 12:03:11.2 UTC."""
    when = datetime.fromisoformat(at).astimezone(UTC)
    day = "" if when.date() == datetime.now(UTC).date() else f"{when:%Y-%m-%d} "
    return f"{day}{when:%H:%M:%S}.{when.microsecond // 100_000} UTC"


def _unconfirmed(word: Word) -> str:
    reader = word.reader
    who = f"process {reader.pid}" if reader.pid else "a process that is not known"
    if reader.doubt and not word.heard:
        mend = f"If no service runs there, delete {reader.note}; else stop it there."
        if not reader.note.endswith(".json"):
            mend = f"Make {reader.note} a folder that this account may read, and stop again."
        return f"{who}: it was not heard, and it is not sure that it has ended: {reader.doubt}. {mend}"
    where = " at ".join(part for part in (who, reader.address or reader.url) if part)
    if not word.heard:
        what = "does not answer"
    elif not word.stopped:
        what = f"does not see the stop that is written in {reader.folder}"
    else:
        what = f"sees the stop, and {word.under_way} decisions that may be a model's are still under way"
    mend = f"If it still decides by the model, end it: kill -9 {reader.pid}"
    return f"{where}: the worker {what}. {mend}"


def on_call_group() -> str:
    """The OS group that may stop; empty for whoever may write the control folder."""
    with contextlib.suppress(PilotError):
        return context.settings().control.on_call_group
    return ""  # with settings that cannot be read, nobody is kept from stopping


def _stopped(folder: Path, reason: str, who: Actor) -> Stop:
    from harness import control

    stop = control.kill(folder, reason=reason.strip() or "(no reason given)", who=who)
    found = control.Control(folder).permission("any")
    if found.arm is not control.Arm.FALLBACK:
        raise PilotError(
            "THE MODEL WAS NOT STOPPED: the state still lets it decide",
            where=str(folder),
            mend=f"Create the file {folder / control.SENTINEL}, and `pilot status` again.",
        )
    if stop.missing:
        # On stderr and beside the exit code 0: the stop holds, and somebody has to look after the disk.
        context.warn(
            f"{folder}: the model is stopped, and this could not be written: {'; '.join(stop.missing)}. "
            "Do not delete KILL: it may be the only stop. Mend that and `pilot kill` again."
        )
    return stop


def arm(
    reason: Reason,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Let the model decide again after a stop, and be promoted again after a hold."""
    from harness import control
    from harness.control import rights

    folder, said = control_folder(), reason_of(reason)
    context.settings()  # what cannot be read is mended before anything starts
    with rights.attempt(folder, "arm", "operate") as who:
        state = control.arm(folder, reason=said, who=who)
    if as_json:
        context.say_json({"stopped": False, "revision": state.rev, "stage": state.stage})
        return
    context.say(f"ARMED (revision {state.rev}, stage {state.stage}). The model decides again.")
    settings = context.settings()
    sync.tell(sync.describe(settings, control.settings_control(settings), state.flag_key))


def status(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """What is in force: the stage, the models, a stop if there is one, and the last decisions."""
    settings = context.settings()
    found = describe(settings)
    if as_json:
        context.say_json(found)
        return
    context.say(f"{settings.pilot.name}: stage {found['stage']}, revision {found['revision']}")
    if found["stopped"]:
        context.say(f"  STOPPED: {found['detail']}")
    else:
        context.say(f"  in force: {found['detail']}")
    if found["held"]:
        context.say("  HELD: nothing is promoted until somebody arms; who decides stays as it is")
    for role in ("champion", "challenger"):
        slot = found[role]
        if slot:
            context.say(f"  {role}: model {slot['digest'][:12]}, {slot['pct']}% of entities")
            if slot["problem"]:
                context.say(f"    NOT USABLE, the fallback decides: {slot['problem']}")
    sync.tell(found["remote"])
    context.say(f"  service: {found['service']}")
    if found["store"] != "ok":
        context.say(f"  NOTHING CAN BE RECORDED, so nothing is decided: {found['store']}")
        return
    _tell_downstream(found["downstream"])
    total = sum(entry["count"] for entry in found["decisions"])
    context.say(f"  decisions on record: {total:,}")
    for entry in found["decisions"]:
        context.say(f"    {entry['count']:,} by {entry['served_by']} ({entry['why']})")
    if found["last_model_decision"]:
        context.say(f"  last decision by a model: {found['last_model_decision']}")


def _tell_downstream(found: dict[str, Any] | None) -> None:
    if found is None:
        return
    to = found["url"] or "nobody: pilot.toml [downstream] names no consumer"
    context.say(f"  downstream: {found['waiting']:,} waiting for {to}")
    if found["oldest_waiting"]:
        context.say(f"    the oldest since {found['oldest_waiting']}")
    if found["last_error"]:
        context.say(f"    last error: {found['last_error']}")
    if found["given_up"]:
        context.say(
            f"    {found['given_up']:,} GIVEN UP, the oldest of {found['given_up_oldest']}; "
            f"{found['held_back']:,} wait behind: `pilot outbox list`, then retry or drop"
        )
    if found["withheld"]:
        context.say(f"    {found['withheld']:,} of the sandbox are withheld: this consumer is a real one")


def control_folder() -> Path:
    """Where the control state lies, found even when the rest of pilot.toml is wrong: a stop cannot wait.

    Raises:
        PilotError: The file cannot be read at all; the message names the file to create by hand.
    """
    with contextlib.suppress(PilotError):
        settings = context.settings()
        return settings.path(settings.control.folder)
    stated = next(
        (value for name, value in os.environ.items() if name.upper() == "PILOT_CONTROL__FOLDER"), ""
    )
    root = context.root() or find_root(Path.cwd())
    if stated:
        return root / stated
    try:
        values = tomllib.loads((root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        default = Control().folder
        raise PilotError(
            f"cannot be read, so the control folder is not known: {error}",
            where=str(root / FILE),
            mend=f"To stop the model now: touch {root / default / 'KILL'}, or KILL in your control folder.",
        ) from error
    section = values.get("control")
    folder = section.get("folder") if isinstance(section, dict) else None
    return root / (folder if isinstance(folder, str) else Control().folder)


def describe(settings: Settings) -> dict[str, Any]:
    """Everything that `pilot status` tells, as plain data."""
    from harness.control import StateUnreadable, settings_control

    reader = settings_control(settings)
    found: dict[str, Any] = {
        "pilot": settings.pilot.name,
        "stage": "unknown",
        "revision": 0,
        "held": False,
        "champion": None,
        "challenger": None,
    }
    state = None
    try:
        state = reader.state()
    except StateUnreadable as error:
        found |= {"stopped": True, "detail": f"the state cannot be trusted, the fallback decides: {error}"}
    else:
        if state is None:
            found |= {
                "stopped": True,
                "detail": "no model was offered yet: nothing was run, or what the last run read is real data",
            }
        else:
            stopped = reader.killed() or state.latched
            verb = f"{state.actor}: {state.reason} ({state.changed_at})"
            found |= {
                "stage": state.stage,
                "revision": state.rev,
                "held": state.held,
                "champion": _slot(settings, state.champion),
                "challenger": _slot(settings, state.challenger),
                "stopped": stopped,
                "detail": verb if state.latched or not stopped else "the KILL file is there",
            }
    found["remote"] = sync.describe(settings, reader, state.flag_key if state else settings.pilot.package)
    found |= _recorded(settings)
    found["service"] = _service(settings)
    return found


def _recorded(settings: Settings) -> dict[str, Any]:
    """What the store says; who decides has to be told also when the store is down."""
    from harness.store import DecisionStore, Outbox, StoreUnavailable

    nothing: dict[str, Any] = {"decisions": [], "last_model_decision": None, "downstream": None}
    try:
        store = DecisionStore(settings.sqlite_url(settings.store.url))
    except StoreUnavailable as error:
        return {**nothing, "store": str(error)}
    try:
        counted = [
            {"served_by": served_by, "why": why, "count": count}
            for (served_by, why), count in sorted(store.counts().items())
        ]
        return {
            "decisions": counted,
            "last_model_decision": store.last_model_decision(),
            "downstream": _downstream(settings, Outbox(store.database).waiting()),
            "store": "ok",
        }
    except StoreUnavailable as error:
        return {**nothing, "store": str(error)}
    finally:
        store.close()


def _downstream(settings: Settings, waiting: Waiting) -> dict[str, Any] | None:
    url = settings.downstream.url
    if not url and not waiting.count and not waiting.dead:
        return None
    # Without what may be secret in it: a password, a query.
    parts = urlsplit(without_password(url))
    return {
        "url": f"{parts.scheme}://{parts.netloc}{parts.path}" if url else "",
        "signed": bool(settings.downstream.secret.get_secret_value()),
        "waiting": waiting.count,
        "oldest_waiting": waiting.oldest,
        "last_error": waiting.error,
        "withheld": waiting.withheld,
        "given_up": waiting.dead,
        "given_up_oldest": waiting.dead_since,
        "held_back": waiting.held,
    }


def _slot(settings: Settings, slot: Slot | None) -> dict[str, Any] | None:
    """A model that the state names, and what is wrong with its package, if anything is."""
    from harness.pipeline.manifest import verify

    if slot is None:
        return None
    problem = None
    try:
        verify(settings.path(settings.serving.models, slot.digest), slot.digest)
    except PilotError as error:
        problem = str(error)
    return {**slot.model_dump(), "problem": problem}


def _service(settings: Settings) -> str:
    from harness.control import confirmation, live

    heard = [each for each in map(confirmation.ask, live(settings.root)) if each.heard]
    if not heard:
        return "none of this pilot answers on this host"
    told = []
    for url in dict.fromkeys(each.reader.url for each in heard):
        count = sum(each.reader.url == url for each in heard)
        workers = "1 worker" if count == 1 else f"{count} workers"
        told.append(f"{url or 'the address of another server'} ({workers})")
    return f"answers at {', '.join(told)}"


def reason_of(reason: str) -> str:
    """A reason that says something.

    Raises:
        PilotError: It is empty.
    """
    if not reason.strip():
        raise PilotError("a reason is needed", where="--reason", mend="Say in a few words why.")
    return reason.strip()
