"""Of the versions of a row that a snapshot keeps, the one that counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis

if TYPE_CHECKING:
    import ibis.expr.types as ir

# In the parts of a table that is read incrementally: the number of the part.
PART_COLUMN = "_part"


def newest(table: ir.Table, key: tuple[str, ...], watermark: str) -> ir.Table:
    """The newest version of each row, on any engine: by the watermark, and of equal ones what was read last.

    A row that has one version, which nearly every row has, takes no part in the sorting.
    """
    column = table[watermark]
    moment = column.cast("timestamp") if column.type().is_string() else column
    several = table.group_by(list(key)).having(ibis._.count() > 1).agg(_versions=ibis._.count())
    latest = ibis.window(group_by=list(key), order_by=[ibis.desc(moment), ibis.desc(PART_COLUMN)])
    ranked = table.semi_join(several, list(key)).mutate(_rank=ibis.row_number().over(latest))
    kept = ranked.filter(ranked["_rank"] == 0).drop("_rank", PART_COLUMN)
    return ibis.union(table.anti_join(several, list(key)).drop(PART_COLUMN), kept)
