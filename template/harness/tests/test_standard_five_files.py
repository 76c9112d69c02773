"""The team's five files keep the protocol, whatever the contract accepts."""

# This file is the standard's: `copier update` replaces it. Write tests of your own in tests/.
from __future__ import annotations

import json
import math
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from standard_records import accepted

from harness import pilot
from harness.data import engine
from harness.pilot import Amount, Choice, Contract
from harness.pipeline import parity, verbs
from harness.pipeline.params import load_params
from harness.pipeline.stages.features import expressions
from harness.serving.schema import frame_schema, request_model
from harness.settings import Settings

ROWS = 400
relaxed = hypothesis_settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@relaxed
@given(data=st.data())
def test_the_fallback_decides_every_record_that_the_contract_accepts(
    data: st.DataObject, settings: Settings, contract: Contract
) -> None:
    record = request_model(contract).model_validate_json(_json(data.draw(accepted(contract)))).model_dump()
    answer = pilot.load_fallback(settings.pilot.package).decide(record)
    if isinstance(contract.decision, Choice):
        assert answer.decision in (contract.decision.above, contract.decision.below)
    else:
        assert isinstance(contract.decision, Amount)
        assert contract.decision.valid(float(answer.decision))


@relaxed
@given(data=st.data())
def test_features_of_any_record_are_finite_or_absent(
    data: st.DataObject, settings: Settings, contract: Contract
) -> None:
    frame = pl.DataFrame([data.draw(accepted(contract))], schema=frame_schema(contract))
    for name, value in _features(settings, frame).row(0, named=True).items():
        assert value is None or math.isfinite(value), f"{name} is {value}"


@hypothesis_settings(relaxed, max_examples=5)
@given(data=st.data())
def test_features_of_any_records_come_out_in_serving_as_in_training(
    data: st.DataObject, settings: Settings, contract: Contract, tmp_path: Path
) -> None:
    # What it spills lies beside the files of this test, and not in the work tree.
    backend = engine.embedded(settings.model_copy(update={"root": tmp_path}))
    records = data.draw(st.lists(accepted(contract), min_size=1, max_size=40))
    frame = pl.DataFrame(records, schema=frame_schema(contract))
    wanted = expressions(pilot.load_features(settings.pilot.package))
    table = backend.create_table("drawn", frame.to_arrow(), temp=True, overwrite=True)
    found = parity.compare(backend, table, contract, wanted, tmp_path)
    backend.disconnect()
    for name in wanted:
        for row in np.flatnonzero(found.differing(name))[:1]:
            served, trained = found.served[name][row], found.trained[name][row]
            raise AssertionError(f"{name}: served {served}, trained {trained}, {found.records.row(row)}")


def test_features_use_what_every_engine_computes_alike(settings: Settings) -> None:
    verbs.check(pilot.load_features(settings.pilot.package).features())


def test_a_model_is_the_same_after_saving_and_loading(
    settings: Settings, contract: Contract, tmp_path: Path
) -> None:
    # Records drawn at random say nothing about the world; that training, saving and explaining fit together
    # can be seen on them all the same.
    random = np.random.default_rng(0)
    frame = _some_records(contract, random)
    features = _features(settings, frame)
    label = random.integers(0, 2, ROWS).astype(float)
    module = pilot.load_model(settings.pilot.package)
    fitted = module.train(features, label, load_params(settings.root).train)
    module.save(fitted, tmp_path)
    loaded = module.load(tmp_path)
    scores = module.predict(loaded, features)
    assert scores.shape == (ROWS,)
    assert all(contract.decision.valid(float(score)) for score in scores)
    np.testing.assert_array_equal(scores, module.predict(fitted, features))
    np.testing.assert_array_equal(scores[:1], module.predict(loaded, features[:1]))
    explained = module.reasons(loaded, features[:5], 3)
    assert [len(reasons) for reasons in explained] == [3] * 5
    assert not any(file.read_bytes().startswith(b"\x80") for file in tmp_path.rglob("*") if file.is_file()), (
        "a model file looks like a pickle; save it in the library's own format"
    )


def _features(settings: Settings, frame: pl.DataFrame) -> pl.DataFrame:
    wanted = pilot.load_features(settings.pilot.package).features()
    expressions = {name: expression.cast(nw.Float64) for name, expression in wanted.items()}
    return nw.to_native(nw.from_native(frame).select(**expressions))


def _some_records(contract: Contract, random: np.random.Generator) -> pl.DataFrame:
    columns: dict[str, object] = {}
    for field in contract.fields:
        low = field.low if field.low is not None else 0.0
        high = min(field.high if field.high is not None else 1e6, 1e6)
        if field.categories:
            values: object = random.choice(np.array(field.categories), ROWS).tolist()
        elif field.type == "text":
            values = [f"text {number}" for number in range(ROWS)]
        elif field.type == "date":
            values = (np.datetime64("2025-01-01") + random.integers(0, 365, ROWS)).astype(object).tolist()
        elif field.type == "boolean":
            values = (random.random(ROWS) < 0.5).tolist()
        elif field.type == "integer":
            values = random.integers(int(low), int(high) + 1, ROWS).tolist()
        else:
            values = random.uniform(low, high, ROWS).tolist()
        columns[field.name] = values
    return pl.DataFrame(columns, schema=frame_schema(contract))


def _json(record: dict[str, object]) -> str:
    return json.dumps(record, default=str)
