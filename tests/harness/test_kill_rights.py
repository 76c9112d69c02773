"""Who may: anybody on call stops, two people promote, and whatever is refused is on record."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from governed import Governed
from harness.cli import context
from harness.cli.main import _run
from harness.control import SENTINEL, Control, Reader, kill, read_audit, read_state
from harness.control.audit import AUDIT
from harness.control.confirmation import Word
from harness.control.identity import Actor, named
from harness.control.rights import on_call
from harness.control.state import LOCK
from harness.control.tokens import TOKENS, issue
from harness.errors import PilotError
from harness.serving.app import create_app
from harness.serving.stopping import PATH

Run = Callable[..., subprocess.CompletedProcess[str]]

as_root = pytest.mark.skipif(os.getuid() != 0, reason="another account is needed")


@pytest.fixture
def by_an_administrator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are issued by another account than the one that acts."""
    monkeypatch.setattr("harness.control.tokens.actor", lambda: "administrator")


def token(folder: Path, name: str, *scopes: str, **lasts: float) -> str:
    return issue(folder, name=name, scopes=scopes, lasts=timedelta(**(lasts or {"days": 1})))[0]


def lines(folder: Path) -> list[tuple[str, str, str]]:
    return [(entry["action"], entry["actor"], entry["reason"]) for entry in read_audit(folder)]


def stopped(folder: Path) -> bool:
    return (folder / SENTINEL).exists()


# --- two people --------------------------------------------------------------------------------------------


def held(name: str, uid: int, issuer: str) -> Actor:
    return Actor(f"token {name}", uid, token=True, issuer=issuer)


ME = named(os.getuid())


@pytest.mark.parametrize(
    ("one", "another", "two_people"),
    [
        # Somebody else vouches for both; or the account that holds one has made the other, or may have.
        (held("ann", os.getuid(), "admin"), held("bob", os.getuid(), "admin"), True),
        (held("ann", os.getuid(), ME), held("bob", os.getuid(), ME), False),
        (held("ann", os.getuid(), "admin"), held("bob", os.getuid(), ME), False),
        (held("ann", os.getuid(), "admin"), held("bob", os.getuid(), ""), False),
        (Actor(ME, os.getuid()), held("bob", 4711, ME), False),
        (Actor(ME, os.getuid()), held("bob", 4711, "admin"), True),
        # An administrator who issues tokens for two people, each of whom has an account.
        (held("ann", 4711, ME), held("bob", 4712, ME), True),
        (Actor("ann", 1), Actor("bob", 2), True),
        (Actor("ann", 1), Actor("ann", 2), False),
        (Actor("ann", 1), Actor("bob", 1), False),
        (held("ann", 1, "admin"), held("bob", 1, "admin"), True),
        (held("ann", 1, "admin"), held("ann", 2, "admin"), False),
        (held("ann", 1, "admin"), Actor("bob", 1), False),
        (held("ann", 1, "admin"), Actor("bob", 2), True),
    ],
)
def test_two_people_are_two_for_certain(one: Actor, another: Actor, two_people: bool) -> None:
    assert one.other_than(another) is two_people
    assert another.other_than(one) is two_people


@pytest.fixture
def governed(tiny: Any, tmp_path: Path) -> Governed:
    return Governed(tiny, tmp_path / "control")


@pytest.fixture
def run(
    governed: Governed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    monkeypatch.chdir(governed.root)

    def run(*arguments: str, as_: str = "") -> tuple[int, str, str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            if as_:
                patch.setenv("PILOT_TOKEN", as_)
            code = _run(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield run
    context.choose(root=None, debug=False)


def test_27_nobody_approves_with_a_token_of_their_own_making(
    governed: Governed, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, second = (token(governed.control, name, "operate", "approve") for name in ("own", "second"))
    monkeypatch.setattr("harness.control.tokens.actor", lambda: "administrator")
    given = token(governed.control, "given", "operate", "approve")
    for one, another in ((own, second), ("", second), (given, second)):
        assert run("promote", "--reason", "ready", as_=one)[0] == 0
        code, said, told = run("approve", "--reason", "I agree", as_=another)
        assert (code, said, told.count("\n")) == (2, "", 1)
        why = (
            f"token second, issued by {ME}, may be the same person"
            if one
            else f"{ME} proposed this and cannot"
        )
        assert why in told
        assert lines(governed.control)[-1][0] == "refuse"
    assert read_state(governed.control) is None
    # The record says who vouches for whom.
    told = [reason for action, _, reason in lines(governed.control) if action == "propose"]
    assert [f"(token issued by {ME})" in told[0], "issued by" in told[1]] == [True, False]
    assert "(token issued by administrator)" in told[2]


@pytest.mark.usefixtures("by_an_administrator")
def test_27_people_who_share_an_account_are_told_apart_by_their_tokens_and_no_other_way(
    governed: Governed, run: Any
) -> None:
    ann = token(governed.control, "ann", "operate", "approve")
    bob = token(governed.control, "bob", "approve")
    assert run("promote", "--reason", "ready", as_=ann)[0] == 0
    for who, why in ((ann, "cannot approve it"), ("", "cannot approve it")):
        code, said, told = run("approve", "--reason", "I agree", as_=who)
        assert (code, said, told.count("\n")) == (2, "", 1)
        assert why in told
    assert read_state(governed.control) is None
    assert run("approve", "--reason", "I looked at it", as_=bob)[0] == 0
    found = lines(governed.control)[2:]
    assert [(action, actor) for action, actor, _ in found[:2]] == [
        ("propose", "token ann"),
        ("refuse", "token ann"),
    ]
    assert found[1][2] == "approve: token ann proposed this and cannot approve it"
    assert (found[2][0], found[3][:2]) == ("refuse", ("approve", "token bob"))


@pytest.mark.parametrize(
    ("verb", "scope"), [("promote", "approve"), ("approve", "operate"), ("arm", "decide")]
)
def test_a_token_that_is_not_good_for_it_does_nothing_and_is_on_record(
    governed: Governed, run: Any, verb: str, scope: str
) -> None:
    before = token(governed.control, "somebody", scope)
    late = token(governed.control, "late", "operate", "approve", microseconds=1)
    for presented, why in (
        (before, "the token somebody has not the scope"),
        (late, "the token late has expired"),
        ("pilot_" + "0" * 64, "not known"),
    ):
        code, said, told = run(verb, "--reason", "x", as_=presented)
        assert (code, said, told.count("\n")) == (2, "", 1)
        assert why in told
        action, _, reason = lines(governed.control)[-1]
        assert (action, reason.partition(":")[0]) == ("refuse", verb)
        assert why in reason
        assert presented not in (governed.control / AUDIT).read_text()
    assert read_state(governed.control) is None


def test_what_is_refused_is_on_record_with_its_reason(tiny: Any, pilot_command: Run) -> None:
    tiny.offered()
    assert pilot_command("arm", "--reason", "why not").returncode == 2
    assert lines(tiny.control)[-1][0::2] == ("refuse", "arm: nothing is stopped")
    assert pilot_command("audit").returncode == 0


# --- who stops ---------------------------------------------------------------------------------------------


def test_whatever_is_wrong_with_a_token_stops_nobody_from_stopping(tiny: Any, pilot_command: Run) -> None:
    tiny.offered()
    done = pilot_command("kill", PILOT_TOKEN="pilot_" + "0" * 64)
    assert done.returncode == 0, done.stderr
    assert "the token is not good for this: not known. The stop is signed by the account" in done.stderr
    assert stopped(tiny.control)
    assert pilot_command("arm", "--reason", "over").returncode == 0
    done = pilot_command("kill", PILOT_TOKEN=token(tiny.control, "ann", "operate"))
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(tiny.control)[-1][:2] == ("kill", "token ann")
    assert json.loads((tiny.control / SENTINEL).read_text())["actor"] == "token ann"


@as_root
def test_a_stranger_to_the_group_on_call_is_refused_and_on_record(
    open_folder: Path, unprivileged: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = next(each.gr_name for each in grp.getgrall() if each.gr_gid not in (65534, 0))
    own = grp.getgrgid(65534).gr_name
    mine = token(open_folder, "ann", "operate")
    os.chown(open_folder, 65534, 65534)
    for name in (TOKENS, LOCK, AUDIT, "audit.end.json"):
        os.chown(open_folder / name, 65534, 65534)

    def attempt(wanted: str, presented: str = "") -> str:
        monkeypatch.setenv("PILOT_TOKEN", presented)

        def tried() -> str:
            try:
                found = on_call(open_folder, wanted)
            except PilotError as error:
                return str(error)
            return f"{found.who.name} {'; '.join(found.notes)}".strip()

        return str(unprivileged(tried))

    said = attempt(group)
    assert f"THE MODEL WAS NOT STOPPED: nobody is not in the group '{group}'" in said
    action, actor, reason = lines(open_folder)[-1]
    assert (action, actor) == ("refuse", "nobody")
    assert reason == f"kill: not in the group '{group}', which is on call"
    assert attempt(own) == "nobody"
    assert attempt("") == "nobody"
    assert attempt(group, mine) == "token ann"
    # Nobody can be in a group that does not exist, and a model that nobody may stop is worse.
    assert "there is no group 'nowhere'" in attempt("nowhere")
    # Where the refusal cannot be written down, it is a refusal all the same.
    os.chown(open_folder, 0, 0)
    (open_folder / AUDIT).chmod(0o444)
    before = lines(open_folder)
    assert "THE MODEL WAS NOT STOPPED" in attempt(group)
    assert lines(open_folder) == before


def test_kill_asks_for_the_group_that_the_settings_name(
    tiny: Any, pilot_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.offered()
    monkeypatch.setattr("harness.control.identity.account", lambda: Actor("stranger", 4711))
    monkeypatch.setattr("harness.control.rights.os.getgroups", lambda: [])
    monkeypatch.setattr("harness.control.rights.os.getgid", lambda: 4711)
    group = grp.getgrgid(0).gr_name
    done = pilot_here("kill", PILOT_CONTROL__ON_CALL_GROUP=group)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"stranger is not in the group '{group}'" in done.stderr
    assert not stopped(tiny.control)
    assert lines(tiny.control)[-1][:2] == ("refuse", "stranger")
    # With settings that cannot be read, nobody is kept from stopping.
    tiny.toml.write_text(tiny.toml.read_text().replace("port = 0", "port = 0\nprot = 1"))
    assert pilot_here("kill", PILOT_CONTROL__ON_CALL_GROUP=group).returncode == 0
    assert stopped(tiny.control)


# --- over HTTP ---------------------------------------------------------------------------------------------


@pytest.fixture
def client(tiny: Any) -> Iterator[TestClient]:
    tiny.offered()
    with TestClient(create_app(tiny.service(), name="dry field", root=tiny.root)) as found:
        yield found


def test_a_caller_with_the_scope_stops_by_post(tiny: Any, client: TestClient) -> None:
    headers = {"Authorization": f"Bearer {token(tiny.control, 'pager', 'operate')}"}
    answer = client.post(PATH, json={"reason": "scores look wrong"}, headers=headers)
    assert answer.status_code == 200
    assert answer.json() == {
        "stopped": True,
        "confirmed": None,  # this process has left no note, so nobody can say who else has not
        "revision": 2,
        "not_written": [],
        "last_model_decision": None,
        "workers": [],
    }
    assert lines(tiny.control)[-1] == ("kill", "token pager", "scores look wrong")
    assert client.post("/decide", json=tiny.record).json()["why"] == "killed"


def test_a_stop_by_post_is_not_confirmed_by_others_alone(
    tiny: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def heard(*_: Any, **__: Any) -> list[Word]:
        return [Word(Reader(pid, 0.0, "/", ""), heard=True, stopped=True) for pid in pids]

    monkeypatch.setattr("harness.control.confirmation.every_word", heard)
    pids = [4711]
    answer = client.post(PATH).json()
    assert (answer["stopped"], answer["confirmed"], len(answer["workers"])) == (True, None, 1)
    pids.append(os.getpid())
    assert client.post(PATH).json()["confirmed"] is True

    def cannot(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("harness.control.confirmation.every_word", cannot)
    answer = client.post(PATH)
    assert (answer.status_code, answer.json()["stopped"], answer.json()["confirmed"]) == (200, True, None)


def test_a_stop_by_post_is_one_for_every_folder_that_takes_it(
    tiny: Any, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    monkeypatch.setattr(
        "harness.control.confirmation.every_word",
        lambda *_, stop, **__: stop(tmp_path / "closed") or stop(other) or [],
    )
    (tmp_path / "closed").write_text("a file where a folder should be")
    answer = client.post(PATH)
    assert (answer.status_code, answer.json()["error"], answer.json()["stopped"]) == (
        503,
        "not_stopped",
        False,
    )
    assert str(tmp_path / "closed") in answer.json()["detail"]
    assert (stopped(tiny.control), stopped(other)) == (True, True)


def test_refusals_that_wait_keep_no_stop_waiting(
    tiny: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.put(stage="early", rev=7)
    pager = {"Authorization": f"Bearer {token(tiny.control, 'pager', 'operate')}"}
    presented = [token(tiny.control, f"caller-{number}", "decide") for number in range(40)]
    go_on, waiting = threading.Event(), []

    def slowly(*_: Any) -> None:
        waiting.append(None)
        assert go_on.wait(60)

    monkeypatch.setattr("harness.serving.access.refuse", slowly)

    async def all_at_once() -> int:
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=60) as here:
            refused = [
                asyncio.ensure_future(here.post(PATH, headers={"Authorization": f"Bearer {each}"}))
                for each in presented
            ]
            while len(waiting) < min(32, (os.cpu_count() or 1) + 4):  # as many threads as there are
                await asyncio.sleep(0.01)
            try:
                code = (await asyncio.wait_for(here.post(PATH, headers=pager), 20)).status_code
            finally:
                go_on.set()
            assert {each.status_code for each in await asyncio.gather(*refused)} == {403}
            return code

    assert asyncio.run(all_at_once()) == 200
    assert stopped(tiny.control)


def test_of_one_token_a_refusal_a_minute_is_put_on_record(
    tiny: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("harness.serving.access.time.monotonic", lambda: clock[0])
    tiny.put(stage="early", rev=7)
    presented = [
        {"Authorization": f"Bearer {token(tiny.control, name, 'decide')}"} for name in ("one", "another")
    ]

    def refusals() -> list[str]:
        for _ in range(10):
            for headers in presented:
                assert client.post(PATH, headers=headers).status_code == 403
        return [actor for action, actor, _ in lines(tiny.control) if action == "refuse"]

    assert refusals() == ["token one", "token another"]
    clock[0] += 59
    assert len(refusals()) == 2
    clock[0] += 2
    assert len(refusals()) == 4


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"reason": 3}', b'{"reason": ""}', b'{"other": 1}', b"x" * 100_000]
)
def test_no_body_is_too_odd_to_stop(tiny: Any, client: TestClient, body: bytes) -> None:
    assert client.post(PATH, content=body).status_code == 200
    assert stopped(tiny.control)
    assert lines(tiny.control)[-1][2] == "(no reason given)"


def test_the_open_sandbox_is_stopped_by_whoever_reaches_it_and_no_other_stage_is(
    tiny: Any, client: TestClient
) -> None:
    tiny.put(stage="early", rev=7)
    decide_only = {"Authorization": f"Bearer {token(tiny.control, 'caller', 'decide')}"}
    assert client.post(PATH).status_code == 401
    assert client.post(PATH, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post(PATH, headers=decide_only).status_code == 403
    assert not stopped(tiny.control)
    # Whom a token names is on record; a stranger could fill the disk with refusals.
    refusals = [line for line in lines(tiny.control) if line[0] == "refuse"]
    assert refusals == [("refuse", "token caller", "POST /control/kill: it has not the scope operate")]
    tiny.put(stage="sandbox", rev=8)
    assert client.post(PATH).status_code == 200
    assert lines(tiny.control)[-1][:2] == ("kill", "a caller without a token")


def test_a_stop_that_cannot_be_written_is_a_503_that_says_what_to_do(
    tiny: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("replace", "os.link"):
        monkeypatch.setattr(f"harness.control.actions.{name}", full)
    monkeypatch.setattr(Path, "touch", full)
    answer = client.post(PATH)
    assert answer.status_code == 503
    assert answer.json()["error"] == "not_stopped"
    assert str(tiny.control / SENTINEL) in answer.json()["detail"]


def test_the_workers_of_this_host_confirm_a_stop_by_post(tiny: Any, served: Any, wait: Any) -> None:
    from harness.control import live

    tiny.offered()
    running = served("--workers", "2")
    wait(lambda: len(live(tiny.root)) == 2, within=60)
    answer = httpx.post(f"{running.url}{PATH}", timeout=30, trust_env=False).json()
    assert (answer["confirmed"], [each["confirmed"] for each in answer["workers"]]) == (True, [True, True])
    assert Control(tiny.control).killed()


def test_kill_signs_for_whom_it_is_told(folder: Path) -> None:
    kill(folder, reason="told", who=Actor("token ann", 1, token=True))
    assert lines(folder) == [("kill", "token ann", "told")]
