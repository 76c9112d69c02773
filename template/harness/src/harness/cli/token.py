"""`pilot token`: who may call the service."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import context

if TYPE_CHECKING:
    from harness.control import Token

DAYS = 365

group = typer.Typer(
    help="Who may call the service: issue, revoke and list tokens.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    group.command()(issue)
    group.command()(revoke)
    group.command("list")(list_)
    app.add_typer(group, name="token")


Name = Annotated[
    str, typer.Argument(help="What logs call it: the service that holds it, such as collections.")
]


def issue(
    name: Name,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What it allows: decide, outcomes, feedback, read, operate or approve; several may be given."
        ),
    ] = None,
    days: Annotated[int, typer.Option(help="How many days it is valid.", min=1, max=3650)] = DAYS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the token as JSON.")] = False,
) -> None:
    """Make a token; it is shown once.

    It is in force for the next request.
    """
    from harness.control import tokens

    presented, token = tokens.issue(
        _folder(), name=name, scopes=scope or ["decide"], lasts=timedelta(days=days)
    )
    if as_json:
        context.say_json({"token": presented, **_told(token)})
        return
    context.say(presented)
    context.warn(
        f"that is the token {token.name} for {', '.join(token.scopes)}, valid until "
        f"{token.expires_at:%Y-%m-%d}. Keep it where the caller keeps its secrets: nobody can show it again."
    )


def revoke(
    name: Name,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Take a token away, from the next request on."""
    from harness.control import tokens

    missing = tokens.revoke(_folder(), name=name)
    if as_json:
        context.say_json({"name": name, "revoked": True, "not_written": [missing] if missing else []})
    else:
        context.say(f"REVOKED {name}. It lets nobody in from the next request on.")
    if missing:
        context.warn(f"the token is revoked, and this could not be written: {missing}. Mend that.")


def list_(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """What tokens there are, and for what."""
    from harness.control import tokens

    found = tokens.read_tokens(_folder())
    if as_json:
        context.say_json([_told(token) for token in found])
        return
    for token in found:
        left = math.ceil((token.expires_at - datetime.now(UTC)) / timedelta(days=1))
        until = "EXPIRED" if token.expired() else f"{left} days left"
        context.say(
            f"{token.name}: {', '.join(token.scopes)}; issued {token.issued_at:%Y-%m-%d} by {token.actor}, "
            f"until {token.expires_at:%Y-%m-%d} ({until})"
        )
    context.say(f"{len(found)} tokens" if len(found) != 1 else "1 token")


def _told(token: Token) -> dict[str, Any]:
    told = token.model_dump(mode="json", exclude={"sha256"})
    return {**told, "expired": token.expired()}


def _folder() -> Path:
    settings = context.settings()
    return settings.path(settings.control.folder)
