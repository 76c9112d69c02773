"""What each change does to the signals, and what is done about it: real store, real control state."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from changes import everywhere, gone, renamed, shifted, vanished, wrong
from harness.errors import Inconclusive, PilotError
from harness.monitor.judge import Found, decide
from harness.monitor.measures import Comparison
from harness.monitor.watch import act
from watching import NOW, Change, Watched, drawn

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(
    ("change", "signal", "name", "action"),
    [
        (shifted, "input-drift", "slope", "hold"),
        (gone, "input-missing", "crop", "rollback"),
        (vanished, "input-vanished-category", "soil", "hold"),
        (renamed, "input-new-category", "soil", "hold"),
    ],
)
def test_a_change_of_the_input_is_found_named_and_acted_upon(
    watched: Watched, change: Change, signal: str, name: str, action: str
) -> None:
    everywhere(watched, change)
    found = watched.look()
    judged = {each.signal.id: each for each in found.judged}
    assert judged[signal].verdict == "breached"
    assert judged[signal].names == (name,)
    others = {other for other, each in judged.items() if each.verdict == "breached"} - {signal}
    assert others <= {"input-drift"}, "only the distribution may be said to have changed as well"
    assert found.exit_code == 1
    act(watched.tiny.settings(), found, allowed=True)
    audited = [(entry["action"], entry["reason"]) for entry in watched.audit()]
    assert action in [each for each, _ in audited]
    (reason,) = [reason for each, reason in audited if each == action]
    assert reason.startswith("monitor: ")
    assert f"{signal}: {name} " in reason
    assert "3 of 3 windows breach" in reason


def test_where_nothing_has_changed_nothing_is_found_and_nothing_done(watched: Watched) -> None:
    watched.know(pl.concat(everywhere(watched)))
    assert set(watched.verdicts().values()) == {"ok"}
    found = watched.look()
    act(watched.tiny.settings(), found, allowed=True)
    assert found.exit_code == 0
    assert found.actions == ()
    assert watched.audit() == []


def test_accuracy_that_has_fallen_by_ten_points_is_found_when_the_outcomes_arrive(watched: Watched) -> None:
    made = pl.concat(everywhere(watched))
    assert watched.verdicts()["performance"] == "inconclusive"
    watched.know(wrong(made, 0.15))
    (judged,) = [each for each in watched.look().judged if each.signal.id == "performance"]
    assert judged.verdict == "breached"
    assert judged.figure is not None
    assert 0.08 < judged.figure.value < 0.13
    assert judged.figure.samples == made.height
    found = watched.look()
    act(watched.tiny.settings(), found, allowed=True)
    assert [entry["action"] for entry in watched.audit()] == ["rollback"]


@pytest.mark.parametrize(("figure", "says"), [("f1", "breached"), ("accuracy", "breached")])
def test_each_figure_of_a_choice(watched: Watched, figure: str, says: str) -> None:
    watched.edit("measure: performance_drop", f"measure: performance_drop\n    figure: {figure}")
    watched.know(wrong(pl.concat(everywhere(watched)), 0.15))
    assert watched.verdicts()["performance"] == says


def test_a_corrected_outcome_counts_once_and_by_its_latest(watched: Watched) -> None:
    made = pl.concat(everywhere(watched))
    watched.know(wrong(made, 0.15))
    watched.know(made)
    (judged,) = [each for each in watched.look().judged if each.signal.id == "performance"]
    assert judged.verdict == "ok"
    assert judged.figure is not None
    assert judged.figure.samples == made.height


def test_a_record_decided_twice_counts_once(watched: Watched) -> None:
    made = watched.decide(600)
    watched.decide(600, lambda frame: frame.with_columns(made["reading"]), window=1)
    watched.know(made)
    (model,) = watched.look().models
    assert model.windows[0].outcomes.outcomes == 600


def test_a_model_that_fails_is_stopped(watched: Watched) -> None:
    everywhere(watched, failing=60)
    found = watched.look()
    judged = {each.signal.id: each for each in found.judged}
    assert judged["model-failures"].verdict == "breached"
    assert judged["model-failures"].figure is not None
    assert judged["model-failures"].figure.value == pytest.approx(0.1)
    act(watched.tiny.settings(), found, allowed=True)
    assert [entry["action"] for entry in watched.audit()] == ["kill"]
    assert (watched.tiny.control / "KILL").exists()


@pytest.mark.parametrize("why", ["real_data_in_sandbox", "model_replaced"])
def test_the_fallback_instead_of_a_model_that_did_not_fail_is_no_failure(watched: Watched, why: str) -> None:
    everywhere(watched, served_by="fallback", why=why, score=None)
    assert watched.verdicts()["model-failures"] == "ok"


def test_decisions_of_another_model_say_nothing_about_this_one(watched: Watched) -> None:
    everywhere(watched)
    watched.decide(2_000, shifted, model_digest="f" * 64)
    watched.decide(2_000, shifted, model_digest=None, assigned="fallback")
    (model,) = watched.look().models
    assert model.windows[0].decisions.decisions == 600
    assert watched.verdicts()["input-drift"] == "ok"


def test_a_decision_rate_that_moves_and_a_gap_that_grows(watched: Watched) -> None:
    def drier(frame: pl.DataFrame) -> pl.DataFrame:
        grown = (pl.col("dryness") + 30).clip(0, 100)
        return frame.with_columns(
            pl.when(pl.col("crop") == "maize").then(grown).otherwise(pl.col("dryness")).alias("dryness")
        )

    everywhere(watched, drier, count=1_500)
    found = {each.signal.id: each for each in watched.look().judged}
    assert found["decision-rate"].verdict == "breached"
    assert found["fairness-gap"].verdict == "breached"
    assert found["fairness-gap"].names == ("crop: barley, maize",)
    assert found["score-drift"].figure is not None


def test_windows_without_decisions_are_never_fine(watched: Watched) -> None:
    found = watched.look()
    assert {each.verdict for each in found.judged} == {"inconclusive"}
    assert found.exit_code == 3


def test_windows_with_too_few_decisions_are_never_fine(watched: Watched) -> None:
    everywhere(watched, count=99)
    assert watched.verdicts()["input-drift"] == "inconclusive"
    assert watched.look().exit_code == 3
    watched.decide(1, window=0)
    watched.decide(1, window=1)
    assert watched.verdicts()["input-drift"] == "ok"


def test_one_window_of_three_is_not_enough_and_two_are(watched: Watched) -> None:
    watched.decide(600, shifted, window=0)
    watched.decide(600, window=1)
    watched.decide(600, window=2)
    assert watched.verdicts()["input-drift"] == "ok"
    watched.decide(1_200, shifted, window=2)
    assert watched.verdicts()["input-drift"] == "breached"


def test_a_change_that_is_certain_and_small_breaches_nothing(watched: Watched) -> None:
    everywhere(watched, lambda f: f.with_columns((pl.col("dryness") + 4).clip(0, 100)), count=3_000)
    found = {each.signal.id: each for each in watched.look().judged}["input-drift"]
    moved = next(each for each in found.windows[0].figures if each.name == "dryness")
    assert 0.01 < moved.value < found.signal.threshold
    assert moved.confirmed(0.001), "so many records leave no doubt that something has moved"
    assert found.verdict == "ok"


def figure(value: float) -> Comparison:
    return Comparison("x", value, 0.0, 1_000)


BREACH = Found("breached", 1_000, (figure(1.0),), frozenset({"x"}))
OTHER = Found("breached", 1_000, (figure(1.0),), frozenset({"y"}))
FINE = Found("ok", 1_000, (figure(0.0),))
SHORT = Found("short", 3)


@pytest.mark.parametrize(
    ("windows", "verdict"),
    [
        ((BREACH, BREACH, FINE), "breached"),
        ((BREACH, BREACH, SHORT), "breached"),
        ((BREACH, FINE, FINE), "ok"),
        ((BREACH, FINE, SHORT), "inconclusive"),
        ((FINE, FINE, SHORT), "ok"),
        ((FINE, SHORT, SHORT), "inconclusive"),
        ((SHORT, SHORT, SHORT), "inconclusive"),
        ((BREACH, OTHER, FINE), "ok"),
        ((), "inconclusive"),
    ],
)
def test_two_of_three(watched: Watched, windows: tuple[Found, ...], verdict: str) -> None:
    signal = watched.look().judged[0].signal.model_copy(update={"breaches": 2, "windows": 3})
    assert decide(signal, windows).verdict == verdict


def test_the_borders_of_a_window_belong_to_one_window_only(watched: Watched) -> None:
    watched.decide(10, decided_at="2026-03-10T12:00:00.000000+00:00")
    watched.decide(20, decided_at="2026-03-09T12:00:00.000000+00:00")
    watched.decide(30, decided_at="2026-03-09T11:59:59.999999+00:00")
    (model,) = watched.look().models
    assert [each.decisions.decisions for each in model.windows] == [20, 30, 0]


def test_what_was_before_a_person_armed_is_not_held_against_the_model_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.monitor import watch

    everywhere(watched, shifted)
    monkeypatch.setattr(watch, "last_armed", lambda _folder, _now: NOW)
    assert watched.verdicts()["input-drift"] == "inconclusive"


def test_the_last_arming_is_read_from_the_audit(watched: Watched) -> None:
    from datetime import UTC, datetime

    from harness.control import arm, hold
    from harness.monitor.watch import last_armed

    folder = watched.tiny.control
    assert last_armed(folder, datetime.now(UTC)) is None
    hold(folder, reason="a test")
    arm(folder, reason="a test")
    assert last_armed(folder, datetime.now(UTC)) is not None
    assert last_armed(folder, NOW) is None, "an arming after the moment that is looked back from"
    (folder / "audit.jsonl").write_text("nonsense\n")
    assert last_armed(folder, datetime.now(UTC)) is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "over: all",
            "over: [slope, wind]",
            "'wind' cannot be watched: the model's reference knows no such field",
        ),
        ("over: all", "over: [reading]", "'reading' cannot be watched: it says whom or what"),
        (
            "measure: performance_drop",
            "measure: performance_drop\n    figure: mae",
            "'mae' is no figure of a decision",
        ),
        ("measure: psi", "measure: psy", "monitoring.yaml signals.0.measure"),
        ("threshold: 0.2\n", "threshold: 0\n", "signals.0.threshold"),
        ("breaches: 2\n", "breaches: 4\n", "4 breaches cannot come out of 3 windows"),
        ("id: input-missing", "id: input-drift", "the signal 'input-drift' is declared twice"),
        ("action: hold", "action: hodl", "signals.0.action"),
        (
            "measure: score_psi",
            "measure: score_psi\n    over: [slope]",
            "'over' says nothing to the measure score_psi",
        ),
        ("without: [due_month]", "without: [slope]\n    over: [slope]", "given twice"),
        (
            "over: all\n    # A day",
            "over: [due_month]\n    # A day",
            "'over' names due_month and 'without' takes it out",
        ),
        (
            "measure: score_psi",
            "measure: score_psi\n    without: [slope]",
            "'without' says nothing to the measure",
        ),
        ("measure: psi", "measure: psi\n    figure: f1", "'figure' says nothing to the measure psi"),
    ],
)
def test_what_monitoring_yaml_cannot_say(watched: Watched, old: str, new: str, says: str) -> None:
    watched.declare(watched.document.replace(old, new, 1))
    with pytest.raises(PilotError, match=r"governance/monitoring\.yaml") as caught:
        watched.look()
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_of_two_actions_the_graver_is_taken_first_and_the_other_tells_of_it(watched: Watched) -> None:
    everywhere(watched, lambda frame: gone(shifted(frame)))
    found = watched.look()
    act(watched.tiny.settings(), found, allowed=True)
    first, second = watched.audit()
    assert (first["action"], second["action"]) == ("rollback", "hold")
    assert "input-drift: slope" in second["reason"]
    assert second["reason"].endswith("(after rollback for input-missing)")
    assert watched.state()["reason"] == second["reason"]


def test_a_field_that_moves_with_the_calendar_can_be_left_out(watched: Watched) -> None:
    everywhere(watched, shifted)
    watched.edit("without: [due_month]", "without: [slope, no_field_of_this_record]")
    found = {each.signal.id: each for each in watched.look().judged}
    assert found["input-drift"].verdict == "ok"
    assert "slope" not in {each.name for window in found["input-drift"].windows for each in window.figures}


def test_a_number_has_no_categories(watched: Watched) -> None:
    text = watched.document
    at = text.index("measure: new_category_share")
    watched.declare(text[:at] + text[at:].replace("over: all", "over: [slope]", 1))
    with pytest.raises(PilotError, match="'slope' is a number, and has no categories"):
        watched.look()


def test_a_package_without_a_reference_and_a_pilot_without_a_model_say_so(watched: Watched) -> None:
    (watched.tiny.models / watched.digest / "reference.json").unlink()
    with pytest.raises(Inconclusive, match=r"packaged without a reference.*Run `pilot run`"):
        watched.look()
    watched.tiny.put(rev=9)
    with pytest.raises(Inconclusive, match="no model is named"):
        watched.look()


def test_champion_and_challenger_are_both_watched(watched: Watched) -> None:
    from harness.control import Slot

    other = watched.tiny.package(weight=0.9).digest
    watched.tiny.put(
        rev=9,
        stage="early",
        champion=Slot(digest=watched.digest, pct=100),
        challenger=Slot(digest=other, pct=10),
    )
    everywhere(watched, shifted, assigned="champion")
    found = watched.look()
    assert [(model.role, model.digest) for model in found.models] == [
        ("challenger", other),
        ("champion", watched.digest),
    ]
    verdicts = {
        (model.role, each.signal.id): each.verdict for model in found.models for each in model.signals
    }
    assert verdicts["champion", "input-drift"] == "breached"
    assert verdicts["challenger", "input-drift"] == "inconclusive"
    act(watched.tiny.settings(), found, allowed=True)
    assert [entry["action"] for entry in watched.audit()] == ["hold"]


@pytest.mark.parametrize(
    "values", [{"slope": "steep"}, {"slope": 7, "soil": 3}, {"extra": [1]}, {"covered": "true"}]
)
def test_records_of_another_contract_are_counted_as_far_as_they_go(
    watched: Watched, values: dict[str, Any]
) -> None:
    everywhere(watched, record=json.dumps(values))
    (model,) = watched.look().models
    assert model.windows[0].decisions.decisions == 600
    assert model.windows[0].fields["dryness"].missing == 600


def test_a_rare_value_that_the_reference_happens_not_to_hold_is_no_new_category(watched: Watched) -> None:
    def sprinkled(frame: pl.DataFrame) -> pl.DataFrame:
        some = pl.int_range(pl.len()) % 300 == 0
        return frame.with_columns(pl.when(some).then(pl.lit("peat")).otherwise(pl.col("soil")).alias("soil"))

    everywhere(watched, sprinkled)
    assert watched.verdicts()["input-new-category"] == "ok"


def test_the_world_that_these_tests_draw_has_the_shares_that_they_speak_of() -> None:
    frame = drawn(4_000, seed=1)
    assert frame["crop"].null_count() / frame.height == pytest.approx(0.02, abs=0.01)
    assert (frame["soil"] == "sand").mean() == pytest.approx(0.1, abs=0.02)
