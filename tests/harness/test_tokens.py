"""A token is shown once, kept as a hash, in force for the next request; what is damaged lets nobody in."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.control import Tokens, TokensUnreadable, read_audit, tokens
from harness.control.audit import AUDIT
from harness.control.sealed import checksum
from harness.control.tokens import PATTERN, TOKENS, issue, read_tokens, revoke
from harness.errors import PilotError

Run = Callable[..., subprocess.CompletedProcess[str]]
YEAR = timedelta(days=365)


def made(folder: Path, name: str = "reader", *scopes: str, lasts: timedelta = YEAR) -> str:
    return issue(folder, name=name, scopes=scopes or ("decide",), lasts=lasts)[0]


@pytest.fixture
def reader(folder: Path) -> Tokens:
    return Tokens(folder)


def test_what_is_kept_lets_nobody_in(folder: Path, reader: Tokens) -> None:
    presented = made(folder, "reader", "decide", "outcomes")
    assert re.fullmatch(PATTERN, presented)
    text = (folder / TOKENS).read_text()
    assert presented not in text
    assert not re.search(PATTERN, text)
    kept = reader.find(presented)
    assert kept is not None
    assert (kept.name, kept.scopes, kept.expired()) == ("reader", ("decide", "outcomes"), False)
    assert kept.sha256 == hashlib.sha256(presented.encode()).hexdigest()
    assert reader.find(kept.sha256) is None
    assert kept.expires_at - kept.issued_at == YEAR


def test_no_token_is_like_another(folder: Path) -> None:
    assert len({made(folder, f"reader-{number}") for number in range(20)}) == 20
    assert len(read_tokens(folder)) == 20


def test_only_its_own_account_may_read_the_file(folder: Path) -> None:
    made(folder)
    assert stat.S_IMODE((folder / TOKENS).stat().st_mode) == 0o600
    os.chmod(folder / TOKENS, 0o644)
    made(folder, "another")
    assert stat.S_IMODE((folder / TOKENS).stat().st_mode) == 0o600


def test_issue_and_revocation_hold_for_the_next_question(folder: Path, reader: Tokens) -> None:
    first = made(folder, "first")
    time.sleep(0.15)  # old enough to be remembered
    assert reader.find(first) is not None
    second = made(folder, "second")
    assert reader.find(second) is not None
    assert revoke(folder, name="first") == ""
    assert reader.find(first) is None
    assert reader.find(second) is not None


def test_a_file_of_the_same_size_and_times_is_read_again(folder: Path, reader: Tokens) -> None:
    presented, other = made(folder, "aaa"), folder / "other"
    time.sleep(0.15)
    assert reader.find(presented) is not None
    before = (folder / TOKENS).stat()
    document = json.loads((folder / TOKENS).read_text())
    document["tokens"][0]["sha256"] = "0" * 64
    document["sha256"] = checksum({name: value for name, value in document.items() if name != "sha256"})
    other.write_text(json.dumps(document, indent=2) + "\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert other.stat().st_size == before.st_size
    other.replace(folder / TOKENS)
    assert reader.find(presented) is None


def test_a_token_that_has_expired_is_known_as_such(folder: Path, reader: Tokens) -> None:
    presented = made(folder, lasts=timedelta(milliseconds=1))
    time.sleep(0.01)
    kept = reader.find(presented)
    assert kept is not None
    assert kept.expired()


@pytest.mark.parametrize(
    "presented", ["", "pilot_", "x" * 70, "pilot_" + "0" * 64, "Größe", "\udcff", "reader"]
)
def test_what_was_never_issued_is_not_known(folder: Path, reader: Tokens, presented: str) -> None:
    made(folder)
    assert reader.find(presented) is None


def test_without_the_file_nobody_is_known(folder: Path, reader: Tokens) -> None:
    presented = made(folder)
    time.sleep(0.15)  # old enough to be remembered
    assert reader.find(presented) is not None
    assert reader._watched._cached is not None
    (folder / TOKENS).unlink()
    assert reader.find(presented) is None
    assert reader.read() == ()


def test_a_file_cut_short_at_any_byte_lets_nobody_in(folder: Path, reader: Tokens) -> None:
    presented = made(folder)
    whole = (folder / TOKENS).read_bytes()
    for length in range(len(whole) - 1):
        (folder / TOKENS).write_bytes(whole[:length])
        assert reader.find(presented) is None, length
        assert isinstance(reader.read(), TokensUnreadable)
    (folder / TOKENS).write_bytes(whole)
    assert reader.find(presented) is not None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"7", b"\xff\xfe", b'"\\ud800"', b'{"tokens": []}', b"[" * 100_000]
)
def test_a_file_that_says_something_else_is_told_and_lets_nobody_in(
    folder: Path, reader: Tokens, content: bytes
) -> None:
    presented = made(folder)
    (folder / TOKENS).write_bytes(content)
    assert reader.find(presented) is None
    with pytest.raises(PilotError, match="nobody is let in"):
        read_tokens(folder)
    for change in (lambda: made(folder, "more"), lambda: revoke(folder, name="reader")):
        with pytest.raises(PilotError, match="cannot be trusted"):
            change()
    assert (folder / TOKENS).read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"expires_at": "2999-01-01T00:00:00+00:00"},
        {"scopes": ["decide", "approve"]},
        {"sha256": hashlib.sha256(b"mine").hexdigest()},
    ],
)
def test_an_edit_by_hand_is_noticed(folder: Path, reader: Tokens, change: dict[str, Any]) -> None:
    presented = made(folder)
    document = json.loads((folder / TOKENS).read_text())
    document["tokens"][0] |= change
    (folder / TOKENS).write_text(json.dumps(document))
    assert reader.find(presented) is None
    assert reader.find("mine") is None


@pytest.mark.parametrize(
    "change", [{"scopes": ["everything"]}, {"scopes": []}, {"expires_at": "soon"}, {"more": 1}]
)
def test_what_cannot_be_is_refused_also_with_a_right_checksum(
    folder: Path, reader: Tokens, change: dict[str, Any]
) -> None:
    presented = made(folder)
    document = json.loads((folder / TOKENS).read_text())
    document.pop("sha256")
    document["tokens"][0] |= change
    (folder / TOKENS).write_text(json.dumps({**document, "sha256": checksum(document)}))
    assert reader.find(presented) is None


def test_a_folder_in_the_place_of_the_file_lets_nobody_in(folder: Path, reader: Tokens) -> None:
    presented = made(folder)
    (folder / TOKENS).unlink()
    (folder / TOKENS).mkdir()
    assert reader.find(presented) is None


def test_a_file_that_may_not_be_read_lets_nobody_in(
    open_folder: Path, unprivileged: Callable[..., Any]
) -> None:
    presented = made(open_folder)
    (open_folder / TOKENS).chmod(0)
    assert unprivileged(lambda: Tokens(open_folder).find(presented)) is None
    assert unprivileged(lambda: isinstance(Tokens(open_folder).read(), TokensUnreadable))


def test_another_account_than_the_services_issues_nothing(
    open_folder: Path, unprivileged: Callable[..., Any]
) -> None:
    if os.getuid():
        pytest.skip("only root can try to be somebody else")
    open_folder.chmod(0o777)

    def attempt() -> str:
        try:
            made(open_folder)
        except PilotError as error:
            return str(error)
        return "issued"

    assert "belongs to another account" in unprivileged(attempt)
    assert not (open_folder / TOKENS).exists()


def test_what_root_issues_the_service_can_read(open_folder: Path, unprivileged: Callable[..., Any]) -> None:
    if os.getuid():
        pytest.skip("only root can")
    os.chown(open_folder, 65534, 65534)
    presented = made(open_folder)
    assert unprivileged(lambda: Tokens(open_folder).find(presented) is not None)


def test_a_name_is_given_once(folder: Path, reader: Tokens) -> None:
    presented = made(folder)
    with pytest.raises(PilotError, match="there is a token called 'reader' already"):
        made(folder)
    assert reader.find(presented) is not None
    revoke(folder, name="reader")
    assert made(folder) != presented


@pytest.mark.parametrize("name", ["", "Reader", "two words", "a/b", "-x", "x" * 64, "naïve", "a\n"])
def test_a_name_that_would_blur_a_log_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(PilotError, match="not a name for a token"):
        made(folder, name)
    assert not (folder / TOKENS).exists()


def test_a_scope_that_there_is_not_is_refused_beside_a_right_one(folder: Path) -> None:
    with pytest.raises(PilotError, match=r"no scope 'everything'.*Use decide, outcomes"):
        made(folder, "reader", "decide", "everything")
    assert not (folder / TOKENS).exists()


def test_revoking_what_was_never_issued_is_told(folder: Path) -> None:
    made(folder)
    with pytest.raises(PilotError, match="no token called 'nobody'"):
        revoke(folder, name="nobody")


def test_who_issued_and_revoked_is_in_the_audit(folder: Path) -> None:
    presented = made(folder, "reader", "decide", "outcomes")
    revoke(folder, name="reader")
    issued, revoked = read_audit(folder)
    assert (issued["action"], revoked["action"]) == ("issue", "revoke")
    assert issued["reason"].startswith("token reader (decide, outcomes) until 20")
    assert revoked["reason"] == "token reader"
    assert presented not in (folder / AUDIT).read_text()


def test_without_an_audit_nothing_is_issued_and_everything_is_revoked(folder: Path, reader: Tokens) -> None:
    presented = made(folder)
    (folder / AUDIT).unlink()
    (folder / AUDIT).mkdir()
    with pytest.raises(PilotError, match="nothing was changed"):
        made(folder, "another")
    assert [token.name for token in read_tokens(folder)] == ["reader"]
    assert AUDIT in revoke(folder, name="reader")
    assert reader.find(presented) is None


def test_many_at_once_are_all_kept(folder: Path) -> None:
    threads = [threading.Thread(target=made, args=(folder, f"reader-{number}")) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_tokens(folder)) == 12
    assert len(read_audit(folder)) == 12


def test_a_write_that_fails_leaves_the_tokens_as_they_were(
    folder: Path, reader: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    presented = made(folder)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokens, "replace", full)
    with pytest.raises(PilotError, match="No space left"):
        revoke(folder, name="reader")
    assert reader.find(presented) is not None


def test_the_command_issues_lists_and_revokes(tiny: Any, pilot_command: Run) -> None:
    issued = pilot_command("token", "issue", "collections", "--scope", "decide", "--scope", "outcomes")
    assert issued.returncode == 0, issued.stderr
    assert re.fullmatch(PATTERN + "\n", issued.stdout), "the token alone is on standard output"
    assert "nobody can show it again" in issued.stderr
    listed = pilot_command("token", "list")
    assert re.search(r"collections: decide, outcomes; issued .* until .* \(365 days left\)", listed.stdout)
    assert issued.stdout.strip() not in listed.stdout
    assert "issue   rev -  " in pilot_command("audit").stdout
    assert pilot_command("token", "revoke", "collections").stdout.startswith("REVOKED collections")
    assert pilot_command("token", "list").stdout == "0 tokens\n"


def test_the_command_speaks_json(tiny: Any, pilot_command: Run) -> None:
    issued = json.loads(pilot_command("token", "issue", "brief", "--days", "1", "--json").stdout)
    assert re.fullmatch(PATTERN, issued["token"])
    assert (issued["scopes"], issued["expired"]) == (["decide"], False)
    (listed,) = json.loads(pilot_command("token", "list", "--json").stdout)
    assert listed == {name: value for name, value in issued.items() if name != "token"}
    revoked = json.loads(pilot_command("token", "revoke", "brief", "--json").stdout)
    assert revoked == {"name": "brief", "revoked": True, "not_written": []}


def test_the_control_folder_need_not_be_there(tiny: Any, pilot_command: Run) -> None:
    shutil.rmtree(tiny.control, ignore_errors=True)
    assert pilot_command("token", "list").stdout == "0 tokens\n"
    assert pilot_command("token", "issue", "first").returncode == 0
