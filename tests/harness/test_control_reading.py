"""What is absent, damaged, out of range or out of reach never means "run the model"."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.control import SENTINEL, Arm, Control, Permission, Slot, State, StateUnreadable, Why
from harness.control.permission import bucket
from harness.control.state import STATE
from harness.control.watched import SETTLED_AFTER_NS

A, B = "a" * 64, "b" * 64
Put = Callable[..., State]


def sealed(document: Any) -> bytes:
    """A state file with the right checksum, by the written definition and not by the code under test."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    checksum = hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()
    return json.dumps({**document, "sha256": checksum}).encode()


def murmur3_32(data: bytes) -> int:
    """MurmurHash3 for x86, 32 bits, seed 0, from its published description: the oracle."""

    def turned(value: int, bits: int) -> int:
        return ((value << bits) | (value >> (32 - bits))) & 0xFFFFFFFF

    def mixed(block: int) -> int:
        return turned(block * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593 & 0xFFFFFFFF

    found, whole = 0, len(data) // 4 * 4
    for at in range(0, whole, 4):
        found = (
            turned(found ^ mixed(int.from_bytes(data[at : at + 4], "little")), 13) * 5 + 0xE6546B64
        ) & 0xFFFFFFFF
    if whole < len(data):
        found ^= mixed(int.from_bytes(data[whole:], "little"))
    found ^= len(data)
    found = (found ^ found >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    found = (found ^ found >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return found ^ found >> 16


def test_a_champion_for_everybody_decides_for_everybody(put: Put, reader: Control) -> None:
    put(rev=7)
    found = reader.permission("plot 1")
    assert found == Permission(Arm.CHAMPION, Why.ASSIGNED, A, 7, "sandbox", bucket("fields", "plot 1"))


def test_without_a_state_the_fallback_decides(reader: Control) -> None:
    assert reader.permission("plot 1") == Permission(Arm.FALLBACK, Why.NO_STATE)
    assert reader.state() is None


def remembered(reader: Control) -> bool:
    """Whether it decided from a state that it keeps in memory, as it does when the file is a moment old."""
    return reader.permission("plot 1").arm is Arm.CHAMPION and reader._watched._cached is not None


def test_05_a_state_that_is_deleted_under_way_stops_the_model(
    put: Put, folder: Path, reader: Control, wait: Callable[..., Any]
) -> None:
    put()
    wait(lambda: remembered(reader))
    (folder / STATE).unlink()
    assert reader.permission("plot 1").why is Why.NO_STATE
    put(rev=2)
    assert reader.permission("plot 1").revision == 2


def test_a_control_folder_that_vanishes_stops_the_model(
    put: Put, folder: Path, reader: Control, wait: Callable[..., Any]
) -> None:
    put()
    wait(lambda: remembered(reader))
    folder.rename(folder.with_name("elsewhere"))
    assert reader.permission("plot 1").arm is Arm.FALLBACK
    folder.write_text("a file where a folder was")
    assert reader.permission("plot 1").arm is Arm.FALLBACK


def test_06_a_state_cut_off_at_any_byte_stops_the_model(put: Put, folder: Path, reader: Control) -> None:
    put()
    content = (folder / STATE).read_bytes().rstrip()
    for length in range(len(content)):
        (folder / STATE).write_bytes(content[:length])
        for asked in (reader, Control(folder)):
            assert asked.permission("plot 1") == Permission(Arm.FALLBACK, Why.STATE_UNREADABLE), length
    (folder / STATE).write_bytes(content)
    assert reader.permission("plot 1").arm is Arm.CHAMPION


def test_a_state_changed_at_any_byte_stops_the_model_or_says_the_same(put: Put, folder: Path) -> None:
    before = put()
    content = (folder / STATE).read_bytes()
    for at in range(len(content)):
        (folder / STATE).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        asked = Control(folder)
        try:
            found = asked.state()
        except StateUnreadable:
            assert asked.permission("plot 1").arm is Arm.FALLBACK
        else:
            assert found == before  # white space was replaced by white space


def test_a_share_raised_by_hand_without_its_checksum_stops_the_model(
    put: Put, folder: Path, reader: Control
) -> None:
    put(champion=Slot(digest=A, pct=10))
    document = json.loads((folder / STATE).read_bytes())
    document["champion"]["pct"] = 100
    (folder / STATE).write_text(json.dumps(document))
    assert reader.permission("plot 1").why is Why.STATE_UNREADABLE
    for missing in ("absent", None):
        document.pop("sha256", None)
        if missing is None:
            document["sha256"] = None
        (folder / STATE).write_text(json.dumps(document))
        assert reader.permission("plot 1").why is Why.STATE_UNREADABLE


def test_the_documented_checksum_is_the_one_in_force(put: Put, folder: Path, reader: Control) -> None:
    document = put(rev=3).model_dump(mode="json")
    (folder / STATE).write_bytes(sealed(document))
    assert reader.permission("plot 1").revision == 3


@pytest.mark.parametrize(
    "pct", [-1, 101, 900, float("nan"), float("inf"), "50", True, False, 50.0, None, [50]]
)
@pytest.mark.parametrize("role", ["champion", "challenger"])
def test_10_a_share_that_is_no_whole_number_from_0_to_100_stops_the_model(
    put: Put, folder: Path, reader: Control, role: str, pct: object
) -> None:
    document = put().model_dump(mode="json")
    (folder / STATE).write_bytes(sealed({**document, role: {"digest": A, "pct": pct}}))
    assert reader.permission("plot 1") == Permission(Arm.FALLBACK, Why.STATE_UNREADABLE)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"schema_version": 0},
        {"schema_version": "1"},
        {"schema_version": True},
        {"schema_version": 1.0},
        {"stage": "everywhere"},
        {"rev": 0},
        {"rev": "1"},
        {"latched": "no"},
        {"latched": None},
        {"flag_key": ""},
        {"champion": {"digest": "A" * 64, "pct": 100}},
        {"champion": {"digest": "a" * 63, "pct": 100}},
        {"champion": {"digest": "../" * 20 + "aaaa", "pct": 100}},
        {"champion": {"digest": A, "pct": 100, "until": "soon"}},
        {"unknown": 1},
        {"reason": "\ud800"},
    ],
    ids=str,
)
def test_10_a_state_that_says_what_cannot_be_stops_the_model(
    put: Put, folder: Path, reader: Control, change: dict[str, Any]
) -> None:
    document = put().model_dump(mode="json")
    (folder / STATE).write_bytes(sealed({**document, **change}))
    assert reader.permission("plot 1") == Permission(Arm.FALLBACK, Why.STATE_UNREADABLE)


@pytest.mark.parametrize("missing", ["schema_version", "rev", "stage", "flag_key"])
def test_a_state_that_leaves_something_out_stops_the_model(
    put: Put, folder: Path, reader: Control, missing: str
) -> None:
    document = put().model_dump(mode="json")
    del document[missing]
    (folder / STATE).write_bytes(sealed(document))
    assert reader.permission("plot 1").why is Why.STATE_UNREADABLE


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"100", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 50_000, b"9" * 5000]
)
def test_a_state_that_is_no_state_at_all_stops_the_model(
    folder: Path, reader: Control, content: bytes
) -> None:
    (folder / STATE).write_bytes(content)
    assert reader.permission("plot 1") == Permission(Arm.FALLBACK, Why.STATE_UNREADABLE)
    with pytest.raises(StateUnreadable):
        reader.state()


def test_a_folder_in_the_place_of_the_state_stops_the_model(folder: Path, reader: Control) -> None:
    (folder / STATE).mkdir()
    assert reader.permission("plot 1").why is Why.STATE_UNREADABLE


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_anything_called_kill_stops_the_model_at_once(
    put: Put, folder: Path, reader: Control, kind: str
) -> None:
    put(rev=4)
    assert reader.permission("plot 1").arm is Arm.CHAMPION
    sentinel = folder / SENTINEL
    if kind == "file":
        sentinel.touch()
    elif kind == "folder":
        sentinel.mkdir()
    else:
        sentinel.symlink_to("nowhere")
    assert reader.permission("plot 1") == Permission(Arm.FALLBACK, Why.KILLED, None, 4, "sandbox")
    sentinel.rmdir() if kind == "folder" else sentinel.unlink()
    assert reader.permission("plot 1").arm is Arm.CHAMPION


def test_a_kill_file_without_a_state_is_told_as_a_kill(folder: Path, reader: Control) -> None:
    (folder / SENTINEL).touch()
    assert reader.permission("plot 1").why is Why.KILLED
    (folder / STATE).write_text("damaged")
    assert reader.permission("plot 1").why is Why.KILLED


def test_where_nobody_can_look_for_the_kill_file_the_model_is_stopped(
    open_folder: Path, unprivileged: Callable[..., Any]
) -> None:
    parent = open_folder / "parent"
    (parent / "control").mkdir(parents=True)
    parent.chmod(0o000)
    asked = Control(parent / "control")
    assert unprivileged(lambda: (asked.killed(), asked.permission("plot 1").arm.value)) == (True, "fallback")


def test_a_model_loses_its_right_when_the_folder_becomes_unsearchable(
    open_folder: Path, unprivileged: Callable[..., Any], wait: Callable[..., Any]
) -> None:
    from harness.control.state import write_state

    control = open_folder / "parent" / "control"
    control.mkdir(parents=True)
    values = {"flag_key": "fields", "actor": "a", "reason": "b", "changed_at": "c"}
    write_state(control, State(rev=1, stage="sandbox", champion=Slot(digest=A, pct=100), **values))
    asked = Control(control)
    wait(lambda: remembered(asked))
    control.chmod(0o000)
    assert unprivileged(lambda: asked.permission("plot 1").why.value) == "killed"


def test_09_an_unreadable_state_file_stops_the_model(
    open_folder: Path, unprivileged: Callable[..., Any]
) -> None:
    (open_folder / STATE).write_text("{}")
    (open_folder / STATE).chmod(0o000)
    asked = Control(open_folder)
    assert unprivileged(lambda: asked.permission("plot 1").why.value) == "state_unreadable"


def test_07_an_off_file_restored_with_an_older_time_is_honoured(
    put: Put, folder: Path, reader: Control, wait: Callable[..., Any]
) -> None:
    put(latched=True)
    backup = (folder / STATE).read_bytes()
    put(rev=2)
    wait(lambda: remembered(reader))
    restored = folder / "restored"
    restored.write_bytes(backup)
    os.utime(restored, (1_000_000_000, 1_000_000_000))
    restored.replace(folder / STATE)
    assert reader.permission("plot 1").why is Why.LATCHED


@pytest.mark.parametrize("in_place", [True, False])
def test_08_other_content_of_the_same_size_and_time_is_honoured(
    put: Put, folder: Path, reader: Control, wait: Callable[..., Any], in_place: bool
) -> None:
    put(champion=Slot(digest=B, pct=100))
    other = (folder / STATE).read_bytes()
    put(champion=Slot(digest=A, pct=100))
    before = (folder / STATE).stat()
    assert len(other) == before.st_size
    wait(lambda: remembered(reader))
    target = folder / STATE if in_place else folder / "beside"
    target.write_bytes(other)
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    target.replace(folder / STATE)
    after = (folder / STATE).stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert reader.permission("plot 1").digest == B


def test_two_changes_within_one_tick_of_the_file_systems_clock_are_both_seen(
    put: Put, folder: Path, reader: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(champion=Slot(digest=A, pct=100))
    tick, stat = os.stat(folder / STATE), os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **more: tick if str(path).endswith(STATE) else stat(path, **more)
    )
    assert reader.permission("plot 1").digest == A
    put(champion=Slot(digest=B, pct=100))
    assert reader.permission("plot 1").digest == B
    assert SETTLED_AFTER_NS >= 10_000_000  # clocks of 100 Hz exist


def test_an_unchanged_file_is_parsed_once(
    put: Put, folder: Path, reader: Control, wait: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put()
    wait(lambda: remembered(reader))
    monkeypatch.setattr(
        "harness.control.permission.parse_state", lambda *_, **__: pytest.fail("parsed again")
    )
    assert reader.permission("plot 2").arm is Arm.CHAMPION


def test_a_latched_state_stops_both_models(put: Put, reader: Control) -> None:
    put(latched=True, challenger=Slot(digest=B, pct=100))
    assert reader.permission("plot 1") == Permission(Arm.FALLBACK, Why.LATCHED, None, 1, "sandbox")


def test_in_the_shadow_stage_the_fallback_decides(put: Put, reader: Control) -> None:
    put(stage="shadow", champion=None, challenger=Slot(digest=B, pct=100))
    expected = Permission(Arm.FALLBACK, Why.SHADOW_STAGE, None, 1, "shadow", shadow=B)
    assert reader.permission("plot 1") == expected


def test_in_the_shadow_stage_a_champion_goes_on_deciding_for_its_share(put: Put, reader: Control) -> None:
    put(stage="shadow", champion=Slot(digest=A, pct=60), challenger=Slot(digest=B, pct=100))
    found = [reader.permission(f"plot {number}") for number in range(500)]
    assert {each.digest for each in found} == {A, None}
    assert all(
        (each.arm is Arm.CHAMPION) is (each.bucket is not None and each.bucket <= 60) for each in found
    )
    assert {each.why for each in found if each.arm is Arm.FALLBACK} == {Why.OUTSIDE_ROLLOUT}


@pytest.mark.parametrize("stage", ["sandbox", "early", "broad", "full"])
def test_in_every_other_stage_the_model_may_decide(put: Put, reader: Control, stage: str) -> None:
    put(stage=stage)
    assert reader.permission("plot 1").arm is Arm.CHAMPION


def test_without_an_entity_the_fallback_decides(put: Put, reader: Control) -> None:
    put(challenger=Slot(digest=B, pct=100))
    assert reader.permission("") == Permission(Arm.FALLBACK, Why.NO_ENTITY, None, 1, "sandbox")


def test_without_a_model_the_fallback_decides(put: Put, reader: Control) -> None:
    put(champion=None)
    assert reader.permission("plot 1").why is Why.NO_MODEL


def test_a_name_that_is_no_text_has_a_bucket_all_the_same(put: Put, reader: Control) -> None:
    put()
    assert reader.permission("\ud800").arm is Arm.CHAMPION


def test_each_arm_has_the_entities_of_its_own_buckets(put: Put, reader: Control) -> None:
    put(champion=Slot(digest=A, pct=60), challenger=Slot(digest=B, pct=20))
    for number in range(2_000):
        found = reader.permission(f"plot {number}")
        drawn = bucket("fields", f"plot {number}")
        if drawn <= 20:
            expected = (Arm.CHALLENGER, Why.ASSIGNED, B)
        elif drawn <= 60:
            expected = (Arm.CHAMPION, Why.ASSIGNED, A)
        else:
            expected = (Arm.FALLBACK, Why.OUTSIDE_ROLLOUT, None)
        assert (found.arm, found.why, found.digest) == expected
        assert found.bucket == drawn


def test_a_share_of_nothing_is_nobody(put: Put, reader: Control) -> None:
    put(champion=Slot(digest=A, pct=0), challenger=Slot(digest=B, pct=0))
    assert {reader.permission(f"plot {number}").arm for number in range(5_000)} == {Arm.FALLBACK}


def test_buckets_are_those_that_the_documented_algorithm_draws() -> None:
    # Known values of MurmurHash3 itself, so that the oracle is checked too.
    assert murmur3_32(b"") == 0
    assert murmur3_32(b"hello") == 0x248BFA47
    assert murmur3_32(b"hello, world") == 0x149BBB7F
    for number in range(20_000):
        entity = f"{'Äcker' if number % 3 else 'plot'}-{number * 7919}"
        assert bucket("fields", entity) == murmur3_32(f"fields:{entity}".encode()) % 100 + 1


def test_21_shares_are_met_and_a_larger_one_holds_the_smaller() -> None:
    drawn = [bucket("fields", f"plot-{number}") for number in range(100_000)]
    assert (min(drawn), max(drawn)) == (1, 100)
    chosen = {pct: {at for at, number in enumerate(drawn) if number <= pct} for pct in (10, 50, 100)}
    assert chosen[10] < chosen[50] < chosen[100]
    for pct, found in chosen.items():
        assert abs(len(found) / 1_000 - pct) <= 0.5


def test_another_flag_draws_other_buckets() -> None:
    same = sum(bucket("fields", f"p{number}") == bucket("meadows", f"p{number}") for number in range(10_000))
    assert same < 200


def test_a_child_sees_a_kill_whether_it_was_forked_before_or_after(
    put: Put, folder: Path, reader: Control, in_child: Callable[..., Any], wait: Callable[..., Any]
) -> None:
    put()
    wait(lambda: remembered(reader))
    asked, answered = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        first = reader.permission("plot 1").arm.value
        os.write(answered[1], first.encode().ljust(10))
        os.read(asked[0], 1)
        os.write(answered[1], reader.permission("plot 1").why.value.encode().ljust(10))
        os._exit(0)
    assert os.read(answered[0], 10).strip() == b"champion"
    (folder / SENTINEL).touch()
    os.write(asked[1], b"!")
    assert os.read(answered[0], 10).strip() == b"killed"
    os.waitpid(child, 0)
    for descriptor in (*asked, *answered):
        os.close(descriptor)
    assert in_child(lambda: reader.permission("plot 1").why.value) == "killed"
