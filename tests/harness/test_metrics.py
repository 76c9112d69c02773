"""The page that Prometheus reads: what is counted, over every worker, whatever becomes of one."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parsed

from harness.control import kill, live
from harness.control.tokens import issue
from harness.serving import series
from harness.serving.app import create_app
from harness.serving.metrics import FOLDER, Metrics, families
from harness.serving.scrape import git_commit
from harness.serving.series import ENDED, Series, gauge, key
from harness.store import Outbox, StoreUnavailable

Serve = Callable[..., Any]
Wait = Callable[..., Any]
DOCS = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in parsed(text)
        for each in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, tuple(sorted(labels.items()))]


def summed(text: str, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(
        value for (called, given), value in samples(text).items() if called == name and wanted <= set(given)
    )


@pytest.fixture
def asked(tiny: Any) -> Iterator[TestClient]:
    tiny.offered()
    with TestClient(create_app(tiny.service(), name="dry field", root=tiny.root)) as client:
        yield client


def page(client: TestClient, **headers: str) -> str:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    return answer.text


def test_each_decision_is_counted_by_who_why_stage_and_arm(tiny: Any, asked: TestClient) -> None:
    for _ in range(3):
        assert asked.post("/decide", json=tiny.record).status_code == 200
    kill(tiny.control, reason="stop")
    asked.post("/decide", json=tiny.record)
    text = page(asked)
    by_model = {"served_by": "model", "why": "assigned", "stage": "sandbox", "arm": "challenger"}
    assert value(text, "pilot_decisions_total", **by_model) == 3
    killed = {"served_by": "fallback", "why": "killed", "stage": "sandbox", "arm": "fallback"}
    assert value(text, "pilot_decisions_total", **killed) == 1
    assert value(text, "pilot_decision_duration_seconds_count", served_by="model") == 3
    assert value(text, "pilot_decision_duration_seconds_bucket", served_by="model", le="+Inf") == 3
    assert 0 < value(text, "pilot_decision_duration_seconds_sum", served_by="model") < 60
    assert value(text, "pilot_store_commit_seconds_count") == 4
    assert value(text, "pilot_model_process_starts_total", use="decision") == 1
    assert value(text, "http_requests_total", handler="/decide", method="POST", code="200") == 4
    assert value(text, "http_request_duration_seconds_count", handler="/decide") == 4
    assert value(text, "pilot_admission_wait_seconds_count") == 3
    assert value(text, "pilot_batch_size_sum") == 3
    assert value(text, "pilot_batch_size_bucket", le="1") == 3
    assert value(text, "pilot_queue_depth") == 0
    assert value(text, "pilot_control_stopped") == 1
    assert value(text, "pilot_control_revision") == 2
    assert value(text, "pilot_control_stage", stage="sandbox") == 1
    assert value(text, "pilot_control_stage", stage="full") == 0
    assert value(text, "pilot_models_loaded", role="challenger") == 1
    assert value(text, "pilot_breaker_open", role="challenger") == 0
    assert value(text, "pilot_store_up") == 1
    assert value(text, "pilot_workers") == 1
    for process in ("worker", "model"):
        assert value(text, "process_resident_memory_bytes", process=process) > 1_000_000
        assert value(text, "process_open_fds", process=process) > 0


def test_what_is_refused_is_counted_by_its_reason(
    tiny: Any, asked: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.post("/decide", json={**tiny.record, "dryness": "wet"})
    asked.post("/decide", json=tiny.record, headers={"Authorization": "Bearer pilot_no"})
    asked.get(f"/nowhere/{tiny.record['plot']}")

    def full(*_: Any) -> None:
        raise StoreUnavailable("full", where="store", mend="Free it.")

    monkeypatch.setattr(tiny.services[-1].store, "record_all", full)
    assert asked.post("/decide", json=tiny.record).status_code == 503
    text = page(asked)
    for reason in ("invalid", "unauthenticated", "not_found", "not_recorded"):
        assert value(text, "pilot_requests_refused_total", reason=reason) == 1
    assert value(text, "http_requests_total", handler="unmatched", method="GET", code="404") == 1


def test_nothing_of_a_record_or_a_caller_is_on_the_page(tiny: Any, asked: TestClient) -> None:
    said = {"reading": "zq-7731", "plot": "Äcker-7"}
    asked.post("/decide", json={**tiny.record, **said})
    asked.post("/decide", json={**tiny.record, **said, "crop": "zq-7732"})
    token = issue(tiny.control, name="zq-caller", scopes=["read"], lasts=timedelta(hours=1))[0]
    asked.request("ZQ-7733", "/decide")
    asked.get("/zq-7734")
    text = page(asked, authorization=f"Bearer {token}", **{"x-request-id": "zq-7735"})
    assert "zq" not in text.lower()
    assert "Äcker" not in text


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_the_page_is_what_prometheus_reads_and_lists_what_the_docs_list(
    tiny: Any, asked: TestClient, accept: str
) -> None:
    asked.post("/decide", json=tiny.record)
    answer = asked.get("/metrics", headers={"accept": accept})
    found = list((openmetrics if accept else parsed)(answer.text))
    assert answer.headers["content-type"].startswith(accept.split(";")[0] or "text/plain")
    known = {each.name: each for each in families(1.0)}
    shown = {each.name + ("_total" if each.type == "counter" else ""): each for each in found}
    assert set(shown) == set(known)
    for name, each in shown.items():
        assert each.type == known[name].kind
        assert each.documentation == known[name].help
        for sample in each.samples:
            assert set(sample.labels) - {"le"} == set(known[name].labels)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| (.+?) \|$", DOCS.read_text(), re.M)
    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), told) for name, kind, labels, told in rows}
    assert listed == {name: (each.kind, each.labels, each.help) for name, each in known.items()}


def test_the_alerts_of_the_docs_ask_for_metrics_that_there_are() -> None:
    text = (DOCS.parents[1] / "how-to" / "observe.md").read_text()
    scrape, rules = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S))
    assert scrape["scrape_configs"][0]["authorization"]
    (group,) = rules["groups"]
    asked = re.findall(
        r"pilot_\w+", " ".join(rule["expr"] for rule in group["rules"]) + text.split("## The log")[0]
    )
    known = {each.name for each in families(1.0)} | {"pilot_rules"}
    assert len(group["rules"]) == 3
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked} <= known


def test_who_may_read_it(tiny: Any, asked: TestClient) -> None:
    tiny.toml.write_text(tiny.toml.read_text() + "\nopen_in_sandbox = false\n")
    with TestClient(create_app(tiny.service(), name="dry field")) as closed:
        assert closed.get("/metrics").status_code == 401
        for scope, expected in (("decide", 403), ("operate", 403), ("read", 200)):
            token = issue(tiny.control, name=scope, scopes=[scope], lasts=timedelta(hours=1))[0]
            answer = closed.get("/metrics", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == expected


def test_a_store_that_does_not_answer_leaves_the_rest_of_the_page(
    tiny: Any, asked: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    monkeypatch.setattr("harness.serving.scrape.STORE_WITHIN_S", 0.05)
    monkeypatch.setattr("harness.serving.scrape.STORE_FOR_S", 0.0)
    asked.post("/decide", json=tiny.record)
    assert value(page(asked), "pilot_outbox_waiting") == 0
    monkeypatch.setattr(tiny.services[-1].store, "ping", lambda: hangs.wait(30))
    try:
        for _ in range(3):  # a second question is not asked while the first one hangs
            text = page(asked)
            assert value(text, "pilot_store_up") == 0
            assert ("pilot_outbox_waiting", ()) not in samples(text)
            assert summed(text, "pilot_decisions_total") == 1
        # Whether the process lives does not hang on it.
        assert asked.get("/health").json()["status"] == "ok"
    finally:
        hangs.set()


def test_what_waits_for_the_consumer_is_on_the_page(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_DOWNSTREAM__URL", "http://127.0.0.1:9/")
    tiny.offered()
    with TestClient(create_app(tiny.service(), name="dry field")) as client:
        for _ in range(2):
            client.post("/decide", json=tiny.record)
        text = page(client)
        assert value(text, "pilot_outbox_waiting") == 2
        assert value(text, "pilot_outbox_oldest_age_seconds") > 0
        outbox = Outbox(tiny.services[-1].store.database)
        outbox.settle([parcel.sequence for parcel in outbox.first(5)], "withheld")
        monkeypatch.setattr("harness.serving.scrape.STORE_FOR_S", 0.0)
        text = page(client)
        assert (value(text, "pilot_outbox_waiting"), value(text, "pilot_outbox_withheld")) == (0, 2)


def test_every_worker_tells_the_whole_and_a_killed_one_takes_nothing_with_it(
    tiny: Any, served: Serve, wait: Wait
) -> None:
    tiny.offered()
    url = served("--workers", "2").url
    wait(lambda: len(live(tiny.root)) == 2, within=60)

    def total() -> float:
        # A connection each, so that any worker may answer.
        answer = httpx.get(f"{url}/metrics", timeout=30, trust_env=False)
        return summed(answer.text, "pilot_decisions_total")

    def decide(count: int) -> None:
        for _ in range(count):
            answer = httpx.post(f"{url}/decide", json=tiny.record, timeout=30, trust_env=False)
            assert answer.status_code == 200

    decide(20)
    assert [total() for _ in range(8)] == [20] * 8
    first = [reader.pid for reader in live(tiny.root)]
    os.kill(first[0], signal.SIGKILL)
    wait(lambda: len({reader.pid for reader in live(tiny.root)} - {first[0]}) == 2, within=60)
    decide(10)
    assert [total() for _ in range(8)] == [30] * 8
    text = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text
    assert value(text, "pilot_workers") == 2
    assert summed(text, "http_requests_total", handler="/decide") == 30
    # Three for the models: two workers, and the one that took the place of the dead.
    assert value(text, "pilot_model_process_starts_total", use="decision") == 3
    (folder,) = (tiny.root / FOLDER).iterdir()
    assert sorted(path.name.split("-")[0] for path in folder.glob("*.db")) == sorted(
        str(reader.pid) for reader in live(tiny.root)
    )


DECISIONS, DEPTH, BORN = key("decisions"), gauge("depth"), gauge("born")


def counted(folder: Path, **more: Any) -> Series:
    made = Series(folder, largest=frozenset({"born"}), **more)
    made.share()
    return made


def ended(folder: Path, by: float) -> None:
    """A process that counts and is gone without a word."""
    pid = os.fork()
    if not pid:
        own = counted(folder)
        own.add(DECISIONS, by)
        own.put(DEPTH, 7.0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_what_neighbours_counted_is_added_and_gauges_too(tmp_path: Path) -> None:
    one, other = counted(tmp_path / "m"), counted(tmp_path / "m")
    for number, each in enumerate((one, other), start=1):
        each.add(DECISIONS, number)
        each.put(DEPTH, number)
        each.put(BORN, number)
    assert one.totals() == other.totals() == {DECISIONS: 3.0, DEPTH: 3.0, BORN: 2.0}


def test_a_fork_counts_for_itself_and_leaves_its_parents_file_alone(tmp_path: Path) -> None:
    own = counted(tmp_path / "m")
    own.add(DECISIONS, 2.0)
    pid = os.fork()
    if not pid:
        own.add(DECISIONS, 3.0)
        own.share()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    for _ in range(2):
        assert own.totals() == {DECISIONS: 5.0}
    assert len(list((tmp_path / "m").glob("*.db"))) == 1


def test_a_dead_process_keeps_its_counts_and_loses_its_gauges_and_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    for by in (2.0, 3.0):
        ended(folder, by)
    assert len(list(folder.glob("*.db"))) == 2
    own = counted(folder)
    for _ in range(3):
        assert own.totals() == {DECISIONS: 5.0}
    assert len(list(folder.glob("*.db"))) == 1
    other = counted(folder)
    assert other.totals() == {DECISIONS: 5.0}


def test_a_crash_while_putting_away_has_nothing_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    ended(folder, 2.0)
    own = counted(folder)
    unlink = Path.unlink

    def crash(path: Path, **more: Any) -> None:
        if path.suffix == ".db":
            raise OSError(5, "crashed")
        unlink(path, **more)

    monkeypatch.setattr(Path, "unlink", crash)
    assert own.totals() == {DECISIONS: 2.0}
    assert (folder / ENDED).exists()
    assert len(list(folder.glob("*.db"))) == 2
    assert own.totals() == {DECISIONS: 2.0}
    monkeypatch.undo()
    assert own.totals() == {DECISIONS: 2.0}
    assert len(list(folder.glob("*.db"))) == 1


def test_one_that_is_put_away_between_two_looks_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    ended(folder, 2.0)
    own, other = counted(folder), counted(folder)
    others = own._others

    def meanwhile(name: str) -> Any:
        seen = others(name)
        other.totals()  # puts the dead away after this one has read its file
        return seen

    monkeypatch.setattr(own, "_others", meanwhile)
    assert own.totals() == {DECISIONS: 2.0}


def test_one_who_is_putting_away_and_hangs_holds_nobody_up(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    ended(folder, 2.0)
    own = counted(folder)
    with (folder / series.LOCK).open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert own.totals() == {DECISIONS: 2.0}
        assert not (folder / ENDED).exists()
    assert own.totals() == {DECISIONS: 2.0}
    assert (folder / ENDED).exists()


def test_a_disk_that_is_full_stops_no_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    own = Series(tmp_path / "m")
    for _ in range(3):
        own.share()
        own.add(DECISIONS)
    assert own.totals() == {DECISIONS: 3.0}
    assert list((tmp_path / "m").glob("*.*")) == []
    assert caplog.text.count("No space left on device") == 1
    monkeypatch.undo()
    own.share()
    assert counted(tmp_path / "m").totals() == {DECISIONS: 3.0}


def test_the_whole_file_is_taken_from_the_disk_at_once(tmp_path: Path) -> None:
    counted(tmp_path / "m").add(DECISIONS)
    (file,) = (tmp_path / "m").glob("*.db")
    # A page that the disk has no room for would end the process with SIGBUS when it is written.
    assert file.stat().st_blocks * 512 >= file.stat().st_size


@pytest.mark.parametrize("what", ["deleted", "cut short", "no numbers"])
def test_files_that_somebody_spoils_cost_their_numbers_and_no_more(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "m"
    own, other = counted(folder), counted(folder)
    own.add(DECISIONS, 1.0)
    other.add(DECISIONS, 2.0)
    file = other._own.file  # type: ignore[union-attr]
    if what == "deleted":
        file.unlink()
        assert own.totals() == {DECISIONS: 1.0}
        other.share()  # as it does every second
        assert own.totals() == {DECISIONS: 3.0}
    else:
        copy = folder / "1-spoilt.db"
        copy.write_bytes(b"" if what == "cut short" else b"\x7f" * 64)
        (folder / ENDED).write_text("{")
        assert own.totals() == {DECISIONS: 3.0}


def test_what_counted_other_things_is_cleared_away(tmp_path: Path) -> None:
    before, now = tmp_path / "m" / "before", tmp_path / "m" / "now"
    running = counted(tmp_path / "m" / "running")
    ended(before, 2.0)
    ended(now, 3.0)
    own = counted(now)
    assert own.totals() == {DECISIONS: 3.0}
    assert not before.exists()
    assert running.totals() == {}


def test_counts_are_kept_of_every_thread(tmp_path: Path) -> None:
    own = counted(tmp_path / "m")
    threads = [threading.Thread(target=lambda: [own.add(DECISIONS) for _ in range(2_000)]) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert own.totals() == {DECISIONS: 8_000.0}


def test_decisions_of_one_transaction_are_added_up(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, budget_s=1.0)
    kinds = [("model", 0.02), ("fallback", 0.02), ("model", 0.02), ("model", 3.0)]
    metrics.decided(
        (SimpleNamespace(served_by=by, why="assigned", stage="early", assigned="champion"), seconds)
        for by, seconds in kinds
    )
    text = metrics.page({}, "")[0].decode()
    assert summed(text, "pilot_decisions_total", served_by="model") == 3
    assert summed(text, "pilot_decisions_total", served_by="fallback") == 1
    took = "pilot_decision_duration_seconds"
    assert value(text, f"{took}_sum", served_by="model") == pytest.approx(3.04)
    assert value(text, f"{took}_count", served_by="model") == 3
    assert value(text, f"{took}_bucket", served_by="model", le="0.025") == 2
    assert value(text, f"{took}_bucket", served_by="fallback", le="0.025") == 1
    assert value(text, f"{took}_bucket", served_by="fallback", le="0.01") == 0


def test_the_commit_is_read_from_gits_own_files(tmp_path: Path) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    assert git_commit(tmp_path) == ""
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert git_commit(tmp_path) == ""
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{commit} refs/heads/main\n")
    assert git_commit(tmp_path / "deeper") == commit
    (git / "refs" / "heads" / "main").write_text("f" * 40 + "\n")
    assert git_commit(tmp_path) == "f" * 40
    (git / "HEAD").write_text(f"{commit}\n")
    assert git_commit(tmp_path) == commit
    (git / "HEAD").write_text("<script>\n")
    assert git_commit(tmp_path) == ""
    beside = tmp_path / "beside"
    (git / "worktrees" / "b").mkdir(parents=True)
    (git / "worktrees" / "b" / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "worktrees" / "b" / "commondir").write_text("../..\n")
    beside.mkdir()
    (beside / ".git").write_text("gitdir: ../.git/worktrees/b\n")
    assert git_commit(beside) == "f" * 40
