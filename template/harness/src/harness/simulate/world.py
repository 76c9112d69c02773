"""From the declared expressions to tables of true values, before anything goes wrong with them.

Chance comes from a hash of the seed, the table, the row's number and a salt. A value therefore depends on
nothing that happens to vary between runs: not on threads, not on the order of work, not on other columns.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import duckdb

from harness.errors import PilotError
from harness.simulate.digest import quoted
from harness.simulate.parameters import Parameters
from harness.simulate.spec import Files, Specification, Table

# A DuckDB macro sees its arguments only, so the row's number and time are handed over here.
_ROW_FUNCTIONS = ("u", "normal", "chance", "pick", "whole")
_CALL = re.compile(rf"'(?:[^']|'')*'|\b(?:({'|'.join(_ROW_FUNCTIONS)})\s*\(|drift\s*\(\s*\))")

_FUNCTIONS = """
create or replace temp macro u(row, salt) as
    (hash(row, salt, {table}, {seed}) >> 11) * 1.1102230246251565e-16;
create or replace temp macro noise(row, year, copy, salt) as
    (hash(row, year, copy, salt, {table}, {seed}) >> 11) * 1.1102230246251565e-16;
create or replace temp macro normal(row, salt) as
    sqrt(-2 * ln(1 - u(row, salt || ' 1'))) * cos(2 * pi() * u(row, salt || ' 2'));
create or replace temp macro chance(row, salt, share) as u(row, salt) < share;
create or replace temp macro pick(row, salt, options) as
    options[1 + cast(floor(u(row, salt) * len(options)) as bigint)];
create or replace temp macro whole(row, salt, low, high) as
    cast(low + floor(u(row, salt) * (high - low + 1)) as integer);
"""

_CONSTANTS = """
create or replace temp macro logistic(x) as 1 / (1 + exp(-(x)));
create or replace temp macro rows() as {rows};
create or replace temp macro months() as {months};
create or replace temp macro until() as date '{until}';
create or replace temp macro since() as cast(date '{since}' + 1 - interval {months} month as date);
create or replace temp macro drift(time) as {drift} * time;
create or replace temp macro before() as date '{before}';
create or replace temp macro delivery() as {delivery};
"""
# How long the systems go on between two deliveries.
DAYS_BETWEEN = 7


PORTION = 1_000_000


class World:
    """The tables of true values, in a DuckDB of their own.

    Args:
        specification: What to build.
        parameters: How much of it.
        source: The file that the specification was read from, for messages.
        connection: A connection to an empty database.
    """

    def __init__(
        self,
        specification: Specification,
        parameters: Parameters,
        source: Path,
        connection: duckdb.DuckDBPyConnection,
    ) -> None:
        self._specification = specification
        self._parameters = parameters
        self._source = source
        self.connection = connection
        self._delivery = 0
        self._set_constants()
        # The period of the first delivery stays that which `time` is a share of.
        self._first = self._microseconds()

    def _set_constants(self) -> None:
        asked = self._parameters
        until = asked.until + timedelta(days=DAYS_BETWEEN * self._delivery)
        before = max(asked.until, until - timedelta(days=DAYS_BETWEEN))
        self.connection.execute(
            _CONSTANTS.format(
                rows=asked.rows,
                months=asked.months,
                until=until,
                before=before,
                delivery=self._delivery,
                drift=asked.drift,
                since=asked.until,
            )
        )

    def go_on(self) -> None:
        """Let the time pass up to the next delivery."""
        self._delivery += 1
        self._set_constants()

    def grow(self, name: str) -> None:
        """Add what a table gets by the delivery that time has come to, after those that it looks up.

        Raises:
            PilotError: An expression is not valid SQL, or fails on a row; names the key.
        """
        table = self._specification.tables[name]
        self.functions_of(name)
        query = self._base(name, table)
        for column, declared in table.columns.items():
            query = self._with(query, column, declared.sql, f"tables.{name}.columns.{column}")
        kept = ", ".join(quoted(column) for column in ("row", "time", "moment", "year", *table.columns))
        born = born_of(name)
        run = self.connection.execute
        run(f"create table if not exists {born} (row bigint, year bigint, delivery integer)")
        run(f"create or replace temp table grown as select * from {quoted(name)} limit 0")
        place = f"tables.{name}"
        self._run(
            f"insert into grown select {kept} from ({query}) anti join {quoted(name)} using (row, year)",
            place,
        )
        run(f"insert into {quoted(name)} select * from grown")
        run(f"insert into {born} select row, year, {self._delivery} from grown")

    def build(self, name: str) -> None:
        """Build one table, after those that it looks up.

        Raises:
            PilotError: An expression is not valid SQL, or fails on a row; names the key.
        """
        table = self._specification.tables[name]
        self.functions_of(name)
        query = self._base(name, table)
        for column, declared in table.columns.items():
            query = self._with(query, column, declared.sql, f"tables.{name}.columns.{column}")
        kept = ", ".join(quoted(column) for column in ("row", "time", "moment", "year", *table.columns))
        place = f"tables.{name}"
        self._run(f"create or replace table {quoted(name)} as select {kept} from ({query}) limit 0", place)
        numbers = f"select coalesce(max(row), -1) from ({self._source_rows(table, name)})"
        last = int(self._run(numbers, place).fetchall()[0][0])
        # In portions, because DuckDB heeds Ctrl-C between queries and seldom within one.
        for first in range(0, last + 1, PORTION):
            self._run(
                f"insert into {quoted(name)} select {kept} from ({query})"
                f" where row >= {first} and row < {first + PORTION}",
                place,
            )

    def functions_of(self, name: str) -> None:
        """Tie the random functions to a table, so that equal salts in two tables are independent."""
        self.connection.execute(_FUNCTIONS.format(table=f"'{name}'", seed=self._parameters.seed))

    def check(self, relation: str, expression: str, key: str) -> str:
        """The expression as DuckDB takes it over the relation.

        Raises:
            PilotError: It is not valid there; names the key.
        """
        sql = _CALL.sub(_hand_over, expression)
        self._run(f"select (\n{sql}\n) from ({relation}) limit 0", key)
        return sql

    def _base(self, name: str, table: Table) -> str:
        key = f"tables.{name}"
        if table.each:
            each = quoted(table.each)
            query = f"select parent.row, parent as {each} from {each} parent"
            where = self.check(query, table.where, f"{key}.where")
            query = f"select * from ({query}) where (\n{where}\n)"
            time = table.time or f"{each}.time"
        else:
            query = self._source_rows(table, name)
            time = (table.time or "u('time')") if not self._delivery else "1.0"
        for lookup, declared in table.lookup.items():
            at = self.check(query, declared.at, f"{key}.lookup.{lookup}.at")
            query = (
                f"select child.*, parent as {quoted(lookup)}"
                f" from (select *, (\n{at}\n) as _at from ({query})) child"
                f" left join {quoted(declared.table)} parent"
                f" on parent.row = {self._position(declared.table)}"
            )
            query = f"select * exclude (_at) from ({query})"
        query = self._with(query, "time", f"cast(greatest(0, least(1, {time}\n)) as double)", f"{key}.time")
        moment = f"since() + to_microseconds(cast(time * {self._first} as bigint))"
        if self._delivery and not table.each:
            moment = (
                f"before() + 1 + to_microseconds(cast(u(row, 'moment') * {DAYS_BETWEEN} * 86400e6 as bigint))"
            )
        query = f"select *, {moment} as moment from ({query})"
        return self._with_years(query, table.files, f"{key}.files.where")

    def _source_rows(self, table: Table, name: str) -> str:
        if table.each:
            return f"select row from {quoted(table.each)}"
        if self._delivery:
            there = int(self.connection.execute(f"select count(*) from {quoted(name)}").fetchall()[0][0])
            new = self._rows(table.next.new, f"tables.{name}.next.new")
            return f"select range as row from range({there}, {there + new})"
        return f"select range as row from range({self._rows(table.rows or '0', f'tables.{name}.rows')})"

    def _with_years(self, query: str, files: Files | None, key: str) -> str:
        if files is None:
            return f"select *, year(moment) as year from ({query})"
        last = (self._parameters.until + timedelta(days=DAYS_BETWEEN * self._delivery)).year
        query = (
            f"select base.*, years.range as year from ({query}) base, range({files.since}, {last + 1}) years"
        )
        return f"select * from ({query}) where (\n{self.check(query, files.where, key)}\n)"

    def _with(self, query: str, column: str, expression: str, key: str) -> str:
        # One level for each column: a column that is used five times is then computed once.
        return f"select *, (\n{self.check(query, expression, key)}\n) as {quoted(column)} from ({query})"

    def _position(self, table: str) -> str:
        count = f"(select count(*) from {quoted(table)})"
        return f"greatest(0, least({count} - 1, cast(floor(_at * {count}) as bigint)))"

    def _rows(self, expression: str, key: str) -> int:
        relation = "select 0 as row, 0.0 as time"
        sql = self.check(relation, expression, key)
        return int(self._run(f"select cast((\n{sql}\n) as bigint) from ({relation})", key).fetchall()[0][0])

    def _microseconds(self) -> int:
        return int(
            self.connection.execute(
                "select date_diff('microsecond', cast(since() as timestamp), until() + interval 1 day) - 1"
            ).fetchall()[0][0]
        )

    def _run(self, sql: str, key: str) -> duckdb.DuckDBPyConnection:
        try:
            return self.connection.execute(sql)
        except duckdb.Error as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise PilotError(
                f"DuckDB refuses the expression: {reason}",
                where=f"{self._source}: {key}",
                mend="Correct the SQL; an expression sees the columns above it and what was looked up.",
            ) from error


def born_of(name: str) -> str:
    """The table of which row came by which later delivery; a blank is in no declared name."""
    return quoted(f"{name} born")


def _hand_over(call: re.Match[str]) -> str:
    text = call.group(0)
    if text.startswith("'"):
        return text
    function = call.group(1)
    return f"{function}(row, " if function else "drift(time)"
