"""How many records there are, beside how many there usually are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from statistics import median

import ibis
import ibis.expr.types as ir

from harness.contract import Contract

# A median of fewer windows says little of what is usual.
LEAST_WINDOWS = 3


@dataclass(frozen=True)
class Counted:
    """Records by windows of the event time.

    Attributes:
        rows: Records in all.
        newest: The latest event time; None where no record has one.
        last: Records in the newest window, which ends with the newest record.
        usual: The median of the windows before, of which the one that the records begin in is left out; None
            where there are fewer than three.
    """

    rows: int
    newest: date | None
    last: int
    usual: float | None

    def lacks(self, contract: Contract) -> str:
        """What is missing, in words; empty when nothing is."""
        volume = contract.volume
        if self.rows < volume.at_least:
            return f"{self.rows:,} records are there, and at least {volume.at_least:,} have to be"
        if self.usual is not None and self.last < volume.drop_to * self.usual:
            return (
                f"the last {volume.window_days} days have {self.last:,} records, and {self.usual:,.0f} are "
                f"usual; under {volume.drop_to:.0%} of that counts as broken off"
            )
        return ""


def count(records: ir.Table, contract: Contract) -> Counted:
    """Count records by windows, counted back from the newest."""
    day = records[contract.event_time].epoch_days()
    newest = records.aggregate(rows=records.count(), newest=records[contract.event_time].max(), day=day.max())
    (row,) = newest.to_pyarrow().to_pylist()
    if row["newest"] is None:
        return Counted(row["rows"], None, 0, None)
    back = ((ibis.literal(row["day"]) - day) / contract.volume.window_days).floor().cast("int64")
    dated = records.filter(records[contract.event_time].notnull())
    found = dated.group_by(back=back).agg(rows=ibis._.count()).to_pyarrow().to_pylist()
    windows = {each["back"]: each["rows"] for each in found}
    first = max(windows)
    past = [windows.get(number, 0) for number in range(1, first)]
    usual = float(median(past)) if len(past) >= LEAST_WINDOWS else None
    return Counted(row["rows"], row["newest"], windows.get(0, 0), usual)
