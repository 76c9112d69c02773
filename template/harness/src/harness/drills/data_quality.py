"""`pilot drill data-quality`: faults in a copy of the pilot's records, and what its own stages make of them.

The records are those that kept the contract in the pilot's last run, so whatever is wrong here was put there.
Evidence names rules, columns and counts, and no value of a record.
"""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from harness.contract import Contract
from harness.data.checks import REASONS
from harness.drills import leak
from harness.drills.faults import Fault, Injected, Row, faults, inject
from harness.drills.outcome import Checks, Outcome, Scene
from harness.drills.staged import Staged, Stages
from harness.errors import PilotError
from harness.pipeline import layout
from harness.testing import PilotCopy

RECORDS = 20_000
LEAST = 40
EVERYTHING_MAY_BREAK = {"PILOT_DATA__MAX_BAD_SHARE": "1"}


class DataQuality:
    """Breaks each rule of the contract, the schema and the extract, and lets a field know the outcome."""

    name = "data-quality"
    shows = "Bad records are set aside by name, bad data stops the pipeline, and no good record is lost."

    def run(self, scene: Scene) -> Outcome:
        """Go through it."""
        with Stages(scene.pilot.copy) as stages:
            return _Run(scene, stages).outcome()


class _Run:
    """One run of the drill."""

    def __init__(self, scene: Scene, stages: Stages) -> None:
        self._stages = stages
        self._report = scene.report
        self._copy: PilotCopy = scene.pilot.copy
        self._contract: Contract = self._copy.contract
        self._records = sample(scene.pilot.in_use / layout.VALID, self._contract)
        self._checks = Checks()
        self._checks.figures["records"] = len(self._records)

    def outcome(self) -> Outcome:
        """What was found."""
        if len(self._records) < LEAST:
            self._checks.unknown("control.kept", f"{len(self._records)} records are too few to break some")
            return self._checks.outcome()
        self._report("records as they are", 0.1)
        if not self._control():
            return self._checks.outcome()
        self._report("a fault for each rule", 0.3)
        wanted, unbroken = faults(self._contract, self._records)
        aside = [each for each in wanted if self._contract.severity(each.rule) == "quarantine"]
        stops = [each for each in wanted if self._contract.severity(each.rule) == "stop"]
        self._set_aside(aside, unbroken)
        if stops:
            self._report("rules that stop at the first", 0.45)
            self._stop_at_first(stops)
        self._report("more than the allowed share", 0.5)
        self._over_the_share([*aside, *stops])
        self._report("a column gone", 0.6)
        self._column_gone()
        self._report("an extract without records", 0.7)
        self._volume()
        self._report("a field that knows the outcome", 0.85)
        self._leak()
        return self._checks.outcome()

    def _control(self) -> bool:
        """The same way without a fault: only then does a stop further on say anything."""
        ended = self._validated(self._records)
        kept, aside = self._frame(layout.VALID), self._frame(layout.QUARANTINE)
        clean = ended.code == 0 and same(kept, self._records) and aside.is_empty()
        told = f"exit code {ended.code}, {len(kept):,} of {len(self._records):,} records kept"
        self._checks.that("control.kept", clean, f"{told}, {len(aside):,} set aside{_line(ended, clean)}")
        if not clean:
            return False
        self._quality = self._read(layout.QUALITY)
        ended = self._stages.run("features")
        told = f"the probes end with exit code {ended.code} on records without a fault"
        self._checks.that("control.probed", ended.code == 0, told)
        return ended.code == 0

    def _set_aside(self, wanted: list[Fault], unbroken: list[str]) -> None:
        made = inject(self._records, wanted)
        ended = self._validated(made.records, **EVERYTHING_MAY_BREAK)
        self._by_kind("aside", wanted, made)
        kept, aside = self._frame(layout.VALID), self._frame(layout.QUARANTINE)
        rows, lost = len(made.records), len(made.records) - len(kept) - len(aside)
        whole = ended.code == 0 and same(kept, made.untouched) and lost == 0
        told = f"{rows:,} records in, {len(kept):,} kept, {len(aside):,} set aside, {lost:,} lost"
        wrongly = "" if same(kept, made.untouched) else "; those kept are not those without a fault"
        self._checks.that("aside.nothing_else", whole, f"{told}{wrongly}{_line(ended, ended.code == 0)}")
        if unbroken:
            names = ", ".join(unbroken)
            self._checks.unknown("aside.rules_all_tried", f"no value was found that breaks {names}")
        self._checks.figures |= {
            "faulty_records": len(made.faulty),
            "rules_broken": len({fault.rule for _, fault in made.faulty}),
        }

    def _stop_at_first(self, wanted: list[Fault]) -> None:
        made = inject(self._records, wanted, each=1)
        ended = self._validated(made.records, **EVERYTHING_MAY_BREAK)
        self._by_kind("stop", wanted, made)
        stopped = ended.code == 1 and "which stops at the first" in ended.said
        told = f"{len(made.faulty)} records break rules that stop: exit code {ended.code}"
        self._checks.that("stopped.at_first", stopped, told)

    def _by_kind(self, prefix: str, wanted: list[Fault], made: Injected) -> None:
        """Each kind of fault: whether all records that have it were set aside, and for that reason."""
        columns = self._records.columns
        reasons: dict[str, list[set[str]]] = defaultdict(list)
        for row in self._frame(layout.QUARANTINE).to_dicts():
            reasons[_told_apart(row, columns)].append(set(str(row[REASONS]).split()))
        for kind in dict.fromkeys(each.kind for each in wanted):
            rows = made.of(kind)
            if not rows:
                self._checks.unknown(f"{prefix}.{kind}", "no record lends itself to that fault")
                continue
            missed = [
                fault.rule
                for row, fault in rows
                if not any(fault.rule in found for found in reasons[_told_apart(row, columns)])
            ]
            caught = len(rows) - len(missed)
            told = f"{caught} of {len(rows)} such records were set aside under the rule that they break"
            told += f"; not under {', '.join(dict.fromkeys(missed))}" if missed else ""
            self._checks.that(f"{prefix}.{kind}", not missed, told)

    def _over_the_share(self, wanted: list[Fault]) -> None:
        allowed, rows = float(self._quality["allowed_share"]), len(self._records)
        fault = next(each for each in wanted if each.takes == 1 and each.kind != "repeated_key")
        made = inject(self._records, [fault], each=int(allowed * rows) + 1)
        name, share = "stopped.over_the_share", len(made.faulty) / rows
        if share <= allowed:
            self._checks.unknown(
                name, f"[data] max_bad_share is {allowed:g}: no share of bad records is over it"
            )
            return
        ended = self._validated(made.records)
        told = f"{share:.2%} of records break '{fault.rule}', {allowed:.2%} may: exit code {ended.code}"
        stopped = ended.code == 1 and ("are allowed" in ended.said or "stops at the first" in ended.said)
        self._checks.that(name, stopped, told)

    def _column_gone(self) -> None:
        gone = self._contract.fields[-1].name
        ended = self._validated(self._records.drop(gone))
        refused = ended.code == 1 and f"column '{gone}' of the contract is missing" in ended.said
        kept = (self._copy.root / layout.VALID).exists()
        told = f"without '{gone}': exit code {ended.code}, {'records' if kept else 'nothing'} went on"
        self._checks.that("stopped.column_gone", refused and not kept, told)

    def _volume(self) -> None:
        volume = self._contract.volume
        if volume.at_least > 0:
            ended = self._validated(self._records.clear())
            stopped = ended.code == 1 and "have to be" in ended.said
            self._checks.that("stopped.empty", stopped, f"no record at all: exit code {ended.code}")
        usual = self._quality["usual_window"]
        if not usual or volume.drop_to * usual <= 1:
            return
        time = pl.col(self._contract.event_time)
        newest = self._records[self._contract.event_time].max()
        since = newest - timedelta(days=volume.window_days)  # type: ignore[operator]
        last = self._records.filter(time > since).sort(self._contract.event_time).tail(1)
        ended = self._validated(pl.concat([self._records.filter((time <= since).fill_null(True)), last]))
        stopped = ended.code == 1 and "counts as broken off" in ended.said
        told = f"1 record in {volume.window_days} days, {usual:,.0f} are usual: exit code {ended.code}"
        self._checks.that("stopped.broken_off", stopped, told)

    def _leak(self) -> None:
        name = "stopped.leak"
        found = leak.leaked(self._records, self._contract, self._copy.settings.data.probes.accepted)
        if found is None:
            self._checks.unknown(name, "no field can be made to know the outcome")
            return
        field, records = found
        (self._copy.root / layout.PROBES).unlink(missing_ok=True)
        records.write_parquet(self._copy.root / layout.VALID)
        ended = self._stages.run("features")
        if not (self._copy.root / layout.PROBES).is_file():
            self._checks.that(name, False, f"the probes said nothing: exit code {ended.code}")
            return
        said = self._read(layout.PROBES)
        if field in said["not_judged"]:
            self._checks.unknown(name, "too few held-back records have an outcome to judge a field by")
            return
        stops = [
            each["id"] for each in said["findings"] if each["severity"] == "stop" and each["name"] == field
        ]
        told = f"'{field}' made of the outcome: {', '.join(stops) or 'no finding'}, exit code {ended.code}"
        self._checks.that(name, ended.code == 1 and bool(stops), told)

    def _validated(self, records: pl.DataFrame, **variables: str) -> Staged:
        """The stage on these records, with nothing left of the one before."""
        for file in (layout.VALID, layout.QUARANTINE, layout.QUALITY):
            (self._copy.root / file).unlink(missing_ok=True)
        file = self._copy.root / layout.RECORDS
        file.parent.mkdir(parents=True, exist_ok=True)
        records.write_parquet(file)
        return self._stages.run("validate", **variables)

    def _frame(self, file: Path) -> pl.DataFrame:
        found = self._copy.root / file
        return pl.read_parquet(found) if found.is_file() else self._records.clear()

    def _read(self, file: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._copy.root / file).read_text(encoding="utf-8"))
        return found


def sample(file: Path, contract: Contract) -> pl.DataFrame:
    """Records that kept the contract, evenly taken from all of them where there are many.

    Raises:
        PilotError: There are none yet.
    """
    if not file.is_file():
        raise PilotError(
            "there are no records to drill with",
            where=str(layout.VALID),
            mend="Run `pilot run` first.",
        )
    whole, place = pl.scan_parquet(file), "place in the file"
    rows = int(whole.select(pl.len()).collect().item())
    # What a control case needs is not thinned out; by time, so that each window keeps its part.
    every = max(1, rows // max(RECORDS, contract.volume.at_least))
    if every == 1:
        return whole.collect()
    times = whole.select(contract.event_time).with_row_index(place).sort(contract.event_time, place)
    taken = times.gather_every(every).select(place)
    return whole.with_row_index(place).join(taken, on=place, how="semi").drop(place).collect()


def same(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    """Whether two frames hold the same records, in whatever order."""
    if left.columns != right.columns or len(left) != len(right):
        return False
    return left.sort(left.columns).equals(right.sort(right.columns))


def _told_apart(row: Row, columns: list[str]) -> str:
    return repr([row[name] for name in columns])


def _line(ended: Staged, fine: bool) -> str:
    """What the stage validate complained of: counts and names."""
    return "" if fine or not ended.code else f" ({ended.said})"
