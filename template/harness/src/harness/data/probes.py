"""Probes for leakage and bias: what the model would know and could not, and whom it would know too little of.

A probe that stops does so before anything is trained. Whoever knows better says so in pilot.toml, with the
reason, and both stand in the evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from scipy import stats

from harness.data.entities import overlap, shared
from harness.data.finding import ACCEPT, Finding, Severity
from harness.data.groups import Group, by_group, imbalance
from harness.data.single import Single, tells
from harness.data_settings import Probes
from harness.pilot import Choice, Contract, Field
from harness.progress import Report

# From where on a column orders the outcomes so well that it is the outcome, under another name.
PROXY = {"auc": 0.999, "rank_correlation": 0.9999}
# Chance leaves a column empty that often in all records whose outcome is not known yet.
BY_CHANCE = 1e-6
# So many records of one category are no coincidence, where the contract declares several.
LEAST_ALIKE = 100


@dataclass(frozen=True)
class Sides:
    """The same records twice: as fields and as features.

    Attributes:
        train: The training records.
        test: The held-back records.
        train_features: The features of the training records, and ``label``'s column.
        test_features: The features of the held-back records.
        all_features: The features of all records, those included whose outcome is not known.
        label: The name of the label's column beside the features.
        names: The features' names.
    """

    train: ir.Table
    test: ir.Table
    train_features: ir.Table
    test_features: ir.Table
    all_features: ir.Table
    label: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Probed:
    """Everything that was found.

    Attributes:
        findings: The findings, those that stop first.
        singles: How well each column tells the outcome, by its name.
        not_judged: The columns that could not be judged by themselves.
        entities: How many entities the held-back records have, and how many of them are in training too.
        groups: The groups of each field that the contract names.
        unused: Findings that are accepted in pilot.toml and were not found.
    """

    findings: tuple[Finding, ...]
    singles: dict[str, Single]
    not_judged: tuple[str, ...]
    entities: dict[str, float]
    groups: dict[str, tuple[Group, ...]]
    unused: tuple[str, ...]

    def having(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of that severity."""
        return tuple(each for each in self.findings if each.severity == severity)

    def document(self) -> dict[str, Any]:
        """The same as plain data, rounded where the last digits hang on the order of the records."""
        found = {
            "schema_version": 1,
            "verdict": "stopped" if self.having("stop") else "passed",
            "findings": [{"id": each.id, **asdict(each)} for each in self.findings],
            "single_columns": {name: asdict(each) for name, each in self.singles.items()},
            "not_judged": list(self.not_judged),
            "entities": self.entities,
            "groups": {name: [asdict(each) for each in some] for name, some in self.groups.items()},
            "accepted_but_not_found": list(self.unused),
        }
        rounded: dict[str, Any] = _rounded(found)
        return rounded


def probe(records: ir.Table, sides: Sides, contract: Contract, bounds: Probes, report: Report) -> Probed:
    """Run all probes.

    Args:
        records: All records that keep the contract.
        sides: The same, divided.
        contract: Says what a record is.
        bounds: From where on a probe warns or stops.
        report: Told what is being done.
    """
    choice = isinstance(contract.decision, Choice)
    singles, not_judged = _singles(sides, contract, choice, report)
    findings = [
        *_future(records, contract, singles, bounds),
        *_available(records, sides, contract),
        *_too_good(sides, contract, singles, bounds),
        *_one_value(records, contract),
    ]
    entities = overlap(sides.train, sides.test, contract)
    findings += shared(entities, contract)
    groups = {name: by_group(records, contract, contract.field(name)) for name in contract.groups}
    for name, some in groups.items():
        findings += imbalance(name, some, bounds, choice=choice)
    known = {each.id for each in findings}
    said = [_accepted(each, bounds) for each in findings]
    order = {"stop": 0, "warn": 1, "accepted": 2}
    return Probed(
        tuple(sorted(said, key=lambda each: (order[each.severity], each.id))),
        singles,
        tuple(not_judged),
        entities,
        groups,
        tuple(sorted(set(bounds.accepted) - known)),
    )


def _accepted(found: Finding, bounds: Probes) -> Finding:
    why = bounds.accepted.get(found.id)
    return found if why is None else replace(found, severity="accepted", accepted=why)


def _singles(
    sides: Sides, contract: Contract, choice: bool, report: Report
) -> tuple[dict[str, Single], list[str]]:
    """Each feature, and each field that is not a feature of the same name, by itself."""
    found: dict[str, Single] = {}
    not_judged = []
    fields = [
        f for f in contract.fields if f.name not in (contract.key, contract.entity, contract.event_time)
    ]
    wanted: list[tuple[str, Field | None]] = [(name, None) for name in sides.names]
    wanted += [(field.name, field) for field in fields if field.name not in sides.names]
    for number, (name, field) in enumerate(wanted):
        report(f"probe {name}", 0.85 + 0.14 * number / len(wanted))
        if field is None:
            both = [
                _column(table, table[name], table[sides.label])
                for table in (sides.train_features, sides.test_features)
            ]
        else:
            both = [
                _column(table, _value(table, contract, field), table[contract.label])
                for table in (sides.train, sides.test)
            ]
        single = tells(*both[0], *both[1], choice=choice)
        if single is None:
            not_judged.append(name)
        else:
            found[name] = single
    return found, not_judged


def _value(table: ir.Table, contract: Contract, field: Field) -> ir.Column:
    """A field as it is judged: a date by its distance from the event time."""
    if field.type == "date":
        return table[field.name].epoch_days() - table[contract.event_time].epoch_days()
    if field.type == "boolean":
        return table[field.name].cast("int8")
    return table[field.name]


def _column(table: ir.Table, value: ir.Column, label: ir.Column) -> tuple[pa.ChunkedArray, np.ndarray]:
    """A column and the outcome, one column at a time: memory does not hang on how many there are."""
    found = table.select(value=value, label=label.cast("float64")).to_pyarrow()
    return found["value"], found["label"].to_numpy()


def _future(
    records: ir.Table, contract: Contract, singles: Mapping[str, Single], bounds: Probes
) -> list[Finding]:
    dates = [
        f for f in contract.fields if f.type == "date" and f.name != contract.event_time and not f.planned
    ]
    if not dates:
        return []
    time = records[contract.event_time]
    later = {f.name: (records[f.name] > time).sum() for f in dates}
    present = {f"{f.name} present": records[f.name].count() for f in dates}
    row = records.aggregate(**later, **present).to_pyarrow().to_pylist()[0]
    found = []
    for field in dates:
        number, there = row[field.name] or 0, row[f"{field.name} present"] or 0
        if not number:
            continue
        single = singles.get(field.name)
        bound = bounds.future_auc if single and single.measure == "auc" else bounds.warn_rank_correlation
        telling = single is not None and single.at_least >= bound
        told = f", and it tells the outcome ({_figure(single)})" if single is not None and telling else ""
        found.append(
            Finding(
                "future",
                field.name,
                "stop" if telling else "warn",
                f"{number:,} of {there:,} dates are after {contract.event_time}, the day it is decided{told}",
                f"contract.py {field.name}, sources.py records()",
                f"Take it out, or declare it planned=True if it is agreed beforehand. {ACCEPT}",
                number / there,
                0.0,
            )
        )
    return found


def _one_value(records: ir.Table, contract: Contract) -> list[Finding]:
    """Categories of which every record has the same one: a mapping, or a default that the source fills in."""
    names = [field.name for field in contract.fields if len(field.categories) > 1]
    wanted: dict[str, Any] = {}
    for name in names:
        column = records[name]
        wanted |= {f"{name}.there": column.count(), f"{name}.low": column.min(), f"{name}.high": column.max()}
    row = records.aggregate(**wanted).to_pyarrow().to_pylist()[0] if wanted else {}
    return [
        Finding(
            "one_value",
            name,
            "warn",
            f"all {row[f'{name}.there']:,} records that have it say '{row[f'{name}.low']}'",
            f"sources.py {name}",
            "See whether a mapping or a default makes it so; if it is true, take it out of contract.py.",
            1.0,
            1.0,
        )
        for name in names
        if row[f"{name}.there"] >= LEAST_ALIKE and row[f"{name}.low"] == row[f"{name}.high"]
    ]


def _available(records: ir.Table, sides: Sides, contract: Contract) -> list[Finding]:
    """What is there only where the outcome is known was filled in when it became known."""
    fields = [f.name for f in contract.fields if f.name not in (contract.key, contract.event_time)]
    counted = _present(records, contract.label, [name for name in fields if name not in sides.names])
    counted |= _present(sides.all_features, sides.label, list(sides.names))
    found = []
    for name, (there, known, there_unknown, unknown) in counted.items():
        if not known or not unknown or not there:
            continue
        share, later = there / known, there_unknown / unknown
        if later > share / 10 or stats.binom.cdf(there_unknown, unknown, share) > BY_CHANCE:
            continue
        found.append(
            Finding(
                "available",
                name,
                "stop",
                f"{share:.1%} of records with a known outcome have it, {later:.1%} of the {unknown:,} others",
                f"{_file(name, sides)} {name}",
                "It is filled in with the outcome, or its source has dried up: take it out, or bring it as "
                f"it was on the day of the decision. {ACCEPT}",
                later,
                share / 10,
            )
        )
    return found


def _present(table: ir.Table, label: str, names: list[str]) -> dict[str, tuple[int, int, int, int]]:
    if not names:
        return {}
    known = table[label].notnull()
    wanted: dict[str, Any] = {"known": known.sum(), "all": table.count()}
    for number, name in enumerate(names):
        there = table[name].notnull()
        if table[name].type().is_floating():
            there &= ~ibis.coalesce(table[name].isnan(), False)
        wanted |= {f"known_{number}": (there & known).sum(), f"there_{number}": there.sum()}
    row = {key: value or 0 for key, value in table.aggregate(**wanted).to_pyarrow().to_pylist()[0].items()}
    return {
        name: (
            row[f"known_{number}"],
            row["known"],
            row[f"there_{number}"] - row[f"known_{number}"],
            row["all"] - row["known"],
        )
        for number, name in enumerate(names)
    }


def _file(name: str, sides: Sides) -> str:
    return "features.py" if name in sides.names else "contract.py"


def _too_good(
    sides: Sides, contract: Contract, singles: Mapping[str, Single], bounds: Probes
) -> list[Finding]:
    found = []
    for name, single in singles.items():
        warn, stop = (
            (bounds.warn_auc, bounds.stop_auc)
            if single.measure == "auc"
            else (bounds.warn_rank_correlation, bounds.stop_rank_correlation)
        )
        where = f"{_file(name, sides)} {name}"
        if single.at_least >= PROXY[single.measure]:
            found.append(
                Finding(
                    "proxy",
                    name,
                    "stop",
                    f"it is the outcome '{contract.label}' under another name ({_figure(single)} by itself)",
                    where,
                    f"Take it out: nobody knows it when the decision is due. {ACCEPT}",
                    single.at_least,
                    PROXY[single.measure],
                )
            )
        elif single.at_least >= warn:
            stops = single.at_least >= stop
            found.append(
                Finding(
                    "single",
                    name,
                    "stop" if stops else "warn",
                    f"it tells the outcome too well by itself ({_figure(single)}; from "
                    f"{stop if stops else warn:g} on it {'stops' if stops else 'is worth a look'})",
                    where,
                    f"Find out when its value is written: after the outcome, it is a leak. {ACCEPT}",
                    single.at_least,
                    stop if stops else warn,
                )
            )
    return found


def _figure(single: Single) -> str:
    name = "AUC" if single.measure == "auc" else "rank correlation"
    return f"{name} {single.value:.3f} on held-back records"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value
