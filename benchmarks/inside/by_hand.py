"""What bulk.py does, as a person would write it for DuckDB and for this one table."""

# ruff: noqa: E501 - SQL is read line by line
from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import duckdb
from bulk import CHANNELS, COUNTRIES, SEGMENTS, STATES, contract

from harness.data.profile import QUANTILES
from harness.data.shapes import KEPT, PLACEHOLDERS, shape_of

DAY = """case when length({x}) <> 10 then null
    when {x}[5] = '-' and {x}[8] = '-' then try_cast({x} as date)
    when {x}[3] = '.' and {x}[6] = '.' then try_cast({x}[7:10] || '-' || {x}[4:5] || '-' || {x}[1:2] as date)
    when {x}[3] = '/' and {x}[6] = '/' then try_cast({x}[7:10] || '-' || {x}[1:2] || '-' || {x}[4:5] as date) end"""
EUROS = """try_cast(case when {x}[-3] = ',' then replace(replace({x}, '.', ''), ',', '.')
    when {x}[-3] = '.' then replace({x}, ',', '') when {x} like '%.%' or {x} like '%,%' then null else {x} end as double)
    * case when {t} like '%EUR%' or {t} like '%€%' then 1.0::double when {t} like '%USD%' or {t} like '%$%' then 0.92::double
      when {t} like '%GBP%' or {t} like '%£%' then 1.17::double end"""
CLEAN = """
select order_id, account_no, ordered_on, due_on, sent_on, amount_eur, freight_eur, discount, quantity, weight_kg,
    segment, country, channel, status, warehouse, postcode, rating, note, status = 'returned' as returned
from (
    select trim(order_id) as order_id, upper(trim(account_no)) as account_no,
        {ordered_on} as ordered_on, {due_on} as due_on, {sent_on} as sent_on,
        {amount} as amount_eur, {freight} as freight_eur,
        try_cast(trim(discount) as bigint) as discount, try_cast(trim(quantity) as bigint) as quantity,
        try_cast(trim(weight) as double) as weight_kg,
        case when lower(trim(segment)) in {segments} then lower(trim(segment)) end as segment,
        case when upper(trim(country)) in {countries} then upper(trim(country)) end as country,
        case when lower(trim(channel)) in {channels} then lower(trim(channel)) end as channel,
        case when lower(trim(status)) in {states} then lower(trim(status)) end as status,
        nullif(trim(warehouse), '-') as warehouse, trim(postcode) as postcode,
        try_cast(trim(rating) as double) as rating, trim(note) as note,
        try_cast(trim(updated_at) as timestamp) as updated_at
    from (
        select *, trim(ordered_on) as d1, trim(due_on) as d2, trim(sent_on) as d3,
            upper(trim(amount)) as t1, translate(upper(trim(amount)), 'EURUSDGBP€$£ ', '') as n1,
            upper(trim(freight)) as t2, translate(upper(trim(freight)), 'EURUSDGBP€$£ ', '') as n2
        from {source}
    )
)
qualify row_number() over (partition by order_id order by updated_at desc, account_no, ordered_on, due_on, sent_on,
    amount_eur, freight_eur, discount, quantity, weight_kg, segment, country, channel, status, warehouse, postcode,
    rating, note) = 1
"""
TEXTS = ("order_id", "account_no", "segment", "country", "channel", "status", "warehouse", "postcode", "note")
NUMBERS = ("amount_eur", "freight_eur", "discount", "quantity", "weight_kg", "rating")
DATES = ("ordered_on", "due_on", "sent_on")
SHAPE = (
    "regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace({x}, '[0-9]{{5,}}', '9+', 'g'), '[0-9]', '9', 'g'),"
    " '[^\\x00-\\x7F]', 'a', 'g'), '[a-z]+', 'a', 'g'), '[A-Z]+', 'A', 'g')"
)


class ByHand:
    """The same three steps in SQL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / "by-hand.parquet"
        self.connection = duckdb.connect(config={"temp_directory": str(folder / "spill")})
        self.connection.execute("set enable_progress_bar = false")

    def clean(self, file: Path) -> int:
        """One query from the file to the newest row of each."""
        source = f"read_csv('{file}', all_varchar = true, header = true)"
        query = CLEAN.format(
            source=source if file.suffix == ".csv" else f"read_parquet('{file}')",
            ordered_on=DAY.format(x="d1"),
            due_on=DAY.format(x="d2"),
            sent_on=DAY.format(x="d3"),
            amount=EUROS.format(x="n1", t="t1"),
            freight=EUROS.format(x="n2", t="t2"),
            segments=SEGMENTS,
            countries=COUNTRIES,
            channels=CHANNELS,
            states=STATES,
        )
        self._write(f"select * from ({query})", self.records)
        return self._one(f"select count(*) from '{self.records}'")[0]

    def profile(self, _: Path) -> dict[str, Any]:
        """Aggregates over numbers and days; a grouping of each text's values."""
        rows, different = self._one(f"select count(*), count(distinct hash(t)) from '{self.records}' t")
        found: dict[str, Any] = {"rows": rows, "duplicates": rows - different}
        parts = ["count(*) filter (where returned is null)", "count(*) filter (where returned)"]
        for name in (*NUMBERS, *DATES):
            number = f"{name} - date '1970-01-01'" if name in DATES else name
            parts += [
                f"count(*) - count({name})",
                f"count(distinct {name})",
                f"min({number})",
                f"max({number})",
                f"quantile_cont({number}, {list(QUANTILES)})",
            ]
        row = self._one(f"select {', '.join(parts)} from '{self.records}'")
        found["returned"] = shown(missing=row[0], true=row[1])
        for place, name in enumerate((*NUMBERS, *DATES)):
            missing, distinct, low, high, quantiles = row[2 + 5 * place : 7 + 5 * place]
            if name in DATES:
                low, high, *quantiles = (as_date(each) for each in (low, high, *quantiles))
            found[name] = shown(missing=missing, distinct=distinct, low=low, high=high, quantiles=quantiles)
        for name in TEXTS:
            found[name] = self._text(name, rows)
        return found

    def _text(self, name: str, rows: int) -> dict[str, Any]:
        known = {field.name: field.categories for field in contract.fields}[name]
        groups = self.connection.execute(
            f"select {SHAPE.format(x='value')} as shape, sum(n), count(*),"
            f" coalesce(sum(n) filter (where lower(trim(value)) in {PLACEHOLDERS}), 0)"
            f" from (select {name} as value, count(*) as n from '{self.records}' where {name} is not null group by 1)"
            " group by 1"
        ).fetchall()
        present = int(sum(each[1] for each in groups))
        shapes: dict[str, int] = {}
        for shape, count, _, _ in groups:
            shapes[shape_of(shape)] = shapes.get(shape_of(shape), 0) + int(count)
        found = shown(
            missing=rows - present,
            placeholders=int(sum(each[3] for each in groups)),
            distinct=sum(each[2] for each in groups),
            shapes=min(len(shapes), KEPT),
            most=max(shapes.values()),
        )
        if known:
            counts = dict(
                self.connection.execute(
                    f"select {name}, count(*) from '{self.records}' where {name} is not null group by 1"
                ).fetchall()
            )
            found["categories"] = {value: counts.get(value, 0) for value in known}
        return found

    def check(self, _: Path) -> dict[str, int]:
        """Each rule a column, one aggregate, two files."""
        rules: dict[str, str] = {}
        for field in contract.fields:
            if field.required or field.name == contract.key:
                rules[f"{field.name}.missing"] = f"{field.name} is null"
            if field.type == "number":
                rules[f"{field.name}.not_finite"] = f"coalesce(not isfinite({field.name}), false)"
            if field.low is not None:
                rules[f"{field.name}.too_low"] = f"coalesce({field.name} < {field.low}, false)"
            if field.high is not None:
                rules[f"{field.name}.too_high"] = f"coalesce({field.name} > {field.high}, false)"
            if field.categories:
                rules[f"{field.name}.unknown_category"] = (
                    f"coalesce({field.name} not in {field.categories}, false)"
                )
            if field.type == "text" and not field.categories:
                rules[f"{field.name}.blank"] = f"coalesce(trim({field.name}) = '', false)"
        listed = ", ".join(f'{rule} as "{name}"' for name, rule in rules.items())
        self.connection.execute(
            f"create view flagged as select t.*, {listed}, c.order_id is not null as \"order_id.repeated\" from '{self.records}' t"
            f" left join (select order_id from '{self.records}' where order_id is not null group by 1 having count(*) > 1) c using (order_id)"
        )
        rules["order_id.repeated"] = ""
        bad = " or ".join(f'"{name}"' for name in rules)
        nulls = ", ".join(
            f"count(*) - count({field.name})" for field in contract.fields if not field.required
        )
        counts = ", ".join(f'count(*) filter (where "{name}")' for name in rules)
        row = self._one(f"select count(*), count(*) filter (where {bad}), {counts}, {nulls} from flagged")
        columns = ", ".join((*(field.name for field in contract.fields), contract.label))
        reasons = " || ".join(f"case when \"{name}\" then '{name} ' else '' end" for name in rules)
        self._write(f"select {columns} from flagged where not ({bad})", self.folder / "hand-kept.parquet")
        self._write(
            f"select {columns}, trim({reasons}) as _reasons from flagged where {bad}",
            self.folder / "hand-aside.parquet",
        )
        return {
            "rows": row[0],
            "bad": row[1],
            **{name: count for name, count in zip(rules, row[2:], strict=False) if count},
        }

    def _one(self, query: str) -> Any:
        return self.connection.execute(query).fetchall()[0]

    def _write(self, query: str, file: Path) -> None:
        self.connection.execute(f"copy ({query} order by order_id) to '{file}' (format parquet)")


def shown(**values: Any) -> dict[str, Any]:
    """The values that say something, as bulk.py keeps them."""
    return {name: value for name, value in values.items() if value not in (None, 0, ())}


def as_date(days: float) -> str:
    """Days since 1970 as ISO 8601."""
    return date.fromordinal(date(1970, 1, 1).toordinal() + int(days)).isoformat()
