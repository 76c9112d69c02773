"""Entities that the model is trained on and judged on."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from harness.data.finding import ACCEPT, Finding
from harness.pilot import Contract


def overlap(train: ir.Table, test: ir.Table, contract: Contract) -> dict[str, float]:
    """Entities on both sides, whatever blanks and case they are written with."""
    if contract.entity == contract.key:
        return {"held_back": 0, "shared": 0, "shared_share": 0.0, "records_share": 0.0}
    name = contract.entity
    trained, held = (
        table.mutate(_entity=_folded(table[name])).filter(ibis._["_entity"].notnull())
        for table in (train, test)
    )
    sizes = held.group_by("_entity").agg(_rows=ibis._.count())
    known = trained.select(_known="_entity").distinct()
    both = sizes.left_join(known, sizes["_entity"] == known["_known"])
    shared = both["_known"].notnull()
    row = (
        both.aggregate(
            held_back=both.count(),
            shared=shared.sum(),
            rows=both["_rows"].sum(),
            shared_rows=shared.ifelse(both["_rows"], 0).sum(),
        )
        .to_pyarrow()
        .to_pylist()[0]
    )
    held_back, count = row["held_back"] or 0, row["shared"] or 0
    return {
        "held_back": int(held_back),
        "shared": int(count),
        "shared_share": count / held_back if held_back else 0.0,
        "records_share": (row["shared_rows"] or 0) / row["rows"] if row["rows"] else 0.0,
    }


def _folded(column: ir.Column) -> ir.Column:
    return column.strip().lower() if column.type().is_string() else column.cast("string")


def shared(found: dict[str, float], contract: Contract) -> list[Finding]:
    """A finding where contract.py keeps entities apart, and some are on both sides all the same."""
    if not contract.entities_apart or not found["shared"]:
        return []
    both = f"{found['shared']:,.0f} of {found['held_back']:,.0f} held-back entities are also trained on"
    return [
        Finding(
            "entities",
            contract.entity,
            "stop",
            f"{both}, and contract.py keeps them apart",
            "contract.py entities_apart",
            f"Write '{contract.entity}' in one way in sources.py: blanks and case make two of one. {ACCEPT}",
            found["shared_share"],
            0.0,
        )
    ]
