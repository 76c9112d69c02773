"""What every governance document is: a strict model over YAML whose scalars stay what was written.

A value that is not known yet is written ``TODO``. Any value may be, except where the model says ``Filled``;
the gates refuse it later. All mistakes of a file are found at once.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import PilotError
from harness.governance.explain import Finding, explain
from harness.governance.values import TODO, Filled, Part, Pending, is_placeholder

__all__ = ["TODO", "Document", "examine", "parse", "placeholders", "read", "validate"]

D = TypeVar("D", bound=BaseModel)


class Document(Part):
    """What every governance document carries.

    Attributes:
        owner: The role that answers for the document, one of those in owners.yaml, or a name.
        last_reviewed: The day on which somebody last read it through.
        review_by: The day until which it holds; the gates refuse it afterwards.
    """

    owner: Filled
    last_reviewed: Pending[date]
    review_by: Pending[date]


LARGEST = 1_000_000
"""Bytes; a document is read by people."""


class _AsWritten(yaml.BaseLoader):
    """Reads every scalar as the text that was written, and refuses what says it in a roundabout way.

    That is a key given twice, a tag, and a value that stands for another one: a reader would not see them.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            said = f"'*{event.anchor}' stands for what is written elsewhere; write it out"
            raise yaml.composer.ComposerError(None, None, said, cast(Any, event).start_mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(
                None, None, f"the tag '{event.tag}' means nothing", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a text", key.start_mark)
            if key.value in seen:
                said = f"the key '{key.value}' is given twice"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse(text: str) -> Any:
    """YAML with every scalar as text: `22:00`, `no` and `1.10` stay what was written.

    Raises:
        yaml.YAMLError: It is not YAML, or says something in a roundabout way.
    """
    try:
        return yaml.load(text, Loader=_AsWritten)
    except RecursionError:
        raise yaml.YAMLError from None


def said_by(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    if problem == "but found another document":
        problem = "a second document begins"
    return f"not valid YAML: {problem}" + (f", line {mark.line + 1}" if mark else "")


def text_of(file: Path, name: str) -> str | Finding:
    try:
        found = file.lstat()
        if not stat.S_ISREG(found.st_mode):
            told = "a link" if stat.S_ISLNK(found.st_mode) else "no file"
            return Finding(name, "", f"it is {told}", "Put the document itself there, as a file.")
        if found.st_size > LARGEST:
            return Finding(name, "", f"it has {found.st_size:,} bytes", "Keep it short enough to be read.")
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        mend = "Bring it back: `git checkout` if it was committed, or from a fresh copy of the template."
        return Finding(name, "", "the file is missing", mend)
    except UnicodeDecodeError:
        return Finding(name, "", "it is not UTF-8 text", "Save it as UTF-8.")
    except OSError as error:
        return Finding(
            name, "", f"it cannot be read ({error.strerror})", "Give yourself the right to read it."
        )


def named(file: Path) -> str:
    """A document's name as its reader knows it: the folder and the file."""
    return f"{file.parent.name}/{file.name}"


def examine(file: Path, model: type[D]) -> tuple[D | None, list[Finding]]:
    """Read a YAML document, with every mistake in it.

    Returns:
        The document, None where there are mistakes, and the mistakes.
    """
    name = named(file)
    text = text_of(file, name)
    if isinstance(text, Finding):
        return None, [text]
    try:
        values = parse(text)
    except yaml.YAMLError as error:
        return None, [Finding(name, "", said_by(error), "Correct that line.")]
    return validate(values, model, name)


def validate(values: Any, model: type[D], name: str) -> tuple[D | None, list[Finding]]:
    """Hold values against a model.

    Args:
        values: What was read.
        model: What it should be.
        name: The file's name, for the mistakes.
    """
    if not isinstance(values, dict):
        return None, [Finding(name, "", "it holds no keys", "Begin with `owner:`.")]
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        return None, [explain(each, values, model, name) for each in error.errors()]


def read(file: Path, model: type[D]) -> D:
    """Read a YAML document.

    Raises:
        PilotError: It is missing or wrong; names the file, the field and the mend of the first mistake.
    """
    document, findings = examine(file, model)
    if document is None:
        first = findings[0]
        more = f" ({len(findings) - 1} more: `pilot governance check`)" if len(findings) > 1 else ""
        raise PilotError(first.what + more, where=first.where, mend=first.mend)
    return document


def placeholders(document: BaseModel) -> list[str]:
    """The dotted paths whose text is a sentinel, in the order of the document."""
    return [path for path, text in _texts(document, "") if is_placeholder(text)]


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _texts(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield f"{path}.{name}" if path else str(name), str(name)
            yield from _texts(each, f"{path}.{name}" if path else str(name))
    elif isinstance(value, Sequence):
        for number, each in enumerate(value):
            yield from _texts(each, f"{path}.{number}")
