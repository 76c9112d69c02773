"""`pilot flag`: the team's own feature flags, and for whom they are on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from harness.cli import context
from harness.errors import PilotError

group = typer.Typer(
    help="The team's own feature flags (pilot.toml [flags]): list them, set their share.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    group.command("list")(list_)
    group.command("set")(set_)
    app.add_typer(group, name="flag")


def list_(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """What flags there are, and for which share of entities each is on."""
    from harness.control.flags import Flags, FlagsUnreadable

    settings = context.settings()
    found = Flags(settings.path(settings.control.folder)).read()
    if isinstance(found, FlagsUnreadable):
        raise PilotError(
            f"the flags cannot be trusted, so callers get their own defaults: {found.why}",
            where="flags",
            mend="Restore the file from a backup, or delete it and set them anew.",
        )
    told: list[dict[str, Any]] = []
    for name, flag in sorted(settings.flags.items()):
        kept = found.flags.get(name)
        told.append(
            {
                "name": name,
                "description": flag.description,
                "on": flag.on,
                "off": flag.off,
                "percent": kept.pct if kept else 0,
                "set": kept.model_dump(exclude={"pct"}) if kept else None,
            }
        )
    undeclared = sorted(set(found.flags) - set(settings.flags))
    if as_json:
        context.say_json({"revision": found.rev, "flags": told, "undeclared": undeclared})
        return
    for each in told:
        context.say_safely(f"{each['name']}: {each['on']!r} for {each['percent']}%, else {each['off']!r}")
        context.say_safely(f"  {each['description']}")
        if each["set"]:
            by = each["set"]
            context.say_safely(f"  set by {by['actor']}: {by['reason']} ({by['changed_at']})")
    context.say(
        f"{len(told)} flags, revision {found.rev}" if len(told) != 1 else f"1 flag, revision {found.rev}"
    )
    for name in undeclared:
        context.warn(f"'{name}' was set once, and pilot.toml declares it no more: nothing reads it")


def set_(
    name: Annotated[str, typer.Argument(help="The flag, as pilot.toml [flags] names it.")],
    percent: Annotated[int, typer.Option(help="For which share of entities it is on.", min=0, max=100)],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Set for which share of entities a flag is on, from the next question on.

    A larger share keeps everybody that a smaller one had.
    """
    from harness.cli.control import reason_of
    from harness.control.flags import set_flag

    settings = context.settings()
    folder = settings.path(settings.control.folder)
    found = set_flag(folder, name=name, percent=percent, known=settings.flags, reason=reason_of(reason))
    if as_json:
        context.say_json({"name": name, "percent": percent, "revision": found.rev})
        return
    context.say(f"SET {name} to {percent}% (flags revision {found.rev}).")
