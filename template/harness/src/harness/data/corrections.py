"""Records corrected by hand, which take the place of those that were set aside.

A correction counts only while the source's own record breaks the contract, and only if it keeps the contract
itself: when the source has been mended, the source speaks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from harness.contract import Choice, Contract, FieldType
from harness.data import checks
from harness.data.checks import Quality
from harness.errors import PilotError
from harness.files import whole_file

if TYPE_CHECKING:
    from ibis.backends.sql import SQLBackend as Backend

FILE = "corrections.parquet"
BY, AT = "_corrected_by", "_corrected_at"
ARROW: dict[FieldType, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
}


def check(
    backend: Backend, records: ir.Table, contract: Contract, folder: Path
) -> tuple[Quality, ir.Table, ir.Table]:
    """Check records as ``checks.check`` does, with the corrections in the place of what they correct.

    Raises:
        PilotError: The file of corrections does not fit the contract any more.
    """
    first = checks.check(records, contract)
    file = folder / FILE
    if not file.is_file():
        return first
    brought = backend.read_parquet(file, table_name="corrections")
    try:
        checks.check_schema(brought.drop(BY, AT), contract)
        brought = brought.select(
            **{name: brought[name].cast(kind) for name, kind in records.schema().items()}
        )
    except Exception as error:
        raise PilotError(
            "the corrections do not fit contract.py any more",
            where=str(file),
            mend="Delete the file, and bring corrected records again with `pilot replay`.",
        ) from error
    _, _, aside = first
    _, good, _ = checks.check(brought, contract)
    good = good.semi_join(aside, contract.key)
    corrected = int(good.count().execute())
    if not corrected:
        return first
    whole = records.anti_join(good, contract.key).union(good.select(records.columns))
    quality, kept, aside = checks.check(whole, contract)
    return dataclasses.replace(quality, corrected=corrected), kept, aside


def schema(contract: Contract) -> pa.Schema:
    """The columns of the file of corrections."""
    label = pa.bool_() if isinstance(contract.decision, Choice) else pa.float64()
    fields = [(each.name, ARROW[each.type]) for each in contract.fields]
    return pa.schema([*fields, (contract.label, label), (BY, pa.string()), (AT, pa.string())])


def keep(folder: Path, contract: Contract, corrected: Sequence[Mapping[str, Any]]) -> int:
    """Put corrected records into the file; one that was there under the same key is replaced.

    Args:
        folder: Where the file lies.
        contract: What a record is.
        corrected: Records with their label, and who corrected them when.

    Returns:
        How many the file holds now.

    Raises:
        PilotError: The file that is there is of another contract.
    """
    file, columns = folder / FILE, schema(contract)
    kept: dict[Any, Mapping[str, Any]] = {}
    if file.is_file():
        there = pq.read_table(file)
        if there.schema.names != columns.names:
            raise PilotError(
                "the corrections do not fit contract.py any more",
                where=str(file),
                mend="Delete the file, and bring all corrected records again.",
            )
        kept = {row[contract.key]: row for row in there.to_pylist()}
    kept |= {row[contract.key]: row for row in corrected}
    table = pa.Table.from_pylist([kept[key] for key in sorted(kept, key=str)], schema=columns)
    with whole_file(file) as beside:
        pq.write_table(table, beside, compression="zstd")
    return len(kept)
