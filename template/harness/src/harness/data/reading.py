"""What every kind of source is read by: from where on, in which portions, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import ibis
import pyarrow as pa

from harness.errors import PilotError, full
from harness.pilot import Table
from harness.simulate.digest import quoted

if TYPE_CHECKING:
    import ibis.expr.types as ir

# Rows in memory at once, and in a row group of the snapshot.
BATCH_ROWS = 100_000
EPOCH = datetime(1970, 1, 1)
# How far a text with an offset may be from the same moment without one.
MOST_OFFSET = timedelta(days=1)


@dataclass(frozen=True)
class Since:
    """From where on rows are read.

    Attributes:
        column: The watermark.
        kind: How it is kept: ``time``, ``date``, ``text`` or ``number``.
        value: Microseconds since 1970, or the number itself; inclusive.
    """

    column: str
    kind: str
    value: int

    def as_sql(self) -> str:
        """The condition in DuckDB's SQL; a row without a watermark is read, to be refused by name."""
        moment = as_number(self.column, self.kind)
        return f"({moment} >= {self.value} OR {moment} IS NULL)"

    def of(self, table: ir.Table) -> ir.BooleanValue:
        """The condition as an expression for any system."""
        column = table[self.column]
        kind = column.type()
        moment = EPOCH + timedelta(microseconds=self.value) if self.kind != "number" else EPOCH
        if kind.is_timestamp():
            aware = moment.replace(tzinfo=UTC) if kind.timezone else moment
            bound = ibis.literal(aware, type=kind)
        elif kind.is_date():
            bound = ibis.literal(moment.date(), type=kind)
        elif kind.is_string():
            # Texts are compared letter by letter: the day before is smaller whatever stands after the date.
            bound = ibis.literal((moment - MOST_OFFSET).date().isoformat())
        else:
            bound = ibis.literal(self.value)
        return (column >= bound) | column.isnull()


def as_number(column: str, kind: str) -> str:
    """A watermark as a whole number, in DuckDB's SQL: microseconds since 1970, or the number itself."""
    name = quoted(column)
    if kind == "number":
        return f"CAST({name} AS BIGINT)"
    if kind == "text":
        return f"epoch_us(TRY_CAST({name} AS TIMESTAMP))"
    return f"epoch_us({name})"


def kind_of(column: pa.DataType) -> str | None:
    """How a watermark of an Arrow type is kept; None for a type that is none."""
    if pa.types.is_timestamp(column):
        return "time"
    if pa.types.is_date(column):
        return "date"
    if pa.types.is_integer(column):
        return "number"
    if pa.types.is_string(column) or pa.types.is_large_string(column):
        return "text"
    return None


class Reader(Protocol):
    """An open source system."""

    def batches(self, table: Table, since: Since | None) -> AbstractContextManager[pa.RecordBatchReader]:
        """A table's rows, from somewhere on."""
        ...

    def where(self, table: Table) -> str:
        """The system and the table, for messages."""
        ...

    def refused(self, error: Exception, table: Table) -> PilotError | None:
        """What an error that came while reading means; None for one that is not the source's."""
        ...

    def may_write(self, tables: Sequence[Table]) -> list[str] | None:
        """The tables that this account may change; None where nobody can be asked."""
        ...


def pulled(reader: Reader, table: Table, batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The batches one by one; what goes wrong while a batch is fetched is the source's, and told so."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            raise explained(reader, table, error) from error
        yield batch


def explained(reader: Reader, table: Table, error: Exception) -> Exception:
    """An error of a source in a person's terms, where it is one."""
    # DuckDB and Arrow turn Ctrl-C into an error of their own.
    if isinstance(error, PilotError) or "interrupt" in str(error).lower() or full(error):
        return error
    return reader.refused(error, table) or error


def first_line(error: BaseException) -> str:
    """What an error says, without the account that some drivers add."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
