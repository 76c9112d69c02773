"""A mistake in a document, told as the person who wrote it would understand it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from harness.governance.values import EXCUSE, TODO, NotApplicable, Unfilled


@dataclass(frozen=True)
class Finding:
    """One mistake in a document.

    Attributes:
        file: The file, as the reader would open it.
        field: The dotted path of the field, empty for the whole file.
        what: What is wrong, in one clause.
        mend: What to do about it.
    """

    file: str
    field: str
    what: str
    mend: str

    @property
    def where(self) -> str:
        """The file, and the field if there is one."""
        return f"{self.file} {self.field}".rstrip()

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.mend}"


def explain(error: ErrorDetails, values: Any, model: type[BaseModel], name: str) -> Finding:
    """One of pydantic's errors as a finding.

    Args:
        error: What pydantic said.
        values: What was read.
        model: What it should be.
        name: The file's name.
    """
    path, kind = _written(error["loc"], values), error["type"]
    field = ".".join(path)
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _keys(model, path[:-1]), n=1)
        mend = f"Did you mean '{near[0]}'?" if near else "Remove it."
        return Finding(name, ".".join(path[:-1]), f"unknown key '{path[-1]}'", mend)
    if kind == "missing":
        return Finding(name, ".".join(path[:-1]), f"'{path[-1]}' is missing", "Add it.")
    said = _WANTED.get(kind, "") or error["msg"].removeprefix("Value error, ")
    shown = f", not '{error['input']}'" if isinstance(error["input"], str) and "'" not in said else ""
    return Finding(name, field, said[0].lower() + said[1:] + shown, _mend(model, path))


# The words of people who read YAML, for kinds that pydantic names in Python's.
_WANTED = {
    "bool_parsing": "yes or no is wanted",
    "date_from_datetime_inexact": "a date without a time is wanted, as 2026-03-31",
    "date_from_datetime_parsing": "a date is wanted, as 2026-03-31",
    "date_parsing": "a date is wanted, as 2026-03-31",
    "decimal_parsing": "a number is wanted",
    "dict_type": "keys with values are wanted",
    "float_parsing": "a number is wanted",
    "int_parsing": "a whole number is wanted",
    "model_type": "keys with values are wanted",
    "string_too_short": "a text is wanted",
    "string_type": "a text is wanted",
    "tuple_type": "a list is wanted",
}


def _mend(model: type[BaseModel], path: Sequence[str]) -> str:
    return (
        f"Correct it, or write {TODO} while it is not known." if _pending_at(model, path) else "Correct it."
    )


def _written(location: Sequence[int | str], values: Any) -> list[str]:
    """The path as the file has it: pydantic adds the tags of unions, which nobody wrote."""
    path: list[str] = []
    for place, part in enumerate(location):
        in_list = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if in_list or (isinstance(values, dict) and part in values):
            values = values[part]
        elif place < len(location) - 1:
            continue
        path.append(str(part))
    return path


def _annotation(model: type[BaseModel], path: Sequence[str]) -> list[Any]:
    """The types that may stand at a path."""
    types: list[Any] = [model]
    for part in path:
        if part == EXCUSE and NotApplicable in types:
            types = [NotApplicable]
            continue
        below: list[Any] = []
        for each in types:
            if isinstance(each, type) and issubclass(each, BaseModel):
                known = {field.alias or name: field for name, field in each.model_fields.items()}
                if part in known:
                    below += _alternatives(known[part].annotation)
            elif get_args(each):
                below += _alternatives(next(a for a in reversed(get_args(each)) if a is not Ellipsis))
        types = below
    return types


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, with what `Annotated` adds taken off."""
    if hasattr(annotation, "__metadata__"):
        return _alternatives(annotation.__origin__)
    if not isinstance(annotation, type) and type(None) is not annotation and _is_union(annotation):
        return [one for each in get_args(annotation) for one in _alternatives(each)]
    return [annotation]


def _is_union(annotation: Any) -> bool:
    return type(annotation).__name__ in {"UnionType", "_UnionGenericAlias", "Union"}


def _keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    found = (each for each in _annotation(model, path) if isinstance(each, type))
    return [name for each in found if issubclass(each, BaseModel) for name in each.model_fields]


def _pending_at(model: type[BaseModel], path: Sequence[str]) -> bool:
    return Unfilled in _annotation(model, path)
