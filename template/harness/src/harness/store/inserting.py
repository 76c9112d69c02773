"""Many rows for one table, in few statements.

SQLAlchemy takes each row apart and puts it together for the driver, and SQLite's driver lets go of the
interpreter for each row, so that another thread takes it away: of what the record of a decision took of the
processor that was a third and more. What is left of SQLAlchemy around a statement takes longer than most of
them, so SQLite is given them without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import sqlalchemy as sa

from harness.store.database import directly

# What SQLite takes in one statement where it is older than 3.32.
MOST_VALUES = 999


class Insert:
    """What puts rows into a table.

    Args:
        table: The table.
        columns: The columns that the rows have, in this order. SQLite is given their values as they are, so
            they have to be Python's own text, numbers, truth values or None: it would keep a NumPy number as
            bytes, and text in a column of numbers, without a word.
    """

    def __init__(self, table: sa.Table, columns: Sequence[str]) -> None:
        self._table = table
        self._columns = tuple(columns)
        self._most = 1 << (MOST_VALUES // len(self._columns)).bit_length() - 1
        self._texts: dict[int, str] = {}

    def __call__(self, connection: sa.Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Put rows into the table, in their order."""
        if not rows:
            return
        if connection.dialect.name != "sqlite":
            named = [dict(zip(self._columns, row, strict=True)) for row in rows]
            connection.execute(self._table.insert(), named)
            return
        if not connection.in_transaction():  # as SQLAlchemy does with a first statement
            connection.begin()
        done = 0
        while done < len(rows):
            # Powers of two: for every other number the driver would have to prepare a statement of its own.
            count = min(self._most, 1 << (len(rows) - done).bit_length() - 1)
            values = tuple(chain.from_iterable(rows[done : done + count]))
            directly(connection, self._text(connection.dialect, count), values)
            done += count

    def _text(self, dialect: sa.Dialect, count: int) -> str:
        if count not in self._texts:
            quoted = dialect.identifier_preparer
            names = ", ".join(quoted.format_column(self._table.c[name]) for name in self._columns)
            row = f"({', '.join('?' * len(self._columns))})"
            self._texts[count] = (
                f"INSERT INTO {quoted.format_table(self._table)} ({names}) VALUES {', '.join([row] * count)}"
            )
        return self._texts[count]
