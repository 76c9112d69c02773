"""What each release asks of the teams, as data: one file a release in ``notes/``, for people and programs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import yaml
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

NEXT = "next"
FOLDER = Path(__file__).parent / "notes"
DESCRIBED = re.compile(r"-(\d+)-g([0-9a-f]+)\Z")

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\n]+$")]
Sentence = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\n]+[.!?]$")]
PilotPath = Annotated[str, StringConstraints(pattern=r"^[^/\s][^\s]*$")]


class NotesError(ValueError):
    """Notes or a version that cannot be read; the text says where, and the mend."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(_Part):
    """Something that a team does after the update.

    Attributes:
        when: The condition in words; "always" for everybody.
        do: The instruction.
        command: What is typed for it, if that is one command.
    """

    when: Line = "always"
    do: Sentence
    command: Line | None = None


class Setting(_Part):
    """A setting that is new.

    Attributes:
        file: The team's file in which it may stand.
        key: Its name, with the table: ``serving.budget_ms``.
        default: What holds where it is not set, as it would be written.
        meaning: What it does.
    """

    file: PilotPath
    key: Line
    default: Line
    meaning: Sentence


class Notes(_Part):
    """The notes of a release.

    Attributes:
        version: Its number; None before it has one.
        summary: What it brings.
        teams_do: What teams do, in order.
        new_settings: Settings that are new; each has a default.
        retired: Paths that the standard no longer writes.
        seeds: Files of the team's that are new; an update by Copier alone does not bring them.
    """

    version: str | None = None
    summary: Sentence
    teams_do: tuple[Step, ...] = ()
    new_settings: tuple[Setting, ...] = ()
    retired: tuple[PilotPath, ...] = ()
    seeds: tuple[PilotPath, ...] = ()


def version_of(text: str) -> Version:
    """A version as a tag, as PEP 440 or as ``git describe`` writes it.

    Raises:
        NotesError: It is none of these.
    """
    try:
        return Version(DESCRIBED.sub(r".post\1+g\2", text))
    except InvalidVersion as error:
        raise NotesError(f"{text} is no version. Write it as 1.2.3 or v1.2.3.") from error


def load(file: Path) -> Notes:
    """Read one file; a file that is named by a version has that version.

    Raises:
        NotesError: The file is no YAML or says something that notes do not; the text names the field.
    """
    try:
        notes = Notes.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise NotesError(f"{file.name}: it is no YAML: {' '.join(str(error).split())}. Repair it.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise NotesError(f"{file.name}: {where}: {first['msg']}. Write it as the other notes do.") from error
    if (notes.version or NEXT) != file.stem:
        named = f"`version: {file.stem}`" if file.stem != NEXT else "no version before it is released"
        raise NotesError(f"{file.name}: version is {notes.version}. Give it {named}.")
    return notes


def all_notes(folder: Path = FOLDER) -> list[Notes]:
    """Every release's, oldest first; what is not released yet comes last.

    Raises:
        NotesError: A file cannot be read.
    """
    found = [load(file) for file in folder.glob("*.yaml")]
    released = sorted(
        (each for each in found if each.version), key=lambda each: version_of(str(each.version))
    )
    return released + [each for each in found if each.version is None]


def between(old: str | None, new: str, folder: Path = FOLDER) -> list[Notes]:
    """What a pilot that goes from one version to another is told, oldest first.

    Args:
        old: Where it comes from; None when nobody knows: then everything up to ``new``.
        new: Where it goes. After the last release, the notes of what is not released yet are among them.
        folder: Where the notes lie.

    Raises:
        NotesError: A version or a file cannot be read.
    """
    start, end = version_of(old) if old else None, version_of(new)
    notes = all_notes(folder)
    released = [version_of(each.version) for each in notes if each.version]
    unreleased = not released or end > max(released)
    return [
        each
        for each in notes
        if (unreleased if each.version is None else _within(start, version_of(each.version), end))
    ]


def _within(start: Version | None, version: Version, end: Version) -> bool:
    return (start is None or start < version) and version <= end


def what_teams_do(notes: Iterable[Notes]) -> str:
    """The notes as a list in Markdown: what is to be done, then what is new to know of."""
    lines = []
    for each in notes:
        for step in each.teams_do:
            when = "" if step.when == "always" else f"{step.when[:1].upper()}{step.when[1:]}: "
            command = f" `{step.command}`" if step.command else ""
            lines.append(f"- {when}{step.do}{command}")
        lines += [
            f"- New setting `{new.key}` in `{new.file}`, by default `{new.default}`: {new.meaning}"
            for new in each.new_settings
        ]
        for what, paths in (("New files of yours", each.seeds), ("No longer the standard's", each.retired)):
            if paths:
                lines.append(f"- {what}: {', '.join(f'`{path}`' for path in paths)}.")
    return "".join(f"{line}\n" for line in lines) or "- Nothing.\n"
