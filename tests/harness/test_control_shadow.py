"""Who has a model run beside: the challenger, wherever it does not decide itself, and nobody after a stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.control import SENTINEL, Arm, Control, Slot, State, StateUnreadable, kill, read_audit, sample
from harness.control.permission import bucket
from harness.control.state import STATE, read_state
from harness.errors import PilotError

A, B = "a" * 64, "b" * 64
Put = Callable[..., State]
ON_TRIAL = {"stage": "early", "challenger": Slot(digest=B, pct=10)}


def test_it_runs_beside_wherever_it_does_not_decide_itself(put: Put, reader: Control) -> None:
    put(**ON_TRIAL)
    found = [reader.permission(f"plot {number}") for number in range(500)]
    assert {(each.arm, each.digest, each.shadow) for each in found} == {
        (Arm.CHALLENGER, B, None),
        (Arm.CHAMPION, A, B),
    }


def test_in_the_stage_shadow_it_runs_beside_everybody(put: Put, reader: Control) -> None:
    put(stage="shadow", challenger=Slot(digest=B, pct=0))
    assert {reader.permission(f"plot {number}").shadow for number in range(500)} == {B}


def test_it_runs_beside_the_fallback_too(put: Put, reader: Control) -> None:
    put(champion=None, **ON_TRIAL)
    found = {reader.permission(f"plot {number}") for number in range(500)}
    assert {(each.arm, each.shadow) for each in found} == {(Arm.CHALLENGER, None), (Arm.FALLBACK, B)}


@pytest.mark.parametrize(
    "changes", [{"latched": True}, {"challenger": None}, {"shadow_pct": 0}], ids=lambda each: next(iter(each))
)
def test_it_runs_beside_nobody(put: Put, reader: Control, changes: dict[str, Any]) -> None:
    put(**{**ON_TRIAL, **changes})
    assert {reader.permission(f"plot {number}").shadow for number in range(200)} == {None}
    assert reader.may_shadow(B) is ("shadow_pct" in changes)


def test_without_an_entity_it_does_not_run_beside(put: Put, reader: Control) -> None:
    put(**ON_TRIAL)
    assert reader.permission("").shadow is None


def test_after_a_stop_it_runs_beside_nobody_from_the_next_question_on(
    put: Put, reader: Control, folder: Path
) -> None:
    put(**ON_TRIAL, champion=None)
    entity = next(name for name in map(str, range(999)) if reader.permission(name).shadow)
    assert reader.may_shadow(B)
    (folder / SENTINEL).touch()
    assert reader.permission(entity).shadow is None
    assert not reader.may_shadow(B)
    (folder / SENTINEL).unlink()
    assert reader.permission(entity).shadow == B
    kill(folder, reason="stop")
    (folder / SENTINEL).unlink()  # the latch is a stop by itself
    assert reader.permission(entity).shadow is None
    assert not reader.may_shadow(B)


@pytest.mark.parametrize("damage", ["absent", "damaged"])
def test_a_state_that_cannot_be_read_runs_nothing_beside(
    put: Put, reader: Control, folder: Path, damage: str
) -> None:
    put(**ON_TRIAL)
    if damage == "absent":
        (folder / STATE).unlink()
    else:
        (folder / STATE).write_bytes((folder / STATE).read_bytes().replace(B.encode(), A.encode()))
    assert reader.permission("plot 1").shadow is None
    assert not reader.may_shadow(B)


def test_only_the_model_on_trial_may_run_beside(put: Put, reader: Control) -> None:
    put(**ON_TRIAL)
    assert [reader.may_shadow(digest) for digest in (A, B, "c" * 64)] == [False, True, False]


def test_the_sample_is_of_its_size_and_has_nothing_to_do_with_the_rollout(put: Put, reader: Control) -> None:
    put(stage="early", challenger=Slot(digest=B, pct=0), shadow_pct=30)
    names = [f"plot {number}" for number in range(20_000)]
    sampled = {name for name in names if reader.permission(name).shadow}
    assert 0.29 < len(sampled) / len(names) < 0.31
    first = [name for name in names if bucket("fields", name) <= 10]
    # By the rollout's own bucket all of them would be in the sample.
    assert 0.26 < sum(name in sampled for name in first) / len(first) < 0.34
    put(rev=2, stage="early", challenger=Slot(digest=B, pct=0), shadow_pct=60)
    assert sampled < {name for name in names if reader.permission(name).shadow}


def test_a_state_of_before_is_read_and_means_everybody(put: Put, reader: Control, folder: Path) -> None:
    put(**ON_TRIAL)
    document = json.loads((folder / STATE).read_text(encoding="utf-8"))
    assert "shadow_pct" not in document  # a harness that does not know it reads the file all the same
    state = reader.state()
    assert state is not None
    assert state.shadow_pct == 100


@pytest.mark.parametrize("value", [-1, 101, 50.0, "50", None, True])
def test_a_sample_that_cannot_be_is_no_state(put: Put, reader: Control, folder: Path, value: Any) -> None:
    put(**ON_TRIAL)
    document = json.loads((folder / STATE).read_text(encoding="utf-8"))
    del document["sha256"]
    document["shadow_pct"] = value
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    document["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / STATE).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(StateUnreadable, match="shadow_pct"):
        reader.state()
    assert reader.permission("plot 1").shadow is None


def test_a_person_changes_the_sample_and_nothing_else(put: Put, folder: Path) -> None:
    before = put(**ON_TRIAL)
    sample(folder, 20, reason="it is slow")
    after = read_state(folder)
    assert after is not None
    assert (after.rev, after.shadow_pct) == (2, 20)
    told = {"rev", "shadow_pct", "actor", "reason", "changed_at"}
    assert after.model_dump(exclude=told) == before.model_dump(exclude=told)
    assert [(each["action"], each["reason"]) for each in read_audit(folder)] == [
        ("sample", "20%: it is slow")
    ]


def test_a_sample_that_cannot_be_audited_is_not_changed(put: Put, folder: Path) -> None:
    put(**ON_TRIAL)
    (folder / "audit.jsonl").mkdir()
    with pytest.raises(PilotError, match="nothing was changed"):
        sample(folder, 20, reason="it is slow")
    state = read_state(folder)
    assert state is not None
    assert state.shadow_pct == 100
