"""A messy table of 20 columns, the same on every machine: ``messy.py ROWS FOLDER`` writes it as Parquet and CSV.

All of it is text, as systems drop it: days in three formats, amounts in four, casing and blanks, texts that
stand for no value, nulls; three rows in a hundred come twice, half of them with another content and later.
"""

# ruff: noqa: E501 - SQL is read line by line
from __future__ import annotations

import sys
from pathlib import Path

import duckdb

# Chance out of the row's number alone: not out of threads, order or a generator's state.
SETTINGS = """
create macro u(n, salt) as (hash(n, salt) >> 11) * 1.1102230246251565e-16;
create macro written(day, n) as case when u(n, 'style') < 0.7 then strftime(day, '%Y-%m-%d')
    when u(n, 'style') < 0.85 then strftime(day, '%d.%m.%Y') else strftime(day, '%m/%d/%Y') end;
create macro money(value, n) as case when u(n, 'money') < 0.6 then 'EUR ' || format('{:,.2f}', value)
    when u(n, 'money') < 0.8 then translate(format('{:,.2f}', value), ',.', '.,') || ' €'
    when u(n, 'money') < 0.95 then 'USD ' || format('{:.2f}', value) else '$' || format('{:.2f}', value) end;
create macro untidy(text, n, salt) as case when u(n, salt) < 0.1 then upper(text)
    when u(n, salt) < 0.2 then ' ' || text when u(n, salt) < 0.25 then lower(text) || '  ' else text end;
create macro lost(value, n, salt, share) as case when u(n, 'lost ' || salt) < share then null else value end;
"""
TABLE = """
select
    'R' || lpad(cast(n as varchar), 9, '0') as order_id,
    untidy('A-' || lpad(cast(floor(u(n, 'account') * 200000) as varchar), 7, '0'), n, 'a') as account_no,
    written(day, n) as ordered_on,
    lost(written(day + cast(3 + u(n, 'due') * 60 as integer), n), n, 'due', 0.01) as due_on,
    lost(written(day + cast(u(n, 'sent') * 30 as integer), n + 1), n, 'sent', 0.18) as sent_on,
    lost(money(20 + 9000 * pow(u(n, 'amount'), 3) * again, n), n, 'amount', 0.002) as amount,
    lost(money(5 + 900 * u(n, 'freight'), n + 2), n, 'freight', 0.12) as freight,
    lost(cast(cast(u(n, 'share') * 40 as integer) as varchar), n, 'share', 0.2) as discount,
    cast(1 + cast(u(n, 'many') * 60 as integer) as varchar) as quantity,
    case when u(n, 'kg') < 0.05 then 'n/a' else format('{:.3f}', 0.1 + 80 * u(n, 'weight')) end as weight,
    lost(untidy(['retail','services','public','construction','manufacturing'][1 + cast(floor(u(n, 'seg') * 5) as int)], n, 's'), n, 'seg', 0.15) as segment,
    lost(untidy(['DE','FR','NL','AT','ES','IT','PL','GB'][1 + cast(floor(u(n, 'land') * 8) as int)], n, 'c'), n, 'land', 0.1) as country,
    untidy(['web','shop','phone','partner'][1 + cast(floor(u(n, 'way') * 4) as int)], n, 'w') as channel,
    untidy(['open','sent','paid','returned'][1 + cast(floor(u(n, 'state') * 4) as int)], n, 'o') as status,
    case when u(n, 'warehouse') < 0.03 then '-' else 'W' || cast(1 + cast(u(n, 'place') * 40 as integer) as varchar) end as warehouse,
    lost(lpad(cast(cast(u(n, 'zip') * 99999 as integer) as varchar), 5, '0'), n, 'zip', 0.08) as postcode,
    lost(format('{:.2f}', 1 + 4 * u(n, 'rating')), n, 'rating', 0.3) as rating,
    case when u(n, 'gift') < 0.1 then 'yes' when u(n, 'gift') < 0.9 then 'no' else '' end as gift,
    case when u(n, 'note') < 0.6 then null else 'call ' || cast(cast(u(n, 'who') * 5000 as integer) as varchar) || ' before noon' end as note,
    strftime(timestamp '2024-01-01' + to_seconds(cast(u(n, 'when') * 60000000 as bigint)) + again * interval 1 hour, '%Y-%m-%d %H:%M:%S') as updated_at
from (
    select n, again, date '2024-01-01' + cast(u(n, 'day') * 720 as integer) as day
    from (select range as n, 0 as again from range(ROWS)
          union all select range, case when u(range, 'other') < 0.5 then 1 else 0 end from range(ROWS) where u(range, 'twice') < 0.03)
)
"""


def main(rows: int, folder: Path) -> None:
    """Write both files; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [file for file in (folder / "orders.parquet", folder / "orders.csv") if not file.exists()]
    connection = duckdb.connect(config={"memory_limit": "1500MB", "temp_directory": str(folder / "spill")})
    connection.execute(SETTINGS)
    table = TABLE.replace("ROWS", str(rows))
    for file in wanted:
        kind = "format parquet, compression zstd" if file.suffix == ".parquet" else "format csv, header"
        beside = file.with_suffix(".writing")
        connection.execute(f"copy ({table}) to '{beside}' ({kind})")
        beside.replace(file)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
