"""Leaks that are planted in the example: each stops the pipeline before anything is trained, and is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from harness.errors import CheckFailed
from harness.pipeline import layout, stages
from harness.settings import Settings, load_settings
from mistakes.planted import PACKAGE, Pilot

LAST_FIELD = '        Field(\n            "prior_late_share",'
LAST_FEATURE = '        "segment": _code("segment", SEGMENTS),'
# What is planted: how the column is made, its field, the feature that takes it, and what has to be said.
LEAKS: dict[str, tuple[pl.Expr, str, str, str]] = {
    "a level of dunning": (
        pl.when("late").then(2.0).otherwise(0.0),
        'Field("leak", "number", "How often a letter was sent", required=False)',
        'nw.col("leak") + 1',
        "proxy:leak: it is the outcome 'late' under another name",
    ),
    "days until it was paid, known once they are over": (
        pl.when(pl.col("late").is_null()).then(None).when("late").then(45.0).otherwise(3.0),
        'Field("leak", "number", "Days until it was paid", required=False)',
        'nw.col("leak")',
        "available:leak",
    ),
    "the day of payment": (
        pl.when("late")
        .then(pl.col("due_on").dt.offset_by("60d"))
        .otherwise(pl.col("due_on").dt.offset_by("2d")),
        'Field("leak", "date", "The day of payment", required=False)',
        "",
        "future:leak",
    ),
}


@pytest.fixture
def settings(modelled: Pilot, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The example with its records, in this process."""
    monkeypatch.syspath_prepend(str(modelled.root / "src"))
    yield load_settings(modelled.root)
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]


def features(settings: Settings) -> str:
    return stages.load("features").run(settings, lambda doing, share: None)


def found(settings: Settings) -> dict[str, str]:
    document = json.loads(settings.path(layout.PROBES).read_text(encoding="utf-8"))
    return {each["id"]: each["severity"] for each in document["findings"]}


def test_the_example_passes_and_gives_the_same_evidence_again(settings: Settings) -> None:
    # In its 600 records some groups are too small to judge by; in the 10,000 of `make demo` none is.
    assert {name.partition(":")[0] for name in found(settings)} <= {"group_share", "group_rate"}
    assert "stop" not in found(settings).values()
    before = settings.path(layout.PROBES).read_bytes()
    features(settings)
    assert settings.path(layout.PROBES).read_bytes() == before


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_stops_the_pipeline_before_anything_is_trained(settings: Settings, leak: str) -> None:
    column, field, feature, said = LEAKS[leak]
    code = settings.path("src", PACKAGE)
    plant(code / "contract.py", LAST_FIELD, f"        {field},\n{LAST_FIELD}")
    if feature:
        plant(code / "features.py", LAST_FEATURE, f'        "leak": {feature},\n{LAST_FEATURE}')
    valid = settings.path(layout.VALID)
    planted = pl.read_parquet(valid).with_columns(leak=column)
    valid.unlink()  # it may be a link into the cache
    planted.write_parquet(valid)
    with pytest.raises(CheckFailed) as caught:
        features(settings)
    assert said in f"{caught.value.what}"
    assert "Take it out" in caught.value.mend or "take it out" in caught.value.mend
    assert "stop" in found(settings).values()


def plant(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")
