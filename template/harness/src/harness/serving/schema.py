"""The request's schema, made from the contract."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from harness import pilot
from harness.pilot import Choice, Contract, FieldType
from harness.pipeline.columns import frame_schema as frame_schema
from harness.store import Outcome

KNOWN_AT = "known_at"
LARGEST = 2**63 - 1

PYTHON: dict[FieldType, type] = {
    "text": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "date": date,
}


class Request(BaseModel):
    """A record that a decision is asked for; an unknown field, a wrong type, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def request_model(contract: Contract) -> type[Request]:
    """The request's model: the same fields, types, ranges and categories as the bulk checks use."""
    fields: dict[str, Any] = {declared.name: _field(declared) for declared in contract.fields}
    validators: dict[str, Any] = {}
    if contract.rules:

        def keeps_the_rules(said: Request) -> Request:
            if broken := contract.breaks(vars(said)):
                raise ValueError("; ".join(f"{rule.name}: {rule.meaning}" for rule in broken))
            return said

        validators["keeps_the_rules"] = model_validator(mode="after")(keeps_the_rules)
    return create_model("Record", __base__=Request, __validators__=validators, **fields)


def outcome_model(contract: Contract) -> type[Request]:
    """An outcome's model: the record's key and the label, and when it became known.

    Strict, as the request's: for a Choice only true and false are outcomes, for an Amount only numbers.
    """
    key = contract.field(contract.key)
    label = bool if isinstance(contract.decision, Choice) else float
    fields: dict[str, Any] = {
        key.name: (_field(key)[0], Field(description=key.meaning)),
        contract.label: (label, Field(description="What came of it")),
    }
    if KNOWN_AT not in fields:
        known_at = Annotated[datetime, BeforeValidator(_moment)]
        fields[KNOWN_AT] = (known_at | None, Field(default=None, description="When it became known"))
    return create_model("Outcome", __base__=Request, **fields)


def as_outcome(contract: Contract, said: Request) -> Outcome:
    """An outcome as the store takes it, from what ``outcome_model`` accepted."""
    values = said.model_dump()
    known_at: datetime | None = values.get(KNOWN_AT) if contract.label != KNOWN_AT else None
    return Outcome(
        record_key=str(values[contract.key]),
        outcome=values[contract.label],
        known_at=None if known_at is None else known_at.isoformat(timespec="microseconds"),
    )


def _field(declared: pilot.Field) -> tuple[Any, Any]:
    described = f"{declared.meaning} [{declared.unit}]" if declared.unit else declared.meaning
    kind: Any = PYTHON[declared.type]
    if declared.categories:
        kind = Literal[declared.categories]
    elif declared.type == "text":
        kind = Annotated[str, AfterValidator(_not_blank)]
    elif declared.type == "date":
        kind = Annotated[date, BeforeValidator(_iso_date)]
    low, high = declared.low, declared.high
    if declared.type == "integer":  # beyond 64 bits no column of a model's features takes it
        low = -LARGEST - 1 if low is None else low
        high = LARGEST if high is None else high
    bounded = Annotated[kind, Field(ge=low, le=high)]
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


def _moment(value: object) -> object:
    if value is None:
        return None
    try:
        if not isinstance(value, str) or ("T" not in value and len(value) != len("2026-01-31")):
            raise ValueError
        found = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("must be a time written as 2026-01-31T12:00:00Z, or a day as 2026-01-31") from None
    if found.tzinfo is None:
        if "T" in value:
            raise ValueError("must say its offset, as in 2026-01-31T12:00:00Z")
        found = found.replace(tzinfo=UTC)
    return found.astimezone(UTC)


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
