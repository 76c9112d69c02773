"""JSON that is written quickly says, refuses and raises what Python's own encoder does."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.encoding import Encoder

STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
LENIENT = json.JSONEncoder(ensure_ascii=False, default=str)


class Word(str):
    """A text that says something else of itself."""

    def __str__(self) -> str:
        return "another"


class Number(float):
    """A number of a library's own."""


@dataclass
class Pair:
    """What orjson would write as an object."""

    one: int
    other: int


class Hidden(float, Enum):
    """What is no number, within what orjson writes of its own accord."""

    NONE = float("nan")


class Kind(Enum):
    """An enumeration, of which the value is written."""

    ONE = "one"


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters())
    | st.builds(Word, st.text(max_size=3))
    | st.builds(Number, st.floats())
    | st.builds(np.float64, st.floats())
    | st.just(Hidden.NONE),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.none() | st.floats(), inner, max_size=4)
    ),
    max_leaves=12,
)


def said(encode: Any, value: Any) -> Any:
    """What is written means the same, however it is spaced; or what is raised."""
    try:
        text = encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        return type(error)
    return json.loads(text, parse_constant=str)


def exact(encoder: json.JSONEncoder) -> Any:
    return lambda value: encoder.encode(value).encode()


@settings(deadline=None)
@given(values)
def test_it_says_what_pythons_encoder_says(value: Any) -> None:
    for encoder in (STRICT, LENIENT, json.JSONEncoder(allow_nan=False)):
        assert said(Encoder(encoder), value) == said(exact(encoder), value)
        assert said(Encoder(encoder).text, value) == said(encoder.encode, value)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf"), Number("nan"), np.float64("inf")]
)
@pytest.mark.parametrize("around", ["{}", '{"a":[1,{"b":{}}]}', '[null,"null",{}]'])
@pytest.mark.parametrize(("names", "kind"), [(dict, list), (OrderedDict, tuple)])
def test_what_is_no_number_is_refused_wherever_it_stands(
    value: float, around: str, names: Any, kind: Any
) -> None:
    outer = json.loads(around.replace("{}", '"here"'))

    def put(found: Any) -> Any:
        if found == "here":
            return value
        if isinstance(found, dict):
            return names({name: put(each) for name, each in found.items()})
        return kind(put(each) for each in found) if isinstance(found, list) else found

    with pytest.raises(ValueError, match="Out of range float"):
        Encoder(STRICT)(put(outer))


def test_dates_are_written_as_days_and_all_else_is_asked_of_the_exact_one() -> None:
    assert Encoder(STRICT)({"due": date(2026, 3, 1)}) == b'{"due":"2026-03-01"}'
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert json.loads(Encoder(LENIENT)([Kind.ONE])) == ["one"], "what orjson writes of its own accord"
    for unknown in (moment, Pair(1, 2), {1}, b"x", complex(1, 2)):
        assert said(Encoder(LENIENT), [unknown]) == said(exact(LENIENT), [unknown])
        with pytest.raises(TypeError):
            Encoder(STRICT)([unknown])


def test_it_is_orjson_that_writes_what_is_usual() -> None:
    class Never(json.JSONEncoder):
        def encode(self, o: Any) -> str:
            raise AssertionError("asked for what is usual")

    usual = {"id": "R1", "due": date(2026, 3, 1), "amount": 1.5, "n": 2**62, "none": None, "of": [{"ä": ""}]}
    assert json.loads(Encoder(Never())(usual)) == {**usual, "due": "2026-03-01"}
