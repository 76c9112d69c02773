"""What cannot be established, or is made by nothing yet, never passes; a fresh scaffold does not either."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from governed import Governed, git, seeds
from harness.control import Slot
from harness.control.state import STATE, State, write_state
from harness.errors import Inconclusive, PilotError
from harness.pipeline import layout, record
from harness.readiness import Report, examine


@pytest.fixture
def governed(tiny: Any, tmp_path: Path) -> Governed:
    return Governed(tiny, tmp_path / "control")


def asked(governed: Governed, **options: Any) -> Report:
    return examine(governed.settings(), **options)


def found(report: Report) -> dict[str, str]:
    return {each.check: f"{each.field}: {each.what}. {each.mend}" for each in report.missing}


def state(governed: Governed, **changes: Any) -> None:
    values = {"rev": 3, "stage": "sandbox", "flag_key": "dryfield", "actor": "a test", "reason": "a test"}
    values |= {"changed_at": "2026-01-01T00:00:00+00:00", **changes}
    governed.control.mkdir(parents=True, exist_ok=True)
    write_state(governed.control, State(**values))


def again(governed: Governed) -> None:
    """Note the run anew, and have it locked and signed: what is left is one fault."""
    from harness.pipeline.manifest import load_manifest

    record.note(governed.root, load_manifest(governed.root / layout.PACKAGE))
    governed.settle()


# ---------------------------------------------------------------- what cannot be established
def test_a_stage_that_cannot_be_read_is_inconclusive(governed: Governed) -> None:
    governed.control.mkdir()
    (governed.control / STATE).write_text("{")
    with pytest.raises(Inconclusive, match="the stage"):
        asked(governed)
    report = asked(governed, gate="shadow")
    assert (report.exit_code, report.verdict, report.stage) == (3, "inconclusive", "unknown")
    assert {each.status for each in report.missing} == {"unknown"}


def test_a_repository_that_git_refuses_is_inconclusive(
    governed: Governed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(governed.root / "nowhere"))
    report = asked(governed)
    assert report.exit_code == 3
    assert "git does not say" in found(report)["evidence.committed"]


def test_a_check_that_breaks_is_inconclusive(governed: Governed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("not today")

    monkeypatch.setattr("harness.pilot.load_contract", broken)
    report = asked(governed)
    assert report.exit_code == 3
    assert "not today" in found(report)["data.vouched"]


@pytest.mark.parametrize(
    ("path", "said", "check"),
    [
        (layout.QUALITY, "{}", "data.quality"),
        (layout.INGEST, "{}", "data.read_only"),
        (layout.INGEST, '{"credentials": {"erp": []}}', "data.read_only"),
        (layout.INGEST, '{"credentials": {"erp": {}}}', "data.read_only"),
        (layout.INGEST, '{"credentials": {"erp": {"may_write": "no"}}}', "data.read_only"),
    ],
)
def test_evidence_that_says_nothing_is_inconclusive(
    governed: Governed, path: Path, said: str, check: str
) -> None:
    governed.write(path.as_posix(), said)
    governed.lock_data()
    again(governed)
    report = asked(governed)
    assert report.exit_code == 3
    assert "not in evidence" in found(report)[check] or "does not say" in found(report)[check]


def test_the_model_on_trial_is_the_one_that_evidence_speaks_of(governed: Governed) -> None:
    state(governed, stage="shadow", challenger=Slot(digest="b" * 64, pct=0))
    assert "model bbbbbbbbbbbb is on trial" in found(asked(governed, gate="early"))["control.same_model"]
    state(governed, stage="shadow")
    assert "no model is on trial" in found(asked(governed))["control.same_model"]
    state(governed, stage="shadow", challenger=Slot(digest=record.read(governed.root).model, pct=0))
    assert "control.same_model" not in found(asked(governed))


def test_the_gate_follows_from_the_stage_and_the_last_has_none(governed: Governed) -> None:
    for stage, gate in (("shadow", "early"), ("early", "broad"), ("broad", "full")):
        state(governed, stage=stage)
        assert asked(governed).gate == gate
    state(governed, stage="full")
    with pytest.raises(PilotError, match="no gate after 'full'"):
        asked(governed)


@pytest.mark.parametrize(
    ("stage", "gate"), [("shadow", "shadow"), ("full", "shadow"), ("early", "broad"), ("broad", "full")]
)
def test_a_model_that_the_state_does_not_name_is_to_go_to_shadow(
    governed: Governed, stage: str, gate: str
) -> None:
    champion, challenger = Slot(digest="a" * 64, pct=100), Slot(digest="b" * 64, pct=0)
    state(governed, stage=stage, champion=champion, challenger=None if stage == "full" else challenger)
    assert asked(governed).gate == gate


# ---------------------------------------------------------------- a fresh scaffold
def test_a_fresh_scaffold_is_refused_at_shadow(tiny: Any) -> None:
    for path, text in seeds().items():
        file = tiny.root / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    git(tiny.root, "init", "-q", "-b", "main")
    git(tiny.root, "add", "-A")
    git(tiny.root, "commit", "-q", "-m", "start")
    report = examine(tiny.settings())
    assert (report.exit_code, report.gate) == (1, "shadow")
    about = list(dict.fromkeys(each.about for each in report.missing))
    assert about[0] == "evidence"
    assert about[-1] == "signatures"
    assert set(seeds()) < set(about), "no document is good enough as it comes"


def test_the_gate_needs_no_network_and_no_tracking(governed: Governed, environment: dict[str, str]) -> None:
    code = (
        "import socket, sys\n"
        "def no(*a, **k): raise RuntimeError('the gate went to the network')\n"
        "socket.socket.connect = no\n"
        "from harness.cli.main import _run\n"
        "code = _run(['readiness'])\n"
        "heavy = {'mlflow', 'dvc', 'duckdb', 'ibis', 'lightgbm', 'pandas', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=governed.root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "READY for shadow" in done.stdout
