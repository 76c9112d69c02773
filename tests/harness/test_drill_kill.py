"""`pilot drill kill` passes where the switch works, and fails where somebody took a part of it out."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from drilling import drillable
from harness.control import Slot
from harness.drills import kill, load, stops
from harness.drills.outcome import Check, Checks, Outcome, Scene, Verdict
from harness.drills.scratch import FOLDER, _alone, _toml, scratch_pilot
from harness.drills.service import served
from harness.errors import PilotError
from harness.pipeline import layout, lineage
from harness.readiness import drilled

__all__ = ["drillable"]

Run = Callable[..., subprocess.CompletedProcess[str]]
PERMISSION = "control/permission.py"
ASKS = "        stopped = self.killed()\n        state = self._watched.read()\n"
POLLS = """        if time.monotonic() - getattr(self, "_at", -60.0) > 60.0:
            self._at, self._kept = time.monotonic(), (self.killed(), self._watched.read())
        stopped, state = self._kept
"""
AGAIN = "        after = self._permission(asked.entity)\n"


@dataclass(frozen=True)
class Flaw:
    """A part of the switch that somebody took out, and the checks that have to notice."""

    file: str
    old: str
    new: str
    noticed_by: tuple[str, ...]


FLAWS = {
    "the KILL file is not looked at": Flaw(
        PERMISSION, "        if stopped:\n", "        if stopped and state.latched:\n", ("file.kill",)
    ),
    "the service does not ask again after scoring": Flaw(
        "serving/service.py", AGAIN, "        after = asked.permission\n", ("in_flight.fallback",)
    ),
    "the files are polled now and then": Flaw(PERMISSION, ASKS, POLLS, ("kill.no_model_after", "file.kill")),
    "the latch is not looked at": Flaw(
        PERMISSION, "        if state.latched:\n", "        if False:\n", ("file.latch", "file.older_stop")
    ),
    "a state once read is kept": Flaw(
        "control/watched.py",
        "            if self._cached is not None and self._cached[0] == key:\n",
        "            if self._cached is not None and isinstance(key, tuple):\n",
        ("file.emptied", "file.truncated", "file.older_stop"),
    ),
}
# Each is a whole drill; the other tests of this file hold what its checks make of what they see.
DEAR = [name for name in FLAWS if name != "the KILL file is not looked at"]


NOTICED = {check for flaw in FLAWS.values() for check in flaw.noticed_by}


def record_of(tiny: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tiny.root / "evidence" / "drills" / "kill.json").read_text())
    return found


def before(tiny: Any) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in tiny.control.rglob("*") if path.is_file()}


def outcomes(tiny: Any) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in record_of(tiny)["checks"]}


@pytest.fixture
def drill(drillable: Any, environment: dict[str, str]) -> Callable[[], subprocess.CompletedProcess[str]]:
    """Run `pilot drill kill` as a process, which may take longer than other commands."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness.cli", "drill", "kill", *arguments],
            cwd=drillable.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    return run


def test_the_drill_passes_and_leaves_the_pilot_as_it_was(drillable: Any, drill: Any) -> None:
    control = before(drillable)
    done = drill("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said == record_of(drillable)
    assert said["passed"] is True
    assert set(outcomes(drillable).values()) == {"passed"}
    assert {*NOTICED, "kill.no_model_after", "restart.still_stopped", "record.one_each"} <= {
        *outcomes(drillable)
    }
    figures = said["figures"]
    assert figures["last_model_start_before_return_ms"] > 0
    assert figures["answers_after_kill"] >= kill.AFTER
    assert figures["model_decisions_before"] >= kill.BEFORE
    assert figures["errors_5xx"] == 0
    assert figures["answers"] == figures["decisions_on_record"]
    assert figures["in_flight"] == kill.IN_FLIGHT
    for tree in ("src", "harness"):
        assert said["trees"][tree] == lineage.committed_tree(drillable.root, tree) != "none"
    age = datetime.now(UTC) - datetime.fromisoformat(said["produced_at"])
    assert timedelta(seconds=-2) < age < timedelta(seconds=60)
    assert drilled.read(drillable.root, "kill").passed
    # The pilot in use: neither stopped nor armed, no decision of its own, nothing left behind.
    assert before(drillable) == control
    assert not (drillable.root / "var" / "decisions.db").exists()
    assert not (drillable.root / FOLDER).exists()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in DEAR else name for name in FLAWS]
)
def test_the_drill_fails_where_a_part_of_the_switch_was_taken_out(
    drillable: Any, drill: Any, name: str
) -> None:
    flaw = FLAWS[name]
    file = drillable.root / "harness" / "src" / "harness" / flaw.file
    text = file.read_text()
    assert text.count(flaw.old) == 1
    imports = "import time\n" if flaw.new == POLLS else ""
    file.write_text(text.replace(flaw.old, flaw.new).replace("import os\n", f"import os\n{imports}"))
    done = drill()
    assert done.returncode == 1, done.stdout + done.stderr
    found = outcomes(drillable)
    assert {found[check] for check in flaw.noticed_by} == {"failed"}, found
    assert all(f"  - {check}: " in done.stdout for check in flaw.noticed_by)
    assert "FAILED: " in done.stdout
    assert record_of(drillable)["passed"] is False
    assert record_of(drillable)["trees"]["harness"] != lineage.committed_tree(drillable.root, "harness")


def test_in_another_stage_and_with_a_model_of_real_data_the_copy_is_a_sandbox(
    drillable: Any, pilot_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = drillable.package(weight=0.9, origin="real").digest
    drillable.put(stage="early", challenger=Slot(digest=digest, pct=10), latched=True)
    consumer = '[downstream]\nurl = "https://consumer.example.org/decisions"\n'
    drillable.toml.write_text(drillable.toml.read_text() + consumer)
    seen: list[dict[str, Any]] = []

    def look(_self: kill.Kill, scene: Scene) -> Outcome:
        with served(scene.pilot) as service:
            caller = load.Caller(service.url, scene.pilot.records, scene.pilot.token())
            assert stops.decides(caller), caller.last
            store = scene.pilot.copy.store()
            seen.extend(vars(made) for made in store.latest(1))
            store.close()
        return Outcome((Check("looked", Verdict.PASSED, "at it"),), {})

    monkeypatch.setattr(kill.Kill, "run", look)
    done = pilot_here("drill", "kill", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == digest
    assert [(made["stage"], made["sandbox"], made["served_by"]) for made in seen] == [
        ("sandbox", True, "model")
    ]
    assert seen[0]["model_digest"] != digest
    assert drillable.settings().downstream.url


def test_a_check_that_could_not_be_made_is_no_pass(
    drillable: Any, pilot_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = Outcome((Check("looked", Verdict.INCONCLUSIVE, "at nothing"),), {})
    monkeypatch.setattr(kill.Kill, "run", lambda _self, _scene: unknown)
    done = pilot_here("drill", "kill")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "INCONCLUSIVE: that is no pass (looked could not be seen)" in done.stdout
    assert record_of(drillable)["passed"] is False


@pytest.mark.slow  # a real service; what becomes of such a check is the test above
def test_a_model_that_never_decides_shows_nothing_and_that_is_no_pass(
    drillable: Any, pilot_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = drillable.root / "src" / "dryfield" / "model.py"
    model.write_text(
        model.read_text().replace("    if hook is not None:", "    raise ValueError\n    if hook:", 1)
    )
    drillable.offered()
    monkeypatch.setattr(kill, "WITHIN_S", 0.5)
    done = pilot_here("drill", "kill")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "INCONCLUSIVE: that is no pass (before.model could not be seen)" in done.stdout
    assert "(model_failed)" in done.stdout
    assert record_of(drillable)["passed"] is False
    assert outcomes(drillable) == {"before.model": "inconclusive"}


def test_without_a_packaged_model_it_says_what_makes_one(drillable: Any, pilot_here: Run) -> None:
    shutil.rmtree(drillable.control)
    shutil.rmtree(drillable.root / layout.PACKAGE)
    done = pilot_here("drill", "kill")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("there is no packaged model. Run `pilot run` to make one.")
    assert not (drillable.root / "evidence" / "drills").exists()
    assert not (drillable.root / FOLDER).exists()


def test_without_records_or_a_repository_it_says_so(drillable: Any, pilot_here: Run) -> None:
    held_back = drillable.root / layout.TEST_RECORDS
    held_back.rename(held_back.with_suffix(".aside"))
    done = pilot_here("drill", "kill")
    assert (done.returncode, "no records to drill with. Run `pilot run` first." in done.stderr) == (2, True)
    held_back.with_suffix(".aside").rename(held_back)
    shutil.rmtree(drillable.root / ".git")
    done = pilot_here("drill", "kill")
    assert (done.returncode, "in no git repository yet. git init" in done.stderr) == (2, True)
    assert not (drillable.root / FOLDER).exists()


def test_a_service_that_does_not_start_is_told_in_one_line(drillable: Any, pilot_here: Run) -> None:
    (drillable.root / "src" / "dryfield" / "fallback.py").write_text("raise ValueError('broken')\n")
    done = pilot_here("drill", "kill")
    assert done.returncode == 2, done.stdout
    assert "the service of the scratch copy does not start: " in done.stderr
    assert "broken" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_drills_are_listed_and_another_is_unknown(pilot_here: Run) -> None:
    listed = pilot_here("drill", "list")
    assert listed.returncode == 0
    assert listed.stdout.startswith("kill         After `pilot kill` no request is decided by a model")
    names = [each["name"] for each in json.loads(pilot_here("drill", "list", "--json").stdout)]
    assert names == ["kill", "data-quality", "integration", "load"]
    other = pilot_here("drill", "fire")
    assert other.returncode == 2
    known = "kill, data-quality, integration, load, all, list"
    assert f"there is no drill 'fire'. Use one of: {known}." in other.stderr


def test_an_interruption_leaves_no_process_and_no_scratch(
    drillable: Any, environment: dict[str, str], wait: Callable[..., Any]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "drill", "kill"],
        cwd=drillable.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def serving() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children(recursive=True)
        listening = [
            log
            for log in drillable.root.glob(f"{FOLDER}/*/var/service-*.log")
            if "listening" in log.read_text()
        ]
        return children if listening else []

    started = wait(serving, within=60)
    time.sleep(1.0)  # under load by now
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130, printed + said
    assert "Traceback" not in said
    assert not [each for each in started if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not (drillable.root / FOLDER).exists()
    assert not (drillable.root / "evidence" / "drills").exists()


def test_what_a_drill_left_that_was_killed_is_swept_away(drillable: Any) -> None:
    left = drillable.root / FOLDER / "999999999"
    left.mkdir(parents=True)
    with scratch_pilot(drillable.settings()) as pilot:
        assert not left.exists()
        assert pilot.copy.root.parent == drillable.root / FOLDER
    assert not (drillable.root / FOLDER).exists()


def test_nothing_in_the_copys_settings_leads_elsewhere() -> None:
    values = {
        "pilot": {"name": 'Wert "ü" \\ 😀'},
        "sources": {"a b": {"kind": "csv", "path": "x"}},
        "downstream": {"url": "https://example.org"},
        "remote": {"url": "https://example.org"},
        "control": {"folder": "c", "on_call_group": "nobody"},
        "sandbox": {"samples": ["a", "b"]},
        "data": {"max_bad_share": 0.05},
        "serving": {"port": 1, "open_in_sandbox": True},
    }
    kept = _alone(values)
    assert {"downstream", "remote"} & {*kept} == set()
    assert kept["control"] == {"folder": "c"}
    assert values["control"]["on_call_group"] == "nobody"
    assert tomllib.loads(_toml(kept)) == kept


def test_one_failed_check_fails_the_drill_and_none_is_no_pass() -> None:
    checks = Checks()
    assert checks.outcome().verdict is Verdict.INCONCLUSIVE
    checks.that("a", True, "")
    assert checks.outcome().verdict is Verdict.PASSED
    checks.unknown("b", "")
    assert checks.outcome().verdict is Verdict.INCONCLUSIVE
    checks.that("c", False, "")
    assert checks.outcome().verdict is Verdict.FAILED


def test_a_record_that_claims_a_pass_beside_a_failure_is_none(tmp_path: Path) -> None:
    passed = {
        "drill": "kill",
        "passed": True,
        "verdict": "passed",
        "produced_at": "2026-03-01T00:00:00Z",
        "produced_by": "somebody",
        "harness": "1.0.0",
        "cores": 2,
        "trees": {},
        "model": "a" * 64,
        "figures": {"after_ms": 1.5, "lost": None},
        "checks": [{"name": "a", "outcome": "passed", "detail": ""}],
    }
    file = tmp_path / drilled.path("kill")
    layout.write_json(file, passed)
    assert drilled.read(tmp_path, "kill").passed
    failed = {"name": "b", "outcome": "failed", "detail": ""}
    for forged in (
        {"checks": [*passed["checks"], failed]},
        {"checks": []},
        {"verdict": "inconclusive"},
        {"passed": False},
        {"produced_at": "2026-03-01T00:00:00"},
        {"drill": "another"},
    ):
        layout.write_json(file, {**passed, **forged})
        with pytest.raises(PilotError, match=r"record of a|record of another"):
            drilled.read(tmp_path, "kill")
    file.unlink()
    with pytest.raises(PilotError, match="missing"):
        drilled.read(tmp_path, "kill")


def test_the_load_is_steady_and_bounded() -> None:
    released = threading.Event()

    class Slow(load.Caller):
        def ask(self) -> load.Answer:
            released.wait(20)
            return load.Answer(0.0, 0.0, 200)

    with load.Load(Slow("http://127.0.0.1:1", [{}], ""), rate=200, at_once=3) as under:
        time.sleep(0.5)
        assert under.answers == []
        released.set()
        time.sleep(0.5)
    assert under.not_sent >= 50  # of the 100 that the first half second asked for
    assert 20 <= len(under.answers) <= 110


def test_what_does_not_answer_is_an_answer_too() -> None:
    caller = load.Caller("http://127.0.0.1:1", [{}], "")
    found = caller.ask()
    assert (found.status, found.by_model, found.why) == (0, False, "ConnectError")
    assert caller.last == "the last answer was 0, no decision (ConnectError)"
    checks = Checks()
    stops.by_fallback(checks, "x", [found])
    stops.by_fallback(checks, "y", [])
    assert [each.verdict for each in checks.made] == [Verdict.FAILED, Verdict.FAILED]


def answer(started: float, by: str = "fallback", *, number: int = 0, status: int = 200) -> load.Answer:
    return load.Answer(started, started + 0.1, status, by, "assigned", f"d-{number}")


def test_one_request_by_a_model_after_the_return_is_enough_to_fail() -> None:
    checks = Checks()
    kill.no_model_after(checks, [answer(1, "model"), answer(3), answer(4)], 2.0)
    kill.no_model_after(checks, [answer(1, "model"), answer(3), answer(4, "model")], 2.0)
    kill.no_model_after(checks, [answer(1, "model")], 2.0)
    kill.no_model_after(checks, [answer(1), answer(3)], 2.0)
    verdicts = [each.verdict for each in checks.made]
    assert verdicts == [Verdict.PASSED, Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE]
    assert checks.made[1].detail == "1 of 2 requests that started after it returned were decided by a model"


def test_one_request_that_the_fallback_did_not_decide_is_enough_to_fail() -> None:
    checks = Checks()
    for other in (answer(2), answer(2, "model"), answer(2, status=503), answer(2, "")):
        stops.by_fallback(checks, "x", [answer(1), other])
    passed, failed = Verdict.PASSED, Verdict.FAILED
    assert [each.verdict for each in checks.made] == [passed, failed, failed, failed]


@pytest.mark.parametrize(
    ("answered", "on_record", "holds"),
    [((1, 2), (1, 2), True), ((1, 2), (1, 2, 3), False), ((1, 2), (1,), False), ((1, 1), (1,), False)],
)
def test_every_answer_is_one_decision_on_record(
    answered: tuple[int, ...], on_record: tuple[int, ...], holds: bool
) -> None:
    class Store:
        def counts(self) -> dict[tuple[str, str], int]:
            return {("model", "assigned"): len(on_record)}

        def get(self, name: str) -> str | None:
            return name if name in {f"d-{number}" for number in on_record} else None

        def close(self) -> None:
            """Nothing to close."""

    checks = Checks()
    kill.recorded(Store(), [answer(1, number=number) for number in answered], checks)  # type: ignore[arg-type]
    assert [each.verdict is Verdict.PASSED for each in checks.made] == [holds]
