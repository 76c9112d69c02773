"""`pilot drill data-quality` passes where bad records are caught, and fails where nothing looks at them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any

import ibis
import polars as pl
import pytest

from drilling import MORE, drillable, valid_records, with_records
from harness import pilot
from harness.contract import Amount, Contract, Field
from harness.data import checks, probes, volume
from harness.drills import data_quality, faults, leak
from harness.drills.staged import Staged
from harness.errors import PilotError
from harness.pipeline import layout, stages
from harness.rules import Rule
from harness.settings import load_settings
from harness.testing import PilotCopy

__all__ = ["drillable"]

Run = Callable[..., subprocess.CompletedProcess[str]]
ASIDE = {
    f"aside.{kind}"
    for kind in (
        "missing",
        "blank",
        "not_a_number",
        "out_of_range",
        "unknown_category",
        "repeated_key",
        "repeated",
        "domain_rule",
    )
}
STOPPED = {
    f"stopped.{what}" for what in ("at_first", "over_the_share", "column_gone", "empty", "broken_off", "leak")
}
EVERY = {*ASIDE, *STOPPED, "control.kept", "control.probed", "aside.nothing_else", "stop.domain_rule"}


class Here:
    """The stages in this process, where a test can take something out of them."""

    def __init__(self, copy: PilotCopy) -> None:
        self._copy = copy

    def __enter__(self) -> Here:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""

    def run(self, name: str, **variables: str) -> Staged:
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            said = stages.load(name).run(load_settings(self._copy.root), lambda what, done: None)
        except PilotError as error:
            return Staged(error.exit_code, str(error))
        except Exception as error:
            return Staged(2, type(error).__name__)
        finally:
            os.environ.clear()
            os.environ.update(before)
        return Staged(0, said)


@pytest.fixture
def outcomes(drillable: Any, pilot_here: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """Run the drill with the stages in this process; it has to end with that exit code."""
    monkeypatch.setattr(data_quality, "Stages", Here)

    def run(code: int) -> dict[str, str]:
        done = pilot_here("drill", "data-quality", "--json")
        assert done.returncode == code, done.stdout + done.stderr
        return {check["name"]: check["outcome"] for check in json.loads(done.stdout)["checks"]}

    return run


def failed(found: dict[str, str]) -> set[str]:
    return {name for name, outcome in found.items() if outcome == "failed"}


def test_every_fault_is_caught_and_the_pilot_stays_as_it_was(drillable: Any, pilot_here: Run) -> None:
    with_records(drillable)
    before = {path: path.read_bytes() for path in (drillable.root / "data").rglob("*") if path.is_file()}
    done = pilot_here("drill", "data-quality", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    kept = drillable.root / "evidence" / "drills" / "data-quality.json"
    assert said == json.loads(kept.read_text(encoding="utf-8"))
    assert {check["name"]: check["outcome"] for check in said["checks"]} == dict.fromkeys(EVERY, "passed")
    assert said["figures"]["records"] == len(valid_records())
    assert said["figures"]["rules_broken"] == 17
    # Counts and names only: no value of a record.
    assert not [value for value in ("r-0", "p-1", "barley", "2026-0") if value in json.dumps(said["checks"])]
    after = {path: path.read_bytes() for path in (drillable.root / "data").rglob("*") if path.is_file()}
    assert after == before
    assert not (drillable.root / "var" / "drills").exists()


def test_it_fails_where_nothing_is_set_aside_and_the_probes_are_silent(
    drillable: Any, outcomes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checks.check

    def all_is_well(records: Any, contract: Contract) -> Any:
        quality, _, _ = real(records, contract)
        none = records.filter(ibis.literal(False)).mutate(**{checks.REASONS: ibis.literal("")})
        return dataclasses.replace(quality, bad=0, rules=dict.fromkeys(quality.rules, 0)), records, none

    with_records(drillable)
    monkeypatch.setattr(checks, "check", all_is_well)
    monkeypatch.setattr(probes.Probed, "having", lambda self, severity: ())
    found = outcomes(1)
    assert set(found) == EVERY
    wanted = {*ASIDE, "aside.nothing_else", "stop.domain_rule", "stopped.at_first", "stopped.over_the_share"}
    assert failed(found) == {*wanted, "stopped.leak"}


def test_it_fails_by_the_check_that_is_about_what_was_taken_out(
    drillable: Any, outcomes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, rules, schema = checks.check, checks._value_rules, checks.check_schema

    def loses_one_and_gives_another_reason(records: Any, contract: Contract) -> Any:
        quality, kept, aside = real(records, contract)
        kept = kept.limit(quality.rows - quality.bad - 1) if quality.bad else kept
        reasons = aside[checks.REASONS].replace("crop.unknown_category", "crop.blank")
        return quality, kept, aside.mutate(**{checks.REASONS: reasons})

    def no_upper_bound(column: Any, field: Field) -> Any:
        return {name: broken for name, broken in rules(column, field).items() if name != "too_high"}

    def goes_on(records: Any, contract: Contract) -> None:
        if len(records.columns) == len(contract.fields) + 1:
            schema(records, contract)

    with_records(drillable)
    monkeypatch.setattr(checks, "check", loses_one_and_gives_another_reason)
    monkeypatch.setattr(checks, "_value_rules", no_upper_bound)
    monkeypatch.setattr(checks, "check_schema", goes_on)
    monkeypatch.setattr(volume.Counted, "lacks", lambda self, contract: "")
    aside = {"aside.out_of_range", "aside.unknown_category", "aside.nothing_else"}
    assert failed(outcomes(1)) == {*aside, "stopped.column_gone", "stopped.empty", "stopped.broken_off"}


def test_a_control_case_that_is_stopped_shows_nothing_of_the_rest(
    drillable: Any, outcomes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_records(drillable, MORE.replace("at_least=100", "at_least=10_000"))
    assert outcomes(1) == {"control.kept": "failed"}


def test_too_few_records_and_none_are_no_pass(drillable: Any, pilot_here: Run, outcomes: Any) -> None:
    with_records(drillable)
    file = drillable.root / layout.VALID
    valid_records(20).write_parquet(file)
    assert outcomes(3) == {"control.kept": "inconclusive"}
    file.unlink()
    done = pilot_here("drill", "data-quality")
    assert (done.returncode, "no records to drill with. Run `pilot run` first." in done.stderr) == (2, True)


def test_many_records_are_thinned_out_evenly_over_time(
    drillable: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_records(drillable)
    contract = pilot.load_contract("dryfield")
    file = tmp_path / "valid.parquet"
    valid_records(2_000).sample(fraction=1.0, shuffle=True, seed=1).write_parquet(file)
    monkeypatch.setattr(data_quality, "RECORDS", 500)
    taken = data_quality.sample(file, contract)
    assert len(taken) == 500
    assert taken.columns == valid_records(1).columns
    windows = (pl.col("measured_on") - date(2026, 1, 1)).dt.total_days() // 20
    assert taken.group_by(windows).len()["len"].to_list() == [50] * 10
    monkeypatch.setattr(data_quality, "RECORDS", 10)
    assert len(data_quality.sample(file, contract)) == 100  # volume.at_least


BARE = Contract(
    key="id",
    entity="id",
    event_time="day",
    label="paid",
    label_arrives_after_days=1,
    decision=Amount("EUR", 0, 100),
    fields=(
        Field("id", "integer", "A number"),
        Field("day", "date", "A day"),
        Field("size", "number", "A size", required=False),
        Field("small", "integer", "A small one", low=0, required=False),
    ),
)
SMALL = pl.DataFrame(
    {
        "id": range(100),
        "day": [date(2026, 1, 1)] * 100,
        "size": [number / 10 for number in range(100)],
        "small": pl.Series(range(100), dtype=pl.UInt8),
        "paid": [float(number) for number in range(100)],
    }
)


def test_a_contract_that_says_little_is_broken_in_what_it_says() -> None:
    found, unbroken = faults.faults(BARE, SMALL)
    # An unsigned column cannot fall below 0, so there is nothing to break.
    assert [each.rule for each in found] == ["id.missing", "day.missing", "size.not_finite", "id.repeated"]
    assert unbroken == []
    made = faults.inject(SMALL, found)
    assert len(made.records) == len(made.untouched) + len(made.faulty)
    assert {fault.rule for _, fault in made.faulty} == {each.rule for each in found}
    assert made.untouched.equals(SMALL.filter(pl.col("id").is_in(made.untouched["id"].implode())))
    assert made.records.equals(faults.inject(SMALL, found).records)  # the same every time


def test_a_rule_that_no_value_breaks_is_told() -> None:
    always = Rule("always", lambda it: (it["size"] >= 0) | (it["size"] < 0), "It is a number")
    both = Rule("both", lambda it: (it["size"] < 5) | (it["small"] < 50), "Not both are large")
    contract = dataclasses.replace(BARE, rules=(always, both))
    found, unbroken = faults.faults(contract, SMALL.head(40))
    assert unbroken == ["always", "both"]
    found, unbroken = faults.faults(contract, SMALL)
    assert unbroken == ["always"]
    made = faults.inject(SMALL, [each for each in found if each.rule == "both"], each=3)
    assert len(made.faulty) == 3
    assert all(both.broken_by(row) for row, _ in made.faulty)


def test_a_field_that_knows_an_amount_is_in_its_order() -> None:
    made = leak.leaked(SMALL.with_columns(paid=pl.col("paid") ** 2), BARE, ())
    assert made is not None
    name, records = made
    assert name == "size"
    assert records["size"].is_sorted()
    assert (records["size"].min(), records["size"].max()) == (0.0, 9.9)
    assert leak.leaked(SMALL, BARE, ("proxy:size",)) is None  # the pilot accepts what it would find


@pytest.fixture
def staged(drillable: Any) -> Iterator[Any]:
    from harness.drills.staged import Stages

    (drillable.root / "var").mkdir(exist_ok=True)
    with Stages(PilotCopy(drillable.root)) as process:
        yield process


def test_a_stage_that_ends_without_an_answer_is_told(staged: Any) -> None:
    staged._process.kill()
    staged._process.wait()
    with pytest.raises(PilotError, match="the stage validate ended without an answer"):
        staged.run("validate")
