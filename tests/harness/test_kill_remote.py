"""A flag service that is stopped, frozen, restored or asked with a wrong token: against a real Unleash.

The tests skip where Node or the server is not to be had; ``tests/unleash/install.sh`` installs it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.control import Arm, Control, Slot, Why, settings_control
from harness.sync import Refused, Unreachable, push_kill, sync_once
from harness.sync.once import source_of
from unleash.server import ADMIN, CLIENT, Unleash, running

Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def unleash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unleash]:
    with running(tmp_path_factory.mktemp("unleash")) as found:
        yield found


class Remote:
    """The tiny pilot with a flag of its own at the real server."""

    def __init__(self, tiny: Any, unleash: Unleash, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tiny, self.unleash, self.flag = tiny, unleash, flag
        self.strategy = unleash.flag(flag, rollout="100", stickiness="userId", groupId="dryfield")
        self.configure()
        monkeypatch.setenv("PILOT_REMOTE__TOKEN", CLIENT)
        monkeypatch.setenv("PILOT_REMOTE__ADMIN_TOKEN", ADMIN)

    def configure(self, **more: object) -> None:
        before = self.tiny.toml.read_text().split("\n[remote]")[0]
        said = {"every_s": 0.2, "max_stale_s": 2.0, **more}
        self.tiny.toml.write_text(
            f'{before}\n[remote]\nsource = "unleash"\nurl = "{self.unleash.url}"\nflag = "{self.flag}"\n'
            'environment = "development"\n' + "".join(f"{name} = {value}\n" for name, value in said.items())
        )

    def why(self, entity: str = "plot 1") -> Why:
        return settings_control(self.tiny.settings()).permission(entity).why

    def arm(self, entity: str = "plot 1") -> Arm:
        return settings_control(self.tiny.settings()).permission(entity).arm

    def off(self) -> None:
        self.unleash.admin("POST", f"projects/default/features/{self.flag}/environments/development/off")

    def on(self) -> None:
        self.unleash.admin("POST", f"projects/default/features/{self.flag}/environments/development/on")


@pytest.fixture
def remote(tiny: Any, unleash: Unleash, request: pytest.FixtureRequest, monkeypatch: Any) -> Remote:
    found = Remote(tiny, unleash, "_".join(request.node.name.split("_")[1:8]), monkeypatch)
    tiny.champion("a" * 64)
    return found


@pytest.fixture
def syncing(remote: Remote, environment: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Run `pilot sync run`, as a service of its own does."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        tokens = {"PILOT_REMOTE__TOKEN": CLIENT}
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.cli", "sync", "run"],
            cwd=remote.tiny.root,
            env=environment | tokens,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_04_a_kill_with_the_flag_service_stopped_holds_for_the_next_request(
    remote: Remote, unleash: Unleash, served: Any, pilot_command: Run, tmp_path: Path
) -> None:
    remote.configure(max_stale_s=3600)
    remote.tiny.package()
    remote.tiny.offered()
    # `offered` keeps the champion of another digest, and the challenger has everybody.
    sync_once(remote.tiny.settings(), source_of(remote.tiny.settings()))
    service = served()
    record = remote.tiny.record

    def decided() -> str:
        answer = httpx.post(f"{service.url}/decide", json=record, trust_env=False, timeout=20)
        return str(answer.raise_for_status().json()["served_by"])

    assert decided() == "model"
    unleash.stop()
    try:
        done = pilot_command("kill", "--reason", "the service is away", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert [worker["confirmed"] for worker in told["workers"]] == [True]
        assert told["remote"]["done"] is False
        assert decided() == "fallback"
        assert "was not told" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        unleash.start()


def test_22_a_move_to_unleash_reassigns_nobody(remote: Remote, unleash: Unleash, wait: Any) -> None:
    from yggdrasil_engine.engine import UnleashEngine  # what Unleash's own client decides by

    entities = [f"Äcker-{number}" for number in range(20_000)]
    remote.tiny.put(champion=Slot(digest="a" * 64, pct=37))
    before = _decided_by_the_model(Control(remote.tiny.control), entities)
    assert 7_000 < len(before) < 7_800
    # Everybody here, and the share there: it is the flag service that decides about it from now on.
    remote.tiny.champion("a" * 64, rev=2)
    remote.configure(max_stale_s=3600)
    unleash.share(remote.strategy, rollout="37", stickiness="userId", groupId="dryfield")
    settings = remote.tiny.settings()
    wait(lambda: sync_once(settings, source_of(settings)).answer.pct == 37)
    assert _decided_by_the_model(settings_control(settings), entities) ^ before == set()
    # And nobody is told otherwise by what asks Unleash itself.
    served = httpx.get(
        f"{unleash.url}/api/client/features", headers={"Authorization": CLIENT}, trust_env=False
    ).text
    engine = UnleashEngine()
    engine.take_state(served)
    theirs = {each for each in entities if engine.check_enabled(remote.flag, {"userId": each}).is_enabled}
    assert theirs ^ before == set()


def _decided_by_the_model(control: Control, entities: list[str]) -> set[str]:
    return {each for each in entities if control.permission(each).arm is Arm.CHAMPION}


def test_30_a_frozen_flag_service_holds_until_it_is_too_old_and_recovers(
    remote: Remote, unleash: Unleash, syncing: Any, wait: Any
) -> None:
    remote.configure(every_s=0.2, max_stale_s=8)
    process = syncing()
    wait(lambda: remote.arm() is Arm.CHAMPION)
    unleash.freeze()
    try:
        frozen = remote_age(remote)
        assert frozen < 5
        assert remote.arm() is Arm.CHAMPION  # what it said last holds
        wait(lambda: remote.why() is Why.REMOTE_STALE, within=30)
        assert remote_age(remote) > 8
        assert process.poll() is None
    finally:
        unleash.thaw()
    wait(lambda: remote.arm() is Arm.CHAMPION, within=15)
    process.terminate()
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "NOT FRESH" in printed
    assert "no answer within" in printed
    assert "Traceback" not in printed


def remote_age(remote: Remote) -> float:
    found = settings_control(remote.tiny.settings()).remote.read()
    return float(found.age_s())  # type: ignore[union-attr]


def test_31_a_wrong_token_is_told_as_an_error_and_never_as_fresh(remote: Remote, pilot_command: Run) -> None:
    wrong = {"PILOT_REMOTE__TOKEN": "default:development.nobody-knows-this"}
    done = pilot_command("sync", "once", **wrong)
    assert done.returncode == 1, done
    assert "the token is refused (401)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (remote.tiny.control / "remote.json").exists()
    assert remote.why() is Why.NO_REMOTE
    right = {"PILOT_REMOTE__TOKEN": CLIENT}
    assert pilot_command("sync", "once", **right).returncode == 0
    before = (remote.tiny.control / "remote.json").read_bytes()
    assert pilot_command("sync", "once", **wrong).returncode == 1
    assert (remote.tiny.control / "remote.json").read_bytes() == before
    none = pilot_command("sync", "once")
    assert none.returncode == 1
    assert "PILOT_REMOTE__TOKEN: there is no token" in none.stderr


def test_an_unchanged_answer_proves_that_it_is_fresh_and_a_change_is_seen(
    remote: Remote, wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = remote.tiny.settings()
    source = source_of(settings)
    seen = []
    exchanged = type(source)._exchange

    def exchange(self: Any, *arguments: Any) -> Any:
        answer, body = exchanged(self, *arguments)
        seen.append(answer.status_code)
        return answer, body

    monkeypatch.setattr(type(source), "_exchange", exchange)
    first = sync_once(settings, source)
    # The server may still count a revision that this flag's making began.
    wait(lambda: sync_once(settings, source) and seen[-1] == 304)
    second = sync_once(settings, source)
    assert second.fetched_at > first.fetched_at
    assert second.answer.pct == 100
    assert remote_age(remote) < 5
    remote.off()
    wait(lambda: sync_once(settings, source).answer.killed)
    assert remote.why() is Why.REMOTE_KILLED
    remote.on()
    wait(lambda: not sync_once(settings, source).answer.killed)
    assert remote.arm() is Arm.CHAMPION


def test_a_kill_is_pushed_and_reaches_every_host_that_syncs(remote: Remote, wait: Any) -> None:
    settings = remote.tiny.settings()
    source = source_of(settings)
    assert not sync_once(settings, source).answer.killed
    pushed = push_kill(settings, "a test")
    assert pushed.done, pushed
    wait(lambda: sync_once(settings, source).answer.killed)
    assert remote.why() is Why.REMOTE_KILLED


def test_a_flag_that_is_archived_stops_and_says_so(remote: Remote, pilot_command: Run, wait: Any) -> None:
    settings = remote.tiny.settings()
    source = source_of(settings)
    remote.unleash.admin("DELETE", f"projects/default/features/{remote.flag}")
    wait(lambda: sync_once(settings, source).refused)
    assert remote.why() is Why.REMOTE_KILLED
    done = pilot_command("sync", "once", PILOT_REMOTE__TOKEN=CLIENT)
    assert done.returncode == 1
    assert "there is no such flag" in done.stderr


def test_another_group_is_refused_with_the_mend(remote: Remote, wait: Any) -> None:
    settings = remote.tiny.settings()
    remote.unleash.share(remote.strategy, rollout="50", stickiness="userId", groupId="another")

    def refused() -> str:
        try:
            sync_once(settings, source_of(settings))
        except Refused as error:
            return str(error)
        return ""

    told = wait(refused)
    assert "from the group 'another', and this pilot from 'dryfield'" in told
    assert "Set the strategy's groupId to dryfield" in told


def test_a_token_of_another_environment_is_refused(remote: Remote) -> None:
    text = remote.tiny.toml.read_text()
    remote.tiny.toml.write_text(text.replace('environment = "development"', 'environment = "production"'))
    settings = remote.tiny.settings()
    with pytest.raises(Refused, match="for the environment 'development'"):
        sync_once(settings, source_of(settings))


def test_a_server_that_is_gone_is_told_as_out_of_reach(
    remote: Remote, unleash: Unleash, pilot_command: Run
) -> None:
    unleash.stop()
    try:
        settings = remote.tiny.settings()
        with pytest.raises(Unreachable):
            sync_once(settings, source_of(settings))
        done = pilot_command("sync", "once", PILOT_REMOTE__TOKEN=CLIENT)
        assert done.returncode == 3, done
        assert "it cannot be asked" in done.stderr
    finally:
        unleash.start()
