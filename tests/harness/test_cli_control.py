"""At the command line: a stop works when little else does, and a mistake is one line with its mend."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import _run
from harness.control import SENTINEL, Control, Reader, Stop, read_state
from harness.control import kill as stop
from harness.control.audit import AUDIT
from harness.control.births import own_birth
from harness.control.readers import NOTES
from harness.control.state import STATE
from harness.serving.listener import listen

NOBODY = "No service of this pilot has left a note on this host, so nobody was there to confirm it."
Run = Callable[..., tuple[int, str, str]]
Pilot = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a verb in this process, in the tiny pilot's folder; gives exit code, output and errors."""
    monkeypatch.chdir(tiny.root)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = _run(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield run
    from harness.cli import context

    context.choose(root=None, debug=False)


def refused(found: tuple[int, str, str], code: int, *told: str) -> None:
    assert found[0] == code
    assert found[1] == ""
    assert found[2].count("\n") == 1
    assert found[2].startswith("pilot: ")
    assert "Traceback" not in found[2]
    for part in told:
        assert part in found[2]


def why(tiny: Any) -> str:
    return Control(tiny.control).permission("plot 1").why.value


def test_kill_and_arm_say_what_is_in_force_now(tiny: Any, run: Run) -> None:
    tiny.offered()
    code, said, _ = run("kill", "--reason", "too wet")
    assert (code, "STOPPED (revision 2)" in said, why(tiny)) == (0, True, "killed")
    code, said, _ = run("arm", "--reason", "dry again")
    assert (code, "ARMED (revision 3, stage sandbox)" in said, why(tiny)) == (0, True, "assigned")


def test_without_a_pilot_every_verb_says_so(tiny: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.root.parent)
    for verb in (["status"], ["audit"], ["serve"], ["kill", "--reason", "x"], ["arm", "--reason", "x"]):
        refused(run(*verb), 2, "no pilot.toml")
    refused(run("--root", str(tiny.root / "src"), "status"), 2, "pilot.toml", "missing")


def test_another_folder_can_be_named(tiny: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.offered()
    monkeypatch.chdir(tiny.root.parent)
    assert run("--root", "pilot", "kill", "--reason", "from outside")[0] == 0
    assert why(tiny) == "killed"


def test_an_unknown_verb_or_option_is_wrong_use(run: Run) -> None:
    refused(run("stop"), 2, "stop")
    refused(run("status", "--loud"), 2, "--loud")


def test_a_stop_needs_no_reason_and_a_start_does(tiny: Any, run: Run) -> None:
    tiny.offered()
    for blank in ([], ["--reason", ""], ["--reason", "   "]):
        assert run("kill", *blank)[0] == 0
        assert (tiny.control / SENTINEL).exists()
        refused(run("arm"), 2, "--reason")
        for nothing in ("", "\t\n"):
            refused(run("arm", "--reason", nothing), 2, "a reason is needed")
        assert run("arm", "--reason", "checked")[0] == 0
    reasons = [entry["reason"] for entry in json.loads(run("audit", "--json")[1])]
    assert reasons.count("(no reason given)") == 3


def test_arm_with_nothing_stopped_is_refused(tiny: Any, run: Run) -> None:
    refused(run("arm", "--reason", "why not"), 2, "no control state")
    tiny.offered()
    refused(run("arm", "--reason", "why not"), 2, "nothing is stopped")


def test_kill_works_with_a_mistake_elsewhere_in_the_settings(tiny: Any, run: Run) -> None:
    tiny.offered()
    moved = tiny.control.rename(tiny.root / "state")
    tiny.toml.write_text(tiny.toml.read_text() + "\n[control]\nfolder = 'state'\n[store]\nurll = 'x'\n")
    refused(run("status"), 2, "urll", "Did you mean 'url'?")
    assert run("kill", "--reason", "stop anyway")[0] == 0
    assert Control(moved).permission("plot 1").why == "killed"
    assert not tiny.control.exists()


def test_kill_with_a_broken_file_names_what_to_touch(tiny: Any, run: Run) -> None:
    tiny.offered()
    tiny.toml.write_text("[pilot\n")
    found = run("kill", "--reason", "stop anyway")
    refused(found, 2, f"touch {tiny.control / SENTINEL}")
    (tiny.control / SENTINEL).touch()
    assert why(tiny) == "killed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PILOT_CONTROL__FOLDER", "elsewhere"),
        ("pilot_control__folder", "elsewhere"),
        ("PILOT_CONTROL", '{"folder": "elsewhere"}'),
        ("PILOT_ROOT", "/nowhere"),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_kill_stops_in_the_folder_that_the_service_reads(
    tiny: Any, run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str, broken: bool
) -> None:
    monkeypatch.setenv(name, value)
    folder = tiny.settings().path(tiny.settings().control.folder)
    if broken and name.upper() == "PILOT_CONTROL__FOLDER":
        tiny.toml.write_text("[pilot\n")
    assert run("kill", "--reason", "stop")[0] == 0
    assert (folder / SENTINEL).exists()


def test_kill_stops_with_everything_else_broken_at_once(tiny: Any, run: Run) -> None:
    tiny.offered()
    (tiny.control / STATE).write_text("{")
    (tiny.control / AUDIT).unlink()
    (tiny.control / AUDIT).mkdir()
    code, said, _ = run("kill", "--reason", "all broken")
    assert (code, "STOPPED." in said, why(tiny)) == (0, True, "killed")


def test_kill_says_when_it_could_not(tiny: Any, run: Run) -> None:
    tiny.control.parent.mkdir(parents=True)
    tiny.control.write_text("a file where the folder should be")
    code, said, told = run("kill", "--reason", "stop")
    assert (code, said.splitlines()[0]) == (1, f"NOT STOPPED EVERYWHERE: stderr says where not. {NOBODY}")
    assert told.count("\n") == 1
    assert "THE MODEL WAS NOT STOPPED" in told
    assert str(tiny.control / SENTINEL) in told
    found = json.loads(run("kill", "--json")[1])
    assert (found["stopped"], found["confirmed"], len(found["not_stopped"])) == (False, None, 1)


@pytest.mark.parametrize("closed", ["own", "another"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("nobody foresaw it")])
def test_one_folder_that_takes_no_stop_keeps_no_other_from_being_stopped(
    tiny: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str, error: Exception
) -> None:
    tiny.offered()
    one, another = tmp_path / "a", tmp_path / "b"
    notes = tiny.root / NOTES
    notes.mkdir(parents=True)
    for folder in (one, another):
        reader = Reader(os.getpid(), folder=str(folder), url="", **asdict(own_birth()))
        (notes / f"{folder.name}.json").write_text(json.dumps(asdict(reader)))
    refusing = tiny.control if closed == "own" else one
    pushed: list[str] = []
    monkeypatch.setattr("harness.cli.sync.push", pushed.append)

    def kill(folder: Path, **more: Any) -> Stop:
        if folder == refusing:
            raise error
        return stop(folder, **more)

    monkeypatch.setattr("harness.control.kill", kill)
    code, said, told = run("kill", "--reason", "stop")
    assert (code, said.partition(":")[0], pushed) == (1, "NOT STOPPED EVERYWHERE", ["stop"])
    assert [(folder / SENTINEL).exists() for folder in (tiny.control, one, another)] == [
        folder != refusing for folder in (tiny.control, one, another)
    ]
    assert f"{refusing}: THE MODEL WAS NOT STOPPED" in told
    assert str(error) in told
    assert "Traceback" not in told


def test_a_stop_goes_out_although_nobody_can_be_asked(
    tiny: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.offered()
    pushed: list[str] = []
    monkeypatch.setattr("harness.cli.sync.push", pushed.append)

    def cannot(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("harness.control.confirmation.every_word", cannot)
    code, said, told = run("kill", "--reason", "stop", "--json")
    assert (code, pushed, why(tiny)) == (3, ["stop"], "killed")
    assert [json.loads(said)[name] for name in ("stopped", "confirmed")] == [True, None]
    assert "can't start new thread" in told


def test_a_kill_that_leaves_the_model_running_is_not_reported_as_a_stop(
    tiny: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.offered()
    monkeypatch.setattr("harness.control.kill", lambda folder, **_: Stop(read_state(folder)))
    code, said, told = run("kill", "--reason", "stop")
    assert (code, "NOT STOPPED" in said, "WAS NOT STOPPED" in told) == (1, True, True)


def test_a_reason_in_another_encoding_stops_all_the_same(tiny: Any, pilot_command: Pilot) -> None:
    tiny.offered()
    done = pilot_command("kill", "--reason", "zu na\udcdf", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert why(tiny) == "killed"


def test_status_tells_what_is_in_force(tiny: Any, run: Run) -> None:
    assert "no model was offered yet" in run("status")[1]
    digest = tiny.offered()
    tiny.service().decide(tiny.parsed())
    found = json.loads(run("status", "--json")[1])
    assert (found["stage"], found["revision"], found["stopped"]) == ("sandbox", 1, False)
    assert found["challenger"] == {"digest": digest, "pct": 100, "problem": None}
    assert found["decisions"] == [{"served_by": "model", "why": "assigned", "count": 1}]
    assert "decisions on record: 1" in run("status")[1]
    (tiny.control / SENTINEL).touch()
    assert "STOPPED: the KILL file is there" in run("status")[1]
    (tiny.control / STATE).write_text("{")
    assert "STOPPED: the state cannot be trusted" in run("status")[1]


def test_every_report_is_json_on_request(tiny: Any, run: Run) -> None:
    tiny.offered()
    assert json.loads(run("kill", "--reason", "grün", "--json")[1]) == {
        "stopped": True,
        "revision": 2,
        "folder": str(tiny.control),
        "not_stopped": [],
        "not_written": [],
        "confirmed": None,
        "last_model_decision": None,
        "workers": [],
        "remote": None,
    }
    assert json.loads(run("status", "--json")[1])["stopped"] is True
    assert json.loads(run("arm", "--reason", "go", "--json")[1]) == {
        "stopped": False,
        "revision": 3,
        "stage": "sandbox",
    }
    entries = json.loads(run("audit", "--json")[1])
    assert [entry["action"] for entry in entries] == ["offer", "kill", "arm"]
    assert entries[1]["reason"] == "grün"


def test_audit_ends_with_1_when_the_record_was_tampered_with(tiny: Any, run: Run) -> None:
    tiny.offered()
    run("kill", "--reason", "stop")
    assert "2 entries" in run("audit")[1]
    file: Path = tiny.control / AUDIT
    file.write_bytes(file.read_bytes().replace(b'"stop"', b'"halt"'))
    refused(run("audit"), 1, "line 2", "changed")


def test_a_store_out_of_order_is_one_line(tiny: Any, run: Run) -> None:
    file = tiny.root / "var" / "decisions.db"
    file.parent.mkdir()
    file.write_text("no database " * 100)
    code, out, _ = run("status")
    assert code == 0
    assert "NOTHING CAN BE RECORDED" in out
    assert "the store cannot be opened" in out
    refused(run("serve", "--port", "0"), 2, "the store cannot be opened")


def test_a_service_that_may_not_or_cannot_start_says_so_in_one_line(tiny: Any, run: Run) -> None:
    refused(run("serve", "--host", "0.0.0.0", "--port", "0"), 2, "loopback only")
    taken = listen("127.0.0.1", 0)
    port = str(taken.getsockname()[1])
    refused(run("serve", "--port", port), 2, f"port {port}", "is in use")
    taken.close()
    tiny.champion("a" * 64, stage="early")
    refused(run("serve", "--port", "0"), 2, "git clean")
    (tiny.root / "var" / "decisions.db").unlink()
    (tiny.root / "var" / "decisions.db").mkdir()
    refused(run("serve", "--port", "0"), 2, "the store cannot be opened")


def test_debug_shows_the_traceback(tiny: Any, run: Run) -> None:
    code, _, errors = run("--debug", "arm", "--reason", "why not")
    assert code == 2
    assert "Traceback" in errors
    assert errors.splitlines()[-1].startswith("pilot: ")


def test_the_command_ends_with_the_code_and_no_traceback(tiny: Any, pilot_command: Pilot) -> None:
    done = pilot_command("arm", "--reason", "nothing there")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "Traceback" not in done.stderr
