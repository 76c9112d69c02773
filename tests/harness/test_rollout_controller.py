"""The controller takes a model back on a breach, promotes nothing, and says what it cannot see."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.control import SENTINEL, Control, Slot, kill, read_audit, read_state, roll_back
from harness.control.audit import AUDIT, END, _hash, append
from harness.errors import PilotError
from harness.governance import read
from harness.governance.rollout import Rollout
from harness.rollout import champion, controller, trial
from harness.rollout.standing import Unclear
from trialling import NOW, OLD, Pairs, Trialling, ago

Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def trialling(tiny: Any) -> Trialling:
    return Trialling(tiny).start()


def acted(trialling: Trialling) -> controller.Look:
    return controller.act(trialling.tiny.settings(), trialling.look())


# ---------------------------------------------------------------- seeing and acting
def test_a_model_that_is_no_worse_stays(trialling: Trialling) -> None:
    trialling.enter("early")
    trialling.decide(4_000, wrong=(0.03, 0.03), failing=0.01, late=0.02)
    seen = acted(trialling)
    assert (seen.verdict, seen.exit_code, seen.response) == ("quiet", 0, None)
    assert trialling.verdicts() == dict.fromkeys(
        ("errors", "late-answers", "fallbacks", "wrong-decisions"), "quiet"
    )
    state = read_state(trialling.tiny.control)
    assert state is not None
    assert (state.rev, state.stage, state.latched) == (5, "early", False)


def test_25_a_fault_from_3_to_10_percent_is_rolled_back_within_the_measured_number_and_latched(
    trialling: Trialling,
) -> None:
    """Wrong decisions, 3 of 100 without the model and 10 with it: 153 entities with it at the median."""
    trialling.enter("early")
    trialling.edit(
        "name: wrong-decisions, measure: loss, margin: 0.05", "name: wrong, measure: loss, margin: 0.05"
    )
    for _ in range(8):
        trialling.decide(500, wrong=(0.10, 0.03))
        seen = acted(trialling)
        if seen.response:
            break
    (found,) = seen.breached
    assert (found.name, seen.exit_code) == ("wrong", 1)
    assert found.decisions <= 400
    state = read_state(trialling.tiny.control)
    assert state is not None
    assert (state.stage, state.latched, state.challenger) == (
        "shadow",
        True,
        Slot(digest=trialling.digest, pct=0),
    )
    last = read_audit(trialling.tiny.control)[-1]
    assert last["action"] == "rollback"
    assert "wrong: " in last["reason"]
    assert "entities with the model" in last["reason"]
    again = acted(trialling)
    assert (again.verdict, again.response) == ("quiet", None)
    assert again.idle.startswith("stopped")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"failing": 0.10}, "errors"),
        ({"late": 0.12}, "late-answers"),
        ({"why": "model_busy", "served_by": "fallback"}, "fallbacks"),
        ({"why": "model_too_slow", "served_by": "fallback"}, "late-answers"),
        ({"wrong": (0.3, 0.03)}, "wrong-decisions"),
    ],
)
def test_each_guardrail_takes_the_model_back(
    trialling: Trialling, options: dict[str, Any], name: str
) -> None:
    trialling.enter("early")
    trialling.decide(3_000, **options)
    seen = acted(trialling)
    assert name in {each.name for each in seen.breached}
    assert seen.response is not None
    assert seen.response.taken
    assert Control(trialling.tiny.control).permission("plot 1").arm == "fallback"


@pytest.mark.parametrize("options", [{"sandbox": True}, {"stage": "shadow"}, {"revision": 4}])
def test_decisions_of_the_sandbox_or_of_another_stage_count_for_nothing(
    trialling: Trialling, options: dict[str, Any]
) -> None:
    trialling.enter("early")
    trialling.decide(3_000, failing=0.5, **options)
    seen = acted(trialling)
    assert (seen.verdict, seen.exit_code, seen.response) == ("inconclusive", 3, None)


def test_what_a_person_has_judged_is_not_held_against_the_model_again(trialling: Trialling) -> None:
    trialling.enter("early")
    trialling.decide(3_000, failing=0.5)
    assert trialling.verdicts()["errors"] == "breached"
    trialling.audit(ago(0.5), "arm", "a cable", 6)
    trialling.tiny.put(rev=6, stage="early", challenger=Slot(digest=trialling.digest, pct=10))
    assert trialling.verdicts()["errors"] == "inconclusive"


def test_26_a_store_that_does_not_answer_is_inconclusive_and_changes_nothing(
    trialling: Trialling, pilot_here: Here
) -> None:
    trialling.enter("early")
    nowhere = "postgresql+psycopg://127.0.0.1:1/none?connect_timeout=1"
    done = pilot_here("control", "once", "--json", PILOT_STORE__URL=nowhere)
    found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"], found["taken"]) == (3, "inconclusive", False)
    assert "the store cannot be opened" in found["blind"][0]
    assert read_state(trialling.tiny.control).rev == 5  # type: ignore[union-attr]
    alerts = (trialling.tiny.root / "var" / "alerts" / "alerts.jsonl").read_text()
    assert "cannot see" in alerts


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (lambda t: (t.tiny.root / "governance" / "rollout.yaml").unlink(), "rollout.yaml"),
        (lambda t: t.edit("measure: error_rate", "measure: errors"), "rollout.yaml guardrails.0"),
        (lambda t: (t.tiny.root / "governance" / "rollout.yaml").write_bytes(b"\xff"), "rollout.yaml"),
    ],
    ids=["none", "wrong", "not text"],
)
def test_without_a_rollout_that_can_be_read_the_standards_guardrails_hold(
    trialling: Trialling, do: Callable[[Trialling], Any], says: str
) -> None:
    trialling.enter("early")
    trialling.decide(1_000, failing=0.0)
    do(trialling)
    seen = acted(trialling)
    assert (seen.verdict, seen.exit_code, seen.response) == ("inconclusive", 3, None)
    assert says in seen.blind[0]
    assert "The standard's guardrails hold meanwhile" in seen.blind[0]
    trialling.decide(1_000, failing=0.5)
    seen = acted(trialling)
    assert seen.verdict == "breached"
    assert seen.response is not None
    assert seen.response.taken


@pytest.mark.parametrize(
    ("do", "says"),
    [(lambda t: (t.tiny.control / "state.json").write_text("{"), "cannot be trusted")],
    ids=["damaged state"],
)
def test_what_it_cannot_see_is_inconclusive(
    trialling: Trialling, do: Callable[[Trialling], Any], says: str
) -> None:
    trialling.enter("early")
    trialling.decide(1_000, failing=0.5)
    do(trialling)
    seen = acted(trialling)
    assert (seen.verdict, seen.exit_code, seen.response) == ("inconclusive", 3, None)
    assert says in seen.blind[0]


def half_a_line(trialling: Trialling) -> None:
    with (trialling.tiny.control / AUDIT).open("a") as stream:
        stream.write('{"at": "2026-03-0')


def no_end(trialling: Trialling) -> None:
    (trialling.tiny.control / AUDIT).unlink()
    append(trialling.tiny.control, actor="x", action="approve", reason="shadow → early, x", revision=5)
    (trialling.tiny.control / END).unlink()


def no_file(trialling: Trialling) -> None:
    (trialling.tiny.control / AUDIT).unlink()


def times_that_go_back(trialling: Trialling) -> None:
    trialling.audit(ago(70), "hold", "x", 5)


def times_ahead(trialling: Trialling) -> None:
    trialling.audit(ago(-2), "hold", "x", 5)


def of_another_stage(trialling: Trialling) -> None:
    trialling.audit(ago(1), "approve", "early → broad, model x: y", 5)


def a_line_without_an_action(trialling: Trialling) -> None:
    trialling.audit(ago(1), "hold", "x", 5)
    line = {key: value for key, value in trialling.lines.pop().items() if key not in ("action", "sha256")}
    trialling.lines.append({**line, "sha256": _hash(line)})
    text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in trialling.lines)
    (trialling.tiny.control / AUDIT).write_text(text, encoding="utf-8")


BROKEN = (
    half_a_line,
    no_end,
    no_file,
    times_that_go_back,
    times_ahead,
    of_another_stage,
    a_line_without_an_action,
)


@pytest.mark.parametrize("damage", BROKEN)
def test_an_audit_that_cannot_be_read_does_not_blind_it_to_a_breach(
    trialling: Trialling, damage: Callable[[Trialling], None]
) -> None:
    trialling.enter("early")
    trialling.decide(3_000, failing=0.5)
    damage(trialling)
    seen = acted(trialling)
    assert "errors" in {each.name for each in seen.breached}
    assert (seen.exit_code, len(seen.blind)) == (1, 1)
    assert "everything counts that this stage ever saw" in seen.blind[0]
    assert seen.response is not None
    assert seen.response.taken
    state = read_state(trialling.tiny.control)
    assert state is not None
    assert (state.stage, state.latched) == ("shadow", True)
    controller.tell(trialling.tiny.settings(), seen)
    told = (trialling.tiny.root / "var" / "alerts" / "alerts.jsonl").read_text()
    assert "errors breached" in told
    assert "It acts on the rest." in told


@pytest.mark.parametrize("damage", BROKEN)
def test_an_audit_that_cannot_be_read_is_never_quiet(
    trialling: Trialling, damage: Callable[[Trialling], None]
) -> None:
    trialling.enter("early")
    trialling.decide(4_000, wrong=(0.03, 0.03))
    damage(trialling)
    seen = acted(trialling)
    assert {each.verdict for each in seen.judged} == {"quiet"}
    assert (seen.exit_code, seen.response, len(seen.blind)) == (3, None, 1)


def test_no_guardrails_are_not_quiet() -> None:
    assert controller.Look(NOW, "early").verdict == "inconclusive"


def test_one_guardrail_that_cannot_be_asked_does_not_keep_the_others_from_a_breach(
    trialling: Trialling, monkeypatch: pytest.MonkeyPatch
) -> None:
    trialling.enter("early")
    trialling.decide(3_000, failing=0.5)
    (contract,) = trialling.tiny.root.glob("src/*/contract.py")
    contract.write_text("a contract that is none\n")
    for name in [name for name in sys.modules if name.split(".")[0] == contract.parent.name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(controller, "_silence", lambda _trial: 1 / 0)
    seen = acted(trialling)
    assert {each.name for each in seen.breached} == {"errors", "fallbacks"}
    assert [each.verdict for each in seen.judged if each.name == "wrong-decisions"] == ["inconclusive"]
    assert len(seen.blind) == 2
    assert seen.response is not None
    assert seen.response.taken


@pytest.mark.parametrize("file", [AUDIT, END])
def test_a_rollback_and_a_kill_stand_whatever_the_audit_says(trialling: Trialling, file: str) -> None:
    """A digest that no encoding takes: the next line cannot follow from it."""
    trialling.enter("early")
    (trialling.tiny.control / file).write_text('{"lines": 9, "sha256": "\\ud800"}\n')
    done = roll_back(trialling.tiny.control, reason="x")
    assert (done.action, done.taken) == ("rollback", True)
    assert "the line in audit.jsonl" in done.missing[0]
    assert Control(trialling.tiny.control).permission("plot 1").arm == "fallback"
    stopped = kill(trialling.tiny.control, reason="x")
    assert stopped.state is not None
    assert stopped.state.latched
    assert "the line in audit.jsonl" in stopped.missing[0]


def test_it_has_nothing_to_guard_where_no_model_decides_anything_real(trialling: Trialling) -> None:
    assert trialling.look().idle == "there is no control state, the fallback decides"
    trialling.enter("early")
    trialling.tiny.put(stage="sandbox", challenger=Slot(digest=trialling.digest, pct=100))
    assert trialling.look().idle == "the sandbox decides nothing real"
    trialling.tiny.put(stage="early", latched=True, challenger=Slot(digest=trialling.digest, pct=10))
    assert trialling.look().idle.startswith("stopped (a test")
    kill(trialling.tiny.control, reason="x")
    assert trialling.look().idle == "stopped: the file KILL is there"
    assert trialling.look().exit_code == 0


def test_in_shadow_a_model_that_fails_is_held_back(
    trialling: Trialling, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = Pairs(errors=50)
    monkeypatch.setattr(trial, "summary", lambda *_: pairs)
    trialling.enter("shadow", champion=OLD)
    trialling.decide(500, **CHAMPION, **SERVES)
    assert acted(trialling).verdict == "quiet"
    pairs.errors = 400
    seen = acted(trialling)
    assert [each.name for each in seen.breached] == ["shadow-errors"]
    state = read_state(trialling.tiny.control)
    assert state is not None
    assert (state.held, state.latched, state.champion) == (True, False, Slot(digest=OLD, pct=100))
    found = trialling.look()
    assert {each.name for each in found.judged} == {f"champion: {name}" for name in BOUNDS}
    assert (found.digest, found.idle, found.exit_code) == (OLD, "", 3)
    trialling.tiny.put(stage="shadow", held=True, challenger=Slot(digest=trialling.digest, pct=0))
    assert trialling.look().idle.startswith("taken back and held")


BOUNDS = ("errors", "late-answers", "fallbacks")
CHAMPION = {"assigned": "champion", "model_digest": OLD}
SERVES = {"served_by": "model", "why": "assigned", "score": 0.7}
FAILS = {"served_by": "fallback", "why": "model_failed", "score": None}


@pytest.mark.parametrize("stage", ["shadow", "early", "broad"])
def test_a_champion_beside_a_model_on_trial_is_guarded_and_its_breach_stops_both(
    trialling: Trialling, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "summary", lambda *_: Pairs())
    trialling.enter(stage, champion=OLD)
    if stage != "shadow":
        trialling.decide(3_000)
    trialling.decide(1_000, keep=lambda place: place > 50, **CHAMPION, **FAILS)
    seen = acted(trialling)
    assert {each.name for each in seen.breached} == {"champion: errors", "champion: fallbacks"}
    assert {each.model for each in seen.breached} == {OLD}
    assert (seen.digest, seen.beside) == (trialling.digest, OLD)
    state = read_state(trialling.tiny.control)
    assert state is not None
    assert (state.stage, state.latched) == ("shadow", True)
    assert Control(trialling.tiny.control).permission("plot 1").arm == "fallback"
    assert f"model {OLD[:12]}: champion: errors" in read_audit(trialling.tiny.control)[-1]["reason"]
    controller.tell(trialling.tiny.settings(), seen)
    assert f"Model {OLD[:12]}" in (trialling.tiny.root / "var" / "alerts" / "alerts.jsonl").read_text()


def test_a_champion_is_guarded_while_the_other_is_held_in_shadow(trialling: Trialling) -> None:
    trialling.enter("shadow", champion=OLD, held=True)
    trialling.decide(1_000, **CHAMPION, **FAILS)
    seen = acted(trialling)
    assert seen.response is not None
    assert seen.response.taken
    assert Control(trialling.tiny.control).permission("plot 1").arm == "fallback"


def test_a_champion_is_guarded_without_a_model_on_trial_and_without_an_audit(trialling: Trialling) -> None:
    trialling.enter("early", champion=OLD, challenger=None)
    trialling.decide(1_000, **CHAMPION, **FAILS)
    half_a_line(trialling)
    seen = acted(trialling)
    assert (seen.digest, seen.beside, seen.exit_code) == (OLD, "", 1)
    assert Control(trialling.tiny.control).permission("plot 1").arm == "fallback"


def test_a_model_on_trial_that_is_breached_leaves_the_champion_to_go_on(trialling: Trialling) -> None:
    """And one that does better than the champion is no breach of the champion's."""
    trialling.enter("broad", champion=OLD)
    trialling.decide(3_000, keep=lambda place: place > 50, wrong=(0.5, 0.5), **CHAMPION, **SERVES)
    trialling.decide(3_000, keep=lambda place: place <= 50, wrong=(0.0, 0.0), failing=0.3)
    seen = acted(trialling)
    assert {each.model for each in seen.breached} == {trialling.digest}
    assert "champion: wrong-decisions" not in {each.name for each in seen.judged}
    found = Control(trialling.tiny.control).permission("plot 1")
    assert (found.arm, found.digest) == ("champion", OLD)


def test_in_shadow_without_kept_pairs_it_is_inconclusive(
    trialling: Trialling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise Unclear("no pairs", "x")

    monkeypatch.setattr(trial, "summary", none)
    trialling.enter("shadow")
    assert trialling.look().exit_code == 3


def test_in_full_there_is_nobody_to_compare_with_and_bounds_still_hold(trialling: Trialling) -> None:
    trialling.enter("full")
    trialling.decide(1_000, wrong=(0.5, 0.0))
    assert set(trialling.verdicts()) == {"errors", "late-answers", "fallbacks"}
    trialling.decide(1_000, failing=0.3)
    assert acted(trialling).exit_code == 1
    state = read_state(trialling.tiny.control)
    assert state is not None
    assert (state.stage, state.latched, state.champion) == ("shadow", True, None)
    assert state.challenger == Slot(digest=trialling.digest, pct=0)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("breached", "breached"),
        ("ok", "quiet"),
        ("not_applicable", "quiet"),
        ("failed", "inconclusive"),
        ("inconclusive", "inconclusive"),
        ("absent", "inconclusive"),
    ],
)
def test_a_signal_of_the_monitor_is_a_guardrail(trialling: Trialling, verdict: str, expected: str) -> None:
    trialling.enter("early")
    trialling.edit("# The chance", "  - {name: drift, measure: signal, signal: input-drift}\n# The chance")
    trialling.monitored(input_drift=verdict)
    assert trialling.verdicts()["drift"] == expected
    trialling.monitored(input_drift=verdict, at=NOW - timedelta(hours=27))
    assert trialling.verdicts()["drift"] == "inconclusive"


def test_silence_is_told_and_is_no_breach(trialling: Trialling) -> None:
    trialling.enter("early")
    trialling.decide(3_000, until=0.1, wrong=(0.03, 0.03))
    assert trialling.look().silence == ""
    trialling.edit("# dead_after_s: 3600", "dead_after_s: 3600")
    seen = acted(trialling)
    assert "The last decision is of" in seen.silence
    assert (seen.verdict, seen.response) == ("quiet", None)
    controller.tell(trialling.tiny.settings(), seen)
    assert "nothing is decided" in (trialling.tiny.root / "var" / "alerts" / "alerts.jsonl").read_text()


def test_a_rollback_works_with_an_audit_that_cannot_be_written(trialling: Trialling) -> None:
    trialling.enter("early")
    trialling.decide(3_000, failing=0.5)
    seen = trialling.look()
    (trialling.tiny.control / AUDIT).unlink()
    (trialling.tiny.control / AUDIT).mkdir()
    done = controller.act(trialling.tiny.settings(), seen)
    assert done.response is not None
    assert done.response.taken
    assert "WITHOUT the line in audit.jsonl" in done.done
    assert Control(trialling.tiny.control).permission("plot 1").arm == "fallback"


def test_a_rollback_that_is_not_possible_is_said_and_alerted(
    trialling: Trialling, monkeypatch: pytest.MonkeyPatch
) -> None:
    trialling.enter("early")
    trialling.decide(3_000, failing=0.5)

    def refuse(*_: Any, **__: Any) -> None:
        raise PilotError("no", where="there", mend="Mend it.")

    monkeypatch.setattr(controller, "respond", refuse)
    seen = acted(trialling)
    assert (seen.exit_code, seen.done) == (1, "NOT ROLLED BACK: there: no. Mend it.")
    controller.tell(trialling.tiny.settings(), seen)
    assert "NOT ROLLED BACK" in (trialling.tiny.root / "var" / "alerts" / "alerts.jsonl").read_text()


def test_the_guardrails_share_alpha_by_bonferroni_and_signals_take_none(trialling: Trialling) -> None:
    trialling.enter("early")
    trialling.edit("# The chance", "  - {name: drift, measure: signal, signal: input-drift}\n# The chance")
    settings = trialling.tiny.settings()
    rollout = read(trialling.tiny.root / "governance" / "rollout.yaml", Rollout)
    found = trial.on_trial(settings, rollout, read_state(trialling.tiny.control), NOW)
    found.close()
    assert (len(rollout.guardrails), found.alpha) == (5, rollout.alpha / 4)


# ---------------------------------------------------------------- the verbs
def test_once_takes_back_tells_and_exits_1_and_0_after_that(trialling: Trialling, pilot_here: Here) -> None:
    trialling.enter("early")
    trialling.decide(3_000, failing=0.5)
    done = pilot_here("control", "once")
    assert done.returncode == 1, done.stderr
    assert "BREACHED  stage early" in done.stdout
    assert "breached     errors" in done.stdout
    assert "rollback taken (revision 6)" in done.stdout
    assert "errors breached" in (trialling.tiny.root / "var" / "alerts" / "alerts.jsonl").read_text()
    done = pilot_here("control", "once", "--json")
    assert (done.returncode, json.loads(done.stdout)["idle"][:7]) == (0, "stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_takes_back_while_it_runs_and_ends_when_told(
    trialling: Trialling, environment: dict[str, str], pilot_here: Here, number: int
) -> None:
    trialling.enter("early")
    trialling.decide(1_000)
    command = [sys.executable, "-m", "harness.cli", "control", "run", "--every", "0.2"]
    process = subprocess.Popen(
        command,
        cwd=trialling.tiny.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Guarding Dry field")
        assert "INCONCLUSIVE  stage early" in process.stdout.readline()
        done = pilot_here("control", "run")
        assert done.returncode == 2
        assert "another controller of this pilot runs" in done.stderr
        trialling.decide(3_000, failing=0.5)
        deadline = time.monotonic() + 30
        # The state comes first and its line after it: a signal in between would find it unwritten.
        record = trialling.tiny.control / AUDIT
        while '"rollback"' not in record.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        state = read_state(trialling.tiny.control)
        assert state is not None
        assert (state.stage, state.latched) == ("shadow", True)
        process.send_signal(number)
        said, wrong = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 0, wrong
    assert "Ended. Nobody guards the rollout now." in said
    assert "Traceback" not in wrong
    assert [each["action"] for each in read_audit(trialling.tiny.control)].count("rollback") == 1


def test_rollback_is_one_step_and_says_who_decides(trialling: Trialling, pilot_here: Here) -> None:
    trialling.enter("early", champion=OLD)
    done = pilot_here("rollback", "--reason", "complaints")
    assert done.returncode == 0, done.stderr
    assert "ROLLED BACK: stage shadow (revision 6), the champion goes on deciding." in done.stdout
    found = Control(trialling.tiny.control).permission("plot 1")
    assert (found.arm, found.digest) == ("champion", OLD)
    state = read_state(trialling.tiny.control)
    assert state is not None
    assert (state.held, state.latched, state.challenger) == (
        True,
        False,
        Slot(digest=trialling.digest, pct=0),
    )
    again = pilot_here("rollback", "--reason", "again", "--json")
    assert json.loads(again.stdout)["taken"] is False
    assert [each["reason"] for each in read_audit(trialling.tiny.control)][-1] == "complaints"


def test_rollback_without_a_champion_leaves_the_fallback_and_a_damaged_state_becomes_a_kill(
    trialling: Trialling, pilot_here: Here
) -> None:
    trialling.enter("broad")
    assert "the fallback decides" in pilot_here("rollback", "--reason", "complaints").stdout
    (trialling.tiny.control / "state.json").write_text("{")
    done = pilot_here("rollback", "--reason", "complaints")
    assert (done.returncode, done.stdout.startswith("STOPPED")) == (0, True)
    assert (trialling.tiny.control / SENTINEL).exists()


def test_a_rollback_needs_a_reason(trialling: Trialling, pilot_here: Here) -> None:
    trialling.enter("broad")
    assert pilot_here("rollback", "--reason", " ").returncode == 2
    assert read_state(trialling.tiny.control).rev == 5  # type: ignore[union-attr]


def test_a_champion_that_gives_the_reason_is_stopped_too(trialling: Trialling) -> None:
    trialling.enter("early", champion=OLD)
    state = roll_back(trialling.tiny.control, reason="x", of=OLD).state
    assert state is not None
    assert (state.stage, state.latched) == ("shadow", True)
    assert Control(trialling.tiny.control).permission("plot 1").arm == "fallback"


# ---------------------------------------------------------------- MLflow
def test_a_champion_that_mlflow_does_not_name_yet_is_named_later(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    down = [True]

    def crown(_settings: Any, digest: str) -> int:
        if down[0]:
            raise PilotError("MLflow does not name it", where="[tracking] uri", mend="Bring it back.")
        named.append(digest)
        return 1

    monkeypatch.setattr("harness.tracking.crown", crown)
    settings = tiny.settings()
    assert champion.pay(settings) == ""
    assert "`pilot control once` names the champion later" in champion.owe(settings, "a" * 64)
    assert "MLflow does not name it" in champion.pay(settings)
    down[0] = False
    assert champion.pay(settings) == ""
    assert named == ["a" * 64]
    assert not (tiny.root / champion.OWED).exists()
    assert champion.pay(settings) == ""


def test_a_lock_that_cannot_be_made_keeps_no_controller_from_looking(tiny: Any) -> None:
    (tiny.root / "var").mkdir(exist_ok=True)
    (tiny.root / "var" / "run").write_text("a file where a folder is wanted")
    with controller.alone(tiny.settings()):
        assert os.getpid()


def test_two_controllers_do_not_run_at_once(tiny: Any) -> None:
    second = controller.alone(tiny.settings())
    with controller.alone(tiny.settings()), pytest.raises(PilotError, match="another controller"), second:
        pass
    with controller.alone(tiny.settings()):
        assert Path(tiny.root / controller.LOCK).exists()
