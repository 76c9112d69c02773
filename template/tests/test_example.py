"""Yours: what the five files are meant to do. Replace the example's cases by your own."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pytest

from harness import pilot
from harness.serving.schema import frame_schema, request_model
from harness.settings import load_settings

PACKAGE = load_settings(Path(__file__).parents[1]).pilot.package


def invoice(**changed: Any) -> dict[str, Any]:
    """An invoice of a customer who pays on time, with some values changed."""
    return {
        "invoice_id": "R000000001",
        "account_no": "A-0000001",
        "due_on": date(2026, 3, 31),
        "amount_eur": 1_200.0,
        "terms_days": 30,
        "due_month": 3,
        "segment": "retail",
        "country": "DE",
        "credit_limit_eur": 12_000.0,
        "customer_months": 40,
        "prior_invoices": 20,
        "prior_late_share": 0.05,
    } | changed


@pytest.mark.parametrize(
    ("changed", "decision"),
    [
        ({}, "wait"),
        ({"prior_late_share": 0.5}, "call"),
        ({"prior_late_share": 1 / 3}, "call"),
        ({"prior_invoices": 0, "prior_late_share": None}, "wait"),
        ({"prior_invoices": 0, "prior_late_share": None, "amount_eur": 25_000.0}, "call"),
    ],
)
def test_the_clerks_rule(changed: dict[str, Any], decision: str) -> None:
    assert pilot.load_fallback(PACKAGE).decide(invoice(**changed)).decision == decision


def test_features_of_an_invoice() -> None:
    found = features(invoice())
    assert found["limit_used"] == pytest.approx(0.1)
    assert found["segment"] == 3.0
    assert found["country"] == 1.0


def test_what_is_absent_stays_absent() -> None:
    found = features(invoice(credit_limit_eur=None, segment=None))
    assert found["limit_used"] is None
    assert found["segment"] is None


@pytest.mark.parametrize("limit", [0.0, 1e-308])
def test_a_credit_limit_of_nothing_divides_nothing(limit: float) -> None:
    assert features(invoice(credit_limit_eur=limit))["limit_used"] is None


@pytest.mark.parametrize(
    "changed",
    [
        {"country": "Germany"},
        {"terms_days": -1},
        {"due_month": 13},
        {"invoice_id": " "},
        {"amount_eur": None},
        {"late": True},
    ],
)
def test_a_request_that_breaks_the_contract_is_refused(changed: dict[str, Any]) -> None:
    request = request_model(pilot.load_contract(PACKAGE))
    request.model_validate_json(as_json(invoice()))
    with pytest.raises(ValueError, match=next(iter(changed))):
        request.model_validate_json(as_json(invoice(**changed)))


def features(record: dict[str, Any]) -> dict[str, float | None]:
    """The record's features, as serving computes them."""
    frame = pl.DataFrame([record], schema=frame_schema(pilot.load_contract(PACKAGE)))
    wanted = pilot.load_features(PACKAGE).features()
    expressions = {name: expression.cast(nw.Float64) for name, expression in wanted.items()}
    return nw.to_native(nw.from_native(frame).select(**expressions)).row(0, named=True)


def as_json(record: dict[str, Any]) -> str:
    """The record as a client sends it."""
    return json.dumps(record, default=str)
