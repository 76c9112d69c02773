"""What a package says about the records that its model was judged on: counts that anybody can count again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from changes import everywhere, shifted, wrong
from harness.errors import PilotError
from harness.pipeline import layout
from harness.pipeline.manifest import build_package, verify
from harness.pipeline.reference import Reference, load_reference
from harness.pipeline.stages.evaluate import held_back, write_reference
from watching import HELD_BACK, PACKAGE, Watched, drawn


@pytest.fixture
def reference(watched: Watched) -> Reference:
    return load_reference(watched.tiny.models / watched.digest)


@pytest.fixture
def frame() -> pl.DataFrame:
    return drawn(HELD_BACK, seed=1)


def test_numbers_are_counted_between_their_deciles(reference: Reference, frame: pl.DataFrame) -> None:
    profile = reference.fields["slope"]
    assert profile.edges == pytest.approx(np.quantile(frame["slope"], np.arange(1, 10) / 10))
    assert profile.counts == (HELD_BACK // 10,) * 10
    assert reference.scores.edges == pytest.approx(np.quantile(frame["dryness"] / 100, np.arange(1, 10) / 10))
    depth = reference.fields["depth_cm"]
    found = np.bincount(np.searchsorted(depth.edges, frame["depth_cm"]), minlength=len(depth.edges) + 1)
    assert depth.counts == tuple(found)


@pytest.mark.parametrize("name", ["crop", "soil", "covered"])
def test_categories_are_counted_by_value(reference: Reference, frame: pl.DataFrame, name: str) -> None:
    profile = reference.fields[name]
    texts = [str(value).lower() if isinstance(value, bool) else value for value in frame[name]]
    wanted = Counter(text for text in texts if text is not None)
    assert dict(zip(profile.values, profile.counts, strict=False)) == wanted
    assert profile.counts[-1] == 0, "no held-back record is new to itself"
    assert profile.missing == frame[name].null_count()


def test_decisions_and_what_came_of_them_are_added_up(reference: Reference, frame: pl.DataFrame) -> None:
    decided, came = (frame["dryness"] >= 50).to_numpy(), frame["withered"].to_numpy()
    assert reference.records == HELD_BACK
    assert reference.model.amount == decided.sum()
    assert reference.model.errors == (decided != came).sum()
    assert reference.model.hits == (decided & came).sum()
    assert reference.model.alarms == (decided & ~came).sum()
    assert reference.model.misses == (~decided & came).sum()
    assert (reference.fallback.amount, reference.fallback.misses) == (0, came.sum())
    assert set(reference.groups) == {"crop"}
    maize = (frame["crop"] == "maize").fill_null(False).to_numpy()
    assert reference.groups["crop"]["maize"].decisions == maize.sum()
    assert reference.groups["crop"]["maize"].amount == (decided & maize).sum()
    assert reference.groups["crop"]["maize"].errors == ((decided != came) & maize).sum()


def test_what_names_somebody_or_cannot_be_compared_is_left_out(reference: Reference) -> None:
    assert set(reference.left_out) == {"reading", "plot", "measured_on"}
    text = reference.model_dump_json()
    assert "plot 7" not in text
    assert "r-1-" not in text


def test_a_text_of_many_values_is_no_category(watched: Watched, frame: pl.DataFrame) -> None:
    told = frame.with_columns(soil=pl.Series([f"bore hole {number % 400}" for number in range(HELD_BACK)]))
    found = counted(watched, told)
    assert found.left_out["soil"] == "a text of 400 values in 4,000 records"
    assert "bore hole" not in found.model_dump_json()
    # Few values in few records are as telling.
    assert "soil" in counted(watched, told.head(40)).left_out


def test_a_number_that_is_always_the_same_has_a_bin_on_either_side(
    watched: Watched, frame: pl.DataFrame
) -> None:
    profile = counted(watched, frame.with_columns(slope=pl.lit(5.0))).fields["slope"]
    assert profile.counts == (0, HELD_BACK, 0)
    assert profile.bins.labels == ("< 5", "5", "> 5")


def test_a_number_that_is_never_there_is_all_missing(watched: Watched, frame: pl.DataFrame) -> None:
    profile = counted(watched, frame.with_columns(slope=pl.lit(None, pl.Float64))).fields["slope"]
    assert (profile.edges, profile.counts, profile.missing) == ((), (0,), HELD_BACK)


def test_the_digest_covers_the_reference(watched: Watched) -> None:
    folder = watched.tiny.models / watched.digest
    file = folder / "reference.json"
    file.write_text(file.read_text().replace(f'"records": {HELD_BACK}', f'"records": {HELD_BACK + 1}'))
    with pytest.raises(PilotError, match="changed"):
        verify(folder, watched.digest)


def test_another_reference_makes_another_package(watched: Watched, frame: pl.DataFrame) -> None:
    counted(watched, frame.head(3_000))
    assert build_package(watched.tiny.settings()).digest != watched.digest


def test_monitors_are_not_packaged_and_nothing_that_is_may_import_them(watched: Watched) -> None:
    code = watched.tiny.root / "src" / PACKAGE
    (code / "monitors.py").write_text("def signals(window):\n    return []\n")
    assert build_package(watched.tiny.settings()).digest == watched.digest
    model = code / "model.py"
    model.write_text("from .monitors import signals\n" + model.read_text())
    with pytest.raises(PilotError, match=r"it imports from monitors.py, which is not packaged"):
        build_package(watched.tiny.settings())


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"schema_version": 2}'])
def test_a_damaged_reference_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "reference.json").write_text(text)
    with pytest.raises(PilotError, match=r"not a reference: .*Run `pilot run` again"):
        load_reference(tmp_path)


def counted(watched: Watched, frame: pl.DataFrame) -> Reference:
    """The reference that the pipeline makes of these records."""
    from harness import pilot

    contract = pilot.load_contract(PACKAGE)
    dated = frame.with_columns(pl.col("measured_on").str.to_date())
    scores = (frame["dryness"] / 100).to_numpy()
    settings = watched.tiny.settings()
    write_reference(settings, contract, held_back(dated, contract, scores, ["skip"] * frame.height), "f1")
    return Reference.model_validate_json((watched.tiny.root / layout.REFERENCE).read_text())


@pytest.fixture
def regression(tiny: Any, pilot_command: Any, pilot_here: Any) -> Watched:
    """The tiny pilot deciding amounts, under the same monitoring.yaml."""
    return Watched(tiny, pilot_command, pilot_here, amount=True).start()


def test_the_same_signals_watch_a_regression(regression: Watched) -> None:
    regression.know(pl.concat(everywhere(regression)))
    assert set(regression.verdicts().values()) == {"ok"}
    (performance,) = [each for each in regression.look().judged if each.signal.id == "performance"]
    assert performance.figure is not None
    assert performance.figure.name == "mae"
    assert load_reference(regression.tiny.models / regression.digest).decided.kind == "amount"


def test_amounts_that_err_more_and_decisions_that_move_are_found(regression: Watched) -> None:
    regression.know(wrong(pl.concat(everywhere(regression, shifted)), 0.15))
    found = {each.signal.id: each for each in regression.look().judged}
    assert found["performance"].verdict == "breached"
    assert found["input-drift"].names == ("slope",)
    assert found["decision-rate"].verdict == "ok"

    def drier(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns((pl.col("dryness") + 10).clip(0, 100))

    everywhere(regression, drier, count=2_000)
    found = {each.signal.id: each for each in regression.look().judged}
    assert found["decision-rate"].verdict == "breached"
    assert "mean" in found["decision-rate"].figure.detail
    code, document = regression.monitor("--no-act")
    assert code == 1
    page = (regression.tiny.root / "var" / "monitor" / "latest.html").read_text(encoding="utf-8")
    assert "in standard deviations" in page
    assert json.loads((regression.tiny.root / "var" / "monitor" / "latest.json").read_text()) == {
        name: value for name, value in document.items() if name not in ("alerts", "page")
    }


def test_without_groups_there_is_no_gap_and_no_verdict_on_one(watched: Watched) -> None:
    reference = json.loads(watched.tiny.reference)
    watched.tiny.reference = json.dumps({**reference, "groups": {}})
    watched.digest = watched.tiny.offered()
    watched.know(pl.concat(everywhere(watched)))
    assert watched.verdicts()["fairness-gap"] == "not_applicable"
    assert watched.look().exit_code == 0
