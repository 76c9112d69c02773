"""The contract's rules over a chunk: the same expressions as the bulk checks, compiled once."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable

import ibis
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from harness.batch.source import Part, Source
from harness.data import checks, engine
from harness.data.corrections import ARROW
from harness.pilot import Contract
from harness.settings import Settings

CHUNK, ROW = "chunk", "_row"
# What a request may not hold either: harness.serving.schema.
MOST_LETTERS = 1_000


class Checks:
    """Holds chunks against the contract.

    Args:
        settings: The pilot's settings.
        contract: What a record is.
    """

    def __init__(self, settings: Settings, contract: Contract) -> None:
        self._contract = contract
        self._backend = engine.connect(settings)
        columns = {each.name: ARROW[each.type] for each in contract.fields} | {ROW: pa.int32()}
        schema = ibis.Schema.from_pyarrow(pa.schema(columns.items()))
        records = ibis.table(schema, name=CHUNK)
        broken = {
            rule: expression
            for rule, expression in checks.rules(records, contract).items()
            if contract.severity(rule) != "warn"
        }
        flags = {rule: f"_rule_{number}" for number, rule in enumerate(broken)}
        flagged = records.mutate(**{flags[rule]: expression for rule, expression in broken.items()})
        told = [ibis.ifelse(flagged[flag], f"{rule} ", "") for rule, flag in flags.items()]
        bad = ibis.or_(*(flagged[flag] for flag in flags.values()))
        reasons = functools.reduce(operator.add, told, ibis.literal("")).strip()
        self._query = self._backend.compile(flagged.filter(bad).select(flagged[ROW], reasons.name("reasons")))

    def broken(self, part: Part) -> dict[int, str]:
        """The records that break the contract, by their place in the part, with the rules' ids."""
        records = part.records
        connection = self._backend.con
        connection.register(CHUNK, records.append_column(ROW, pa.array(range(records.num_rows), pa.int32())))
        try:
            rows = connection.execute(self._query).fetchall()
        finally:
            connection.unregister(CHUNK)
        found = {row: reasons.split() for row, reasons in rows}
        for rule, where in [*part.unreadable.items(), *self._no_texts(records)]:
            field = rule.partition(".")[0]
            for row in np.flatnonzero(where):
                # A value that is there and cannot be read is not missing.
                others = [each for each in found.get(int(row), []) if each != f"{field}.missing"]
                found[int(row)] = [*others, rule]
        return {row: " ".join(rules) for row, rules in sorted(found.items())}

    def close(self) -> None:
        """Let go of the engine."""
        self._backend.disconnect()

    def _no_texts(self, records: pa.Table) -> list[tuple[str, np.ndarray]]:
        found = []
        for field in self._contract.fields:
            if field.type == "text" and not field.categories:
                column = records[field.name]
                for name, broken in (
                    ("too_long", pc.greater(pc.utf8_length(column), MOST_LETTERS)),
                    ("nul", pc.match_substring(column, "\0")),
                ):
                    if pc.any(broken).as_py():
                        found.append((f"{field.name}.{name}", pc.fill_null(broken, False).to_numpy()))
        return found


def repeated(source: Source, contract: Contract, size: int, report: Callable[[int], None]) -> Repeated:
    """The records whose key, or whose fields that contract.py calls unique, stand there twice.

    Args:
        source: What was brought.
        contract: What a record is.
        size: How many records are looked at at a time.
        report: Told how many were looked at so far.
    """
    groups = ((contract.key,), *contract.unique)
    only = tuple({name for group in groups for name in group})
    hashes: list[list[np.ndarray]] = [[] for _ in groups]
    count = 0
    for part in source.parts(size, only=only):
        frame = pl.DataFrame(part.records)
        for names, found in zip(groups, hashes, strict=True):
            found.append(frame.select(names).hash_rows().to_numpy())
        count += len(frame)
        report(count)
    suspects = [_twice(np.concatenate(found)) if found else np.array([], np.int64) for found in hashes]
    rules = {"+".join(names): names for names in groups}
    if not any(map(len, suspects)):
        return Repeated(count, dict.fromkeys(rules, np.array([], np.int64)))
    # Hashes may agree by chance, and nulls are no values.
    frames: list[list[pl.DataFrame]] = [[] for _ in groups]
    first = 0
    for part in source.parts(size, only=only):
        frame = pl.DataFrame(part.records).with_row_index("_at", offset=first)
        for (names, rows), kept in zip(zip(groups, suspects, strict=True), frames, strict=True):
            inside = rows[(rows >= first) & (rows < first + len(frame))] - first
            kept.append(frame[inside.tolist()].select("_at", *names).drop_nulls())
        first += len(frame)
    found_rows = {}
    for (rule, names), kept in zip(rules.items(), frames, strict=True):
        whole = pl.concat(kept)
        twice = whole.filter(whole.select(names).is_duplicated())
        found_rows[rule] = twice["_at"].sort().cast(pl.Int64).to_numpy()
    return Repeated(count, found_rows)


class Repeated:
    """Which records of the whole input stand there twice.

    Attributes:
        rows: How many records there are.
    """

    def __init__(self, rows: int, found: dict[str, np.ndarray]) -> None:
        self.rows = rows
        self._found = found

    def add_to(self, broken: dict[int, str], first: int, count: int) -> None:
        """Add what is repeated among ``count`` records from ``first`` on to what else they break."""
        for rule, rows in self._found.items():
            low, high = np.searchsorted(rows, [first, first + count])
            for row in rows[low:high] - first:
                broken[int(row)] = f"{broken.get(int(row), '')} {rule}.repeated".strip()


def _twice(hashes: np.ndarray) -> np.ndarray:
    """The places, in order, of values that stand there more than once."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    marked = np.zeros(len(hashes), bool)
    marked[1:] |= same
    marked[:-1] |= same
    return np.sort(order[marked])
