"""The values of a document: texts, values that may still be the sentinel, parts that may not apply."""

from __future__ import annotations

import functools
import operator
import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, Union, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidatorFunctionWrapHandler,
)
from pydantic_core import CoreSchema, core_schema

TODO = "TODO"
EXCUSE = "not_applicable"
T = TypeVar("T")
# Said instead of the sentinel, these mean the same: `owner: TBD` names nobody. What does not apply says so
# with `not_applicable`, its reason and who agreed, never with `n/a`.
_AS_GOOD_AS_TODO = re.compile(
    r"(?is)(to[ -]?do|tbd|tba|tbc|fixme|xxx+|n\.?n\.?|n\.?\s?/?\s?a\.?|not applicable|null"
    r"|(not yet known|not known yet|to be (decided|defined|determined|done))"
    r"|lorem ipsum.*|[\s?.…~*_–—-]*)[.!?,;…]*\Z"
)
_BEGINS = re.compile(r"TODO(\b|_)|(?i:tbd|fixme)\b|(?i:todo|tba|tbc)\s*[:(]")
_LATER = re.compile(r"(?i:\b(todo|tbd|fixme):)|[(\[<{]\s*TODO\b")
_AROUND = " \t\r\n[](){}<>\"'`*_-+"


def seen(text: str) -> str:
    """A text as its reader sees it: no unseen characters, and wide or ligatured letters as plain ones."""
    plain = unicodedata.normalize("NFKC", text)
    return "".join(each for each in plain if unicodedata.category(each) != "Cf").strip()


def is_placeholder(text: str) -> bool:
    """Whether a text stands where an answer is missing: it begins with TODO, or says TBD or the like.

    Brackets and quotes around it, and characters that nobody sees, do not make an answer of it.
    """
    if not text:
        return False  # an optional text that was left out; where one is wanted the model refuses it
    shown = seen(text)
    bare = shown.strip(_AROUND)
    return any(_AS_GOOD_AS_TODO.match(each) or _BEGINS.match(each) for each in (shown, bare)) or (
        _LATER.search(shown) is not None
    )


def _without(union: Any, member: type) -> Any:
    """The union without one of its members."""
    kept = [each for each in get_args(union) if each is not member]
    return functools.reduce(operator.or_, kept)


class Unfilled(str):
    """The sentinel where a number, a date or a list belongs; its text may say what is wanted."""


class _MayBePending:
    """Lets the sentinel stand in place of a value of another type."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        wanted = _without(source, Unfilled)
        return core_schema.no_info_wrap_validator_function(
            _pending, handler.generate_schema(wanted), serialization=core_schema.to_string_ser_schema()
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        assert schema["type"] == "function-wrap"
        return {"anyOf": [handler(schema["schema"]), {"type": "string", "pattern": f"^{TODO}"}]}


def _pending(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, str) and is_placeholder(value):
        return Unfilled(value)
    return inner(value)


def _filled(text: str) -> str:
    if is_placeholder(text):
        raise ValueError(f"'{text}' says nothing, and this cannot wait")
    return text


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""A text; it may be the sentinel."""

Filled = Annotated[Text, AfterValidator(_filled)]
"""A text that must be there from the first day."""

Pending = Annotated[Union[T, Unfilled], _MayBePending()]  # noqa: UP007
"""A value of another type than text, or the sentinel: ``Pending[date]``."""


class Part(BaseModel):
    """A part of a document: frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NotApplicable(Part):
    """Why a part does not apply, and who agreed; never a way to leave it open.

    Attributes:
        reason: Why.
        approver: The role that agreed, one of those in owners.yaml.
    """

    reason: Filled
    approver: Filled


class _MayNotApply:
    """Lets ``{not_applicable: {reason, approver}}`` stand in place of a part."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        wanted = _without(source, NotApplicable)
        return core_schema.no_info_wrap_validator_function(_excused, handler.generate_schema(wanted))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        assert schema["type"] == "function-wrap"
        both = {"type": "string", "minLength": 1}
        excuse = {
            "type": "object",
            "required": ["reason", "approver"],
            "properties": {"reason": both, "approver": both},
            "additionalProperties": False,
        }
        other = {
            "type": "object",
            "required": [EXCUSE],
            "properties": {EXCUSE: excuse},
            "additionalProperties": False,
        }
        return {"anyOf": [handler(schema["schema"]), other]}


class _Excuse(Part):
    not_applicable: NotApplicable


def _excused(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, Mapping) and EXCUSE in value:
        return _Excuse.model_validate(value).not_applicable
    return inner(value)


OrNotApplicable = Annotated[Union[T, NotApplicable], _MayNotApply()]  # noqa: UP007
"""A part, or ``{not_applicable: {reason, approver}}``: ``OrNotApplicable[Notice]``."""
