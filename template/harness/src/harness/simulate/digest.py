"""What tells simulated data from real data: a digest of a table's content, whatever its order.

The simulator records the digest of what it filled, and ingest computes it again over what it read. Equal
means that the data is simulated; anything else, a changed value included, is treated as real.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb


@dataclass(frozen=True)
class Fingerprint:
    """The size and the digest of a table's content.

    Attributes:
        rows: The number of rows.
        digest: 64 hexadecimal digits.
    """

    rows: int
    digest: str


def fingerprint(connection: duckdb.DuckDBPyConnection, relation: str) -> Fingerprint:
    """The fingerprint of a relation; the same for any order of rows and columns and any number of threads.

    Args:
        connection: Where the relation can be read.
        relation: What may follow FROM: a table's name, a table function, or a select in parentheses.

    Raises:
        duckdb.Error: The relation cannot be read.
    """
    tally = Tally(columns_of(connection, relation))
    tally.add(connection, relation)
    return tally.fingerprint()


class Tally:
    """A fingerprint in the making, for a table that comes in parts.

    Args:
        columns: The names of its columns.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = sorted(columns)
        self._rows = 0
        self._sum = 0

    def add(self, connection: duckdb.DuckDBPyConnection, relation: str) -> None:
        """Count a part in. Every part has all the columns."""
        # A sum forgets the order, and unlike xor it does not forget a row that is there twice.
        rows, total = connection.execute(
            f"select count(*), coalesce(sum(md5_number_lower({self._row()})), 0) from {relation}"
        ).fetchall()[0]
        self._rows += rows
        self._sum = (self._sum + int(total)) % 2**64

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of all parts so far."""
        content = json.dumps([self._columns, self._rows, self._sum])
        return Fingerprint(self._rows, hashlib.sha256(content.encode()).hexdigest())

    def _row(self) -> str:
        # Each value with its length, so that no content can pass for a border; a null has none.
        texts = (f"cast({quoted(name)} as varchar)" for name in self._columns)
        return " || ".join(f"coalesce(strlen({text}) || ':' || {text}, '-')" for text in texts)


def csv_relation(pattern: str) -> str:
    """The one way in which CSV files are read: as text, joined by column name, the first line as names.

    Args:
        pattern: A path or a glob.
    """
    return f"read_csv({literal(pattern)}, all_varchar = true, union_by_name = true, header = true)"


def columns_of(connection: duckdb.DuckDBPyConnection, relation: str) -> list[str]:
    """The names of a relation's columns."""
    return [row[0] for row in connection.execute(f"describe select * from {relation}").fetchall()]


def literal(text: str) -> str:
    """A text as SQL takes it whatever its letters."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A name as SQL takes it whatever its letters."""
    return '"' + name.replace('"', '""') + '"'
