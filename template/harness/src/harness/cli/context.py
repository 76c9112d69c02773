"""What stands before the verb, and how a verb prints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from harness.settings import Settings, load_settings


@dataclass
class _Chosen:
    root: Path | None = None
    debug: bool = False


_chosen = _Chosen()


def choose(*, root: Path | None, debug: bool) -> None:
    """Keep the options that stand before the verb."""
    _chosen.root, _chosen.debug = root, debug


def debug() -> bool:
    """Whether tracebacks are wanted."""
    return _chosen.debug


def root() -> Path | None:
    """The folder given by --root."""
    return _chosen.root


def settings() -> Settings:
    """This pilot's settings.

    Raises:
        PilotError: pilot.toml is missing or says something that cannot be.
    """
    return load_settings(_chosen.root)


def say(text: str) -> None:
    """One line for a person."""
    typer.echo(text)


def say_safely(text: str) -> None:
    """One line that holds others' text: no line end, terminal code or half character of it comes through."""
    typer.echo("".join(each if each.isprintable() else repr(each)[1:-1] for each in text))


def warn(text: str) -> None:
    """One line on stderr, where a program that reads stdout does not stumble over it."""
    typer.echo(f"pilot: {text}", err=True)


def say_json(document: Any) -> None:
    """One JSON document for a program."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))
