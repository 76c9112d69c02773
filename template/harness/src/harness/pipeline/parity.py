"""Whether features come out in serving as in training, value by value, on real records and on made ones.

Training computes features in bulk on the engine, serving one record at a time on Polars. What is compared is
what the model would be given on either way: bulk features as they are written to disk, and served ones as the
packaged scorer computes them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis.expr.types as ir
import narwhals as nw
import numpy as np
import polars as pl

from harness.contract import Contract
from harness.data import engine
from harness.errors import CheckFailed, PilotError
from harness.pipeline import frames, made, verbs
from harness.pipeline.columns import frame_schema

if TYPE_CHECKING:
    from ibis.backends.sql import SQLBackend as Backend

# How many real records are compared, and how many of the real and of the made ones one by one as well.
ROWS, ALONE = 10_000, 100
RELATIVE, ABSOLUTE = 1e-9, 1e-12
DEBUG = "PILOT_DEBUG"


@dataclass(frozen=True)
class Compared:
    """Records, and their features on either way.

    Attributes:
        records: The contract's fields.
        trained: The features as training has them, in the same order.
        served: The features as serving has them.
    """

    records: pl.DataFrame
    trained: pl.DataFrame
    served: pl.DataFrame

    def differing(self, feature: str) -> np.ndarray:
        """Where a feature is not the same on both ways; truths, shape (n,)."""
        return differ(self.served[feature], self.trained[feature])


def check(
    backend: Backend, records: ir.Table, contract: Contract, wanted: Mapping[str, nw.Expr], folder: Path
) -> str:
    """Compare the features of real records and of made ones.

    Args:
        backend: The engine.
        records: All records that keep the contract.
        contract: Says what a record is.
        wanted: The features, each a double.
        folder: For files on the side; every executor of the engine has to see it.

    Returns:
        What was compared, in words.

    Raises:
        CheckFailed: A feature differs or cannot be computed for a record that the contract accepts.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        invented = pl.DataFrame(made.make(contract), schema=frame_schema(contract))
        file = folder / "made.parquet"
        invented.write_parquet(file)
        both = [
            compare(backend, backend.read_parquet(file, table_name="made"), contract, wanted, folder),
            compare(backend, chosen(records, contract.key), contract, wanted, folder),
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    refuse(both[0], both[1], contract, wanted, backend.name)
    return f"{both[1].records.height:,} records and {both[0].records.height:,} made ones alike on Polars"


def chosen(records: ir.Table, key: str) -> ir.Table:
    """Up to ROWS records, the same ones of the same records, whatever their order and the engine."""
    return records.order_by(records[key].cast("string").hexdigest("md5")).limit(ROWS)


def compare(
    backend: Backend, records: ir.Table, contract: Contract, wanted: Mapping[str, nw.Expr], folder: Path
) -> Compared:
    """Compute features on both ways.

    Args:
        backend: The engine.
        records: Records that keep the contract.
        contract: Says what a record is.
        wanted: The features, each a double.
        folder: For a file on the side.

    Raises:
        CheckFailed: A feature cannot be computed on one of them; it is named.
    """
    types = frame_schema(contract)
    # Named apart: a feature may be called like its field.
    columns = {f"field {name}": nw.col(name) for name in types}
    columns |= {f"feature {name}": each for name, each in wanted.items()}
    file = folder / "trained.parquet"
    with naming(records, wanted):
        table = nw.to_native(nw.from_native(records).select(**columns))
        typed = engine.as_declared(backend, "compared", table)
        engine.write_parquet(backend, typed, file, order_by=[f"field {contract.key}"])
    found = pl.read_parquet(file)
    taken = found.select(pl.col(f"field {name}").cast(kind).alias(name) for name, kind in types.items())
    trained = found.select(pl.col(f"feature {name}").alias(name) for name in wanted)
    return Compared(taken, trained, served(taken, wanted))


def served(records: pl.DataFrame, wanted: Mapping[str, nw.Expr]) -> pl.DataFrame:
    """The features as serving has them: the first ALONE records one by one, the rest as a batch.

    Raises:
        CheckFailed: A feature cannot be computed; it is named.
    """
    alone = [records[number : number + 1] for number in range(min(ALONE, records.height))]
    try:
        parts = [frames.served(each, wanted) for each in [*alone, records[len(alone) :]] if each.height]
    except Exception as error:
        named = _named(wanted, lambda each: frames.served(records, {"value": each}))
        if named is None:
            raise
        raise named from error
    return pl.concat(parts) if parts else frames.served(records, wanted)


def differ(left: pl.Series, right: pl.Series) -> np.ndarray:
    """Where two series of doubles are not the same: absent, NaN and a number are three different things.

    Numbers are the same within 1e-9 of their size, or within 1e-12.

    Returns:
        Truths, shape (n,).
    """
    absent = [each.is_null().to_numpy() for each in (left, right)]
    one, other = (each.fill_null(0.0).to_numpy() for each in (left, right))
    with np.errstate(invalid="ignore"):
        near = np.isclose(one, other, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
    return np.asarray(np.where(absent[0] | absent[1], absent[0] != absent[1], ~near))


def refuse(
    invented: Compared, real: Compared, contract: Contract, wanted: Mapping[str, nw.Expr], name: str
) -> None:
    """Stop at the first feature that differs.

    A made record is shown in preference: nothing in it is anybody's. Of a real one only the fields are named
    that the feature is made of, unless somebody asks for more with `pilot --debug`.

    Args:
        invented: The made records.
        real: The real ones.
        contract: Says what a record is.
        wanted: The features.
        name: The engine's name.

    Raises:
        CheckFailed: It names the feature, both values, and the record.
    """
    for feature, expression in wanted.items():
        found = {"made": invented.differing(feature), "real": real.differing(feature)}
        if not any(each.any() for each in found.values()):
            continue
        kind, compared = ("made", invented) if found["made"].any() else ("real", real)
        row = int(np.argmax(found[kind]))
        fields = verbs.reads(expression) or tuple(each.name for each in contract.fields)
        record = compared.records.row(row, named=True)
        shown = kind == "made" or DEBUG in os.environ
        told = _with_values(record, fields) if shown else _without_values(record, fields)
        counts = " and ".join(f"{int(each.sum()):,} of {len(each):,} {kind}" for kind, each in found.items())
        raise CheckFailed(
            f"'{feature}' is {_value(compared.served[feature][row])} when served and "
            f"{_value(compared.trained[feature][row])} when trained on {name}, for a {kind} record with "
            f"{told} ({counts} records differ)",
            where="features.py",
            mend="Write it with expressions that both engines compute alike, row by row."
            + ("" if shown else " `pilot --debug run` shows the record's values."),
        )


def _value(value: float | None) -> str:
    return "absent" if value is None else "NaN" if np.isnan(value) else repr(value)


def _with_values(record: Mapping[str, Any], fields: Sequence[str]) -> str:
    return ", ".join(f"{name}={_short(record[name])}" for name in fields)


def _short(value: Any) -> str:
    said = repr(value) if not hasattr(value, "isoformat") else value.isoformat()
    return said if len(said) <= 60 else f"{said[:50]}... ({len(value)} characters)"


def _without_values(record: Mapping[str, Any], fields: Sequence[str]) -> str:
    return ", ".join(f"{name} {'absent' if record[name] is None else 'present'}" for name in fields)


@contextmanager
def naming(records: ir.Table, wanted: Mapping[str, nw.Expr]) -> Iterator[None]:
    """Name the feature that the engine cannot compute for some record, where there is one.

    Args:
        records: The records that it is computed for.
        wanted: The features.

    Raises:
        CheckFailed: A feature cannot be computed.
    """
    try:
        yield
    except PilotError:
        raise
    except Exception as error:
        named = _named(wanted, lambda each: _trained(records, each))
        if named is None:
            raise
        raise named from error


def _trained(records: ir.Table, expression: nw.Expr) -> None:
    column = nw.to_native(nw.from_native(records).select(value=expression))
    column.aggregate(column.value.max()).to_pyarrow()


def _named(wanted: Mapping[str, nw.Expr], compute: Callable[[nw.Expr], object]) -> CheckFailed | None:
    """What is wrong with the first feature that cannot be computed by itself.

    The engine's own words are left out: they may quote a record.
    """
    for name, expression in wanted.items():
        try:
            compute(expression)
        except Exception as own:
            return CheckFailed(
                f"the feature '{name}' cannot be computed for every record that the contract accepts "
                f"({type(own).__name__})",
                where="features.py",
                mend="Guard denominators, logarithms and roots, and give each number of contract.py the "
                "range that it has. `pilot --debug run` shows more.",
            )
    return None
