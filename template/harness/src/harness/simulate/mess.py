"""What goes wrong with true values on their way into a system."""

from __future__ import annotations

from collections.abc import Mapping

from harness.simulate.digest import quoted
from harness.simulate.parameters import Parameters
from harness.simulate.spec import Column, Table
from harness.simulate.world import World, born_of

_DATES = {"iso": "%Y-%m-%d", "german": "%d.%m.%Y", "us": "%m/%d/%Y"}

# Of the values of an untidy column, this share at most is changed, half of it either way.
_CASING = 0.5
_BLANKS = 0.3


def untidy(world: World, name: str, table: Table, parameters: Parameters, delivery: int = 0) -> str:
    """The query for what a delivery brings of a table; ``row``, ``year``, ``copy``, ``again`` order it.

    Raises:
        PilotError: An expression of the duplicates is not valid; names the key.
    """
    world.functions_of(name)
    source = _with_near_duplicates(world, name, table, parameters.mess, _rows(world, name, table, delivery))
    if delivery:
        source = f"{source} union all by name {_changed(world, name, table, delivery)}"
    types = {row[0]: str(row[1]) for row in world.connection.execute(f"describe {source}").fetchall()}
    columns = ", ".join(
        f"{_value(world, source, f'tables.{name}.columns.{column}', declared, types[column], parameters)}"
        f" as {quoted(column)}"
        for column, declared in table.delivered().items()
    )
    once = f"select row, year, copy, {columns} from ({source})"
    exact = _noise("exact copy", f"{table.duplicates.exact * parameters.mess!r}")
    return f"select *, 0 as again from ({once}) union all select *, 1 as again from ({once}) where {exact}"


def _rows(world: World, name: str, table: Table, delivery: int) -> str:
    """The rows that come for the first time, the late ones among them."""
    if not delivery:
        return quoted(name)
    born = f"from {born_of(name)} where delivery = {delivery}"
    rows = f"(from {quoted(name)} semi join ({born}) using (row, year))"
    if not table.next.late:
        return rows
    changes = _changes(world, f"from {rows}", table.next.delay, f"tables.{name}.next.delay")
    late = _drawn("late", table.next.late, delivery)
    return (
        f"(select * from {rows} where not {late}"
        f" union all by name select * replace ({changes}) from {rows} where {late})"
    )


def _changed(world: World, name: str, table: Table, delivery: int) -> str:
    """The rows that were there and come again, changed."""
    born = f"from {born_of(name)} where delivery = {delivery}"
    there = f"(from {quoted(name)} anti join ({born}) using (row, year))"
    if not table.next.changed:
        return f"select *, 0 as copy from {there} where false"
    changes = _changes(world, f"from {there}", table.next.change, f"tables.{name}.next.change")
    newest = f" and year = (select max(year) from {quoted(name)})" if table.files else ""
    return (
        f"select * replace ({changes}), {1 + delivery} as copy from {there}"
        f" where {_drawn('changed', table.next.changed, delivery)}{newest}"
    )


def _changes(world: World, query: str, change: Mapping[str, str], key: str) -> str:
    return ", ".join(
        f"(\n{world.check(query, sql, f'{key}.{column}')}\n) as {quoted(column)}"
        for column, sql in change.items()
    )


def _drawn(salt: str, share: float, delivery: int) -> str:
    return f"noise(row, year, 0, '{salt} {delivery}') < {share!r}"


def _with_near_duplicates(world: World, name: str, table: Table, mess: float, rows: str) -> str:
    query = f"select *, 0 as copy from {rows}"
    near = table.duplicates.near
    if near is None:
        return query
    key = f"tables.{name}.duplicates.near.change"
    changes = _changes(world, query, near.change, key)
    chosen = _noise("near copy", repr(near.share * mess))
    return f"{query} union all by name select * replace (1 as copy, {changes}) from ({query}) where {chosen}"


def _value(world: World, source: str, key: str, column: Column, kind: str, parameters: Parameters) -> str:
    name = key.rpartition(".")[2]
    value = quoted(name)
    mess = parameters.mess
    if kind.startswith("DECIMAL"):
        value = f"cast({value} as double)"
    if column.dates:
        styles = [f"strftime(cast({value} as date), '{_DATES[style]}')" for style in column.dates]
        value = _one_of(name, styles, mess)
    if column.money:
        currency = world.check(source, column.money.currency, f"{key}.money.currency")
        value = _one_of(name, [_money(value, style, currency) for style in column.money.styles], mess)
    if column.casing:
        value = _sometimes(name, "casing", value, f"upper({value})", f"lower({value})", _CASING * mess)
    if column.blanks:
        value = _sometimes(name, "blanks", value, f"' ' || {value}", f"{value} || '  '", _BLANKS * mess)
    if column.missing is not None:
        low, high = parameters.missing if column.missing == "usual" else column.missing
        at = world.connection.execute(f"select u(0, 'missing {name}')").fetchall()[0][0]
        value = (
            f"case when {_noise(f'missing {name}', repr(low + (high - low) * at))} then null else {value} end"
        )
    return value


def _one_of(name: str, styles: list[str], mess: float) -> str:
    if len(styles) == 1 or mess == 0:
        return styles[0]
    share = mess / len(styles)
    cases = " ".join(
        f"when {_noise(f'style {name}', repr(share * (position + 1)))} then {style}"
        for position, style in enumerate(styles[1:])
    )
    return f"case {cases} else {styles[0]} end"


def _money(value: str, style: str, currency: str) -> str:
    code = f"(\n{currency}\n)"
    symbol = f"case {code} when 'EUR' then '€' when 'USD' then '$' when 'GBP' then '£' else {code} end"
    grouped = f"format('{{:,.2f}}', cast({value} as double))"
    plain = f"format('{{:.2f}}', cast({value} as double))"
    return {
        "code_first": f"{code} || ' ' || {grouped}",
        "code_last_german": f"translate({grouped}, ',.', '.,') || ' ' || {symbol}",
        "code_first_plain": f"{code} || ' ' || {plain}",
        "symbol": f"{symbol} || {plain}",
    }[style]


def _sometimes(name: str, what: str, value: str, one: str, other: str, share: float) -> str:
    if share == 0:
        return value
    return (
        f"case when {_noise(f'{what} {name}', repr(share / 2))} then {one}"
        f" when {_noise(f'{what} {name}', repr(share))} then {other} else {value} end"
    )


def _noise(salt: str, share: str) -> str:
    # By year and copy too: the same row is written differently each time it is written.
    return f"noise(row, year, copy, '{salt}') < {share}"
