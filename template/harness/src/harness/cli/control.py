"""`pilot kill`, `arm`, `status` and `audit`: who decides, and since when."""

from __future__ import annotations

import contextlib
import os
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import context
from harness.errors import CheckFailed, PilotError
from harness.settings import FILE, Control, Settings, find_root

if TYPE_CHECKING:
    from harness.control import Slot, Stop

# How long a service may take to say that it has stopped; it reads the files on every request.
CONFIRM_WITHIN_S = 5.0


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(kill)
    app.command()(arm)
    app.command()(status)
    app.command()(audit)


Reason = Annotated[str, typer.Option(help="Why; it is kept in the audit.")]


def kill(
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit. A stop needs none.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Stop the model: every request that starts from now on is decided by the fallback.

    Every service of this pilot that runs on this host is asked whether it has stopped; exit 3 when one has
    not said so.
    """
    from harness import control

    own = control_folder().resolve()
    stop = _stopped(own, reason)
    readers = control.live(context.root() or find_root(Path.cwd()))
    # Whatever a service's own environment says, it is stopped where it looks.
    for folder in sorted({reader.folder for reader in readers} - {str(own)}):
        _stopped(Path(folder), reason)
    silent = [reader for reader in readers if not _confirms(reader.url)]
    revision = None if stop.state is None else stop.state.rev
    if as_json:
        context.say_json(
            {
                "stopped": True,
                "revision": revision,
                "folder": str(own),
                "not_written": list(stop.missing),
                "services": [{"url": reader.url, "confirmed": reader not in silent} for reader in readers],
            }
        )
    else:
        at = "" if revision is None else f" (revision {revision})"
        context.say(f"STOPPED{at}. Every request that starts from now on is decided by the fallback.")
        told = f"{len(readers) - len(silent)} of {len(readers)} services on this host confirm it."
        context.say(f"  {told if readers else 'No service of this pilot runs on this host.'}")
        context.say('  `pilot arm --reason "..."` lets the model decide again.')
    for reader in silent:
        context.warn(
            f"{reader.url}: the service (process {reader.pid}) has not confirmed the stop that is written in "
            f"{reader.folder}. If it still decides by the model, end it: kill {reader.pid}"
        )
    if silent:
        raise typer.Exit(3)


def _stopped(folder: Path, reason: str) -> Stop:
    from harness import control

    stop = control.kill(folder, reason=reason.strip() or "(no reason given)")
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


def _confirms(url: str) -> bool:
    deadline = time.monotonic() + CONFIRM_WITHIN_S
    while time.monotonic() < deadline:
        if _health(url).get("stopped") is True:
            return True
        time.sleep(0.1)
    return False


def _health(url: str) -> dict[str, Any]:
    import httpx

    try:
        with httpx.Client(trust_env=False, timeout=2) as client:
            found: dict[str, Any] = client.get(f"{url}/health").raise_for_status().json()
            return found
    except (httpx.HTTPError, ValueError):
        return {}


def arm(
    reason: Reason,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Let the model decide again after a stop."""
    from harness import control

    state = control.arm(context.settings().path(context.settings().control.folder), reason=_said(reason))
    if as_json:
        context.say_json({"stopped": False, "revision": state.rev, "stage": state.stage})
        return
    context.say(f"ARMED (revision {state.rev}, stage {state.stage}). The model decides again.")


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
    for role in ("champion", "challenger"):
        slot = found[role]
        if slot:
            context.say(f"  {role}: model {slot['digest'][:12]}, {slot['pct']}% of entities")
            if slot["problem"]:
                context.say(f"    NOT USABLE, the fallback decides: {slot['problem']}")
    context.say(f"  service: {found['service']}")
    if found["store"] != "ok":
        context.say(f"  NOTHING CAN BE RECORDED, so nothing is decided: {found['store']}")
        return
    total = sum(entry["count"] for entry in found["decisions"])
    context.say(f"  decisions on record: {total:,}")
    for entry in found["decisions"]:
        context.say(f"    {entry['count']:,} by {entry['served_by']} ({entry['why']})")
    if found["last_model_decision"]:
        context.say(f"  last decision by a model: {found['last_model_decision']}")


def audit(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Who changed what, when and why; exit 1 when a line was changed, removed or put in.

    Lines missing at the end are not noticed: keep a copy of the file elsewhere.
    """
    from harness.control import read_audit

    settings = context.settings()
    folder = settings.path(settings.control.folder)
    try:
        entries = read_audit(folder)
    except ValueError as error:
        raise CheckFailed(
            str(error), where="audit", mend="Compare the file with a backup and find out who changed it."
        ) from error
    if as_json:
        context.say_json(entries)
        return
    for entry in entries:
        what = f"{entry['action']:<6} rev {entry['revision']}"
        context.say(f"{entry['at']}  {what}  {entry['actor']}: {entry['reason']}")
    context.say(f"{len(entries)} entries, each follows from the one before it")


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
    from harness.control import Control as Reader
    from harness.control import StateUnreadable

    reader = Reader(settings.path(settings.control.folder))
    found: dict[str, Any] = {
        "pilot": settings.pilot.name,
        "stage": "unknown",
        "revision": 0,
        "champion": None,
        "challenger": None,
    }
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
                "champion": _slot(settings, state.champion),
                "challenger": _slot(settings, state.challenger),
                "stopped": stopped,
                "detail": verb if state.latched or not stopped else "the KILL file is there",
            }
    found |= _recorded(settings)
    found["service"] = _service(settings)
    return found


def _recorded(settings: Settings) -> dict[str, Any]:
    """What the store says; who decides has to be told also when the store is down."""
    from harness.store import DecisionStore, StoreUnavailable

    try:
        store = DecisionStore(settings.sqlite_url(settings.store.url))
    except StoreUnavailable as error:
        return {"decisions": [], "last_model_decision": None, "store": str(error)}
    try:
        counted = [
            {"served_by": served_by, "why": why, "count": count}
            for (served_by, why), count in sorted(store.counts().items())
        ]
        return {"decisions": counted, "last_model_decision": store.last_model_decision(), "store": "ok"}
    except StoreUnavailable as error:
        return {"decisions": [], "last_model_decision": None, "store": str(error)}
    finally:
        store.close()


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
    from harness.control import live

    urls = [reader.url for reader in live(settings.root) if _health(reader.url)]
    return f"answers at {', '.join(urls)}" if urls else "none of this pilot answers on this host"


def _said(reason: str) -> str:
    if not reason.strip():
        raise PilotError("a reason is needed", where="--reason", mend="Say in a few words why.")
    return reason.strip()
