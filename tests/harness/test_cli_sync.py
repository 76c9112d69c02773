"""`pilot sync` as people and cron use it, and what `status`, `arm`, `/health` and the gates make of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.control import Arm, Slot, Why, settings_control
from harness.control.remote import REMOTE, Remote, write_remote
from harness.errors import PilotError
from harness.readiness.case import Case
from harness.readiness.control import _free
from harness.simulate.embedded import server

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(tmp_path_factory.mktemp("control") / "postgres") as url:
        yield url.replace(":@", "@")


def named(tiny: Any, url: str = "postgresql://127.0.0.1:1/control", **more: object) -> None:
    said = "".join(f"{name} = {json.dumps(value)}\n" for name, value in more.items())
    tiny.toml.write_text(tiny.toml.read_text() + f'\n[remote]\nsource = "postgres"\nurl = "{url}"\n{said}')


def said(tiny: Any, *, ago_s: float = 0.0, **changes: Any) -> None:
    values = {
        "source": "postgres postgresql://127.0.0.1:1/control",
        "flag": "dryfield",
        "group": "dryfield",
        "fetched_at": datetime.now(UTC) - timedelta(seconds=ago_s),
        "pct": 40,
        "killed": False,
        "proof": "version 3",
    }
    write_remote(tiny.control, Remote(**{**values, **changes}))


def test_without_a_flag_service_the_verbs_say_what_to_write(tiny: Any, pilot_here: Run) -> None:
    for verb in (("sync", "run"), ("sync", "once"), ("sync", "init")):
        done = pilot_here(*verb)
        assert done.returncode == 2
        assert "pilot.toml [remote]: no flag service is named. Write the table [remote]" in done.stderr


def test_a_service_out_of_reach_is_exit_3_and_changes_nothing(tiny: Any, pilot_here: Run) -> None:
    named(tiny)
    said(tiny, ago_s=100)
    before = (tiny.control / REMOTE).read_bytes()
    done = pilot_here("sync", "once")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert (tiny.control / REMOTE).read_bytes() == before


def test_once_speaks_json(tiny: Any, database: str, pilot_here: Run) -> None:
    named(tiny, database)
    assert pilot_here("sync", "init").returncode == 0
    done = pilot_here("sync", "once", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["flag"], told["pct"], told["killed"]) == ("dryfield", 0, False)
    assert told["proof"].startswith("version ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_goes_on_through_errors_and_ends_well_when_it_is_told_to(
    tiny: Any, database: str, environment: dict[str, str], pilot_here: Run, wait: Any, number: int
) -> None:
    named(tiny, database, flag=f"flag-{number}", every_s=0.2, max_stale_s=30)
    tiny.champion("a" * 64)
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "sync", "run", "--json"],
        cwd=tiny.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert "no table" in str(first) or "no such row" in str(first)
        assert pilot_here("sync", "init").returncode == 0
        second = json.loads(process.stdout.readline())
        while "synced" not in second or second["synced"]["killed"]:
            second = json.loads(process.stdout.readline())
        assert second["synced"]["pct"] == 0
        before = _fetched_at(tiny)
        wait(lambda: _fetched_at(tiny) > before)  # nothing changed there, and it is fresh
        process.send_signal(number)
        out, error = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait(timeout=20)
    assert process.returncode == 0, error
    assert "Traceback" not in error
    assert out.count("\n") < 3  # what goes on unchanged is not said each time


def _fetched_at(tiny: Any) -> datetime:
    found = settings_control(tiny.settings()).remote.read()
    assert isinstance(found, Remote)
    return found.fetched_at


def test_two_that_sync_at_once_never_put_an_older_answer_in_force(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.control.state import writing
    from harness.sync.once import LOCK, source_of, sync_once

    named(tiny)
    monkeypatch.setattr("harness.sync.once.ASK_WITHIN_S", 0.1)
    with (
        writing(tiny.control, lock=LOCK),
        pytest.raises(PilotError, match="another process"),
    ):
        sync_once(tiny.settings(), source_of(tiny.settings()))


def test_an_answer_is_as_old_as_its_question(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.sync import Answer, sync_once

    class Slow:
        named, flag = "a test", "dryfield"

        def ask(self, group: str) -> Answer:
            time.sleep(0.3)
            return Answer(50, False, "version 1")

        def stop(self, reason: str) -> None: ...

    named(tiny)
    began = datetime.now(UTC)
    sync_once(tiny.settings(), Slow())
    assert timedelta(0) <= _fetched_at(tiny) - began < timedelta(seconds=0.25)


def test_status_tells_of_the_remote_control(tiny: Any, pilot_here: Run) -> None:
    tiny.champion("a" * 64)
    assert "remote" not in pilot_here("status").stdout
    assert json.loads(pilot_here("status", "--json").stdout)["remote"] is None
    named(tiny)
    assert (
        "remote: NO MODEL DECIDES, nothing was fetched yet: `pilot sync run`" in pilot_here("status").stdout
    )
    said(tiny)
    done = pilot_here("status").stdout
    assert (
        "remote: 40% of entities, as postgres postgresql://127.0.0.1:1/control (flag dryfield) said" in done
    )
    found = json.loads(pilot_here("status", "--json").stdout)["remote"]
    assert (found["source"], found["pct"], found["killed"], found["in_force"]) == (
        "postgres postgresql://127.0.0.1:1/control",
        40,
        False,
        40,
    )
    assert 0 <= found["age_s"] < 60
    said(tiny, killed=True)
    assert "remote: KILLED there" in pilot_here("status").stdout
    said(tiny, ago_s=1000)
    assert "TOO OLD, no model decides (it holds for 300 s)" in pilot_here("status").stdout
    said(tiny, ago_s=-1000)
    assert "TOO OLD, no model decides (a clock was set)" in pilot_here("status").stdout
    said(tiny, group="another")
    assert "NO MODEL DECIDES: it is about the group 'another'" in pilot_here("status").stdout
    (tiny.control / REMOTE).write_text("{")
    assert "remote: NO MODEL DECIDES" in pilot_here("status").stdout


def test_a_file_that_pilot_toml_no_longer_names_is_told_as_one(tiny: Any, pilot_here: Run) -> None:
    tiny.champion("a" * 64)
    said(tiny, ago_s=1000)
    assert "pilot.toml names no [remote] any more: delete remote.json" in pilot_here("status").stdout


def test_arm_says_that_the_flag_service_still_stops(tiny: Any, pilot_here: Run) -> None:
    tiny.champion("a" * 64)
    said(tiny, killed=True)
    assert pilot_here("kill").returncode == 0
    done = pilot_here("arm", "--reason", "it was mended")
    assert "remote: KILLED there" in done.stdout
    assert settings_control(tiny.settings()).permission("plot 1").why is Why.REMOTE_KILLED


def test_a_kill_with_the_flag_service_out_of_reach_is_a_stop_and_a_warning(
    tiny: Any, pilot_here: Run
) -> None:
    tiny.champion("a" * 64)
    named(tiny)
    said(tiny)
    done = pilot_here("kill", "--reason", "a test")
    assert done.returncode == 0
    assert "STOPPED" in done.stdout
    assert "the flag service was not told" in done.stderr
    assert "Other hosts go on" in done.stderr
    assert settings_control(tiny.settings()).permission("plot 1").why is Why.KILLED


def test_a_kill_with_broken_settings_says_that_nobody_was_told(tiny: Any, pilot_here: Run) -> None:
    tiny.champion("a" * 64)
    tiny.toml.write_text(tiny.toml.read_text() + "\n[nonsense]\n")
    done = pilot_here("kill")
    assert done.returncode == 0
    assert "no flag service was told of the stop" in done.stderr


def test_a_kill_reaches_the_control_table(tiny: Any, database: str, pilot_here: Run) -> None:
    tiny.champion("a" * 64)
    named(tiny, database)
    assert pilot_here("sync", "init").returncode == 0
    done = pilot_here("kill", "--reason", "it declines everybody")
    assert done.returncode == 0
    assert "Switched off at postgres" in done.stdout
    assert done.stderr == ""
    assert pilot_here("sync", "once").returncode == 0
    assert json.loads(pilot_here("status", "--json").stdout)["remote"]["killed"] is True


def test_the_service_says_what_the_remote_control_allows(tiny: Any, served: Any) -> None:
    tiny.offered()
    said(tiny, pct=100)
    service = served()
    health = httpx.get(f"{service.url}/health", trust_env=False).json()
    assert (health["stopped"], health["remote"]) == (False, 100)

    def decided() -> dict[str, Any]:
        answer = httpx.post(f"{service.url}/decide", json=tiny.record, trust_env=False, timeout=20)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    assert decided()["served_by"] == "model"
    said(tiny, killed=True)
    assert decided()["served_by"] == "fallback"
    assert httpx.get(f"{service.url}/health", trust_env=False).json()["remote"] == "remote_killed"
    said(tiny, ago_s=1000)
    assert decided()["served_by"] == "fallback"
    said(tiny, pct=100)
    assert decided()["served_by"] == "model"


def test_a_service_that_pilot_toml_gives_a_remote_control_needs_its_file(tiny: Any) -> None:
    tiny.offered()
    named(tiny)
    assert tiny.service().control.permission("plot 1").why is Why.NO_REMOTE
    said(tiny, pct=100)
    assert tiny.service().control.permission("plot 1").arm is Arm.CHALLENGER


@pytest.mark.parametrize("trouble", ["missing", "stale", "killed", "damaged"])
def test_nothing_is_promoted_while_the_remote_control_lets_no_model_decide(tiny: Any, trouble: str) -> None:
    tiny.put(stage="early", challenger=Slot(digest="a" * 64, pct=10))
    named(tiny)
    said(tiny)
    assert list(_free(Case(tiny.settings(), "broad"))) == []
    {
        "missing": lambda: (tiny.control / REMOTE).unlink(),
        "stale": lambda: said(tiny, ago_s=1000),
        "killed": lambda: said(tiny, killed=True),
        "damaged": lambda: (tiny.control / REMOTE).write_text("{"),
    }[trouble]()
    found = list(_free(Case(tiny.settings(), "broad")))
    assert len(found) == 1
    assert "the remote control lets no model decide" in found[0].what


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('source = "launchdarkly"', "'source'"),
        ('source = "unleash"\nurl = "flags.example"', "write http://host or https://host"),
        ('source = "postgres"\nurl = "http://flags.example"', "write postgresql://host/database"),
        ('source = "unleash"\nurl = "http://h"\nmax_stale_s = 8', "at least twice every_s"),
        ('source = "unleash"\nurl = "http://h"\nmax_stale_s = nan', "'max_stale_s'"),
        ('source = "unleash"\nurl = "http://h"\nmax_stale = 8', "Did you mean 'max_stale_s'?"),
        ('source = "unleash"\nurl = "http://h"\ntoken = "x"', "set PILOT_REMOTE__TOKEN"),
        ('source = "unleash"\nurl = "http://h"\nadmin_token = "x"', "set PILOT_REMOTE__ADMIN_TOKEN"),
        ('source = "postgres"\nurl = "postgresql://me:secret@h/d"', "set PILOT_REMOTE__URL"),
    ],
)
def test_a_mistake_in_the_table_is_one_line_with_the_mend(
    tiny: Any, pilot_here: Run, line: str, told: str
) -> None:
    tiny.toml.write_text(f"{tiny.toml.read_text()}\n[remote]\n{line}\n")
    done = pilot_here("sync", "once")
    assert done.returncode == 2
    assert told in done.stderr
    assert "[remote]" in done.stderr
    assert "secret@" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_period_that_makes_each_answer_too_old_is_refused(tiny: Any, pilot_here: Run) -> None:
    named(tiny, max_stale_s=60)
    done = pilot_here("sync", "run", "--every", "40")
    assert done.returncode == 2
    assert "40 s is too long: an answer holds for 60 s" in done.stderr


def test_a_disk_that_takes_no_answer_is_told(
    tiny: Any, database: str, pilot_here: Run, monkeypatch: Any
) -> None:
    named(tiny, database)
    assert pilot_here("sync", "init").returncode == 0

    def full(file: Path, *_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr("harness.control.remote.replace", full)
    done = pilot_here("sync", "once")
    assert done.returncode == 2
    assert "cannot be written: No space left on device" in done.stderr
