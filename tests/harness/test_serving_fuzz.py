"""Calls that schemathesis makes of the schema: none fails the service, and each answer is declared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from harness.control.tokens import issue
from harness.serving.app import create_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Of each operation that takes a body; the others have one case.
CASES, MANY_CASES = 50, 700


@pytest.fixture
def caller(tiny: Any) -> dict[str, str]:
    """Somebody who may do everything; of tokens that are made up there is little to find."""
    scopes = ["decide", "outcomes", "operate"]
    return {
        "Authorization": f"Bearer {issue(tiny.control, name='fuzz', scopes=scopes, lasts=timedelta(1))[0]}"
    }


@pytest.fixture
def app(tiny: Any) -> Iterator[Any]:
    tiny.offered()
    made = create_app(tiny.service(), name="dry field")
    with TestClient(made, raise_server_exceptions=False):
        yield made


def fuzzed(app: Any, caller: dict[str, str], cases: int) -> dict[str, Counter[int]]:
    """Send so many cases to each operation, and give how often each was answered by which status."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]
    # A stop last: after it the model decides nothing more.
    operations.sort(key=lambda each: "kill" in each.path)
    return {f"{each.method} {each.path}": _answered(each, caller, cases) for each in operations}


def _answered(operation: Any, caller: dict[str, str], cases: int) -> Counter[int]:
    found: Counter[int] = Counter()
    modes = schemathesis.GenerationMode
    kinds = [operation.as_strategy(generation_mode=mode) for mode in (modes.POSITIVE, modes.NEGATIVE)]

    @seed(7)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=kinds[0] | kinds[1])
    def sending(case: Any) -> None:
        found[case.call_and_validate(checks=CHECKS, headers=caller).status_code] += 1

    sending()
    return found


def held(found: dict[str, Counter[int]], cases: int) -> None:
    assert {"post /decide", "post /outcomes", "post /control/kill", "get /health", "get /ready"} <= set(found)
    assert sum(sum(each.values()) for each in found.values()) >= 3 * cases, found
    # Otherwise the fuzzing went past what it is meant for.
    assert {200, 422} <= set(found["post /decide"]), found
    assert {200, 422} <= set(found["post /outcomes"]), found
    assert set(found["post /control/kill"]) == {200}, found


def test_whatever_the_schema_allows_or_forbids_is_answered_as_declared(
    app: Any, caller: dict[str, str]
) -> None:
    held(fuzzed(app, caller, CASES), CASES)


@pytest.mark.slow
def test_two_thousand_of_them(app: Any, caller: dict[str, str]) -> None:
    held(fuzzed(app, caller, MANY_CASES), MANY_CASES)


def test_every_refusal_is_declared(app: Any) -> None:
    schema = app.openapi()
    for path, refusals in {
        "/decide": {"400", "401", "403", "413", "415", "422", "429", "503"},
        "/outcomes": {"400", "401", "403", "413", "415", "422", "429", "503"},
        "/control/kill": {"401", "403", "503"},
    }.items():
        assert refusals <= set(schema["paths"][path]["post"]["responses"]), path
    invalid = schema["paths"]["/decide"]["post"]["responses"]["422"]["content"]["application/json"]["schema"]
    assert {"$ref": "#/components/schemas/InvalidOut"} in invalid["anyOf"]
    assert "HTTPValidationError" not in schema["components"]["schemas"]
