"""``POST /outcomes``: what came of decisions, one or many at once. No key and no outcome is ever logged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, FastAPI
from pydantic import BaseModel, BeforeValidator, Field

from harness.serving import schema
from harness.serving.access import requires
from harness.store import OutcomeStore

if TYPE_CHECKING:
    from harness.serving.service import Service

PATH = "/outcomes"
MOST = 10_000
MOST_BYTES = 4 * 1024 * 1024


class ReceivedOut(BaseModel):
    """What was done with the outcomes, all of which are on record."""

    received: int
    added: int = Field(description="How many say something new")
    unchanged: int = Field(description="How many were on record already")
    unknown: int = Field(description="How many are about records that were never decided; kept all the same")


def attach(app: FastAPI, service: Service) -> None:
    """Add the route to the application."""
    model = schema.outcome_model(service.contract)
    store = OutcomeStore(service.store.database)

    def receive(said: list[schema.Request]) -> ReceivedOut:
        """Record outcomes; they are durable before this answers, all of them or none."""
        batch = [schema.as_outcome(service.contract, each) for each in said]
        done = store.add(batch, source=f"POST {PATH}")
        return ReceivedOut(**vars(done))

    # The contract is only known at run time, and FastAPI reads the body's model from the annotation.
    receive.__annotations__["said"] = Annotated[
        list[model],  # type: ignore[valid-type]
        BeforeValidator(_as_list),
        Field(min_length=1, max_length=MOST),
        Body(),
    ]
    receive.__annotations__["return"] = ReceivedOut
    guard = requires("outcomes", most_bytes=MOST_BYTES)
    app.post(PATH, response_model=ReceivedOut, dependencies=[guard])(receive)


def _as_list(body: Any) -> Any:
    return body if isinstance(body, list) else [body]
