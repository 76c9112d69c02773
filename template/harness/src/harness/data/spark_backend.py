"""Ibis's backend for Spark, so changed that an expression means what it means on DuckDB and on Polars."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.backends.pyspark
import pyarrow as pa
import pyarrow.parquet as pq
import sqlglot.expressions as sge
from ibis.backends.sql.compilers.base import SQLGlotCompiler
from ibis.backends.sql.compilers.pyspark import PySparkCompiler
from ibis.formats.pyarrow import PyArrowSchema

from harness.data.reading import BATCH_ROWS
from harness.errors import PilotError


class _Compiler(PySparkCompiler):  # type: ignore[misc]
    # Ibis takes NaN for null on Spark alone: pandas cannot tell them apart, and nothing here goes through it.
    visit_IsNull = SQLGlotCompiler.visit_IsNull
    visit_NotNull = SQLGlotCompiler.visit_NotNull

    def visit_IsInf(self, op: Any, *, arg: Any) -> Any:
        """Whether a double is infinite: Ibis 12 compares two pieces of SQL there, and always says no."""
        if not op.arg.dtype.is_floating():
            return sge.false()
        return arg.isin(self.POS_INF, self.NEG_INF)


class Backend(ibis.backends.pyspark.Backend):  # type: ignore[misc]
    """Ibis on a Spark session.

    Results come as Arrow and never as pandas: there an absent value is NaN, and a large whole number with
    absent ones beside it is rounded.
    """

    compiler = _Compiler()

    def read_parquet(
        self,
        path: str | Path | Sequence[str | Path],
        /,
        *,
        table_name: str | None = None,
        union_by_name: bool = False,
    ) -> Any:
        """Files of this file system as a table.

        Args:
            path: One file or several; every executor has to find them under the same path.
            table_name: The name of the view.
            union_by_name: Whether later files may have more columns than the first.

        Raises:
            PilotError: A file holds times that Spark cannot read.
        """
        files = [path] if isinstance(path, str | Path) else list(path)
        for file in files:
            _refuse_nanoseconds(Path(file))
        reader = self._session.read.option("mergeSchema", union_by_name)
        name = table_name or ibis.util.gen_name("read_parquet")
        reader.parquet(*map(_address, files)).createOrReplaceTempView(name)
        return self.table(name)

    def to_pyarrow(
        self, expr: Any, /, *, params: Any = None, limit: int | str | None = None, **kwargs: Any
    ) -> Any:
        """The result of an expression as Arrow has it."""
        table = expr.as_table()
        self._run_pre_execute_hooks(table)
        found = self.raw_sql(self.compile(table, params=params, limit=limit, **kwargs)).toArrow()
        return expr.__pyarrow_result__(found.cast(PyArrowSchema.from_ibis(table.schema())))

    def to_parquet(self, expr: Any, path: str | Path, /, **kwargs: Any) -> None:
        """Write an expression into one file, its rows in the expression's order.

        Executors write their parts beside it, and this process joins these, a few at a time: everything that
        reads a pilot's data reads one file, whichever engine wrote it.
        """
        file = Path(path).absolute()
        columns = PyArrowSchema.from_ibis(expr.schema())
        folder = file.with_name(f"{file.name}.parts")
        self._run_pre_execute_hooks(expr)
        try:
            self.raw_sql(self.compile(expr)).write.mode("overwrite").parquet(_address(folder))
            with pq.ParquetWriter(file, columns, compression="zstd") as writer:
                # Spark numbers the parts in the order of the rows.
                for part in sorted(folder.glob("part-*.parquet")):
                    for batch in pq.ParquetFile(part).iter_batches(batch_size=BATCH_ROWS):
                        writer.write_table(pa.Table.from_batches([batch]).cast(columns))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _address(path: str | Path) -> str:
    """A path of this file system: a cluster's own default may be another."""
    return f"file://{Path(path).absolute()}"


def _refuse_nanoseconds(file: Path) -> None:
    for column in pq.read_schema(file):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            raise PilotError(
                f"'{column.name}' has times in nanoseconds, which Spark cannot read",
                where=str(file),
                mend='Have the source write microseconds, or set engine = "duckdb" in pilot.toml.',
            )
