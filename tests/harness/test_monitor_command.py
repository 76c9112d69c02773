"""`pilot monitor` on a real store: its exit code, the action that is taken, the audit line.

The verb runs in the tests' own process, from its arguments to its exit code. As a process of its own, which
takes seconds to import its libraries and to make MLflow's database, it runs once for each of its exit codes.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from changes import everywhere, gone, renamed, shifted, vanished, wrong
from harness.control import read_audit
from watching import Watched

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def tracking(watched: Watched, empty_tracking: Path) -> None:
    """MLflow's database is there, as it is after the run that made the model."""
    folder = watched.tiny.root / "var" / "mlflow"
    folder.mkdir(parents=True)
    shutil.copy(empty_tracking, folder / "mlflow.db")


@dataclass(frozen=True)
class Scenario:
    """What has happened, and what has to come of it.

    Attributes:
        what: In words.
        happens: Makes the decisions and outcomes.
        code: The exit code.
        signal: The signal that says so; empty where none does.
        verdict: What it says.
        action: What is done; empty for nothing.
        killed: Whether the sentinel is there afterwards.
        as_process: Whether it is found by a process of its own.
    """

    what: str
    happens: Callable[[Watched], Any]
    code: int
    signal: str
    verdict: str
    action: str = ""
    killed: bool = False
    as_process: bool = False


def outcomes(watched: Watched, share: float) -> None:
    watched.know(wrong(pl.concat(everywhere(watched)), share))


def newest_empty(watched: Watched) -> None:
    watched.know(pl.concat([watched.decide(600, window=window) for window in (1, 2)]))


SCENARIOS = (
    Scenario("nothing has changed", lambda w: outcomes(w, 0), 0, "", "ok", as_process=True),
    Scenario("drift in one feature", lambda w: everywhere(w, shifted), 1, "input-drift", "breached", "hold"),
    Scenario("missing 2% to 20%", lambda w: everywhere(w, gone), 1, "input-missing", "breached", "rollback"),
    Scenario(
        "a vanished category",
        lambda w: everywhere(w, vanished),
        1,
        "input-vanished-category",
        "breached",
        "hold",
    ),
    Scenario("a new category", lambda w: everywhere(w, renamed), 1, "input-new-category", "breached", "hold"),
    Scenario(
        "accuracy down 10 points", lambda w: outcomes(w, 0.15), 1, "performance", "breached", "rollback"
    ),
    Scenario(
        "the model fails",
        lambda w: everywhere(w, failing=60),
        1,
        "model-failures",
        "breached",
        "kill",
        killed=True,
        as_process=True,
    ),
    Scenario("no decision at all", lambda w: None, 3, "input-drift", "inconclusive", as_process=True),
    Scenario("the newest window is empty", newest_empty, 3, "model-failures", "inconclusive"),
    Scenario(
        "too few decisions in a window",
        lambda w: everywhere(w, shifted, count=49),
        3,
        "input-drift",
        "inconclusive",
    ),
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.what)
def test_exit_code_action_and_audit_line(watched: Watched, scenario: Scenario) -> None:
    if scenario.as_process and not scenario.signal:  # and it makes MLflow's database, which takes seconds
        shutil.rmtree(watched.tiny.root / "var" / "mlflow")
    scenario.happens(watched)
    before = watched.state()
    code, found = watched.monitor(as_process=scenario.as_process)
    audit = watched.audit()
    lines = [
        f"{each['action']} by {each['actor']}: {each['reason']} (rev {each['revision']})" for each in audit
    ]
    print(f"| {scenario.what} | {code} | {scenario.action or 'none'} | {'; '.join(lines) or 'none'} |")
    assert (code, found["exit_code"]) == (scenario.code, scenario.code)
    judged = {each["id"]: each for each in found["signals"]}
    if scenario.signal:
        assert judged[scenario.signal]["verdict"] == scenario.verdict
    else:
        assert {each["verdict"] for each in judged.values()} == {"ok"}
    assert [each["action"] for each in audit] == ([scenario.action] if scenario.action else [])
    after = watched.state()
    assert (watched.tiny.control / "KILL").exists() is scenario.killed
    if not scenario.action:
        assert after == before
        return
    (line,) = audit
    assert line["reason"].startswith("monitor: ")
    assert f"{scenario.signal}: " in line["reason"]
    assert line["actor"]
    assert line["revision"] == after["rev"] == before["rev"] + 1
    assert after["held"] is (scenario.action == "hold")
    assert after["latched"] is (scenario.action in ("rollback", "kill"))
    assert scenario.action in judged[scenario.signal]["done"]
    assert f"{scenario.action} taken" in told(watched)[scenario.signal]


def told(watched: Watched) -> dict[str, str]:
    """The alerts that were raised, by their signal."""
    file = watched.tiny.root / "var" / "alerts" / "alerts.jsonl"
    if not file.exists():
        return {}
    alerts = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {each["trouble"].split()[0]: f"{each['title']}: {each['text']}" for each in alerts}


def test_beyond_the_sandbox_a_rollback_leads_to_shadow(watched: Watched) -> None:
    from harness.control import Slot

    watched.tiny.put(rev=9, stage="early", challenger=Slot(digest=watched.digest, pct=10))
    everywhere(watched, gone)
    assert watched.monitor()[0] == 1
    state = watched.state()
    assert (state["stage"], state["latched"], state["rev"]) == ("shadow", True, 10)


def test_the_report_stands_on_disk_and_in_mlflow_and_names_no_record(watched: Watched) -> None:
    frames = everywhere(watched, shifted)
    _, found = watched.monitor()
    folder = watched.tiny.root / "var" / "monitor"
    (run,) = [path for path in folder.iterdir() if path.is_dir()]
    assert {path.name for path in run.iterdir()} == {"monitor.json", "monitor.html"}
    page = (folder / "latest.html").read_text(encoding="utf-8")
    assert "Something has changed" in page
    assert page.count("<svg") == 1
    assert "hold taken" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    written = json.loads((folder / "latest.json").read_text(encoding="utf-8"))
    assert written == {name: value for name, value in found.items() if name not in ("alerts", "page")}
    everything = page + json.dumps(found) + json.dumps(told(watched))
    for name in ("reading", "plot"):
        assert not [
            value for value in frames[0][name] if f"{value}<" in everything or f'"{value}"' in everything
        ]
    with sqlite3.connect(watched.tiny.root / "var" / "mlflow" / "mlflow.db") as tracked:
        figures = dict(tracked.execute("select key, value from metrics").fetchall())
    tracked.close()
    assert figures["challenger.input-drift.breached"] == 1
    assert figures["challenger.input-drift"] == pytest.approx(found["signals"][0]["figure"]["value"])


def test_what_is_in_force_is_not_done_again_nor_told_again(watched: Watched) -> None:
    everywhere(watched, shifted)
    watched.monitor()
    state = watched.state()
    code, found = watched.monitor()
    assert code == 1
    assert found["actions"][0]["said"] == "hold in force since before"
    assert found["alerts"] == {"sent": 0, "repeated": 1, "undelivered": 0}
    assert watched.state() == state
    assert [each["action"] for each in watched.audit()] == ["hold"]


def test_looking_only_takes_no_action_and_tells_nobody(watched: Watched) -> None:
    everywhere(watched, gone)
    before = watched.state()
    code, found = watched.monitor("--no-act")
    assert code == 1
    assert [each["said"] for each in found["actions"]] == ["rollback not taken"]
    assert watched.state() == before
    assert watched.audit() == []
    assert told(watched) == {}


# ---------------------------------------------------------------- the action first
def blocked(path: Path) -> None:
    """Nothing can be written below it: it is a file."""
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")


def test_a_report_that_cannot_be_written_keeps_neither_action_nor_alert_away(watched: Watched) -> None:
    everywhere(watched, gone)
    blocked(watched.tiny.root / "var" / "monitor")
    code, found = watched.monitor()
    assert code == 1
    assert "the report was not written" in found["problems"][0]
    assert [each["action"] for each in watched.audit()] == ["rollback"]
    assert set(told(watched)) >= {"input-missing", "monitor"}


def test_a_report_that_fails_is_no_pass_where_nothing_is_breached(watched: Watched) -> None:
    outcomes(watched, 0)
    blocked(watched.tiny.root / "var" / "monitor")
    code, found = watched.monitor()
    assert (code, found["verdict"], found["exit_code"]) == (1, "ok", 1)


def test_alerts_that_cannot_be_kept_keep_neither_action_nor_report_away(watched: Watched) -> None:
    everywhere(watched, gone)
    blocked(watched.tiny.root / "var" / "alerts")
    code, found = watched.monitor()
    assert code == 1
    assert "nobody was told" in found["problems"][0]
    assert [each["action"] for each in watched.audit()] == ["rollback"]
    assert (watched.tiny.root / "var" / "monitor" / "latest.html").exists()


def test_a_target_that_nobody_answers_at_keeps_nothing_away(watched: Watched) -> None:
    everywhere(watched, gone)
    code, found = watched.monitor(PILOT_ALERTS__TARGET="json://127.0.0.1:9/secret-path")
    assert code == 1
    assert found["alerts"]["undelivered"] == 1
    assert [each["action"] for each in watched.audit()] == ["rollback"]
    _, found = watched.monitor()
    assert found["alerts"] == {"sent": 1, "repeated": 1, "undelivered": 0}


def test_an_mlflow_that_fails_keeps_nothing_away(watched: Watched) -> None:
    everywhere(watched, gone)
    blocked(watched.tiny.root / "var" / "mlflow")
    code, found = watched.monitor()
    assert (code, found["problems"]) == (1, [])
    assert [each["action"] for each in watched.audit()] == ["rollback"]
    assert "input-missing" in told(watched)


def test_an_audit_that_cannot_be_written_keeps_the_action_not_away_and_is_said(watched: Watched) -> None:
    everywhere(watched, gone)
    audit = watched.tiny.control / "audit.jsonl"
    audit.unlink()
    audit.mkdir()
    code, found = watched.monitor()
    assert code == 1
    assert watched.state()["latched"] is True
    assert "rollback taken (revision 2), WITHOUT the line in audit.jsonl" in found["actions"][0]["said"]


def test_a_rollback_that_cannot_be_written_becomes_a_kill(watched: Watched) -> None:
    from harness.control.responses import roll_back

    (watched.tiny.control / "state.json").write_text("{")
    done = roll_back(watched.tiny.control, reason="a test")
    assert (done.action, done.taken) == ("kill", True)
    assert (watched.tiny.control / "KILL").exists()


# ---------------------------------------------------------------- nothing to look at
def test_without_a_model_or_a_reference_nobody_can_say(watched: Watched) -> None:
    everywhere(watched, shifted)
    (watched.tiny.models / watched.digest / "reference.json").unlink()
    code, found = watched.monitor()
    assert code == 3
    assert "was packaged without a reference" in found["error"]
    shutil.rmtree(watched.tiny.control)
    code, found = watched.monitor()
    assert code == 3
    assert "no model is named, so there is nothing to watch. Run `pilot run`" in found["error"]


@pytest.mark.parametrize("broken", ["state", "store", "monitoring.yaml"])
def test_a_monitor_that_cannot_watch_says_so_to_somebody(watched: Watched, broken: str) -> None:
    everywhere(watched, shifted)
    more = {}
    if broken == "state":
        (watched.tiny.control / "state.json").write_text("{")
    elif broken == "store":
        blocked(watched.tiny.root / "var" / "nowhere")
        more["PILOT_STORE__URL"] = f"sqlite:///{watched.tiny.root}/var/nowhere/decisions.db"
    else:
        watched.edit("action: hold", "action: hodl")
    code, found = watched.monitor(**more)
    assert code in (1, 2)
    assert found["error"].count("pilot: ") == 1
    assert "the monitor failed, and nobody watches" in told(watched)["monitor"]


def test_a_moment_that_is_none(watched: Watched) -> None:
    for text, says in (("soon", "'soon' is no moment"), ("2026-01-31", "does not say its offset")):
        done = watched.command("monitor", "--now", text)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr


# ---------------------------------------------------------------- the team's own signals
OWN = """
  - id: repeated-requests
    category: data_quality
    measure: own
    threshold: 0.05
    min_samples: 100
    breaches: 2
    windows: 3
    action: hold
    runbook: repeated-requests
"""
MEASURE = """
from harness.monitor import Measured, Window


def signals(window: Window) -> list[Measured]:
    made = window.decisions()
    {line}
    return [Measured("{name}", {value}, made.height)]
"""


def own(watched: Watched, text: str | None = None, *, declared: bool = True) -> tuple[int, dict[str, Any]]:
    if declared:
        watched.declare(watched.document.replace("\nsignals:\n", f"\nsignals:\n{OWN}"))
    if text is not None:
        (watched.tiny.root / "src" / "dryfield" / "monitors.py").write_text(text)
    return watched.monitor()


def measuring(value: str, *, name: str = "repeated-requests", line: str = "pass") -> str:
    return MEASURE.format(value=value, name=name, line=line)


def test_a_file_that_is_absent_is_fine_unless_something_is_declared(watched: Watched) -> None:
    outcomes(watched, 0)
    assert own(watched, declared=False)[0] == 0
    code, found = own(watched)
    assert (code, found["verdict"]) == (1, "failed")
    assert found["signals"][0]["problem"] == "there is no monitors.py that measures it"


def test_a_signal_of_ones_own_is_judged_and_acted_upon_as_any_other(watched: Watched) -> None:
    outcomes(watched, 0)
    share = '(made["record"].struct.field("soil") == "clay").mean()'
    code, found = own(watched, measuring(share))
    assert code == 1
    assert found["signals"][0]["verdict"] == "breached"
    assert found["signals"][0]["figure"]["value"] == pytest.approx(0.5, abs=0.1)
    assert [each["action"] for each in watched.audit()] == ["hold"]


def test_a_signal_of_ones_own_that_finds_nothing_or_too_little(watched: Watched) -> None:
    outcomes(watched, 0)
    code, _ = own(watched, measuring("0.01"))
    assert code == 0
    code, found = own(watched, measuring("None"), declared=False)
    assert (code, found["signals"][0]["verdict"]) == (3, "inconclusive")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            measuring("0.5", line='raise ValueError("r-101-1 is odd")'),
            "monitors.py line 7: ValueError: r-101-1",
        ),
        (measuring('"many"'), "monitors.py gave 'many', which is no number"),
        (measuring('float("nan")'), "monitors.py gave nan, which is no number"),
        (measuring("0.5", name="another"), "monitors.py does not measure it"),
        (measuring("0.5", line="raise SystemExit(0)"), "it ended the process (SystemExit)"),
        ("def signals(window):\n    return 5\n", "signals() gave a int and no list"),
        ("signal = 5\n", "signals is not defined"),
        ("def signals(window:\n", "monitors.py"),
    ],
)
def test_an_error_in_the_file_is_named_exits_1_and_is_told_without_its_words(
    watched: Watched, text: str, says: str
) -> None:
    outcomes(watched, 0)
    code, found = own(watched, text)
    assert code == 1
    assert found["signals"][0]["verdict"] == "failed"
    assert says in found["signals"][0]["problem"]
    assert "r-101-1" not in json.dumps(told(watched))
    assert "repeated-requests failed" in told(watched)["repeated-requests"]
    assert watched.audit() == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            measuring("0.5"),
            "repeated-requests: monitors.py measures it, and monitoring.yaml does not declare it",
        ),
        (measuring("0.5", line='raise ValueError("r-101-1 is odd")'), "monitors.py line 7: ValueError"),
    ],
)
def test_a_file_whose_signals_nobody_declares_is_no_pass_either(
    watched: Watched, text: str, says: str
) -> None:
    outcomes(watched, 0)
    code, found = own(watched, text, declared=False)
    assert (code, found["verdict"]) == (1, "ok")
    assert says in found["problems"][0]
    assert "one thing could not be done" in told(watched)["monitor"]
    assert "r-101-1" not in json.dumps(told(watched))


# ---------------------------------------------------------------- a hold, and a person
def test_a_hold_stands_until_somebody_arms_and_leaves_the_model_deciding(watched: Watched) -> None:
    everywhere(watched, shifted)
    watched.monitor()
    assert watched.state()["held"] is True
    assert watched.state()["challenger"]["digest"] == watched.digest
    status = watched.command("status")
    assert "HELD: nothing is promoted" in status.stdout
    assert watched.command("arm", "--reason", "the probes were replaced").returncode == 0
    assert watched.state()["held"] is False
    assert [each["action"] for each in read_audit(watched.tiny.control)[-2:]] == ["hold", "arm"]
