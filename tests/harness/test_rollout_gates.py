"""What a stage has to have shown: each thing that a gate asks for is taken away once, and it says no."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from governed import Governed
from harness.control import Slot, State, read_audit
from harness.control.audit import AUDIT, append
from harness.control.state import write_state
from harness.pipeline import lineage, record
from harness.readiness import examine
from harness.rollout import signals, trial
from harness.rollout.standing import Unclear, standing
from trialling import NOW, OLD, Pairs, Trialling, ago

Do = Callable[[Trialling, Pairs], None]


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Pairs:
    """What the time in shadow came to."""
    found = Pairs()
    monkeypatch.setattr(trial, "summary", lambda *_: found)
    return found


@pytest.fixture
def trialling(tiny: Any) -> Trialling:
    return Trialling(tiny).start()


def shadow(trialling: Trialling) -> None:
    """Everything in place to leave shadow."""
    trialling.enter("shadow")
    trialling.monitored()
    trialling.drilled()


def early(trialling: Trialling, **options: Any) -> None:
    """Everything in place to leave early, unless told otherwise."""
    trialling.enter("early")
    trialling.decide(12_000, **{"wrong": (0.03, 0.03), **options})
    trialling.monitored()
    trialling.drilled()


def test_a_trial_in_shadow_that_shows_everything_may_go_on(trialling: Trialling, pairs: Pairs) -> None:
    shadow(trialling)
    assert trialling.asked("early") == {}


def test_an_early_stage_that_shows_everything_may_go_on(trialling: Trialling) -> None:
    early(trialling)
    assert trialling.asked("broad") == {}


def test_a_broad_stage_that_shows_everything_may_go_on_beside_a_champion(trialling: Trialling) -> None:
    trialling.enter("broad", days=70, champion=OLD)
    trialling.decide(20_000, since=65, wrong=(0.03, 0.03))
    trialling.monitored()
    trialling.drilled()
    assert trialling.asked("full") == {}


# ---------------------------------------------------------------- leaving shadow: one fault each
def young(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.lines.clear()
    trialling.enter("shadow", days=13.9)


def few_pairs(_trialling: Trialling, pairs: Pairs) -> None:
    pairs.pairs, pairs.agreeing = 999, 999


def no_pairs(_trialling: Trialling, pairs: Pairs) -> None:
    pairs.pairs, pairs.agreeing, pairs.first_at, pairs.last_at = 0, 0, None, None


def short(_trialling: Trialling, pairs: Pairs) -> None:
    pairs.days = 11


def long_ago(_trialling: Trialling, pairs: Pairs) -> None:
    pairs.last_at = ago(5).isoformat()


def ahead(_trialling: Trialling, pairs: Pairs) -> None:
    pairs.last_at = (NOW + timedelta(hours=2)).isoformat()


def disagrees(_trialling: Trialling, pairs: Pairs) -> None:
    pairs.agreeing = 2_300


def hardly_agrees(_trialling: Trialling, pairs: Pairs) -> None:
    pairs.agreeing = 2_430


def few_entities(_trialling: Trialling, pairs: Pairs) -> None:
    pairs.agreeing, pairs.entities = 3_000, 99


def entities_disagree(_trialling: Trialling, pairs: Pairs) -> None:
    pairs.agreeing, pairs.apart = 3_000, 0.3


def fails(_trialling: Trialling, pairs: Pairs) -> None:
    pairs.errors = 300


def dropped(_trialling: Trialling, pairs: Pairs) -> None:
    pairs.dropped = 160


def unmonitored(trialling: Trialling, _pairs: Pairs) -> None:
    (trialling.tiny.root / signals.REPORT).unlink()


def old_report(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.monitored(at=NOW - timedelta(hours=27))


def report_of_another(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.monitored(digest="d" * 64)


def report_of_before(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.lines.clear()
    trialling.enter("shadow", days=0.01)


def damaged_report(trialling: Trialling, _pairs: Pairs) -> None:
    (trialling.tiny.root / signals.REPORT).write_text("{")


def raised(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.monitored(input_drift="breached")


def could_not_be_measured(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.monitored(input_drift="failed")


def too_little_to_say(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.monitored(input_drift="inconclusive")


def not_in_the_report(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.monitored(input_drift="absent")


def no_drill(trialling: Trialling, _pairs: Pairs) -> None:
    (trialling.tiny.root / "evidence" / "drills" / "kill.json").unlink()


def no_drill_of_the_data(trialling: Trialling, _pairs: Pairs) -> None:
    (trialling.tiny.root / "evidence" / "drills" / "data-quality.json").unlink()


def no_drill_of_the_delivery(trialling: Trialling, _pairs: Pairs) -> None:
    (trialling.tiny.root / "evidence" / "drills" / "integration.json").unlink()


def no_drill_of_the_load(trialling: Trialling, _pairs: Pairs) -> None:
    (trialling.tiny.root / "evidence" / "drills" / "load.json").unlink()


def failed_drill_of_the_data(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(only="data-quality", passed=False, verdict="failed", checks=[FAILED])


def old_drill_of_the_delivery(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(ago(31), only="integration")


def old_drill(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(ago(31))


def drill_ahead(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(ago(-1))


FAILED = {"name": "kill", "outcome": "failed", "detail": "a model decided"}


def failed_drill(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(passed=False, verdict="failed", checks=[FAILED])


def contradictory_drill(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(checks=[FAILED])


def drill_of_other_code(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(
        trees={"src": "0" * 40, "harness": lineage.committed_tree(trialling.tiny.root, "harness")}
    )


def drill_of_another_model(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(model=OLD)


def drill_of_no_model(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(model="")


def drill_of_no_code(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(trees={})


def another_drill(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(drill="restore")


def undated_drill(trialling: Trialling, _pairs: Pairs) -> None:
    trialling.drilled(produced_at="yesterday")


@pytest.mark.parametrize(
    ("do", "check", "says"),
    [
        (young, "trial.lasted", ": it is in force since"),
        (few_pairs, "trial.spanned", "? whether it does well: 999 pairs"),
        (no_pairs, "trial.spanned", "? whether it does well: 0 pairs"),
        (no_pairs, "trial.agreement", "? whether it agrees"),
        (no_pairs, "trial.errors", "? how often it fails"),
        (no_pairs, "trial.dropped", "? how often it was not run"),
        (short, "trial.spanned", ": it has decisions on 11 days since 2026-01-09, and 12 are wanted"),
        (long_ago, "trial.spanned", "? how it does now: it has said nothing since"),
        (ahead, "trial.spanned", "? how long decisions were made"),
        (disagrees, "trial.agreement", ": 2,300 of 3,000 pairs agree (76.7%)"),
        (hardly_agrees, "trial.agreement", "? whether it agrees in 80%: 2,430 of 3,000 pairs agree (81.0%)"),
        (few_entities, "trial.agreement", "? whether it agrees in 80%: 3,000 of 3,000 pairs agree (100.0%)"),
        (entities_disagree, "trial.agreement", "(100.0%), 70.0% over 1,500 entities, shown is"),
        (fails, "trial.errors", ": it failed in 300 of 3,300 runs, more than 5%"),
        (dropped, "trial.dropped", ": it was not run beside 5.1% of decisions"),
        (unmonitored, "trial.quiet", "? what the monitor says: it has not run"),
        (old_report, "trial.quiet", "? what the monitor says today"),
        (report_of_another, "trial.quiet", "? what the monitor says of model"),
        (report_of_before, "trial.quiet", "? what the monitor says of this stage"),
        (damaged_report, "trial.quiet", "cannot be read"),
        (raised, "trial.quiet", ": input-drift: breached"),
        (could_not_be_measured, "trial.quiet", ": input-drift: failed"),
        (too_little_to_say, "trial.quiet", "? whether signals are quiet. input-drift: inconclusive"),
        (not_in_the_report, "trial.quiet", "? whether signals are quiet. input-drift: not in the report"),
        (no_drill, "trial.drilled", "? whether a kill stops the model"),
        (no_drill_of_the_data, "trial.drilled_data", "? whether bad data is set aside"),
        (no_drill_of_the_delivery, "trial.drilled_integration", "? whether each decision reaches"),
        (failed_drill_of_the_data, "trial.drilled_data", "the last drill came out failed"),
        (no_drill_of_the_load, "trial.drilled_load", "? whether it sheds what is too much"),
        (old_drill_of_the_delivery, "trial.drilled_integration", "longer ago than 30 days"),
        (old_drill, "trial.drilled", "longer ago than 30 days"),
        (drill_ahead, "trial.drilled", "which has not come yet"),
        (failed_drill, "trial.drilled", "the last drill came out failed"),
        (contradictory_drill, "trial.drilled", "? whether a kill stops the model"),
        (another_drill, "trial.drilled", "? whether a kill stops the model"),
        (undated_drill, "trial.drilled", "? whether a kill stops the model"),
        (drill_of_other_code, "trial.drilled", "it was drilled with other code: src"),
        (drill_of_no_code, "trial.drilled", "it was drilled with other code"),
        (drill_of_another_model, "trial.drilled", "json: model cccccccccccc was drilled, and "),
        (drill_of_no_model, "trial.drilled", " is on trial"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_one_fault_keeps_the_model_in_shadow(
    trialling: Trialling, pairs: Pairs, do: Do, check: str, says: str
) -> None:
    shadow(trialling)
    do(trialling, pairs)
    found = trialling.asked("early")
    assert says in found[check]
    assert found[check].startswith("?") is says.startswith("?") or not says.startswith(("?", ":"))


def test_without_kept_pairs_nothing_leaves_shadow(
    trialling: Trialling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise Unclear("what the model would have decided: this version keeps no pairs", "Update it.")

    monkeypatch.setattr(trial, "summary", none)
    shadow(trialling)
    found = trialling.asked("early")
    for check in ("trial.spanned", "trial.agreement", "trial.errors", "trial.dropped"):
        assert found[check].startswith("? what the model would have decided")


# ---------------------------------------------------------------- leaving early: one fault each
@pytest.mark.parametrize(
    ("options", "check", "says"),
    [
        ({"failing": 0.1}, "trial.guardrails", "errors: "),
        ({"late": 0.12}, "trial.guardrails", "late-answers: "),
        ({"why": "model_busy", "served_by": "fallback"}, "trial.guardrails", "fallbacks: "),
        ({"wrong": (0.12, 0.03)}, "trial.guardrails", "wrong-decisions: 1"),
        ({"wrong": None}, "trial.guardrails", "? whether every guardrail holds. wrong-decisions: 0 entities"),
        ({"failing": 0.018}, "trial.guardrails", "? whether every guardrail holds. errors: "),
        ({"sandbox": True}, "trial.spanned", "? whether it does well: 0 decisions"),
        ({"stage": "shadow"}, "trial.spanned", "? whether it does well: 0 decisions"),
        ({"revision": 4}, "trial.spanned", "? whether it does well: 0 decisions"),
        ({"model_digest": OLD}, "trial.spanned", "? whether it does well: 0 decisions"),
        ({"since": 10.0}, "trial.spanned", "it has decisions on 11 days since 2026-01-09, and 23 are wanted"),
        ({"until": 4.5}, "trial.spanned", "? how it does now"),
        ({"keep": lambda place: place > 10 or place <= 7}, "trial.shares", "have the model (7"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_one_fault_keeps_the_model_in_early(
    trialling: Trialling, options: dict[str, Any], check: str, says: str
) -> None:
    early(trialling, **options)
    found = trialling.asked("broad")
    assert says in found[check]
    assert found[check].startswith("?") is says.startswith("?"), "refused, or not known"


def test_one_entity_that_decides_all_the_time_is_one_entity(trialling: Trialling) -> None:
    """Sixty entities with two hundred decisions each are no twelve thousand."""
    trialling.enter("early")
    trialling.decide(60, each=200, wrong=(0.03, 0.03))
    trialling.monitored()
    trialling.drilled()
    assert "entities with the model, and 100 are needed" in trialling.asked("broad")["trial.guardrails"]


def test_days_on_which_the_model_was_stopped_are_no_days_of_the_stage(trialling: Trialling) -> None:
    """The service goes on, the fallback decides: by a kill, by what a remote control says, by a breaker."""
    trialling.enter("early")
    trialling.decide(6_000, since=50, until=45, wrong=(0.03, 0.03))
    stopped = {"assigned": "fallback", "served_by": "fallback", "model_digest": None, "bucket": None}
    trialling.decide(2_000, since=44.9, until=30, **stopped, why="killed")
    trialling.decide(2_000, since=29.9, until=20, **stopped, why="remote_killed")
    trialling.decide(2_000, since=19.9, until=1, served_by="fallback", why="breaker_open")
    another = {"assigned": "champion", "served_by": "model", "model_digest": OLD, "why": "assigned"}
    trialling.decide(500, since=44, until=2, **another)
    trialling.decide(6_000, since=0.5, wrong=(0.03, 0.03))
    told = trialling.asked("broad")["trial.spanned"]
    assert told == ": it has decisions on 7 days since 2026-01-09, and 23 are wanted"


def test_days_of_before_a_person_armed_are_no_days_of_the_stage(trialling: Trialling) -> None:
    trialling.enter("early", rev=6)
    trialling.decide(6_000, since=50, until=10, wrong=(0.03, 0.03))
    trialling.audit(ago(9), "arm", "mended", 6)
    trialling.decide(12_000, since=8.9, wrong=(0.03, 0.03), revision=6)
    found = trialling.asked("broad")
    assert ": it is in force since 2026-03-01 12:00 UTC, when it was armed (9.0 days" in found["trial.lasted"]
    assert found["trial.spanned"] == ": it has decisions on 10 days since 2026-03-01, and 23 are wanted"


def test_in_shadow_days_without_a_score_are_no_days_of_the_stage(trialling: Trialling) -> None:
    shadow(trialling)
    trialling.run_beside(1_500, since=39, until=36)
    trialling.run_beside(20, since=35, until=2, failing=1.0)
    trialling.run_beside(100, since=1)
    assert ": it has decisions on 6 days" in trialling.asked("early")["trial.spanned"]
    trialling.lines.clear()
    trialling.enter("shadow", rev=6)
    trialling.audit(ago(2), "arm", "mended", 6)
    assert "? whether it does well: 100 pairs" in trialling.asked("early")["trial.spanned"]


def decided_by(trialling: Trialling) -> dict[str, Any]:
    """The columns of a decision by the model, whatever its bucket."""
    arm = {"assigned": "challenger", "why": "assigned", "served_by": "model", "score": 0.7}
    return {**arm, "model_digest": trialling.digest}


def test_one_entity_asked_all_day_shows_no_bound_however_quiet_it_is(trialling: Trialling) -> None:
    trialling.enter("early")
    trialling.decide(1, each=12_000, **decided_by(trialling))
    (found,) = [each for each in trialling.look().judged if each.name == "errors"]
    assert (found.verdict, found.shown, found.decisions) == ("quiet", False, 12_000)
    assert "0.0% over 1 entities, and 100 are needed" in found.why


def test_entities_that_fail_are_not_hidden_by_one_that_asks_all_day(trialling: Trialling) -> None:
    """A hundredth of the decisions fails, and nine tenths of the entities."""
    trialling.enter("early")
    trialling.decide(1, each=12_000, **decided_by(trialling))
    trialling.decide(1_200, failing=0.9)
    (found,) = [each for each in trialling.look().judged if each.name == "errors"]
    assert found.treated is not None
    assert found.treated < 0.02
    assert found.verdict == "breached"


def test_in_shadow_one_entity_asked_all_day_shows_no_agreement(trialling: Trialling) -> None:
    shadow(trialling)
    trialling.run_beside(1, each=3_000)
    told = trialling.asked("early")["trial.agreement"]
    assert told.startswith("? whether it agrees in 80%: 2,8")
    assert "over 1 entities, and 100 are needed" in told
    trialling.run_beside(600)
    assert trialling.asked("early") == {}


def test_in_shadow_entities_that_differ_are_not_hidden_by_one_that_asks_all_day(trialling: Trialling) -> None:
    shadow(trialling)
    trialling.run_beside(1, each=9_000, agreeing=1.0)
    trialling.run_beside(300, agreeing=0.3, failing=0.3)
    found = trialling.asked("early")
    assert "and above 80% is wanted" in found["trial.agreement"]
    assert "runs, more than 5%" in found["trial.errors"]
    assert trialling.verdicts()["shadow-errors"] == "breached"


def test_one_arm_without_anybody_shows_nothing(trialling: Trialling) -> None:
    early(trialling, keep=lambda place: place <= 10)
    assert trialling.asked("broad")["trial.shares"].startswith("? whether entities fall into the arms")


def test_a_gate_looks_back_on_the_stage_before_it_only(trialling: Trialling, pairs: Pairs) -> None:
    shadow(trialling)
    found = trialling.asked("broad")
    assert found["trial.guardrails"].startswith(
        "? what the stage 'early' has shown: the pilot is in 'shadow'"
    )


def test_without_a_model_on_trial_or_in_the_sandbox_nothing_is_known(trialling: Trialling) -> None:
    trialling.enter("shadow")
    trialling.tiny.put(rev=5, stage="shadow")
    assert "no model is on trial in it" in trialling.asked("early")["trial.lasted"]
    trialling.tiny.put(rev=5, stage="sandbox", challenger=Slot(digest=trialling.digest, pct=100))
    assert "the pilot is in 'sandbox'" in trialling.asked("early")["trial.lasted"]


# ---------------------------------------------------------------- clocks
@pytest.mark.parametrize("wrong", [timedelta(hours=1), timedelta(hours=-1)])
def test_32_a_clock_an_hour_off_promotes_nobody_early(
    trialling: Trialling, pairs: Pairs, wrong: timedelta
) -> None:
    shadow(trialling)
    trialling.lines.clear()
    trialling.enter("shadow", days=14 - 1 / 48)  # half an hour is missing
    assert "trial.lasted" in trialling.asked("early", NOW + wrong)
    trialling.lines.clear()
    trialling.enter("shadow", days=14 - 1 / 48 - wrong / timedelta(days=1))  # the clock was off at the start
    assert "trial.lasted" in trialling.asked("early", NOW)


def test_32_audit_times_that_go_back_leave_it_open_how_long_a_stage_lasted(
    trialling: Trialling, pairs: Pairs
) -> None:
    shadow(trialling)
    trialling.audit(ago(50), "hold", "x", 5)
    assert trialling.asked("early") == {}
    trialling.audit(ago(51), "arm", "x", 5)
    assert "the audit's times do not grow" in trialling.asked("early")["trial.lasted"]


def test_32_an_audit_from_the_future_leaves_it_open(trialling: Trialling, pairs: Pairs) -> None:
    shadow(trialling)
    assert "do not grow up to now" in trialling.asked("early", ago(70))["trial.lasted"]


def test_an_audit_that_cannot_be_read_keeps_every_gate_shut(trialling: Trialling, pairs: Pairs) -> None:
    """The controller does without it, and a gate never."""
    shadow(trialling)
    with (trialling.tiny.control / AUDIT).open("a") as stream:
        stream.write('{"at": "2026-03-0')
    found = trialling.asked("early")
    for check in ("trial.lasted", "trial.spanned", "trial.agreement", "trial.quiet"):
        assert found[check].startswith("? since when the stage 'shadow' is in force")


def state(stage: Any, rev: int) -> State:
    return State(rev=rev, stage=stage, flag_key="x", actor="x", reason="x", changed_at="x")


def entries(*said: tuple[float, str, str, int]) -> list[dict[str, Any]]:
    return [
        {"at": ago(days).isoformat(), "action": action, "reason": reason, "revision": revision}
        for days, action, reason, revision in said
    ]


def test_a_stage_begins_with_the_promotion_or_rollback_into_it() -> None:
    lines = entries(
        (9, "approve", "sandbox → shadow, model x: y", 1),
        (8, "approve", "shadow → early, model x: y", 2),
        (7, "rollback", "too many errors", 3),
        (6, "arm", "mended", 4),
        (5, "propose", "shadow → early, model x: y", 4),
    )
    found = standing(state("shadow", 4), lines, NOW)
    assert (found.entered_at, found.revision) == (ago(7), 3)
    assert (found.judged_at, found.judged) == (ago(6), 4)
    assert standing(state("early", 2), lines[:2], NOW).entered_at == ago(8)


def test_a_rollback_that_could_not_be_written_down_counts_from_the_next_line() -> None:
    lines = entries((8, "approve", "shadow → early, model x: y", 2), (3, "arm", "mended", 4))
    assert standing(state("shadow", 4), lines, NOW).entered_at == ago(3)
    with pytest.raises(Unclear, match="speaks of another"):
        standing(state("shadow", 5), lines, NOW)
    with pytest.raises(Unclear, match="speaks of another"):
        standing(state("broad", 2), lines[:1], NOW)
    with pytest.raises(Unclear, match="no line of the audit says it"):
        standing(state("broad", 2), [], NOW)


# ---------------------------------------------------------------- within readiness
def test_26_metrics_that_stopped_are_inconclusive_and_promote_exits_3(
    tiny: Any, tmp_path: Any, pilot_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else is in order: without decisions on record the answer is 3, and nothing is proposed."""
    governed = Governed(tiny, tmp_path / "control")
    digest = record.read(governed.root).model
    governed.control.mkdir(exist_ok=True)
    values = {"rev": 1, "stage": "early", "challenger": Slot(digest=digest, pct=10), "flag_key": "dryfield"}
    write_state(governed.control, State(**values, actor="x", reason="x", changed_at="x"))
    append(governed.control, actor="x", action="approve", reason="shadow → early, model x: y", revision=1)
    governed.loaded()
    governed.settle("broad")
    report = examine(governed.settings(), now=None)
    refused = {each.check for each in report.missing if each.status == "refused"}
    assert refused <= {"trial.lasted"}
    monkeypatch.setattr("harness.rollout.standing.Standing.lasted", lambda *_: timedelta(days=99))
    report = examine(governed.settings())
    assert {each.check for each in report.missing if each.status == "unknown"} >= {"trial.spanned"}
    assert report.exit_code == 3
    done = pilot_here("promote", "--reason", "we want it")
    assert done.returncode == 3
    assert "INCONCLUSIVE at broad" in done.stdout
    assert "What the stage in force has shown" in done.stdout
    assert [each["action"] for each in read_audit(governed.control)] == ["approve", "refuse"]


@pytest.mark.parametrize("graver", ["breached", "failed", "inconclusive", "a word of a later version"])
@pytest.mark.parametrize("first", ["champion", "challenger"])
def test_a_signal_of_a_model_in_two_roles_says_what_is_graver(
    trialling: Trialling, graver: str, first: str
) -> None:
    trialling.enter("early")
    trialling.monitored()
    file = trialling.tiny.root / signals.REPORT
    said = json.loads(file.read_text())
    said["models"] = [{"role": role, "digest": trialling.digest} for role in ("champion", "challenger")]
    said["signals"] = [
        {"id": "input-drift", "model": role, "verdict": graver if role == first else "ok", "why": role}
        for role in ("champion", "challenger")
    ]
    file.write_text(json.dumps(said))
    found = signals.latest(trialling.tiny.root, trialling.digest, NOW, ago(1))
    assert (found.verdicts, found.why) == ({"input-drift": graver}, {"input-drift": first})
    said["signals"].append({"id": "input-drift", "model": first, "verdict": "breached", "why": "most of all"})
    said["signals"].append({"id": "input-drift", "model": first, "verdict": "failed", "why": "less"})
    file.write_text(json.dumps(said))
    found = signals.latest(trialling.tiny.root, trialling.digest, NOW, ago(1))
    assert found.verdicts == {"input-drift": "breached"}


def test_the_monitors_report_lies_where_the_monitor_writes_it() -> None:
    from harness.monitor import report

    assert report.FOLDER / "latest.json" == signals.REPORT
