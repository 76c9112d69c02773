"""`pilot outbox`: deliveries that were given up, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import context

if TYPE_CHECKING:
    from harness.store import Outbox

group = typer.Typer(
    help="Deliveries that the consumer refuses for good: list, retry or drop them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Which = Annotated[list[str] | None, typer.Argument(help="The decisions, by id.")]
All = Annotated[bool, typer.Option("--all", help="All that were given up.")]


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    group.command("list")(list_)
    group.command()(retry)
    group.command()(drop)
    app.add_typer(group, name="outbox")


def list_(as_json: Json = False) -> None:
    """Show what was given up, and how much waits behind it. Exit 1 when there is any."""
    with _outbox() as outbox:
        found, waiting = outbox.dead(), outbox.waiting()
    if as_json:
        context.say_json({"given_up": waiting.dead, "dead": [asdict(each) for each in found]})
    else:
        for each in found:
            context.say_safely(
                f"{each.decision_id}: of {each.queued_at}, given up {each.given_up_at} after {each.attempts} "
                f"attempts ({each.error}); {each.behind} wait behind it"
            )
        context.say(f"{waiting.dead:,} given up, {waiting.count:,} waiting")
    if found:
        raise typer.Exit(1)


def retry(decisions: Which = None, every: All = False, as_json: Json = False) -> None:
    """Deliver them after all, in their place: the consumer takes them now."""
    _change(decisions, every, as_json, "retried", lambda outbox, which: outbox.retry(which))


def drop(decisions: Which = None, every: All = False, as_json: Json = False) -> None:
    """Never deliver them. What waits behind goes on; the decisions stay on record."""
    _change(decisions, every, as_json, "dropped", lambda outbox, which: outbox.drop(which))


def _change(
    decisions: list[str] | None,
    every: bool,
    as_json: bool,
    word: str,
    change: Callable[[Outbox, list[str] | None], int],
) -> None:
    from harness.errors import CheckFailed, PilotError

    if bool(decisions) == every:
        raise PilotError(
            "name the decisions, or say --all", where="pilot outbox", mend="`pilot outbox list` shows them."
        )
    with _outbox() as outbox:
        done = change(outbox, decisions or None)
    wanted = len(set(decisions or ()))
    if as_json:
        context.say_json({word: done, "not_found": max(0, wanted - done)})
    else:
        context.say(f"{done:,} {word}")
    if done < wanted:
        raise CheckFailed(
            "it is not among those that were given up"
            if wanted == 1
            else f"{wanted - done} of them are not among those that were given up",
            where="pilot outbox",
            mend="`pilot outbox list` shows those.",
        )


@contextmanager
def _outbox() -> Iterator[Outbox]:
    from harness.errors import PilotError
    from harness.store import Database, Outbox, file_of

    settings = context.settings()
    url = settings.sqlite_url(settings.store.url)
    file = file_of(url)
    if file is not None and not file.is_file():
        raise PilotError(
            "there is no store, so nothing was ever delivered or given up",  # opening it would make one
            where=url,
            mend="Correct [store] url in pilot.toml, or let the service decide something first.",
        )
    database = Database(url)
    try:
        yield Outbox(database)
    finally:
        database.close()
