"""What holds of the sources before they are joined: between tables, and of a table as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import ibis.expr.types as ir

from harness.contract import Contract
from harness.errors import CheckFailed, PilotError
from harness.pilot import Expectation


@dataclass(frozen=True)
class Met:
    """An expectation, and how many rows it is not met by.

    Attributes:
        expected: What was expected.
        rows: Rows that do not meet it.
    """

    expected: Expectation
    rows: int

    @property
    def met(self) -> bool:
        """Whether no more rows than allowed are against it."""
        return self.rows <= self.expected.at_most


def meet(expectations: Sequence[Expectation]) -> list[Met]:
    """Count the rows that are against each.

    Raises:
        PilotError: One cannot be computed; it is named.
    """
    names = [each.name for each in expectations]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise PilotError(
            f"two expectations are called '{sorted(repeated)[0]}'",
            where="sources.py expectations()",
            mend="Give each a name of its own.",
        )
    found = []
    for each in expectations:
        try:
            rows = int(each.broken.count().execute())
        except Exception as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PilotError(
                f"the expectation '{each.name}' cannot be computed: {said}",
                where="sources.py expectations()",
                mend="Give it a table of the rows that break it.",
            ) from error
        found.append(Met(each, rows))
    return found


def refuse(found: Sequence[Met]) -> None:
    """Stop where one that stops is not met.

    Raises:
        CheckFailed: The first of those, with its words and its mend.
    """
    for each in found:
        if not each.met and each.expected.severity == "stop":
            asked = each.expected
            raise CheckFailed(
                f"'{asked.name}': {each.rows:,} rows are against it, and {asked.at_most:,} may be: "
                f"{asked.meaning}",
                where="sources.py expectations()",
                mend=asked.mend or "Mend the source, or correct the expectation with who vouches for it.",
            )


def newest(records: ir.Table, contract: Contract, today: date) -> date | None:
    """The latest event time up to today; a due date may well lie in the future."""
    time = records[contract.event_time]
    past = records.filter(time <= today)
    (row,) = past.aggregate(newest=time.max()).to_pyarrow().to_pylist()
    found: date | None = row["newest"]
    return found


def refuse_stale(records: ir.Table, contract: Contract, today: date) -> None:
    """Stop where the newest record is older than the contract allows.

    Raises:
        CheckFailed: It is, or there is none.
    """
    allowed = contract.fresh_within_days
    if allowed is None:
        return
    last = newest(records, contract, today)
    if last is None or (today - last).days > allowed:
        age = f"it is of {last}" if last is not None else "there is none up to today"
        raise CheckFailed(
            f"the newest record may be {allowed} days old, and {age}",
            where="contract.py fresh_within_days",
            mend="See whether the extract still delivers.",
        )
