"""Many records at once: the service's control, on record before they count, and on again after any end."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import time
import uuid
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from harness.batch import Wanted, begun
from harness.batch.deciding import Entities
from harness.batch.records import NAMESPACE, decision_ids
from harness.batch.run import rehearse, run
from harness.control import SENTINEL, Control, Slot, confirmation, kill, live
from harness.errors import PilotError
from harness.pilot import Answer
from harness.store import DecisionStore, Outcome, OutcomeStore, StoreUnavailable
from harness.store.arms import ArmStore, Stretch

ROWS, SIZE = 600, 100
B = "b" * 64
KILLS = "from harness.control import kill; kill(Path({folder!r}), reason='meanwhile')"
COPIES = "import shutil; shutil.copy({source!r}, {to!r} + '~'); Path({to!r} + '~').replace({to!r})"
PREDICTS = "return features['dryness'].to_numpy()"


def silent(_doing: str, _share: float) -> None:
    pass


def rows(count: int, **changes: Any) -> pl.DataFrame:
    """Records that keep the tiny pilot's contract, in the last hundredth of a percent too."""
    columns = {
        "reading": [f"r-{number}" for number in range(count)],
        "plot": [f"p-{number % 97}" for number in range(count)],
        "measured_on": pl.Series(["2026-03-01"] * count).str.to_date(),
        "dryness": [float(number % 101) for number in range(count)],
        "depth_cm": [20] * count,
        "crop": [("barley", "maize", None)[number % 3] for number in range(count)],
        "covered": [None] * count,
        "slope": [None] * count,
        "withered": [None] * count,
    }
    kinds = {"covered": pl.Boolean, "slope": pl.Float64, "withered": pl.Boolean, "depth_cm": pl.Int64}
    return pl.DataFrame({**columns, **changes}, strict=False).cast(kinds)


@pytest.fixture
def brought(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six chunks."""
    monkeypatch.setenv("PILOT_BATCH__ROWS_A_CHUNK", str(SIZE))
    file = tmp_path / "rows.parquet"
    rows(ROWS).write_parquet(file)
    return file


@pytest.fixture
def decide(tiny: Any, brought: Path) -> Callable[..., Any]:
    def decide(named: Path = brought, **options: Any) -> Any:
        return run(tiny.settings(), Wanted(str(named), **options), silent)

    return decide


@pytest.fixture
def store(tiny: Any) -> Any:
    opened = DecisionStore(tiny.settings().sqlite_url(tiny.settings().store.url))
    yield opened
    opened.close()


def recorded(told: Any) -> pl.DataFrame:
    return pl.read_parquet(Path(told.folder) / "decisions-*.parquet").sort("row")


def without_what_differs(decision: Any) -> dict[str, Any]:
    left_out = ("decision_id", "decided_at", "elapsed_ms", "score", "reasons")
    return {name: value for name, value in vars(decision).items() if name not in left_out}


def test_the_same_records_are_decided_as_the_service_decides_them(
    tiny: Any, decide: Any, store: Any, tmp_path: Path
) -> None:
    champion, challenger = tiny.package(weight=0.5).digest, tiny.package().digest
    tiny.put(champion=Slot(digest=champion, pct=70), challenger=Slot(digest=challenger, pct=30))
    frame = rows(ROWS)
    told = decide()
    service = tiny.service()
    seen = set()
    for row in frame.drop("withered")[::15].iter_rows(named=True):
        one = service.decide(row)
        (key,) = decision_ids("dryfield", told.batch_id, pa.array([row["reading"]])).to_pylist()
        found = store.get(key)
        one = dataclasses.replace(one, record={**one.record, "measured_on": "2026-03-01"})
        assert without_what_differs(found) == without_what_differs(one)
        # Polars divides many values and one in different ways, in the last digit of a double.
        assert [each["feature"] for each in found.reasons] == [each["feature"] for each in one.reasons]
        assert found.score == (one.score and pytest.approx(one.score, rel=1e-14))
        seen.add((found.assigned, found.served_by))
    assert seen == {("champion", "model"), ("challenger", "model"), ("fallback", "fallback")}


def test_readers_of_the_store_find_what_a_batch_decided(tiny: Any, decide: Any, store: Any) -> None:
    digest = tiny.offered()
    told = decide()
    assert (told.rows, told.decided, told.chunks) == (ROWS, ROWS, ROWS // SIZE)
    assert store.counts() == {("model", "assigned"): ROWS}
    table = recorded(told)
    assert store.last_model_decision() == table["decided_at"].max()
    made = [row for part in store.made(digest, "2020", "2100") for row in part]
    assert [row.record_key for row in made] == table["record_key"].to_list()
    assert json.loads(made[1].record) == {
        **rows(2).drop("withered").row(1, named=True),
        "measured_on": "2026-03-01",
    }
    assert not list(store.made(digest, "2020", table["decided_at"].min()))
    assert not list(store.made(B, "2020", "2100"))
    assert store.get(str(uuid.uuid4())) is None


def test_outcomes_find_the_decisions_of_a_batch(tiny: Any, decide: Any, store: Any) -> None:
    digest = tiny.offered()
    decide()
    service = tiny.service()
    later = service.decide(tiny.parsed(reading="r-5", dryness=1.0))
    outcomes = OutcomeStore(store.database)
    said = [Outcome(f"r-{number}", outcome=True) for number in (3, 5, ROWS + 1)]
    assert outcomes.add(said, source="a test").unknown == 1
    matched = [each for part in outcomes.matched(digest, "2020", "2100") for each in part]
    assert {json.loads(each.record)["reading"] for each in matched} == {"r-3", "r-5"}
    # The later of two decisions on a record is the one that counts.
    (asked,) = [each for each in matched if json.loads(each.record)["reading"] == "r-5"]
    assert json.loads(asked.record)["dryness"] == later.record["dryness"] == 1.0


def test_a_stage_is_not_left_for_what_a_batch_decided(tiny: Any, decide: Any, store: Any) -> None:
    digest = tiny.package().digest
    tiny.champion(digest, stage="full")
    decide_outside(tiny)
    told = decide()
    arms = ArmStore(store.database)
    stretch = Stretch("full", digest, 1, "2020")
    assert arms.failures(stretch).treated.decisions == arms.spread(stretch).treated == 0
    assert arms.last_decision() == recorded(told)["decided_at"].max()


def decide_outside(tiny: Any) -> None:
    """Outside the sandbox the control folder lies outside the work tree."""
    folder = tiny.root.parent / "control"
    shutil.move(tiny.control, folder)
    tiny.toml.write_text(f'{tiny.toml.read_text()}\n[control]\nfolder = "{folder}"\n')


def test_the_store_says_so_when_a_file_of_decisions_was_changed(tiny: Any, decide: Any, store: Any) -> None:
    digest = tiny.offered()
    told = decide()
    file = Path(told.folder) / "decisions-00002.parquet"
    rewritten = pl.read_parquet(file).with_columns(pl.lit('"skip"').alias("decision"))
    rewritten.write_parquet(file)
    id_there = rewritten["decision_id"][0]
    for reads in (
        lambda: store.get(id_there),
        lambda: list(store.made(digest, "2020", "2100")),
        lambda: decide(to=Path(told.folder) / "out"),
    ):
        with pytest.raises(StoreUnavailable, match="not the one that was recorded"):
            reads()
    file.unlink()
    with pytest.raises(StoreUnavailable, match="missing"):
        store.get(id_there)


@pytest.mark.parametrize("share", [0, 1, 37, 100])
def test_entities_asked_together_are_told_what_each_would_be_told(tiny: Any, share: int) -> None:
    champion, challenger = tiny.package(weight=0.5).digest, tiny.package().digest
    tiny.put(champion=Slot(digest=champion, pct=80), challenger=Slot(digest=challenger, pct=share))
    control = Control(tiny.control)
    named = ["", *(f"entity {number}" for number in range(2_000)), ""]
    for stage in ("sandbox", "shadow", "full"):
        tiny.put(
            champion=Slot(digest=champion, pct=80), challenger=Slot(digest=challenger, pct=share), stage=stage
        )
        asked = Entities(control.permission, control, pa.array(named)).ask()
        together = [asked.permissions[at] for at in asked.index]
        alone = [control.permission(name) for name in named]
        # The sample for the shadow is drawn in a group of its own, and a batch runs nothing beside.
        blind = {"shadow": None}
        assert [dataclasses.replace(each, **blind) for each in together] == [
            dataclasses.replace(each, **blind) for each in alone
        ]
        assert len(asked.permissions) <= 101


def test_buckets_are_drawn_anew_when_another_group_comes_into_force(tiny: Any) -> None:
    digest = tiny.package().digest
    tiny.champion(digest)
    control = Control(tiny.control)
    named = [f"entity {number}" for number in range(300)]
    entities = Entities(control.permission, control, pa.array(named))
    entities.ask()
    tiny.put(champion=Slot(digest=digest, pct=50), flag_key="another", rev=2)
    asked = entities.ask()
    assert [asked.permissions[at].bucket for at in asked.index] == [
        control.permission(name).bucket for name in named
    ]
    assert len(asked.permissions) <= 101  # each bucket was asked about, and not each entity


def test_without_a_state_or_with_a_stop_the_fallback_decides_everything(decide: Any, tiny: Any) -> None:
    told = decide(batch_id="none")
    assert dict(told.counts) == {("fallback", "no_state"): ROWS}
    tiny.offered()
    (tiny.control / SENTINEL).touch()
    told = decide(batch_id="stopped")
    assert dict(told.counts) == {("fallback", "killed"): ROWS}
    assert recorded(told)["reasons"][1] == '[{"feature": "a rule", "value": "maize", "effect": null}]'


def test_a_model_of_real_data_does_not_decide_in_the_sandbox(decide: Any, tiny: Any) -> None:
    tiny.offered(origin="real")
    assert dict(decide().counts) == {("fallback", "real_data_in_sandbox"): ROWS}


def test_there_is_no_way_back_into_the_sandbox(
    decide: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = tiny.package().digest
    tiny.champion(digest, stage="full")
    decide_outside(tiny)
    control = tiny.root.parent / "control"
    tiny.champion(digest, rev=2)  # as it would be in the sandbox
    move = COPIES.format(source=str(tiny.control / "state.json"), to=str(control / "state.json"))
    tiny.model_does(digest, f"{move}\n{PREDICTS}")
    told = decide()
    assert {why for _, why in told.counts} == {"left_the_sandbox"}


def asked(tiny: Any) -> int:
    file = tiny.root / "asked"
    return len(file.read_text()) if file.exists() else 0


def counting(tiny: Any) -> str:
    return f"open({str(tiny.root / 'asked')!r}, 'a').write('x')"


def test_a_stop_while_a_chunk_is_scored_throws_its_scores_away(decide: Any, tiny: Any) -> None:
    digest = tiny.offered()
    stops = KILLS.format(folder=str(tiny.control))
    tiny.model_does(digest, f"{counting(tiny)}\n{stops}\n{PREDICTS}")
    told = decide()
    assert dict(told.counts) == {("fallback", "killed"): ROWS}
    table = recorded(told)
    assert table["score"].null_count() == ROWS
    assert set(table["decision"]) == {'"skip"'}
    # One chunk was with the model, and one more may have been on its way.
    assert asked(tiny) <= 2


def test_a_stop_between_two_chunks_keeps_the_model_from_the_next(
    decide: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = tiny.offered()
    tiny.model_does(digest, f"{counting(tiny)}\n{PREDICTS}")
    from harness.store import BatchStore

    add = BatchStore.add

    def add_and_stop(self: Any, chunk: Any, alongside: Any = None) -> None:
        add(self, chunk, alongside)
        if chunk.chunk == 1:
            kill(tiny.control, reason="between")

    monkeypatch.setattr(BatchStore, "add", add_and_stop)
    told = decide()
    assert dict(told.counts) == {("model", "assigned"): 2 * SIZE, ("fallback", "killed"): ROWS - 2 * SIZE}
    assert asked(tiny) <= 4


def test_a_stop_while_the_file_is_written_is_the_files_too(
    decide: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.offered()
    from harness.batch import records

    written = records.written

    def written_and_stopped(table: Any, file: Path) -> str:
        found = written(table, file)
        if "00001" in file.name:
            (tiny.control / SENTINEL).touch()
        return found

    monkeypatch.setattr(records, "written", written_and_stopped)
    told = decide()
    assert dict(told.counts) == {("model", "assigned"): SIZE, ("fallback", "killed"): ROWS - SIZE}
    assert recorded(told)["served_by"].to_list() == ["model"] * SIZE + ["fallback"] * (ROWS - SIZE)


def test_a_model_that_is_replaced_while_it_scores_does_not_decide(decide: Any, tiny: Any) -> None:
    other = tiny.package(weight=0.5).digest
    digest = tiny.offered()
    state = tiny.control / "state.json"
    before = state.read_bytes()
    tiny.put(rev=2, challenger=Slot(digest=other, pct=100))
    after = state.rename(tiny.control / "next")
    state.write_bytes(before)
    moves = COPIES.format(source=str(after), to=str(state))
    tiny.model_does(digest, f"{moves}\n{PREDICTS}")
    told = decide()
    first = recorded(told).head(SIZE)
    assert set(first["why"]) == {"model_replaced"}
    assert set(first["model_digest"]) == {other}
    assert ("model", "assigned") in told.counts


POISON = "if (features['dryness'] == 0.42).any(): {what}\n" + PREDICTS
POISONS = {
    "raises": ("raise ValueError('poison')", "model_failed"),
    "dies": ("os._exit(3)", "model_died"),
    "hangs": ("time.sleep(60)", "model_too_slow"),
    "no number": ("return np.where(features['dryness'] == 0.42, np.nan, 0.9)", "score_invalid"),
    "too high": ("return np.where(features['dryness'] == 0.42, 1.5, 0.9)", "score_invalid"),
}


@pytest.mark.parametrize("what", POISONS)
def test_one_poisonous_record_fails_alone(
    decide: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from harness.serving import bulk

    monkeypatch.setattr(bulk, "LEAST_S", 0.3)
    monkeypatch.setenv("PILOT_BATCH__BUDGET_S", "3")
    monkeypatch.setenv("PILOT_BATCH__ROWS_A_CHUNK", "64")
    code, why = POISONS[what]
    digest = tiny.offered()
    tiny.model_does(digest, POISON.format(what=code))
    dryness = [50.0] * 128
    dryness[77] = 42.0
    rows(128, dryness=dryness).write_parquet(tmp_path / "poison.parquet")
    told = decide(tmp_path / "poison.parquet")
    assert dict(told.counts) == {("model", "assigned"): 127, ("fallback", why): 1}
    (row,) = recorded(told).filter(pl.col("served_by") == "fallback").iter_rows(named=True)
    assert (row["record_key"], row["assigned"], row["model_digest"]) == ("r-77", "challenger", digest)


def test_a_model_that_always_fails_is_left_alone(
    decide: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOT_SERVING__BREAKER_FAILURES", "2")
    monkeypatch.setenv("PILOT_SERVING__BREAKER_RETRY_S", "600")
    digest = tiny.offered()
    tiny.model_does(digest, "raise RuntimeError('not well')")
    told = decide()
    found = recorded(told)
    assert found["why"].to_list() == ["model_failed"] * 2 * SIZE + ["breaker_open"] * (ROWS - 2 * SIZE)


@pytest.mark.parametrize("trouble", ["one score", "no array", "a matrix"])
def test_what_is_no_score_for_each_record_is_none(
    decide: Any, tiny: Any, brought: Path, trouble: str
) -> None:
    digest = tiny.offered()
    code = {"one score": "return np.array([0.9])", "no array": "return None", "a matrix": "return np.eye(3)"}
    tiny.model_does(digest, f"if len(features) > 1: {code[trouble]}\nraise ValueError")
    rows(8).write_parquet(brought)
    told = decide()
    assert {who for who, _ in told.counts} == {"fallback"}


@pytest.mark.parametrize("scores", [8, 24, 0, -8, "16"])
def test_a_process_that_sends_another_number_of_scores_has_answered_nothing(
    monkeypatch: pytest.MonkeyPatch, scores: Any
) -> None:
    """Whatever runs in it: two records were asked about, and a score has eight bytes."""
    from harness.serving.breaker import Rule
    from harness.serving.bulk import BulkModel
    from harness.serving.processes import ModelDied
    from harness.serving.wire import encode

    here, there = socket.socketpair()
    sent = encode({"id": 8, "scores": scores, "reasons": 2})
    there.sendall(sent + b"\0" * (scores if isinstance(scores, int) and scores > 0 else 0) + b"[]")
    model = BulkModel(Path("models"), "a" * 64, reasons=0, budget_s=10, rule=Rule())
    process = SimpleNamespace(connection=here, asked=7)
    monkeypatch.setattr(model, "_ready", lambda: process)
    with here, there, pytest.raises(ModelDied, match="no answer"):
        model._ask(pa.table({"x": [1.0, 2.0]}), 10.0)


def test_a_model_whose_package_is_missing_leaves_everything_to_the_fallback(decide: Any, tiny: Any) -> None:
    tiny.champion(B)
    assert dict(decide().counts) == {("fallback", "model_unavailable"): ROWS}


def test_what_the_fallback_cannot_decide_is_set_aside(decide: Any, tiny: Any, store: Any) -> None:
    def hook(record: Any) -> Answer:
        if record["reading"] == "r-250":
            raise KeyError("no rule")
        return Answer("skip")

    decide(batch_id="first")
    tiny.fallback_file().hook = hook
    told = decide(batch_id="second")
    assert (told.decided, told.set_aside, dict(told.broken)) == (ROWS - 1, 1, {"fallback_failed": 1})
    aside = pl.read_parquet(Path(told.folder) / "set-aside-*.parquet")
    assert aside.select("reading", "_reasons").rows() == [("r-250", "fallback_failed:KeyError")]
    assert "r-250" not in recorded(told)["record_key"]


BREAKS = {
    "dryness.too_high": {"dryness": 101.0},
    "dryness.not_finite": {"dryness": float("nan")},
    "dryness.missing": {"dryness": None},
    "depth_cm.too_low": {"depth_cm": 0},
    "crop.unknown_category": {"crop": "wheat"},
    "plot.blank": {"plot": "  "},
    "plot.too_long": {"plot": "x" * 1_001},
    "plot.nul": {"plot": "a\0b"},
    "reading.missing": {"reading": None},
}


def test_what_breaks_the_contract_is_set_aside_with_the_rules_and_a_request_is_refused_for_it(
    decide: Any, tiny: Any, tmp_path: Path
) -> None:
    from pydantic import ValidationError

    tiny.offered()
    frame = rows(ROWS)
    broken = {10 * (at + 1): rule for at, rule in enumerate(BREAKS)}
    changed = [
        {**row, **BREAKS[broken[number]]} if number in broken else row
        for number, row in enumerate(frame.iter_rows(named=True))
    ]
    changed[500]["reading"] = "r-501"
    pl.DataFrame(changed, schema=frame.schema).write_parquet(tmp_path / "broken.parquet")
    told = decide(tmp_path / "broken.parquet")
    # To the engine, NaN is larger than any number.
    expected = {**dict.fromkeys(BREAKS, 1), "dryness.too_high": 2, "reading.repeated": 2}
    assert dict(told.broken) == expected
    assert (told.decided, told.set_aside) == (ROWS - len(BREAKS) - 2, len(BREAKS) + 2)
    assert set(recorded(told)["row"]) == set(range(ROWS)) - set(broken) - {500, 501}
    tiny.service()
    for changes in BREAKS.values():
        with pytest.raises(ValidationError):
            tiny.parsed(**changes)


def test_csv_is_read_by_the_contracts_types(decide: Any, tiny: Any, tmp_path: Path) -> None:
    tiny.offered()
    header = b"reading,plot,measured_on,dryness,depth_cm,crop,covered\n"
    lines = [
        b"a,p,2026-03-01,80,20,maize,true",
        b"b,p,2026-03-01,80,20,,",
        b"c,p,2026-3-1,80,20,,",
        b"d,p,2026-03-01,high,20,,",
        b"e,p,2026-03-01,80,20.5,,",
        b"f,p,2026-03-01,80,20,,yes",
        b"g,\xff,2026-03-01,80,20,,",
        b"h,p,2026-03-01,80",
        b"i,p,2026-03-01,nan,20,,",
    ]
    file = tmp_path / "some.csv"
    file.write_bytes(header + b"\n".join(lines) + b"\n")
    told = decide(file, to=tmp_path / "out")
    assert dict(told.broken) == {
        "measured_on.not_a_date": 1,
        "dryness.not_a_number": 1,
        "depth_cm.not_a_integer": 1,
        "covered.not_a_boolean": 1,
        "plot.not_a_text": 1,
        "dryness.not_finite": 1,
        "dryness.too_high": 1,
    }
    assert (told.decided, told.set_aside, told.malformed) == (2, 6, 1)
    record = recorded(told)["record"][0]
    assert record == {
        "reading": "a",
        "plot": "p",
        "measured_on": date(2026, 3, 1),
        "dryness": 80.0,
        "depth_cm": 20,
        "crop": "maize",
        "covered": True,
        "slope": None,
    }
    out = pl.read_csv(tmp_path / "out" / f"{told.batch_id}-00000.csv")
    assert out.select("record_key", "decision").rows() == [("a", "water"), ("b", "water")]


def test_names_of_columns_may_come_behind_a_mark_of_their_order_and_an_empty_line(
    decide: Any, tiny: Any, tmp_path: Path
) -> None:
    tiny.offered()
    file = tmp_path / "some.csv"
    head = b'\r\n"reading",plot,measured_on,dryness,depth_cm,crop,covered\r\n'
    file.write_bytes(b"\xef\xbb\xbf" + head + b"a,p,2026-03-01,80,20,maize,true\r\n")
    assert decide(file).decided == 1


@pytest.mark.parametrize("kind", [".parquet", ".csv"])
def test_what_lies_there_under_a_batchs_name_is_not_announced_as_its_own(
    decide: Any, tiny: Any, tmp_path: Path, kind: str
) -> None:
    tiny.offered()
    brought, out = tmp_path / f"some{kind}", tmp_path / "out"
    frame = rows(5)
    (frame.write_parquet if kind == ".parquet" else frame.write_csv)(brought)
    told = decide(brought, to=out)
    file, announced = (Path(name) for name in told.files)
    own = file.read_bytes()
    assert decide(brought, to=out).files == told.files
    assert file.read_bytes() == own
    changed = (pl.read_parquet if kind == ".parquet" else pl.read_csv)(file).with_columns(
        decision=pl.lit("x")
    )
    (changed.write_parquet if kind == ".parquet" else changed.write_csv)(file)
    theirs = file.read_bytes()
    announced.unlink()
    with pytest.raises(PilotError, match="is there already, and does not hold what this batch decided"):
        decide(brought, to=out)
    assert (file.read_bytes(), announced.exists()) == (theirs, False)
    file.unlink()
    assert decide(brought, to=out).decided_now == 0
    assert file.read_bytes() == own


def test_a_place_that_takes_no_file_is_told_before_anything_is_decided(
    decide: Any, tiny: Any, store: Any, tmp_path: Path
) -> None:
    tiny.offered()
    (tmp_path / "file").touch()
    with pytest.raises(PilotError, match="nothing was decided: Not a directory"):
        decide(to=tmp_path / "file" / "below")
    read = tmp_path / "read"
    read.mkdir()
    rows(5).write_parquet(read / "some.parquet")
    with pytest.raises(PilotError, match="it lies in the folder that is read"):
        decide(read, to=read / "out")
    assert (store.counts(), list(read.iterdir())) == ({}, [read / "some.parquet"])


def test_ids_are_uuid5_of_pilot_batch_and_key() -> None:
    keys = ["", "Äcker", "x" * 500, *(f"r-{number}" for number in range(50))]
    expected = [str(uuid.uuid5(NAMESPACE, f"dryfield\0night\0{key}")) for key in keys]
    assert decision_ids("dryfield", "night", pa.array(keys)).to_pylist() == expected
    assert decision_ids("dryfield", "night", pa.array([], pa.string())).to_pylist() == []


def test_a_batch_that_is_run_again_decides_nothing_twice(decide: Any, tiny: Any, store: Any) -> None:
    tiny.offered()
    first = decide()
    kill(tiny.control, reason="later")
    again = decide()
    assert (again.decided, again.kept, again.decided_now) == (ROWS, ROWS // SIZE, 0)
    assert store.counts() == {("model", "assigned"): ROWS}
    assert again.batch_id == first.batch_id


def test_a_batch_does_not_go_on_with_another_input_or_under_other_terms(
    decide: Any, tiny: Any, brought: Path
) -> None:
    tiny.offered()
    decide(batch_id="night")
    with pytest.raises(PilotError, match="--reasons differs"):
        decide(batch_id="night", reasons=0)
    contract = tiny.root / "src" / "dryfield" / "contract.py"
    text = contract.read_text()
    contract.write_text(text + "\n")
    with pytest.raises(PilotError, match=r"contract\.py has changed"):
        decide(batch_id="night")
    contract.write_text(text)
    rows(ROWS, dryness=[1.0] * ROWS).write_parquet(brought)
    with pytest.raises(PilotError, match="begun with other rows"):
        decide(batch_id="night")


def test_an_input_that_changes_meanwhile_is_not_recorded(
    decide: Any, tiny: Any, brought: Path, store: Any
) -> None:
    digest = tiny.offered()
    tiny.model_does(digest, f"os.utime({str(brought)!r}, (1, 1))\n{PREDICTS}")
    with pytest.raises(PilotError, match="changed while the batch was running"):
        decide()
    assert store.counts() == {}


def test_two_processes_are_not_at_one_batch(decide: Any, tiny: Any, tmp_path: Path) -> None:
    folder = tiny.root / "var" / "batches" / "night"
    with begun.alone(folder), pytest.raises(PilotError, match="another process"):
        decide(batch_id="night")


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "x" * 101])
def test_what_is_no_name_of_a_batch_is_refused(decide: Any, name: str) -> None:
    if name:
        with pytest.raises(PilotError, match="no name for a batch"):
            decide(batch_id=name)
    else:
        assert decide(batch_id=name).batch_id.startswith("rows-")


def test_what_cannot_be_recorded_is_not_decided(
    decide: Any, tiny: Any, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.batch import records

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    tiny.offered()
    with monkeypatch.context() as patch:
        patch.setattr(records, "write_durably", full)
        with pytest.raises(
            PilotError, match=r"cannot be written: No space left on device.*run the same command"
        ):
            decide(to=tmp_path / "out")
    assert store.counts() == {}
    assert not (tmp_path / "out").exists()
    assert decide().decided == ROWS


def test_the_file_is_on_the_disk_before_the_row_and_the_row_before_the_output(
    decide: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every name is synced before what refers to it is written."""
    from harness import files
    from harness.batch import records
    from harness.store import BatchStore

    happened: list[str] = []
    fsync, add, hand_over = os.fsync, BatchStore.add, records.hand_over

    def synced(descriptor: int) -> None:
        happened.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def added(self: Any, chunk: Any, alongside: Any = None) -> None:
        assert (tiny.root / "var" / "batches" / chunk.batch_id / chunk.file).is_file()
        happened.append(f"row {chunk.chunk}")
        add(self, chunk, alongside)

    def handed(chunk: Any, *more: Any) -> Path:
        happened.append(f"output {chunk.chunk}")
        return hand_over(chunk, *more)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(BatchStore, "add", added)
    monkeypatch.setattr(records, "hand_over", handed)
    tiny.offered()
    told = decide(batch_id="night", to=tmp_path / "out")
    order = [happened.index(f"sync decisions-{number:05d}.parquet.part") for number in range(6)]
    for number, place in enumerate(order):
        assert place < happened.index("sync night", place) < happened.index(f"row {number}")
    assert happened.index("row 5") < happened.index("output 0")
    assert happened[-2:] == ["sync night.json.part", "sync out"]
    said = json.loads((tmp_path / "out" / "night.json").read_text())
    assert len(said["files"]) == 6
    assert told.files[-1].endswith("night.json")


def test_a_dry_run_says_who_would_decide_and_leaves_nothing(
    decide: Any, tiny: Any, brought: Path, store: Any
) -> None:
    digest = tiny.package().digest
    tiny.put(champion=Slot(digest=digest, pct=40))
    tiny.model_does(digest, f"{counting(tiny)}\n{PREDICTS}")
    said = rehearse(tiny.settings(), Wanted(str(brought)), silent)
    assert asked(tiny) == 0
    assert store.counts() == {}
    assert not (tiny.root / "var" / "batches").exists()
    told = decide()
    would = {(each["by"], each["why"]): each["count"] for each in said["would_decide"]}
    counted = dict(told.counts)
    assert would == {("champion", "assigned"): counted["model", "assigned"]} | {
        ("fallback", "outside_rollout"): counted["fallback", "outside_rollout"]
    }
    assert said["rows"] == ROWS


def test_with_deliver_the_decisions_wait_for_the_consumer_and_count_once(
    decide: Any, tiny: Any, store: Any
) -> None:
    from harness.store import Outbox

    tiny.offered()
    with pytest.raises(PilotError, match="nobody is named"):
        decide(deliver=True)
    tiny.toml.write_text(f'{tiny.toml.read_text()}\n[downstream]\nurl = "http://127.0.0.1:1/"\n')
    assert decide(batch_id="files").decided == ROWS
    assert Outbox(store.database).waiting().count == 0
    told = decide(batch_id="sent", deliver=True)
    assert Outbox(store.database).waiting().count == ROWS
    assert store.counts() == {("model", "assigned"): 2 * ROWS}
    parcel = Outbox(store.database).first(1)[0]
    found = store.get(parcel.decision_id)
    assert found == store.get(recorded(told)["decision_id"][0])
    assert found.record == {**rows(1).drop("withered").row(0, named=True), "measured_on": "2026-03-01"}


def test_pilot_kill_asks_a_batch_and_waits_until_it_has_stopped(
    decide: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.store import BatchStore

    tiny.offered()
    words = []
    add = BatchStore.add

    def add_and_ask(self: Any, chunk: Any, alongside: Any = None) -> None:
        if chunk.chunk == 0:
            kill(tiny.control, reason="now")
            words.extend(map(confirmation.ask, live(tiny.root)))
        if chunk.chunk == 1:
            words.extend(map(confirmation.ask, live(tiny.root)))
        add(self, chunk, alongside)

    monkeypatch.setattr(BatchStore, "add", add_and_ask)
    decide()
    before, after = words
    assert (before.heard, before.stopped, before.under_way, before.confirmed) == (True, True, 1, False)
    assert after.confirmed
    assert "pilot decide --batch" in after.reader.url
    assert live(tiny.root) == []


class Ended(BaseException):
    """The process is gone at once: nothing is tidied up after it, but what a library of ours does."""


MOMENTS = (
    "before a file is whole",
    "a file has its name",
    "the row is on its way",
    "the row is written",
    "the last row is written",
    "an output is half written",
)


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_ends_between_two_steps_is_gone_on_with(
    decide: Any, tiny: Any, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    from harness.batch import records
    from harness.store import BatchStore

    tiny.offered()
    write, add = records.write_durably, BatchStore.add

    def writing(file: Path, content: Any) -> None:
        if moment == "before a file is whole" and file.name == "decisions-00002.parquet":
            file.with_name(f"{file.name}.part").write_bytes(bytes(content)[:100])
            raise Ended
        if moment == "an output is half written" and file.name == "night-00003.parquet":
            raise Ended
        write(file, content)
        if moment == "a file has its name" and file.name == "decisions-00002.parquet":
            raise Ended

    def adding(self: Any, chunk: Any, alongside: Any = None) -> None:
        if moment == "the row is on its way" and chunk.chunk == 2:
            raise Ended
        add(self, chunk, alongside)
        last = {"the row is written": 2, "the last row is written": 5}
        if chunk.chunk == last.get(moment):
            raise Ended

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_durably", writing)
        patch.setattr(BatchStore, "add", adding)
        with pytest.raises(Ended):
            decide(batch_id="night", to=tmp_path / "out")
    before = {chunk.chunk: chunk.sha256 for chunk in store.batches.chunks("night")}
    assert not (tmp_path / "out" / "night.json").exists()
    told = decide(batch_id="night", to=tmp_path / "out")
    whole(tiny, store)
    after = {chunk.chunk: chunk.sha256 for chunk in store.batches.chunks("night")}
    assert (told.kept, before.items() <= after.items()) == (len(before), True)
    out = pl.concat(pl.read_parquet(file) for file in told.files if file.endswith(".parquet"))
    assert out["record_key"].to_list() == recorded(told)["record_key"].to_list()


def whole(tiny: Any, store: Any) -> None:
    """Every record has been decided once, and nothing half done is left."""
    folder = tiny.root / "var" / "batches" / "night"
    table = pl.concat([pl.read_parquet(folder / chunk.file) for chunk in store.batches.chunks("night")])
    assert sorted(table["row"]) == list(range(ROWS))
    assert table["decision_id"].n_unique() == ROWS
    assert store.counts() == {("model", "assigned"): ROWS}
    assert not list(folder.glob("*.part"))
    assert store.batches.batch("night").ended_at is not None


LOOP = """
import sys
from pathlib import Path
from harness.batch import Wanted
from harness.batch.run import run
from harness.settings import load_settings

wanted = Wanted(sys.argv[2], "night", reasons=0)
print("decided", run(load_settings(Path(sys.argv[1])), wanted, lambda doing, share: None).decided)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_batch_that_is_killed_at_any_moment_loses_and_doubles_nothing(
    tiny: Any, brought: Path, store: Any, python: Any, seed: int
) -> None:
    digest = tiny.offered()
    tiny.model_does(digest, f"time.sleep(0.02)\n{PREDICTS}")
    chosen = random.Random(seed)
    folder = tiny.root / "var" / "batches" / "night"
    kept: dict[int, str] = {}
    for _ in range(4):
        process = python(LOOP, tiny.root, brought, PILOT_BATCH__ROWS_A_CHUNK=str(SIZE))
        wanted = chosen.randint(0, ROWS // SIZE - 1)
        deadline = time.monotonic() + 120
        while len(list(folder.glob("decisions-*"))) <= wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(chosen.random() / 100)
        time.sleep(chosen.random() / 50)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = {chunk.chunk: chunk.sha256 for chunk in store.batches.chunks("night")}
        assert kept.items() <= done.items()  # what was on record is still the same
        kept = done
    process = python(LOOP, tiny.root, brought, PILOT_BATCH__ROWS_A_CHUNK=str(SIZE))
    out, errors = process.communicate(timeout=120)
    assert f"decided {ROWS}" in out, errors
    whole(tiny, store)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_decided(tiny: Any, brought: Path, store: Any, python: Any) -> None:
    digest = tiny.offered()
    tiny.model_does(digest, f"time.sleep(0.05)\n{PREDICTS}")
    code = "import sys; from harness.cli import main; main(sys.argv[1:])"
    arguments = ("--root", tiny.root, "decide", "--batch", brought, "--id", "night")
    process = python(code, *arguments, PILOT_BATCH__ROWS_A_CHUNK="10")
    deadline = time.monotonic() + 60
    while len(store.batches.chunks("night")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "what was finished is kept" in errors
    assert "Traceback" not in errors
    assert 2 <= len(store.batches.chunks("night")) < ROWS // 10


def test_the_command_tells_and_judges(tiny: Any, brought: Path, tmp_path: Path, pilot_here: Any) -> None:
    tiny.offered()
    said = pilot_here("decide", "--batch", str(brought), "--to", str(tmp_path / "out"), "--id", "night")
    assert said.returncode == 0, said.stderr
    assert "batch night: 600 of 600 records decided" in said.stdout
    assert "by model (assigned)" in said.stdout
    told = json.loads(pilot_here("decide", "--batch", str(brought), "--id", "night", "--json").stdout)
    assert (told["decided"], told["kept"]) == (600, told["chunks"])
    dry = pilot_here("decide", "--batch", str(brought), "--dry-run")
    assert "600 records; nothing was decided" in dry.stdout
    rows(ROWS, dryness=[200.0] * ROWS).write_parquet(brought)
    assert pilot_here("decide", "--batch", str(brought)).returncode == 1


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("nothing there", "cannot be read: No such file"),
        ("no parquet", "cannot be read as parquet"),
        ("another kind", "no file that a batch is read from"),
        ("a column too few", "there is no column 'dryness'"),
        ("a column too many", "columns that the contract does not know: colour"),
        ("another type", "'dryness' is string, and the contract says number"),
        ("both kinds", "it holds both Parquet and CSV"),
        ("a record as well", "a batch and a record at once"),
        ("no batch", "are a batch's"),
        ("a folder that takes nothing", "cannot be written"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tiny: Any, brought: Path, tmp_path: Path, pilot_here: Any, mistake: str, said: str
) -> None:
    named, more = brought, []
    frame = rows(10)
    match mistake:
        case "nothing there":
            named = tmp_path / "none.parquet"
        case "no parquet":
            brought.write_bytes(b"PAR1 and no more")
        case "another kind":
            named = tmp_path / "rows.xlsx"
            named.touch()
        case "a column too few":
            frame.drop("dryness").write_parquet(brought)
        case "a column too many":
            frame.with_columns(colour=1).write_parquet(brought)
        case "another type":
            frame.with_columns(pl.col("dryness").cast(pl.String)).write_parquet(brought)
        case "both kinds":
            (tmp_path / "rows.csv").write_text("a\n")
            named = tmp_path
        case "a record as well":
            more = ["--example", "1"]
        case "no batch":
            result = pilot_here("decide", "--to", str(tmp_path))
            assert (result.returncode, result.stdout) == (2, "")
            assert said in result.stderr
            return
        case "a folder that takes nothing":
            (tiny.root / "var").mkdir(exist_ok=True)
            (tiny.root / "var" / "batches").write_text("a file")
    result = pilot_here("decide", "--batch", str(named), *more)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_of_a_folder_that_has_names_and_no_records_is_no_trouble(
    tiny: Any, tmp_path: Path, end: str
) -> None:
    from harness.batch.source import open_source
    from harness.pilot import load_contract

    frame = rows(3)
    frame.write_csv(tmp_path / "0.csv")
    (tmp_path / "1.csv").write_bytes((",".join(frame.columns) + end).encode())
    frame.write_csv(tmp_path / "2.csv")
    source = open_source(tmp_path, load_contract("dryfield"))
    keys = [key for part in source.parts(100) for key in part.records["reading"].to_pylist()]
    assert keys == 2 * frame["reading"].to_list()


def test_a_folder_is_read_in_order_and_a_chunk_may_span_files(decide: Any, tiny: Any, tmp_path: Path) -> None:
    tiny.offered()
    folder = tmp_path / "many"
    folder.mkdir()
    frame = rows(ROWS)
    for number, start in enumerate(range(0, ROWS, 130)):
        frame[start : start + 130].write_parquet(folder / f"{number}.parquet", row_group_size=40)
    told = decide(folder)
    assert recorded(told)["record_key"].to_list() == frame["reading"].to_list()
    store = Path(told.folder)
    assert len(list(store.glob("decisions-*"))) == 6
    # What is left of it is read from the middle of a file on.
    from harness.batch.source import open_source
    from harness.pilot import load_contract

    source = open_source(folder, load_contract("dryfield"))
    for skip in (0, 1, 129, 130, 131, 325, 599, 600):
        keys = [key for part in source.parts(100, skip=skip) for key in part.records["reading"].to_pylist()]
        assert keys == frame["reading"].to_list()[skip:]
