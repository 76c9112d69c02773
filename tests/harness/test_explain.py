"""`pilot explain`: one decision from the request to the consumer, and who is told what of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from harness.control import kill
from harness.control.audit import AUDIT, append
from harness.errors import PilotError
from harness.lineage import explained
from harness.lineage.explained import HIDDEN, explain
from harness.store import Decision, DecisionStore, Outbox, Outcome, OutcomeStore, Shadowed, ShadowStore, put

Run = Callable[..., Any]
# What is about somebody.
NOBODYS = ("Äcker-7", "r-1", "80.0", "maize", "water", "skip")


@pytest.fixture
def store(tiny: Any) -> DecisionStore:
    settings = tiny.settings()
    return DecisionStore(settings.sqlite_url(settings.store.url), alongside=(put,))


@pytest.fixture
def decided(tiny: Any, store: DecisionStore) -> Decision:
    """A decision by a model, with all that may come after one."""
    digest = tiny.offered()
    service = tiny.service()
    service.store = store
    made: Decision = service.decide(tiny.parsed())
    kill(tiny.control, reason="the dam is full")
    OutcomeStore(store.database).add([Outcome("r-1", True, "2026-05-01")], source="POST /outcomes")
    said = {"score": 0.25, "decision": '"skip"', "agrees": False, "elapsed_ms": 4.5}
    ShadowStore(store.database).add(
        [Shadowed(made.decided_at, digest, True, "ok", decision_id=made.decision_id, **said)]
    )
    outbox = Outbox(store.database)
    outbox.failed({parcel.sequence: "the consumer answers 503" for parcel in outbox.first(9)})
    return made


def test_it_tells_the_whole_way(tiny: Any, decided: Decision, pilot_here: Run) -> None:
    done = pilot_here("explain", decided.decision_id)
    assert done.returncode == 3  # the tiny pilot has no run on record
    said = done.stdout
    for told in (
        f"decision  {decided.decision_id} at {decided.decided_at}, in the sandbox",
        "about       Äcker-7, record r-1",
        "given       dryness = 80.0",
        f"decided     {decided.decision}, score {decided.score:.4g}, in ",
        "by          the model (assigned), assigned to the challenger",
        f"because     {decided.reasons[0]['feature']} = ",
        f"control   stage sandbox, revision 1, bucket {decided.bucket} of 100",
        "in force    offer (revision 1) at ",
        "ended by    kill (revision 2) at ",
        ": the dam is full",
        f"model     {decided.model_digest}",
        f"beside    model {str(decided.model_digest)[:12]}: skip, something else, in 4.5 ms",
        "outcome   True, known since 2026-05-01, received ",
        "delivery  waiting since ",
        ", 1 attempt, the last at ",
        ": the consumer answers 503",
        f"grep {decided.decision_id}",
    ):
        assert told in said, said
    assert "evidence/run.json" in done.stderr
    document = json.loads(pilot_here("explain", decided.decision_id, "--json").stdout)
    assert document["record"]["plot"] == "Äcker-7"
    assert [entry["action"] for entry in document["control"]] == ["offer", "kill"]
    assert document["lineage"]["model"]["digest"] == decided.model_digest
    assert document["outcome"]["outcome"] is True
    assert document["delivery"]["attempts"] == 1


def test_redacted_it_shows_no_value(tiny: Any, decided: Decision, pilot_here: Run) -> None:
    for options in ((), ("--json",)):
        done = pilot_here("explain", decided.decision_id, "--redact", *options)
        assert HIDDEN in done.stdout
        # How long something took may by chance be written like a value.
        told = re.sub(r'[0-9.]+ ms|_ms": [0-9.]+', "", done.stdout)
        for value in (*NOBODYS, str(decided.score)):
            assert value not in told
        assert decided.reasons[0]["feature"] in done.stdout


def test_what_is_delivered_and_what_has_no_consumer(
    tiny: Any, decided: Decision, store: DecisionStore
) -> None:
    outbox = Outbox(store.database)
    outbox.settle([parcel.sequence for parcel in outbox.first(9)], "delivered")
    found = explain(tiny.settings(), decided.decision_id).delivery
    assert found is not None
    assert (found["state"], found["attempts"], found["error"]) == ("delivered", 2, None)
    alone = tiny.service().decide(tiny.parsed(reading="r-2"))
    found = explain(tiny.settings(), alone.decision_id)
    assert (found.delivery, found.outcome, found.beside) == (None, None, None)
    assert (found.decision.why, found.chain.model) == ("killed", None)


def test_a_beginning_is_enough_where_only_one_has_it(
    tiny: Any, decided: Decision, store: DecisionStore, pilot_here: Run
) -> None:
    found = explain(tiny.settings(), f" {decided.decision_id[:8].upper()} ")
    assert found.decision.decision_id == decided.decision_id
    base = "abcdef00-0000-4000-8000-00000000000"
    for number in range(7):
        store.record(Decision(**{**vars(decided), "decision_id": f"{base}{number}"}))
    done = pilot_here("explain", "abcdef00")
    assert done.returncode == 2
    assert f"several decisions begin so: {base}0, " in done.stderr
    assert f"{base}4 and more. Give more of the id." in done.stderr
    done = pilot_here("explain", f"{base}9")
    assert done.returncode == 2
    assert f"no decision '{base}9' is on record; {base}0, " in done.stderr
    assert done.stderr.count("\n") == 1
    for wrong in ("abc", "%%%%", "____"):
        with pytest.raises(PilotError, match=r"too short|no decision"):
            explain(tiny.settings(), wrong)


def test_without_a_store_there_is_no_decision_and_no_store_is_made(tiny: Any, pilot_here: Run) -> None:
    done = pilot_here("explain", "abcdef00")
    assert (done.returncode, "no decision is on record" in done.stderr) == (2, True)
    assert not (tiny.root / "var" / "decisions.db").exists()


def test_an_audit_that_contradicts_is_told_with_exit_code_1(
    tiny: Any, decided: Decision, pilot_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tiny.control / AUDIT
    kept = file.read_bytes()
    file.write_bytes(kept.replace(b"the dam is full", b"the dam is void"))
    done = pilot_here("explain", decided.decision_id)
    assert (done.returncode, "audit: it is not as it was written" in done.stderr) == (1, True)
    file.write_bytes(kept)
    at = datetime.fromisoformat(decided.decided_at)
    for late, code in ((timedelta(seconds=2), 3), (timedelta(minutes=1), 1)):
        entry = {"revision": 1, "at": (at + late).isoformat(), "actor": "x", "action": "offer", "reason": "y"}
        monkeypatch.setattr(explained, "read_audit", lambda _, entry=entry: [entry])
        done = pilot_here("explain", decided.decision_id)
        assert (done.returncode, "after this was decided" in done.stderr) == (code, code == 1)


def test_a_revision_that_the_audit_does_not_have_is_missed(
    tiny: Any, decided: Decision, store: DecisionStore
) -> None:
    other = "0" * 8 + decided.decision_id[8:]
    store.record(Decision(**{**vars(decided), "decision_id": other, "revision": 41}))
    append(tiny.control, actor="x", action="arm", reason="later", revision=42)
    found = explain(tiny.settings(), other)
    assert [entry["revision"] for entry in found.entries] == [42]
    assert any("no entry for revision 41" in trouble.what for trouble in found.troubles)
    assert datetime.fromisoformat(found.decision.decided_at) < datetime.now(UTC)
