"""From stage to stage: the gate is asked twice, by two people, and nothing moves without a record."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from governed import Governed
from harness.cli import context
from harness.cli.main import _run
from harness.control import SENTINEL, Slot, kill, offer, read_audit, read_state
from harness.control.actions import arm
from harness.control.audit import AUDIT
from harness.control.identity import Actor
from harness.control.proposals import PROPOSAL, Proposal, approve, propose, read_proposal, waiting
from harness.control.state import LOCK, STATE
from harness.errors import PilotError
from harness.pipeline import record

Run = Callable[..., tuple[int, str, str]]
NOBODY = 65534

as_root = pytest.mark.skipif(os.getuid() != 0, reason="two accounts are needed")


@pytest.fixture
def governed(tiny: Any, tmp_path: Path) -> Governed:
    return Governed(tiny, tmp_path / "control")


@pytest.fixture
def run(
    governed: Governed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Run a verb in this process, in the pilot's folder."""
    monkeypatch.chdir(governed.root)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = _run(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield run
    context.choose(root=None, debug=False)


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on somebody else acts, for code in this process."""

    def switch() -> None:
        monkeypatch.setattr("harness.control.identity.account", lambda: Actor("somebody else", 4711))

    return switch


def lines(folder: Path) -> list[tuple[str, str, str]]:
    return [(entry["action"], entry["actor"], entry["reason"]) for entry in read_audit(folder)]


# ---------------------------------------------------------------- proposing
def test_promote_refuses_what_readiness_refuses_with_the_same_list(governed: Governed, run: Run) -> None:
    governed.change("system", lambda values: values["value"].update(kpi="TODO"))
    governed.commit()
    code, said, _ = run("readiness")
    again, list_, told = run("promote", "--reason", "we are ready")
    assert (code, again) == (1, 1)
    assert list_ == said
    assert "1 still TODO: value (kpi)" in said
    assert "nothing was proposed" in told
    [(action, _, reason)] = lines(governed.control)
    assert (action, reason.partition(":")[0]) == ("refuse", "nothing was proposed")
    assert "REFUSED at shadow" in reason


def test_promote_refuses_with_3_what_readiness_cannot_establish(
    governed: Governed, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "nowhere")
    code, said, _ = run("promote", "--reason", "we are ready", "--json")
    assert (code, json.loads(said)["verdict"], json.loads(said)["proposed"]) == (3, "inconclusive", False)
    assert not (governed.control / PROPOSAL).exists()


def test_promote_proposes_and_changes_nothing_else(governed: Governed, run: Run) -> None:
    code, said, _ = run("promote", "--reason", "all is in place")
    assert code == 0
    assert "PROPOSED: sandbox → shadow" in said
    assert read_state(governed.control) is None
    found = read_proposal(governed.control)
    assert found is not None
    assert (found.source, found.target, found.revision, found.percent) == ("sandbox", "shadow", 0, 0)
    assert (found.model, found.reason) == (record.read(governed.root).model, "all is in place")
    [(action, _, reason)] = lines(governed.control)
    assert action == "propose"
    assert "sandbox → shadow" in reason
    assert "all is in place" in reason


def test_a_promotion_needs_a_reason(run: Run) -> None:
    for verb in ("promote", "approve"):
        for nothing in ([], ["--reason", ""], ["--reason", "  "]):
            code, said, told = run(verb, *nothing)
            assert (code, said) == (2, "")
            assert "--reason" in told


# ---------------------------------------------------------------- approving
def test_27_nobody_approves_what_they_proposed_and_the_attempt_is_on_record(
    governed: Governed, run: Run
) -> None:
    run("promote", "--reason", "all is in place")
    code, said, told = run("approve", "--reason", "I agree with myself")
    assert (code, said) == (2, "")
    assert "cannot approve it" in told
    assert told.count("\n") == 1
    assert read_state(governed.control) is None
    assert [action for action, _, _ in lines(governed.control)] == ["propose", "refuse"]
    assert read_proposal(governed.control) is not None, "somebody else may still approve it"


def test_the_same_person_under_another_name_or_number_is_the_same(
    governed: Governed, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("promote", "--reason", "all is in place")
    [(_, proposer, _)] = lines(governed.control)
    with monkeypatch.context() as patched:
        patched.setattr("harness.control.identity.account", lambda: Actor("another name", os.getuid()))
        assert run("approve", "--reason", "x")[0] == 2
    with monkeypatch.context() as patched:
        patched.setattr("harness.control.identity.account", lambda: Actor(proposer, 4711))
        assert run("approve", "--reason", "x")[0] == 2
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("LOGNAME", "somebody")
    assert run("approve", "--reason", "x")[0] == 2
    assert read_state(governed.control) is None


@as_root
def test_another_account_approves(
    tiny: Any, open_folder: Path, unprivileged: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One account proposes, another approves, in a folder that both may write and with a strict umask."""
    tiny.root = tiny.root.rename(open_folder / "pilot")
    monkeypatch.syspath_prepend(str(tiny.root / "src"))
    control = open_folder / "control"
    control.mkdir()
    os.chown(control, -1, NOBODY)
    control.chmod(0o2775)
    before = os.umask(0o027)
    try:
        governed = Governed(tiny, control)
        for path in [governed.root, *governed.root.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        monkeypatch.chdir(governed.root)
        assert _run(["promote", "--reason", "all is in place"]) == 0
        # As the message says: git refuses a repository of another account until somebody allows it.
        assert unprivileged(lambda: _run(["approve", "--reason", "I looked at it"])) == 3
        for name, value in (("COUNT", "1"), ("KEY_0", "safe.directory"), ("VALUE_0", str(governed.root))):
            monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
        assert unprivileged(lambda: _run(["approve", "--reason", "I looked at it"])) == 0
    finally:
        os.umask(before)
        context.choose(root=None, debug=False)
    state = read_state(control)
    assert state is not None
    assert (state.stage, state.rev) == ("shadow", 1)
    assert state.challenger == Slot(digest=record.read(governed.root).model, pct=0)
    (_, proposer, _), (refused, approver, _), (action, again, reason) = lines(control)
    assert (refused, again) == ("refuse", approver)
    assert (action, approver) == ("approve", state.actor)
    assert approver != proposer
    assert "I looked at it" in reason
    assert read_proposal(control) is None
    for name in (AUDIT, LOCK):
        assert (control / name).stat().st_mode & 0o020, f"{name} is shared as the folder is"


def test_approve_asks_the_gate_again(governed: Governed, run: Run, another: Callable[[], None]) -> None:
    run("promote", "--reason", "all is in place")
    another()
    governed.edit("src/dryfield/model.py", "hook = None", "hook = 1")
    governed.commit()
    code, said, told = run("approve", "--reason", "fine")
    assert code == 1
    assert "other code" in said
    assert "nothing was approved" in told
    assert read_state(governed.control) is None


def test_a_proposal_does_not_outlive_what_it_rests_on(
    governed: Governed, run: Run, another: Callable[[], None]
) -> None:
    run("promote", "--reason", "all is in place")
    another()
    governed.change("tco", lambda values: values.update(currency="USD"))
    governed.settle()
    assert run("readiness")[0] == 0
    code, _, told = run("approve", "--reason", "fine")
    assert code == 2
    assert "has changed since this was proposed" in told
    assert read_state(governed.control) is None


def test_approve_with_nothing_proposed(governed: Governed, run: Run) -> None:
    code, _, told = run("approve", "--reason", "fine")
    assert code == 2
    assert "nothing is proposed" in told
    [(action, _, reason)] = lines(governed.control)
    assert (action, reason) == ("refuse", "approve: nothing is proposed")


def test_a_proposal_that_was_edited_is_refused(
    governed: Governed, run: Run, another: Callable[[], None]
) -> None:
    run("promote", "--reason", "all is in place")
    another()
    file = governed.control / PROPOSAL
    written = file.read_text()
    for old, new in (('"percent": 0', '"percent": 100'), ('"uid": ', '"uid": 1'), ("{", "[")):
        file.write_text(written.replace(old, new, 1))
        code, _, told = run("approve", "--reason", "fine")
        assert code == 2
        assert "damaged or was edited" in told
    assert read_state(governed.control) is None


def test_a_kill_between_the_two_refuses(governed: Governed, run: Run, another: Callable[[], None]) -> None:
    run("promote", "--reason", "all is in place")
    another()
    kill(governed.control, reason="scores look wrong")
    code, said, _ = run("approve", "--reason", "fine")
    assert code == 1
    assert "the model is stopped" in said


# ---------------------------------------------------------------- control alone: no gate is asked here
@pytest.fixture
def proposed(folder: Path) -> Callable[..., Proposal]:
    def proposed(target: Any = "shadow", revision: int = 0, percent: int = 0) -> Proposal:
        return propose(
            folder,
            target=target,
            revision=revision,
            model="b" * 64,
            percent=percent,
            evidence="c" * 64,
            gate="d" * 64,
            reason="a test",
        )

    return proposed


@pytest.mark.parametrize(
    ("source", "target", "percent"), [("shadow", "early", 10), ("early", "broad", 50), ("broad", "full", 100)]
)
def test_each_stage_gets_its_share(
    folder: Path, put: Any, proposed: Any, another: Callable[[], None], source: str, target: str, percent: int
) -> None:
    put(stage=source, rev=7, champion=None, challenger=Slot(digest="b" * 64, pct=0))
    proposal = proposed(target, 7, percent)
    another()
    state = approve(folder, waiting(folder), flag_key="fields", reason="fine")
    assert (state.stage, state.rev, state.actor) == (target, 8, "somebody else")
    slot = Slot(digest=proposal.model, pct=percent)
    if target == "full":
        assert (state.champion, state.challenger) == (slot, None)
    else:
        assert (state.champion, state.challenger) == (None, slot)


def test_a_new_model_goes_from_full_to_shadow_beside_the_champion(
    folder: Path, put: Any, another: Callable[[], None]
) -> None:
    champion = Slot(digest="a" * 64, pct=100)
    put(stage="full", rev=7, champion=champion)
    said = {"model": "b" * 64, "percent": 0, "evidence": "c" * 64, "gate": "d" * 64, "reason": "a test"}
    propose(folder, target="shadow", source="full", revision=7, **said)
    another()
    state = approve(folder, waiting(folder), flag_key="fields", reason="fine")
    assert (state.stage, state.champion) == ("shadow", champion)
    assert state.challenger == Slot(digest="b" * 64, pct=0)


@pytest.mark.parametrize(
    ("source", "target"), [("early", "shadow"), ("shadow", "full"), ("sandbox", "early")]
)
def test_no_other_way_leads_from_stage_to_stage(folder: Path, put: Any, source: Any, target: Any) -> None:
    put(stage=source, rev=7)
    said = {"model": "b" * 64, "percent": 0, "evidence": "c" * 64, "gate": "d" * 64, "reason": "a test"}
    with pytest.raises(PilotError, match=f"no way leads from {source} to {target}"):
        propose(folder, target=target, source=source, revision=7, **said)
    assert not (folder / PROPOSAL).exists()


def test_a_state_that_changed_makes_a_proposal_stale(
    folder: Path, put: Any, proposed: Any, another: Callable[[], None]
) -> None:
    put(rev=1)
    proposal = proposed(revision=1)
    kill(folder, reason="a drill")
    arm(folder, reason="over")
    another()
    with pytest.raises(PilotError, match="the state changed since: revision 3, not 1"):
        approve(folder, proposal, flag_key="fields", reason="fine")
    with pytest.raises(PilotError, match="the state changed since: revision 3, not 2"):
        proposed(revision=2)
    state = read_state(folder)
    assert state is not None
    assert state.stage == "sandbox"


def test_no_stage_is_skipped(folder: Path, put: Any, proposed: Any) -> None:
    put(rev=1)
    for target in ("early", "broad", "full"):
        with pytest.raises(PilotError, match="the state changed since"):
            proposed(target, 1, 100)


def test_29_a_failing_audit_blocks_a_promotion_and_no_kill(
    folder: Path, put: Any, proposed: Any, another: Callable[[], None]
) -> None:
    put(rev=1)
    proposal = proposed(revision=1)
    another()
    (folder / AUDIT).unlink()
    (folder / AUDIT).mkdir()
    with pytest.raises(PilotError, match="the audit cannot be written, so nothing was changed"):
        approve(folder, proposal, flag_key="fields", reason="fine")
    with pytest.raises(PilotError, match="the audit cannot be written, so nothing was changed"):
        proposed(revision=1)
    state = read_state(folder)
    assert state is not None
    assert (state.stage, state.rev) == ("sandbox", 1)
    kill(folder, reason="stop")
    assert (folder / SENTINEL).exists()


def test_a_proposal_that_was_replaced_is_not_the_one_that_is_approved(
    folder: Path, put: Any, proposed: Any, another: Callable[[], None]
) -> None:
    put(rev=1)
    first = proposed(revision=1)
    proposed(revision=1, percent=5)
    another()
    with pytest.raises(PilotError, match="somebody proposed anew meanwhile"):
        approve(folder, first, flag_key="fields", reason="fine")


def test_the_state_is_moved_and_the_proposal_gone_or_neither(
    folder: Path, put: Any, proposed: Any, another: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(rev=1)
    proposal = proposed(revision=1)
    another()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(folder / STATE))

    monkeypatch.setattr("harness.control.proposals.write_state", full)
    with pytest.raises(PilotError, match="No space left"):
        approve(folder, proposal, flag_key="fields", reason="fine")
    assert read_proposal(folder) == proposal


def test_a_model_packaged_after_the_sandbox_is_not_offered(
    folder: Path, put: Any, proposed: Any, another: Callable[[], None]
) -> None:
    put(rev=1)
    proposed(revision=1)
    another()
    approve(folder, waiting(folder), flag_key="fields", reason="fine")
    assert offer(folder, digest="e" * 64, flag_key="fields", reason="pilot run") is None
