"""The contract as bulk checks: every rule counted in one aggregate query, failing rows set aside.

Written as an aggregate of our own because pandera's Ibis backend passes duplicate keys silently.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from harness.errors import CheckFailed
from harness.pilot import Contract, Field, FieldType

TYPES: dict[FieldType, tuple[type[dt.DataType], ...]] = {
    "text": (dt.String,),
    "integer": (dt.Integer,),
    "number": (dt.Floating, dt.Integer, dt.Decimal),
    "boolean": (dt.Boolean,),
    "date": (dt.Date,),
}
REASONS = "_reasons"


@dataclass(frozen=True)
class Quality:
    """What the checks found.

    Attributes:
        rows: Records checked.
        bad: Records that break at least one rule.
        rules: Records that break each rule, by the rule's id (``field.rule``).
        missing: The share of nulls in each field that may be absent, 0 to 1.
    """

    rows: int
    bad: int
    rules: dict[str, int]
    missing: dict[str, float]

    @property
    def bad_share(self) -> float:
        """The share of records that break the contract; 0 to 1."""
        return self.bad / self.rows if self.rows else 0.0


def check_schema(records: ir.Table, contract: Contract) -> None:
    """Refuse records whose columns are not the contract's.

    Raises:
        CheckFailed: A column is missing, has another type, or is not in the contract.
    """
    schema = dict(records.schema().items())
    for field in contract.fields:
        if field.name not in schema:
            raise CheckFailed(
                f"the column '{field.name}' of the contract is missing",
                where="sources.py records()",
                mend="Produce it, or take the field out of contract.py.",
            )
        if not isinstance(schema[field.name], TYPES[field.type]):
            raise CheckFailed(
                f"'{field.name}' is {schema[field.name]}, and the contract says {field.type}",
                where="sources.py records()",
                mend="Cast it there, or correct the type in contract.py.",
            )
    if contract.label not in schema:
        raise CheckFailed(
            f"the label '{contract.label}' is missing",
            where="sources.py records()",
            mend="Produce it, null while the outcome is not known.",
        )
    extra = sorted(set(schema) - {field.name for field in contract.fields} - {contract.label})
    if extra:
        raise CheckFailed(
            f"columns that the contract does not know: {', '.join(extra)}",
            where="sources.py records()",
            mend="Declare them in contract.py, or do not select them.",
        )


def rules(records: ir.Table, contract: Contract) -> dict[str, ir.BooleanValue]:
    """Each rule's id and the expression that is true where a record breaks it."""
    found: dict[str, ir.BooleanValue] = {}
    for field in contract.fields:
        column = records[field.name]
        if field.required or field.name == contract.key:
            found[f"{field.name}.missing"] = column.isnull()
        for name, broken in _value_rules(column, field).items():
            found[f"{field.name}.{name}"] = ibis.coalesce(broken, False)
    return found


def check(records: ir.Table, contract: Contract) -> tuple[Quality, ir.Table, ir.Table]:
    """Count what breaks the contract and split the records.

    Returns:
        The findings; the records that keep the contract; and those that break it, with the ids of the broken
        rules, separated by blanks, in ``_reasons``.
    """
    broken = rules(records, contract)
    copies = (
        records.group_by(_repeated_key=contract.key).having(ibis._.count() > 1).agg(_copies=ibis._.count())
    )
    marked = records.left_join(copies, records[contract.key] == copies["_repeated_key"])
    broken[f"{contract.key}.repeated"] = marked["_copies"].notnull()
    flags = {rule: f"_rule_{number}" for number, rule in enumerate(broken)}
    flagged = marked.mutate(**{flags[rule]: expression for rule, expression in broken.items()})
    bad = ibis.or_(*(flagged[flag] for flag in flags.values()))
    optional = {field.name: f"_null_{field.name}" for field in contract.fields if not field.required}
    counted = flagged.aggregate(
        _rows=flagged.count(),
        _bad=bad.sum(),
        **{flag: flagged[flag].sum() for flag in flags.values()},
        **{null: flagged[name].isnull().sum() for name, null in optional.items()},
    )
    row = counted.to_pyarrow().to_pylist()[0]
    rows = row["_rows"]
    quality = Quality(
        rows=rows,
        bad=row["_bad"] or 0,
        rules={rule: row[flag] or 0 for rule, flag in flags.items()},
        missing={name: (row[null] or 0) / rows if rows else 0.0 for name, null in optional.items()},
    )
    columns = list(records.columns)
    reasons = [ibis.ifelse(flagged[flag], rule + " ", "") for rule, flag in flags.items()]
    quarantined = flagged.filter(bad).mutate(**{REASONS: functools.reduce(operator.add, reasons).strip()})
    return quality, flagged.filter(~bad).select(columns), quarantined.select([*columns, REASONS])


def _value_rules(column: ir.Column, field: Field) -> dict[str, ir.BooleanValue]:
    found: dict[str, ir.BooleanValue] = {}
    if field.type == "number" and column.type().is_floating():
        found["not_finite"] = column.isnan() | column.isinf()
    if field.low is not None:
        found["too_low"] = column < field.low
    if field.high is not None:
        found["too_high"] = column > field.high
    if field.categories:
        found["unknown_category"] = column.notin(field.categories)
    if field.type == "text" and not field.categories:
        found["blank"] = column.strip() == ""
    return found
