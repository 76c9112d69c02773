"""The model decides only while it may and can; whatever happens, each decision is one, and on record."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import pytest

from harness.control import SENTINEL, Slot, arm, kill
from harness.control.state import STATE
from harness.errors import PilotError
from harness.pilot import Answer, Reason
from harness.serving import lane, running, service
from harness.serving.listener import listen
from harness.serving.server import check_stage, loopback
from harness.store import StoreUnavailable

A = "a" * 64


@pytest.fixture(autouse=True)
def patient(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what is tested here is a time-out, on whatever machine."""
    monkeypatch.setenv("PILOT_SERVING__BUDGET_MS", "20000")


def test_the_model_decides_with_score_reasons_and_digest(tiny: Any) -> None:
    digest = tiny.offered()
    made = tiny.service().decide(tiny.parsed(dryness=80.0))
    assert (made.served_by, made.assigned, made.why) == ("model", "challenger", "assigned")
    assert (made.decision, made.score, made.model_digest) == ("water", pytest.approx(0.8), digest)
    assert made.reasons == [{"feature": "dryness", "value": 0.8, "effect": 0.8}]
    assert (made.stage, made.revision, made.sandbox) == ("sandbox", 1, True)
    assert (made.entity, made.record_key) == ("Äcker-7", "r-1")


@pytest.mark.parametrize(
    ("dryness", "decision"), [(0, "skip"), (49.9, "skip"), (50, "water"), (100, "water")]
)
def test_the_threshold_belongs_to_the_upper_decision(tiny: Any, dryness: float, decision: str) -> None:
    tiny.offered()
    made = tiny.service().decide(tiny.parsed(dryness=float(dryness)))
    assert (made.served_by, made.decision) == ("model", decision)


def test_every_decision_is_in_the_store_as_it_was_given(tiny: Any) -> None:
    tiny.offered()
    deciding = tiny.service()
    made = [deciding.decide(tiny.parsed(reading=f"r-{number}")) for number in range(3)]
    kill(tiny.control, reason="stop")
    made.append(deciding.decide(tiny.parsed()))
    for decision in made:
        found = deciding.store.get(decision.decision_id)
        assert found is not None
        assert found.record.pop("measured_on") == str(decision.record.pop("measured_on"))
        assert found == decision
    assert len({decision.decision_id for decision in made}) == 4


def test_after_a_kill_the_next_decision_is_the_fallbacks_and_after_arm_the_models(tiny: Any) -> None:
    digest = tiny.offered()
    deciding = tiny.service()
    assert deciding.decide(tiny.parsed()).served_by == "model"
    kill(tiny.control, reason="stop")
    made = deciding.decide(tiny.parsed())
    assert (made.served_by, made.why, made.assigned) == ("fallback", "killed", "fallback")
    assert (made.decision, made.score, made.model_digest, made.revision) == ("skip", None, None, 2)
    assert made.reasons == [{"feature": "a rule", "value": "maize", "effect": None}]
    arm(tiny.control, reason="go")
    made = deciding.decide(tiny.parsed())
    assert (made.served_by, made.model_digest, made.revision) == ("model", digest, 3)


@pytest.mark.parametrize("how", ["kill", "sentinel alone", "state deleted", "state damaged"])
def test_03_a_stop_while_the_model_scores_makes_the_answer_the_fallbacks(tiny: Any, how: str) -> None:
    digest = tiny.offered()
    deciding = tiny.service()
    deciding.decide(tiny.parsed())

    meanwhile = {
        "kill": "from harness.control import kill; kill(control, reason='meanwhile')",
        "sentinel alone": f"(control / {SENTINEL!r}).touch()",
        "state deleted": f"(control / {STATE!r}).unlink()",
        "state damaged": f"(control / {STATE!r}).write_text('{{')",
    }[how]
    tiny.model_does(digest, f"control = Path({str(tiny.control)!r}); {meanwhile}; return np.array([0.9])")
    made = deciding.decide(tiny.parsed())
    expected = {"state deleted": "no_state", "state damaged": "state_unreadable"}.get(how, "killed")
    assert (made.served_by, made.decision, made.why, made.score) == ("fallback", "skip", expected, None)


def test_a_model_that_is_replaced_while_it_scores_does_not_decide(tiny: Any) -> None:
    other = tiny.package(weight=0.5).digest
    digest = tiny.offered()
    deciding = tiny.service()
    deciding.decide(tiny.parsed())

    before = (tiny.control / STATE).read_bytes()
    tiny.put(rev=2, challenger=Slot(digest=other, pct=100))
    after = (tiny.control / STATE).rename(tiny.control / "next")
    (tiny.control / STATE).write_bytes(before)
    tiny.model_does(
        digest, f"Path({str(after)!r}).replace({str(tiny.control / STATE)!r}); return np.array([0.9])"
    )
    made = deciding.decide(tiny.parsed())
    assert (made.served_by, made.why, made.model_digest) == ("fallback", "model_replaced", other)


SCORES = {
    "raises": ("raise RuntimeError('the model is not well')", "model_failed"),
    "exits": ("raise SystemExit(3)", "model_failed"),
    "leaves": ("os._exit(3)", "model_died"),
    "aborts": ("os.abort()", "model_died"),
    "reads where nothing is": ("ctypes.string_at(1)", "model_died"),
    "NaN": ("return np.array([np.nan])", "score_invalid"),
    "infinity": ("return np.array([np.inf])", "score_invalid"),
    "too high": ("return np.array([1.0000001])", "score_invalid"),
    "too low": ("return np.array([-1e-9])", "score_invalid"),
    "two": ("return np.array([0.9, 0.9])", "score_invalid"),
    "none": ("return np.array([])", "score_invalid"),
    "a matrix": ("return np.array([[0.1, 0.9]])", "model_failed"),
    "no array": ("return 0.9", "model_failed"),
    "nothing": ("return None", "model_failed"),
    "text": ("return ['high']", "model_failed"),
}


@pytest.mark.parametrize("role", ["champion", "challenger"])
@pytest.mark.parametrize("trouble", SCORES)
def test_18_a_model_that_gives_no_valid_score_leaves_the_decision_to_the_fallback(
    tiny: Any, trouble: str, role: str
) -> None:
    digest = tiny.package().digest
    tiny.put(**{role: Slot(digest=digest, pct=100)})
    deciding = tiny.service()
    deciding.decide(tiny.parsed())
    code, why = SCORES[trouble]
    tiny.model_does(digest, code)
    made = deciding.decide(tiny.parsed())
    assert (made.served_by, made.why, made.decision, made.score) == ("fallback", why, "skip", None)
    assert (made.assigned, made.model_digest) == (role, digest)  # what the rollout gave it counts
    tiny.model_does(digest, None)
    assert deciding.decide(tiny.parsed()).served_by == "model"


@pytest.mark.parametrize("trouble", ["raise", "none", "no reasons"])
def test_a_model_that_cannot_give_reasons_leaves_the_decision_to_the_fallback(
    tiny: Any, trouble: str
) -> None:
    digest = tiny.offered()
    deciding = tiny.service()
    deciding.decide(tiny.parsed())
    codes = {"raise": "raise RuntimeError", "none": "return []", "no reasons": "return [['because']]"}
    tiny.model_does(digest, codes[trouble], role="reasons")
    made = deciding.decide(tiny.parsed())
    assert (made.served_by, made.why) == ("fallback", "model_failed")


def test_reasons_are_kept_as_plain_numbers(tiny: Any) -> None:
    digest = tiny.offered()
    deciding = tiny.service()
    deciding.decide(tiny.parsed())
    given = """
        return [[
            Reason("a", float("nan"), np.float32(0.5)),
            Reason("b", np.int64(3), float("inf")),
            Reason("c", np.str_("x"), None),
        ]]
    """
    tiny.model_does(digest, given, role="reasons")
    made = deciding.decide(tiny.parsed())
    assert made.served_by == "model"
    found = deciding.store.get(made.decision_id)
    assert found is not None
    assert [list(reason.values()) for reason in found.reasons] == [
        ["a", None, 0.5],
        ["b", 3, None],
        ["c", "x", None],
    ]
    tiny.model_does(digest, "return [[Reason('d', np.bool_(True), 1)]]", role="reasons")
    assert [list(reason.values()) for reason in deciding.decide(tiny.parsed()).reasons] == [["d", True, 1.0]]


def truncated(place: Path) -> None:
    weights = place / "model" / "weights.json"
    weights.write_bytes(weights.read_bytes()[:-3])


def another(place: Path) -> None:
    manifest = place / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"simulated"', b'"sample"'))


@pytest.mark.parametrize(
    "damage", [shutil.rmtree, truncated, another], ids=["missing", "truncated", "another"]
)
def test_14_without_its_package_a_model_is_unavailable_and_the_service_starts(
    tiny: Any, damage: Callable[[Path], None]
) -> None:
    digest = tiny.offered()
    damage(tiny.models / digest)
    deciding = tiny.service()
    assert digest in deciding.model_state()
    assert deciding.model_state()[digest] != "loaded"
    for _ in range(3):
        made = deciding.decide(tiny.parsed())
        assert (made.served_by, made.why, made.assigned) == ("fallback", "model_unavailable", "challenger")


@pytest.mark.parametrize("trouble", ["OSError", "SystemExit"])
def test_a_package_whose_code_fails_to_load_is_unavailable(tiny: Any, trouble: str) -> None:
    model = tiny.root / "src" / "dryfield" / "model.py"
    model.write_text(model.read_text().replace("return json.loads", f"raise {trouble}('gone') or json.loads"))
    digest = tiny.offered()
    deciding = tiny.service()
    assert deciding.decide(tiny.parsed()).why == "model_unavailable"
    assert trouble in deciding.model_state()[digest]


def test_a_package_that_comes_back_is_used_again(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = tiny.offered()
    away = (tiny.models / digest).rename(tiny.root / "away")
    deciding = tiny.service()
    assert deciding.decide(tiny.parsed()).why == "model_unavailable"
    away.rename(tiny.models / digest)
    assert deciding.decide(tiny.parsed()).why == "model_unavailable"  # not a try with every request
    monkeypatch.setattr(lane, "LOAD_AGAIN_AFTER_S", 0.0)
    assert deciding.decide(tiny.parsed()).served_by == "model"


def test_champion_and_challenger_each_decide_with_their_own_model(tiny: Any) -> None:
    champion, challenger = tiny.package(weight=0.25).digest, tiny.package(weight=1.0).digest
    tiny.put(champion=Slot(digest=champion, pct=100), challenger=Slot(digest=challenger, pct=50))
    deciding = tiny.service()
    made = [deciding.decide(tiny.parsed(plot=f"p-{number}")) for number in range(40)]
    assert {(one.assigned, one.model_digest, round(one.score, 3)) for one in made} == {
        ("champion", champion, 0.2),
        ("challenger", challenger, 0.8),
    }


def test_real_data_does_not_decide_in_the_sandbox_and_does_outside(tiny: Any) -> None:
    digest = tiny.package(origin="real").digest
    tiny.champion(digest)
    deciding = tiny.service()
    made = deciding.decide(tiny.parsed())
    assert (made.served_by, made.why, made.sandbox) == ("fallback", "real_data_in_sandbox", True)
    tiny.champion(digest, rev=2, stage="early")
    made = deciding.decide(tiny.parsed())
    assert (made.served_by, made.sandbox, made.stage) == ("model", False, "early")


def test_no_way_leads_a_service_back_into_the_sandbox(tiny: Any) -> None:
    digest = tiny.package().digest
    tiny.champion(digest)
    deciding = tiny.service()
    assert deciding.decide(tiny.parsed()).served_by == "model"
    tiny.champion(digest, rev=2, stage="early")
    assert deciding.decide(tiny.parsed()).served_by == "model"
    # Its state was deleted, and somebody has run the pipeline and armed.
    tiny.champion(digest, rev=3)
    made = deciding.decide(tiny.parsed())
    assert (made.served_by, made.why, made.assigned) == ("fallback", "left_the_sandbox", "fallback")
    assert not made.sandbox, "what a service in use decides is about something real"
    tiny.champion(digest, rev=4, stage="early")
    assert deciding.decide(tiny.parsed()).served_by == "model"


@pytest.mark.parametrize("origin", ["simulated", "sample"])
def test_data_that_is_not_real_decides_in_the_sandbox(tiny: Any, origin: str) -> None:
    tiny.offered(origin=origin)
    made = tiny.service().decide(tiny.parsed())
    assert (made.served_by, made.sandbox) == ("model", True)


def test_without_a_state_a_decision_counts_as_one_about_nothing_real(tiny: Any) -> None:
    made = tiny.service().decide(tiny.parsed())
    assert (made.served_by, made.why, made.stage, made.sandbox) == ("fallback", "no_state", "unknown", True)


@pytest.mark.parametrize("damage", ["deleted", "damaged"])
def test_05_a_state_that_is_lost_under_way_is_the_fallbacks_next_decision_and_one_alarm(
    tiny: Any, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    tiny.offered()
    deciding = tiny.service()
    assert deciding.decide(tiny.parsed()).served_by == "model"
    if damage == "deleted":
        (tiny.control / STATE).unlink()
    else:
        (tiny.control / STATE).write_text("{")
    assert [deciding.decide(tiny.parsed()).served_by for _ in range(3)] == ["fallback"] * 3
    alarms = [line for line in caplog.messages if "ALARM" in line]
    assert alarms == ["ALARM: the control state is gone or cannot be trusted, so the fallback decides"]


def test_a_state_that_vanishes_does_not_turn_real_decisions_into_play(tiny: Any) -> None:
    tiny.champion(tiny.package().digest, stage="early")
    deciding = tiny.service()
    assert deciding.decide(tiny.parsed()).sandbox is False
    (tiny.control / "state.json").unlink()
    made = deciding.decide(tiny.parsed())
    assert (made.served_by, made.why, made.stage, made.sandbox) == ("fallback", "no_state", "unknown", False)


def test_23_a_plot_without_a_name_gets_the_fallback(tiny: Any) -> None:
    tiny.offered()
    deciding = tiny.service()
    made = deciding.decide({**tiny.parsed(), "plot": None})
    assert (made.served_by, made.why, made.entity) == ("fallback", "no_entity", "")


@pytest.mark.parametrize(
    "answer",
    [None, "water", Answer("burn"), Answer(None), Answer(1.0), Answer("skip", ("because",))],
    ids=str,
)
def test_a_fallback_that_gives_no_allowed_answer_is_no_decision(tiny: Any, answer: Any) -> None:
    deciding = tiny.service()
    tiny.fallback_file().hook = lambda record: answer
    with pytest.raises(service.FallbackFailed):
        deciding.decide(tiny.parsed())
    assert deciding.store.latest(1) == []


class Verdict(StrEnum):
    """A team's own way of saying what its contract has; what it reads as is not its value."""

    SKIP = "skip", {"code": 1}

    def __new__(cls, text: str, value: Any) -> Any:
        made = str.__new__(cls, text)
        made._value_ = value
        return made


class Limit(float, Enum):
    """A number with a name, which is not its value either."""

    MOST = 0.75, {"code": 2}
    NONE = float("nan"), {"code": 3}

    def __new__(cls, number: float, value: Any) -> Any:
        made = float.__new__(cls, number)
        made._value_ = value
        return made


class Count(int):
    """A number that says something else of itself."""

    def __str__(self) -> str:
        return "many"


@pytest.mark.parametrize(
    ("value", "kept"),
    [(Limit.MOST, 0.75), (Limit.NONE, None), (Count(0), 0), (Verdict.SKIP, "skip")],
    ids=str,
)
def test_what_a_fallback_says_in_types_of_its_own_is_kept_as_what_it_is(
    tiny: Any, value: Any, kept: Any
) -> None:
    deciding = tiny.service()
    tiny.fallback_file().hook = lambda record: Answer(Verdict.SKIP, (Reason("a", value, 0.5),))
    made = deciding.decide(tiny.parsed())
    assert type(made.decision) is str
    found = deciding.store.get(made.decision_id)
    assert found.decision == made.decision == "skip"
    assert found.reasons == [{"feature": "a", "value": kept, "effect": 0.5}]


def test_a_fallback_that_raises_is_no_decision_and_never_the_models(tiny: Any) -> None:
    digest = tiny.offered()
    deciding = tiny.service()
    deciding.decide(tiny.parsed())

    def unwell(record: Any) -> Answer:
        raise KeyError("secret value")

    tiny.fallback_file().hook = unwell
    tiny.model_does(digest, "raise RuntimeError")
    with pytest.raises(service.FallbackFailed) as told:
        deciding.decide(tiny.parsed())
    assert "secret" not in str(told.value)
    assert len(deciding.store.latest(9)) == 1


@pytest.mark.parametrize("who", ["model", "fallback"])
def test_what_cannot_be_recorded_is_no_decision(tiny: Any, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    tiny.offered()
    if who == "fallback":
        kill(tiny.control, reason="stop")
    deciding = tiny.service()

    def full(decisions: Any, *_: Any) -> None:
        assert [decision.served_by for decision in decisions] == [who]
        raise StoreUnavailable("full", where="store", mend="Free it.")

    monkeypatch.setattr(deciding.store, "record_all", full)
    with pytest.raises(StoreUnavailable):
        deciding.decide(tiny.parsed())


def test_the_record_comes_before_the_answer(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.offered()
    deciding = tiny.service()
    recorded: list[Any] = []

    def record_all(decisions: Any, *_: Any) -> Any:
        recorded.extend(decisions)
        return decisions

    monkeypatch.setattr(deciding.store, "record_all", record_all)
    made = deciding.decide(tiny.parsed())
    assert recorded == [made]


def test_sixteen_threads_at_once_are_all_recorded_once(tiny: Any) -> None:
    tiny.offered()
    deciding = tiny.service()
    record = tiny.parsed()
    together = threading.Barrier(16)

    def decide(thread: int) -> list[str]:
        together.wait()
        return [deciding.decide({**record, "plot": f"{thread}-{n}"}).decision_id for n in range(12)]

    with ThreadPoolExecutor(16) as pool:
        given = [name for names in pool.map(decide, range(16)) for name in names]
    assert len(set(given)) == 192
    assert sorted(made.decision_id for made in deciding.store.latest(1000)) == sorted(given)
    assert deciding.store.counts() == {("model", "assigned"): 192}


# --- what must hold before it listens ----------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "example.org", "127.0.0.1.example.org"])
@pytest.mark.parametrize("state", ["none", "sandbox", "damaged"])
def test_the_sandbox_listens_on_the_loopback_only(tiny: Any, host: str, state: str) -> None:
    if state == "sandbox":
        tiny.champion(A)
    elif state == "damaged":
        tiny.champion(A, stage="full")
        (tiny.control / STATE).write_text("{")
    assert not loopback(host)
    with pytest.raises(PilotError, match="loopback only"):
        check_stage(tiny.settings(), tiny.service().control, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_the_loopback_is_known_by_all_its_names(tiny: Any, host: str) -> None:
    tiny.champion(A)
    check_stage(tiny.settings(), tiny.service().control, host)


@pytest.mark.parametrize("stage", ["shadow", "early", "broad", "full"])
def test_outside_the_sandbox_the_control_folder_lies_outside_the_work_tree(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str
) -> None:
    tiny.champion(A, stage=stage)
    with pytest.raises(PilotError, match="git clean"):
        check_stage(tiny.settings(), tiny.service().control, "0.0.0.0")
    shutil.move(tiny.control, tmp_path / "state")
    (tiny.root / "linked").symlink_to(tmp_path / "state")
    for folder in (tmp_path / "state", "linked"):
        monkeypatch.setenv("PILOT_CONTROL__FOLDER", str(folder))
        check_stage(tiny.settings(), tiny.service().control, "0.0.0.0")


def test_a_port_in_use_is_told() -> None:
    taken = listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with pytest.raises(PilotError, match=f"port {port} on 127.0.0.1 is in use") as told:
        listen("127.0.0.1", port)
    taken.close()
    assert told.value.exit_code == 2


@pytest.mark.parametrize("host", ["192.0.2.1", "not a host"])
def test_an_address_of_another_machine_is_told(host: str) -> None:
    with pytest.raises(PilotError, match="cannot listen"):
        listen(host, 0)


def test_the_gate_stands_before_the_socket(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "listen", lambda *_: pytest.fail("it listened"))
    with pytest.raises(PilotError, match="loopback only"):
        running.serve(tiny.settings(), host="0.0.0.0", port=0)


def test_a_service_process_carries_no_training_stack(
    tiny: Any, python: Callable[..., subprocess.Popen[str]]
) -> None:
    tiny.offered()
    code = """
import sys
from datetime import date
from pathlib import Path
from harness.serving.server import build_service
from harness.settings import load_settings

service = build_service(load_settings(Path(sys.argv[1])))
service.model_state()
record = dict(reading="r", plot="p", measured_on=date(2026, 3, 1), dryness=80.0, depth_cm=5, crop=None)
print(service.decide({**record, "covered": True}).served_by, *sorted(sys.modules))
"""
    process = python(code, tiny.root)
    output, errors = process.communicate(timeout=60)
    served_by, *modules = output.split()
    assert served_by == "model", errors
    for heavy in ("polars", "numpy", "mlflow", "dvc", "ibis", "sklearn", "pandas", "lightgbm", "duckdb"):
        assert not [name for name in modules if name.split(".")[0] == heavy]
    assert "dryfield.sources" not in modules


def test_an_edited_threshold_decides_nothing_before_it_was_packaged(tiny: Any) -> None:
    tiny.offered()
    before = tiny.service().decide(tiny.parsed())
    (contract,) = tiny.root.glob("src/*/contract.py")
    text = contract.read_text(encoding="utf-8")
    edited = text.replace('above="water", below="skip"', 'above="skip", below="water"')
    contract.write_text(edited + "# edited\n", encoding="utf-8")
    for name in [name for name in sys.modules if name.startswith(contract.parent.name)]:
        del sys.modules[name]
    deciding = tiny.service()
    assert deciding.contract.decision.above == "skip"
    after = deciding.decide(tiny.parsed())
    assert (after.decision, after.score, after.served_by) == (before.decision, before.score, "model")
