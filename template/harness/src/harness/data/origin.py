"""Whether a snapshot holds real data, told by the digest of its content.

The simulator states the digest of what it made; a team states digests of samples in which nobody's real case
is decided. A snapshot is taken for real unless its own digest says otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.data import engine, snapshot
from harness.data.filedrops import FILE_COLUMN, ROW_COLUMN
from harness.data.snapshot import Part
from harness.data.versions import PART_COLUMN
from harness.pilot import Table
from harness.settings import Settings
from harness.simulate import Fingerprint, Manifest, fingerprint
from harness.simulate.digest import literal, quoted

MANIFEST = Path("var", "sources", "simulated.json")


@dataclass(frozen=True)
class Origin:
    """Where a snapshot comes from.

    Attributes:
        kind: ``simulated``, ``sample`` or ``real``.
        digest: SHA-256 over the tables' names, row counts and contents, as ``records`` receives them and
            independent of the rows' order.
        tables: Each table's number of rows.
    """

    kind: Literal["simulated", "sample", "real"]
    digest: str
    tables: dict[str, int]


def origin(settings: Settings, tables: Sequence[Table], folder: Path) -> Origin:
    """Compare a snapshot with what the simulator made and with the declared samples."""
    backend = engine.embedded(settings)
    parts = {table.name: snapshot.parts(folder / table.name) for table in tables}
    found = {}
    for name, received in snapshot.tables(backend, tables, folder).items():
        kept = received.drop(*(column for column in (FILE_COLUMN, ROW_COLUMN) if column in received.columns))
        found[name] = fingerprint(backend.con, f"({backend.compile(kept)})")
    backend.disconnect()
    canonical = json.dumps({name: [print_.rows, print_.digest] for name, print_ in sorted(found.items())})
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    rows = {name: print_.rows for name, print_ in found.items()}
    if digest in settings.sandbox.samples:
        return Origin("sample", digest, rows)
    manifest = settings.path(MANIFEST)
    if manifest.exists() and _simulated(settings, Manifest.read(manifest), tables, parts, found):
        return Origin("simulated", digest, rows)
    return Origin("real", digest, rows)


def _simulated(
    settings: Settings,
    made: Manifest,
    tables: Sequence[Table],
    parts: Mapping[str, Sequence[Part]],
    found: Mapping[str, Fingerprint],
) -> bool:
    """Whether what the sources gave is what the simulator made.

    A table with a watermark no longer holds what came twice: its one whole read says of itself what it was,
    and of several reads all different rows are held against all different rows of all deliveries.
    """
    if set(made.tables) != {table.name for table in tables}:
        return False
    for table in tables:
        kept, name = parts[table.name], table.name
        if not table.incremental:
            same = found[name] == made.tables[name]
        elif len(kept) == 1:
            once = kept[0].about.digest
            same = once is not None and Fingerprint(*once) == made.tables[name]
        else:
            same = name in made.distinct and _distinct(settings, kept) == made.distinct[name]
        if not same:
            return False
    return True


def _distinct(settings: Settings, kept: Sequence[Part]) -> Fingerprint:
    backend = engine.connect(settings)
    files = ", ".join(literal(str(part.file)) for part in kept)
    place = [name for name in (FILE_COLUMN, ROW_COLUMN) if name in kept[0].columns]
    left_out = ", ".join(map(quoted, (PART_COLUMN, *place)))
    rows = f"SELECT DISTINCT * EXCLUDE ({left_out}) FROM read_parquet([{files}], union_by_name = true)"
    made = fingerprint(backend.con, f"({rows})")
    backend.disconnect()
    return made
