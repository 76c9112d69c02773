"""Which time the records cover, and whether a whole business cycle is in it."""

from __future__ import annotations

from itertools import pairwise

import ibis
import ibis.expr.types as ir

from harness.data.profiled import Coverage

MOST_MONTHS = 240


def covered(records: ir.Table, event_time: str, cycle_months: int) -> Coverage:
    """Count the records by the month of their event time.

    A cycle is covered by months in a row that all have records: one record of 1970 does not stretch it.
    """
    time = records[event_time]
    months = (
        records.filter(time.notnull())
        .group_by(month=time.year() * 12 + time.month() - 1)
        .agg(rows=ibis._.count(), first=time.min().cast("string"), last=time.max().cast("string"))
        .order_by("month")
        .to_pyarrow()
        .to_pylist()
    )
    if not months:
        return Coverage(field=event_time, cycle_months=cycle_months)
    run = longest = 1
    for before, month in pairwise(each["month"] for each in months):
        run = run + 1 if month == before + 1 else 1
        longest = max(longest, run)
    return Coverage(
        field=event_time,
        first=months[0]["first"][:10],
        last=months[-1]["last"][:10],
        months={
            f"{each['month'] // 12:04}-{each['month'] % 12 + 1:02}": each["rows"]
            for each in months[-MOST_MONTHS:]
        },
        empty_months=months[-1]["month"] - months[0]["month"] + 1 - len(months),
        longest_run=longest,
        cycle_months=cycle_months,
        covers_cycle=longest >= cycle_months,
    )
