"""The contract as bulk checks: every rule counted in one aggregate query, failing rows set aside.

Written as an aggregate of our own because pandera's Ibis backend passes duplicate keys silently.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from harness.contract import Contract, Field, FieldType
from harness.errors import CheckFailed, PilotError
from harness.rules import Severity

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
        bad: Records that break at least one rule that sets them aside.
        rules: Records that break each rule, by the rule's id: ``field.rule`` for what a field declares, the
            rule's own name for a rule over the record. Those that only warn are among them.
        missing: The share of nulls in each field that may be absent, 0 to 1.
        corrected: Records that a correction has taken the place of (`pilot replay`).
    """

    rows: int
    bad: int
    rules: dict[str, int]
    missing: dict[str, float]
    corrected: int = 0

    @property
    def bad_share(self) -> float:
        """The share of records that break the contract; 0 to 1."""
        return self.bad / self.rows if self.rows else 0.0

    def broken(self, contract: Contract, severity: Severity) -> dict[str, int]:
        """How many records break each rule of that severity; rules that none breaks are left out."""
        return {
            rule: count for rule, count in self.rules.items() if count and contract.severity(rule) == severity
        }


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
    for rule in contract.rules:
        try:
            holds = rule.holds(records)
            found[rule.name] = ibis.coalesce(~holds, False)
        except Exception as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PilotError(
                f"the rule '{rule.name}' cannot be computed on the engine: {said}",
                where="contract.py",
                mend='Write it with record["field"], comparisons, + - *, & | ~, isnull(), notnull(), isin().',
            ) from error
    return found


def check(records: ir.Table, contract: Contract) -> tuple[Quality, ir.Table, ir.Table]:
    """Count what breaks the contract and split the records.

    Returns:
        The findings; the records that keep the contract; and those that break it, with the ids of the broken
        rules, separated by blanks, in ``_reasons``.
    """
    broken = rules(records, contract)
    marked = records
    for number, names in enumerate(((contract.key,), *contract.unique)):
        marked, repeated = _marked(marked, names, number)
        broken[f"{'+'.join(names)}.repeated"] = repeated
    flags = {rule: f"_rule_{number}" for number, rule in enumerate(broken)}
    flagged = marked.mutate(**{flags[rule]: expression for rule, expression in broken.items()})
    sets_aside = [rule for rule in flags if contract.severity(rule) != "warn"]
    bad = ibis.or_(*(flagged[flags[rule]] for rule in sets_aside))
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
    reasons = [ibis.ifelse(flagged[flags[rule]], rule + " ", "") for rule in sets_aside]
    quarantined = flagged.filter(bad).mutate(**{REASONS: functools.reduce(operator.add, reasons).strip()})
    return quality, flagged.filter(~bad).select(columns), quarantined.select([*columns, REASONS])


def _marked(
    records: ir.Table, names: tuple[str, ...], number: int
) -> tuple[ir.Table, Callable[[ir.Table], ir.BooleanValue]]:
    """The records with a mark at those whose values under these names stand there twice; nulls never do."""
    keys = {f"_repeated_{number}_{place}": name for place, name in enumerate(names)}
    mark = f"_copies_{number}"
    known = records.filter([records[name].notnull() for name in names])
    copies = known.group_by(**keys).having(ibis._.count() > 1).agg(**{mark: ibis._.count()})
    joined = records.left_join(copies, [records[name] == copies[key] for key, name in keys.items()])
    return joined, lambda table: table[mark].notnull()


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
        # Whatever is white sorts before the first visible character, so most texts need not be stripped.
        found["blank"] = (column < "!").ifelse(column.strip() == "", False)
    return found
