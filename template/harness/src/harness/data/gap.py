"""How far the pilot's data was from production's: two profiles side by side, ranked by what will hurt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from harness.data import gap_columns
from harness.data.gap_columns import Finding, noted
from harness.data.profiled import RECORDS, Column, Profile, Table
from harness.data_settings import Gap as Bounds
from harness.errors import Inconclusive

CALENDAR_MONTHS = 12


@dataclass(frozen=True)
class Gap:
    """What was found.

    Attributes:
        findings: Every difference but the tiniest, the worst first; those within their bound come last.
        rows: The records of the pilot's profile, and of production's.
        origins: Where the data of each came from.
    """

    findings: tuple[Finding, ...]
    rows: tuple[int, int]
    origins: tuple[str, str]

    @property
    def worse(self) -> tuple[Finding, ...]:
        """The differences that are beyond their bound."""
        return tuple(each for each in self.findings if each.worse)

    @property
    def troubles(self) -> list[tuple[Finding, ...]]:
        """The same, those together that hurt alike and have the same mend."""
        found: dict[tuple[str, str], list[Finding]] = {}
        for each in self.worse:
            found.setdefault((each.kind, each.severity), []).append(each)
        return [tuple(alike) for alike in found.values()]

    def document(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "schema_version": 1,
            "records": {"pilot": self.rows[0], "production": self.rows[1]},
            "origin": {"pilot": self.origins[0], "production": self.origins[1]},
            "worse": len(self.worse),
            "findings": [
                {"id": each.id, "severity": each.severity, "worse": each.worse}
                | asdict(each)
                | {"hurts": each.hurts, "mend": each.mend}
                for each in self.findings
            ],
        }


def compare(pilot: Profile, production: Profile, bounds: Bounds) -> Gap:
    """Rank the differences.

    Raises:
        Inconclusive: The two are not of the same pilot, have nothing in common, or one of them has no record.
    """
    mend = "Name two profiles of this pilot, each made by `pilot run` on data."
    if pilot.package != production.package:
        said = f"they are of two pilots, {pilot.package} and {production.package}"
        raise Inconclusive(said, where="pilot gap", mend=mend)
    shared = [name for name in production.tables if name in pilot.tables]
    if not any(set(pilot.tables[name].columns) & set(production.tables[name].columns) for name in shared):
        raise Inconclusive("the two profiles have no column in common", where="pilot gap", mend=mend)
    rows = (_rows(pilot), _rows(production))
    if not all(rows):
        said = f"one of them has no records (pilot {rows[0]:,}, production {rows[1]:,})"
        raise Inconclusive(said, where="pilot gap", mend=mend)
    found = [*_tables(pilot, production, bounds), *_volume(pilot, production, bounds)]
    found += [*_time(pilot, production), *_label(pilot, production, bounds)]
    for name in shared:
        found += _within(name, pilot.tables[name], production.tables[name], bounds)
    found = [each for each in found if each.worse or each.value > each.bound * gap_columns.WORTH_A_LINE]
    ranked = sorted(found, key=lambda each: (not each.worse, -each.weight, each.id))
    return Gap(tuple(ranked), rows, (pilot.origin, production.origin))


def _rows(profile: Profile) -> int:
    return profile.tables[RECORDS].rows if RECORDS in profile.tables else 0


def _tables(pilot: Profile, production: Profile, bounds: Bounds) -> Iterator[Finding]:
    for name in sorted({*pilot.tables, *production.tables}):
        if name not in production.tables:
            yield noted(
                "table.gone",
                (name, ""),
                (1, 0),
                (f"{pilot.tables[name].rows:,} rows", "not there"),
                "production does not have this table",
            )
        elif name not in pilot.tables:
            yield noted(
                "table.new",
                (name, ""),
                (0, 1),
                ("not there", f"{production.tables[name].rows:,} rows"),
                "the pilot did not have this table",
            )
        else:
            before, now = pilot.tables[name], production.tables[name]
            shares = [each.duplicates / each.rows if each.rows else 0.0 for each in (before, now)]
            if shares[1] > shares[0]:
                yield noted(
                    "duplicates.grew",
                    (name, ""),
                    (shares[1] - shares[0], bounds.duplicate_share),
                    (f"{shares[0]:.1%}", f"{shares[1]:.1%}"),
                    f"{shares[1]:.1%} of the rows are exact duplicates, {shares[0]:.1%} in the pilot",
                )


def _volume(pilot: Profile, production: Profile, bounds: Bounds) -> Iterator[Finding]:
    before, now = _rows(pilot), _rows(production)
    if now > before:
        yield noted(
            "volume",
            (RECORDS, ""),
            (now / before, bounds.volume_factor),
            (f"{before:,}", f"{now:,}"),
            f"{now / before:,.0f} times as many records as the pilot had",
        )


def _time(pilot: Profile, production: Profile) -> Iterator[Finding]:
    before, now = pilot.coverage, production.coverage
    if before.longest_run < before.cycle_months:
        yield noted(
            "time.cycle",
            (RECORDS, before.field),
            (before.cycle_months - before.longest_run, 0),
            (f"{before.longest_run} months", f"{now.longest_run} months"),
            f"the pilot saw {before.longest_run} months in a row of a cycle of {before.cycle_months}",
        )
    seen, met = ({month[5:] for month in each.months} for each in (before, now))
    if before.cycle_months == CALENDAR_MONTHS and met - seen:
        unseen = sorted(met - seen)
        share = sum(rows for month, rows in now.months.items() if month[5:] in unseen)
        yield noted(
            "time.unseen_months",
            (RECORDS, before.field),
            (len(unseen), 0),
            (f"{len(seen)} of 12", f"{len(met)} of 12"),
            f"{share:,} records fall into months of the year that the pilot never saw: {', '.join(unseen)}",
        )
    if now.empty_months > before.empty_months:
        yield noted(
            "time.gaps",
            (RECORDS, now.field),
            (now.empty_months - before.empty_months, 0),
            (f"{before.empty_months} months", f"{now.empty_months} months"),
            f"{now.empty_months} months between {now.first} and {now.last} have no record",
        )


def _label(pilot: Profile, production: Profile, bounds: Bounds) -> Iterator[Finding]:
    before, now = (each.tables[RECORDS].columns.get(each.label) for each in (pilot, production))
    if before is None or now is None or before.true is None or now.true is None:
        return
    known = [
        profile.tables[RECORDS].rows - each.missing for profile, each in ((pilot, before), (production, now))
    ]
    if not all(known):
        return
    rates = [before.true / known[0], now.true / known[1]]
    yield noted(
        "label.rate",
        (RECORDS, pilot.label),
        (abs(rates[1] - rates[0]), bounds.label_rate),
        (f"{rates[0]:.1%}", f"{rates[1]:.1%}"),
        f"the outcome is true for {rates[1]:.1%}, and was for {rates[0]:.1%} in the pilot",
    )


def _within(name: str, before: Table, now: Table, bounds: Bounds) -> Iterator[Finding]:
    for column in sorted({*before.columns, *now.columns}):
        if column not in now.columns:
            twin = _renamed(before.columns[column], before, now)
            yield noted(
                "column.gone",
                (name, column),
                (1, 0),
                (before.columns[column].type, "not there"),
                "production does not have this column" + (f"; it may be called {twin} there" if twin else ""),
            )
        elif column not in before.columns:
            yield noted(
                "column.new",
                (name, column),
                (0, 1),
                ("not there", now.columns[column].type),
                "the pilot did not have this column",
            )
        else:
            sizes = (before.rows, now.rows)
            yield from gap_columns.compare(
                name, column, before.columns[column], now.columns[column], sizes, bounds
            )


def _renamed(gone: Column, before: Table, now: Table) -> str:
    """A column that is new and written as the one that is gone was."""
    shapes = {each.shape for each in gone.shapes}
    for name, column in now.columns.items():
        alike = shapes and {each.shape for each in column.shapes} & shapes == shapes
        if name not in before.columns and column.kind == gone.kind and (alike or not shapes):
            return name
    return ""
