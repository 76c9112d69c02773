"""The request's schema, made from the contract."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from harness import pilot
from harness.pilot import Contract, FieldType

PYTHON: dict[FieldType, type] = {
    "text": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "date": date,
}
POLARS: dict[FieldType, Any] = {
    "text": pl.String,
    "integer": pl.Int64,
    "number": pl.Float64,
    "boolean": pl.Boolean,
    "date": pl.Date,
}


class Request(BaseModel):
    """A record that a decision is asked for; an unknown field, a wrong type, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def request_model(contract: Contract) -> type[Request]:
    """The request's model: the same fields, types, ranges and categories as the bulk checks use."""
    fields: dict[str, Any] = {declared.name: _field(declared) for declared in contract.fields}
    return create_model("Record", __base__=Request, **fields)


def frame_schema(contract: Contract) -> dict[str, Any]:
    """The column types that records take on Polars."""
    return {declared.name: POLARS[declared.type] for declared in contract.fields}


def _field(declared: pilot.Field) -> tuple[Any, Any]:
    described = f"{declared.meaning} [{declared.unit}]" if declared.unit else declared.meaning
    kind: Any = PYTHON[declared.type]
    if declared.categories:
        kind = Literal[declared.categories]
    elif declared.type == "text":
        kind = Annotated[str, AfterValidator(_not_blank)]
    elif declared.type == "date":
        kind = Annotated[date, BeforeValidator(_iso_date)]
    bounded = Annotated[kind, Field(ge=declared.low, le=declared.high)]
    if declared.required:
        return bounded, Field(description=described)
    return bounded | None, Field(default=None, description=described)


def _iso_date(value: object) -> object:
    # JSON has no dates, and pydantic would take a number for seconds since 1970.
    # A week, such as 2026-W05-6, is ISO 8601 too and nobody here means one.
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("must be a date written as 2026-01-31")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("must be a date written as 2026-01-31") from None


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    if len(text) > 1_000:
        raise ValueError("must not be longer than 1,000 characters")
    if "\0" in text:
        raise ValueError("must be text: a NUL cannot be recorded")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("must be text: half a surrogate pair cannot be recorded")
    return text
