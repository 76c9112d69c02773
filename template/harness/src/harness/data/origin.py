"""Whether a snapshot holds real data, told by the digest of its content.

The simulator states the digest of what it made; a team states digests of samples in which nobody's real case
is decided. A snapshot is taken for real unless its own digest says otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from harness.data.extract import FILE_COLUMN, ROW_COLUMN
from harness.pilot import Table
from harness.settings import NO_DOWNLOADS, Settings
from harness.simulate import Manifest, fingerprint

MANIFEST = Path("var", "sources", "simulated.json")


@dataclass(frozen=True)
class Origin:
    """Where a snapshot comes from.

    Attributes:
        kind: ``simulated``, ``sample`` or ``real``.
        digest: SHA-256 over the tables' names, row counts and contents, independent of the rows' order.
        tables: Each table's number of rows.
    """

    kind: Literal["simulated", "sample", "real"]
    digest: str
    tables: dict[str, int]


def origin(settings: Settings, tables: Sequence[Table], snapshot: Path) -> Origin:
    """Compare a snapshot with what the simulator made and with the declared samples."""
    connection = duckdb.connect(config=NO_DOWNLOADS)
    try:
        found = {}
        for table in tables:
            source = str(snapshot / f"{table.name}.parquet").replace("'", "''")
            columns = f"* EXCLUDE ({FILE_COLUMN}, {ROW_COLUMN})" if table.files else "*"
            found[table.name] = fingerprint(connection, f"(SELECT {columns} FROM read_parquet('{source}'))")
    finally:
        connection.close()
    canonical = json.dumps({name: [print_.rows, print_.digest] for name, print_ in sorted(found.items())})
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    rows = {name: print_.rows for name, print_ in found.items()}
    if digest in settings.sandbox.samples:
        return Origin("sample", digest, rows)
    manifest = settings.path(MANIFEST)
    if manifest.exists() and Manifest.read(manifest).tables == found:
        return Origin("simulated", digest, rows)
    return Origin("real", digest, rows)
