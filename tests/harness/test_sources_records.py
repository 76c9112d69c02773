"""The example's sources.py reads every format, forgives what it cannot read, and never looks ahead."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.simulate import Parameters, Target, csv_relation, fingerprint, simulate
from harness.simulate.embedded import server

TEMPLATE = Path(__file__).parents[2] / "template"
COLUMNS = {
    "invoice_id": "string",
    "account_no": "string",
    "due_on": "date",
    "amount_eur": "float64",
    "terms_days": "int64",
    "due_month": "int32",
    "segment": "string",
    "country": "string",
    "credit_limit_eur": "float64",
    "customer_months": "int64",
    "prior_invoices": "int64",
    "prior_late_share": "float64",
    "late": "boolean",
}
Rows = list[dict[str, Any]]


def _loaded() -> Any:
    spec = importlib.util.spec_from_file_location(
        "example_sources", TEMPLATE / "src" / "{{ package_name }}" / "sources.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sources = _loaded()

SCHEMAS = {
    "invoices": dict.fromkeys(("invoice_id", "account_no", "issued_on", "due_on", "amount"), "string")
    | {"updated_at": "timestamp"},
    "payments": dict.fromkeys(("payment_id", "invoice_id", "paid_on", "amount"), "string")
    | {"updated_at": "timestamp"},
    "accounts": dict.fromkeys(
        (
            "account_no",
            "AccountNumber",
            "account_id",
            "segment",
            "Industry",
            "country",
            "credit_limit",
            "CreditLimitEUR",
            "opened_on",
            "_file",
        ),
        "string",
    ),
}


def invoice(number: str, due: str = "2025-03-07", account: str = "A-1", **more: Any) -> dict[str, Any]:
    values = {"issued_on": "2025-02-05", "amount": "EUR 100.00", "updated_at": datetime(2025, 2, 5)}
    return {"invoice_id": number, "account_no": account, "due_on": due, **values, **more}


def payment(number: str, invoice_id: str, paid_on: str, **more: Any) -> dict[str, Any]:
    values = {"amount": "EUR 100.00", "updated_at": datetime(2025, 2, 6)}
    return {"payment_id": number, "invoice_id": invoice_id, "paid_on": paid_on, **values, **more}


def clock(moment: datetime) -> dict[str, Any]:
    """A row that says how far the ERP's knowledge reaches."""
    return payment("CLOCK", "none", "2020-01-01", updated_at=moment)


def records(invoices: Rows, payments: Rows = (), accounts: Rows = ()) -> dict[str, dict[str, Any]]:  # type: ignore[assignment]
    connection = ibis.duckdb.connect()
    given_rows = {"invoices": invoices, "payments": payments, "accounts": accounts}
    tables = {}
    for name, schema in SCHEMAS.items():
        complete = [{column: row.get(column) for column in schema} for row in given_rows[name]]
        tables[name] = connection.create_table(name, ibis.memtable(complete, schema=ibis.schema(schema)))
    rows = connection.to_pyarrow(sources.records(tables)).to_pylist()
    connection.disconnect()
    return {row["invoice_id"]: row for row in rows}


LATER = clock(datetime(2026, 1, 1))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2025-03-07", date(2025, 3, 7)),
        ("07.03.2025", date(2025, 3, 7)),
        ("03/07/2025", date(2025, 3, 7)),
        ("  2025-03-07 ", date(2025, 3, 7)),
        ("2024-02-29", date(2024, 2, 29)),
        ("2025-02-29", None),
        ("2025-13-01", None),
        ("31.13.2025", None),
        ("7.3.2025", None),
        ("20250307", None),
        ("2025-3-007", None),
        ("March 7th!", None),
        ("07-03-2025", None),
        ("", None),
        (None, None),
    ],
)
def test_days(written: str | None, expected: date | None) -> None:
    assert records([invoice("R", written)], [LATER])["R"]["due_on"] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("EUR 1,234.56", 1234.56),
        ("1.234,56 €", 1234.56),
        ("1.234.567,89 €", 1234567.89),
        ("EUR 1,234,567.89", 1234567.89),
        ("USD 1234.56", 1234.56 * 0.92),
        ("£99.00", 99.0 * 1.17),
        ("$5.00", 5 * 0.92),
        ("eur 12.00", 12.0),
        (" EUR 1234 ", 1234.0),
        ("EUR -12.50", -12.5),
        ("12,50 €", 12.5),
        ("EUR 1.234", None),
        ("1234.56", None),
        ("CHF 12.00", None),
        ("EUR twelve", None),
        ("EUR", None),
        ("EUR 1.2.3,4.5", None),
        ("", None),
        (None, None),
    ],
)
def test_money(written: str | None, expected: float | None) -> None:
    assert records([invoice("R", amount=written)], [LATER])["R"]["amount_eur"] == pytest.approx(expected)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=14), min_size=1
    )
)
def test_no_text_makes_it_fail(texts: list[str]) -> None:
    rows = [invoice(f"R{i}", text, text, issued_on=text, amount=text) for i, text in enumerate(texts)]
    paid = [payment(f"P{i}", f"R{i}", text) for i, text in enumerate(texts)]
    account = [dict.fromkeys(SCHEMAS["accounts"], text) for text in texts]
    assert len(records(rows, paid, account)) == len(texts)


def test_the_columns_are_the_contracts() -> None:
    connection = ibis.duckdb.connect()
    tables = {
        name: connection.create_table(name, schema=ibis.schema(schema)) for name, schema in SCHEMAS.items()
    }
    built = sources.records(tables)
    assert {name: str(kind) for name, kind in built.schema().items()} == COLUMNS
    assert connection.to_pyarrow(built).num_rows == 0


def test_the_latest_load_wins_and_nothing_comes_twice() -> None:
    old = invoice("R", amount="EUR 1.00", updated_at=datetime(2025, 2, 5, 8))
    new = invoice("R", amount="EUR 2.00", updated_at=datetime(2025, 2, 5, 9))
    paid = payment("P", "R", "2025-06-01", updated_at=datetime(2025, 6, 1))
    corrected = payment("P", "R", "2025-03-01", updated_at=datetime(2025, 6, 2))
    found = records([new, old, new, old], [corrected, paid, paid, LATER])
    assert list(found) == ["R"]
    assert found["R"]["amount_eur"] == 2.0
    assert found["R"]["late"] is False


@pytest.mark.parametrize(
    ("paid_on", "known", "late"),
    [
        (["2025-04-06"], datetime(2025, 4, 7), False),
        (["2025-04-07"], datetime(2025, 4, 7), True),
        ([], datetime(2025, 4, 7), True),
        # Until the last day has ended it may still be paid.
        ([], datetime(2025, 4, 6, 23), None),
        (["2025-04-06"], datetime(2025, 4, 6, 23), None),
        (["2025-03-01"], datetime(2025, 4, 5), None),
        (["2025-05-01", "2025-03-01"], datetime(2025, 6, 1), False),
        (["unreadable"], datetime(2025, 6, 1), None),
        (["unreadable", "2025-03-01"], datetime(2025, 6, 1), False),
    ],
)
def test_late_is_unpaid_thirty_days_after_the_due_date(
    paid_on: list[str], known: datetime, late: bool | None
) -> None:
    paid = [payment(f"P{i}", "R", day) for i, day in enumerate(paid_on)]
    assert records([invoice("R", "2025-03-07")], [*paid, clock(known)])["R"]["late"] is late


def test_an_unreadable_payment_booked_after_the_deadline_was_not_in_time() -> None:
    booked = {"R": datetime(2025, 4, 6, 9), "S": datetime(2025, 4, 7, 9)}
    paid = [payment(f"P{name}", name, "unreadable", updated_at=at) for name, at in booked.items()]
    found = records([invoice("R"), invoice("S")], [*paid, LATER])
    assert (found["R"]["late"], found["S"]["late"]) == (None, True)


def test_an_account_is_as_its_newest_file_says_under_any_name() -> None:
    accounts = [
        {
            "account_no": "A-1",
            "segment": "public",
            "country": "FR",
            "credit_limit": "5.0",
            "_file": "accounts_2021.csv",
        },
        {
            "account_id": " a-1 ",
            "Industry": "RETAIL ",
            "country": " de",
            "CreditLimitEUR": "900.0",
            "opened_on": "08.01.2025",
            "_file": "accounts_2025.csv",
        },
        {
            "AccountNumber": "A-2",
            "segment": "fishing",
            "country": "Narnia",
            "credit_limit": "much",
            "_file": "accounts_2023.csv",
        },
    ]
    found = records(
        [invoice("R", account="a-1  "), invoice("S", account="A-2"), invoice("T", account="?")],
        [LATER],
        accounts,
    )
    read = [
        tuple(found[n][c] for c in ("account_no", "segment", "country", "credit_limit_eur")) for n in "RST"
    ]
    assert read == [("A-1", "retail", "DE", 900.0), ("A-2", None, None, None), ("?", None, None, None)]
    assert found["R"]["customer_months"] == 1
    assert found["R"]["terms_days"] == 30
    assert found["R"]["due_month"] == 3


def account(year: int, limit: float, **more: Any) -> dict[str, Any]:
    """An account's row in a year's file, under the names of that year."""
    values = {"segment": "retail", "country": "DE", "_file": f"accounts_{year}.csv", **more}
    return {"account_no": "A-1", "credit_limit": str(limit), **values}


def test_an_account_is_as_it_was_known_on_the_due_date() -> None:
    files = [account(2023, 300.0), account(2025, 500.0, segment="public", country="FR")]
    days = ["2022-12-31", "2023-01-01", "2024-06-30", "2024-12-31", "2025-01-01", "2026-06-30"]
    rows = [invoice(f"R{i}", day) for i, day in enumerate(days)]
    found = records([*rows, invoice("S", "unreadable")], [LATER], files)
    known = [tuple(found[f"R{i}"][c] for c in ("credit_limit_eur", "segment", "country")) for i in range(6)]
    first, second = (300.0, "retail", "DE"), (500.0, "public", "FR")
    assert known == [(None, None, None), first, first, first, second, second]
    assert found["S"]["credit_limit_eur"] is None


def test_a_file_of_a_later_year_changes_no_earlier_record() -> None:
    rows = [invoice(f"R{month}", f"2025-{month:02}-15") for month in range(1, 13)]
    before = records(rows, [LATER], [account(2024, 400.0)])
    assert records(rows, [LATER], [account(2024, 400.0), account(2026, 1.0, country="FR")]) == before


def test_history_holds_only_what_was_known_on_the_due_date() -> None:
    # The first may be paid until 31 January has ended: who is called that morning cannot know.
    days = ["2025-01-01", "2025-01-31", "2025-02-01", "2025-03-03", "2025-03-04"]
    rows = [invoice(f"R{i}", day) for i, day in enumerate(days)]
    other = invoice("S", "2025-06-01", "A-2")
    found = records([*rows, other], [payment("P", "R1", "2025-02-01"), LATER])
    assert [found[f"R{i}"]["prior_invoices"] for i in range(5)] == [0, 0, 1, 2, 3]
    assert [found[f"R{i}"]["prior_late_share"] for i in range(5)] == [None, None, 1.0, 0.5, 2 / 3]
    assert (found["S"]["prior_invoices"], found["S"]["prior_late_share"]) == (0, None)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 19))
def test_a_later_payment_changes_no_earlier_record(seed: int, changed: int) -> None:
    chance = random.Random(seed)
    start = date(2025, 1, 1)
    due = [start + timedelta(days=chance.randrange(200)) for _ in range(20)]
    rows = [invoice(f"R{i}", str(day), chance.choice(["A-1", "A-2"])) for i, day in enumerate(due)]
    paid = [due[i] + timedelta(days=chance.randrange(-5, 60)) for i in range(20)]

    def with_payments(days: list[date | None]) -> dict[str, dict[str, Any]]:
        return records(
            rows, [*(payment(f"P{i}", f"R{i}", str(day)) for i, day in enumerate(days) if day), LATER]
        )

    before = with_payments(list(paid))
    # What happens to one invoice is not known before the 31st day after its due date, whatever it is.
    after = with_payments([None if i == changed else day for i, day in enumerate(paid)])
    known_on = due[changed] + timedelta(days=31)
    for i, day in enumerate(due):
        if day < known_on:
            first, second = dict(before[f"R{i}"]), dict(after[f"R{i}"])
            if i == changed:
                first.pop("late"), second.pop("late")
            assert first == second


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return filled(tmp_path_factory.mktemp("simulated"), 10_000)


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return filled(tmp_path_factory.mktemp("smaller"), 3_000)


def filled(folder: Path, rows: int) -> Mapping[str, Any]:
    """The example's sources as ingest reads them: Arrow batches from PostgreSQL, files as text."""
    parameters = Parameters.of("production", rows=rows)
    with server(folder / "pg") as url:
        targets = {"erp": Target("postgres", url), "crm": Target("csv", str(folder / "crm"))}
        manifest = simulate(TEMPLATE / "simulation.yaml", parameters, targets, lambda *_: None)
        source = ibis.connect(url)
        content = {name: source.table(name).to_pyarrow() for name in ("invoices", "payments")}
        source.disconnect()
    connection = ibis.duckdb.connect()
    files = csv_relation(str(folder / "crm" / "accounts_*.csv"))
    content["accounts"] = connection.con.execute(
        f"select * exclude (filename), parse_filename(filename) as _file"
        f" from {files.removesuffix(')')}, filename = true)"
    ).to_arrow_table()
    for name in ("invoices", "payments"):
        connection.con.register(name, content[name])
        assert fingerprint(connection.con, name) == manifest.tables[name]
    assert fingerprint(connection.con, files) == manifest.tables["accounts"]
    connection.disconnect()
    return content


def run(content: Mapping[str, Any], threads: int, seed: int | None = None) -> list[dict[str, Any]]:
    connection = ibis.duckdb.connect(threads=threads)
    tables = {}
    for name, table in content.items():
        if seed is not None:
            order = list(range(table.num_rows))
            random.Random(seed).shuffle(order)
            table = table.take(order)
        tables[name] = connection.create_table(name, table)
    rows = connection.to_pyarrow(sources.records(tables)).to_pylist()
    connection.disconnect()
    return sorted(rows, key=lambda row: str(row["invoice_id"]))


def test_simulated_sources_become_usable_records(simulated: Mapping[str, Any]) -> None:
    rows = run(simulated, 2)
    assert len(rows) == 10_000
    for needed in ("invoice_id", "account_no", "due_on", "terms_days", "due_month"):
        assert all(row[needed] is not None for row in rows), needed
    # Some amounts are lost, for the quarantine to have something; far fewer than stop a run.
    assert 0 < sum(row["amount_eur"] is None for row in rows) / len(rows) < 0.01
    for name in ("segment", "country", "credit_limit_eur", "customer_months"):
        share = sum(row[name] is None for row in rows) / len(rows)
        assert 0.1 < share < 0.5, name
    known = [row["late"] for row in rows if row["late"] is not None]
    assert 0.15 < sum(known) / len(known) < 0.25
    assert 0.02 < 1 - len(known) / len(rows) < 0.2
    assert all(row["customer_months"] is None or row["customer_months"] >= 0 for row in rows)


def test_the_same_input_gives_the_same_records(simulated: Mapping[str, Any]) -> None:
    expected = run(simulated, 2)
    assert run(simulated, 1, seed=1) == expected
    assert run(simulated, 2, seed=2) == expected


FEATURES = [name for name in COLUMNS if name != "late"]


@pytest.mark.parametrize("cut", [date(2025, 1, 1), date(2025, 7, 15), date(2025, 12, 31), date(2026, 1, 1)])
def test_what_happens_from_a_day_on_changes_no_record_of_before(
    smaller: Mapping[str, Any], cut: date
) -> None:
    """The systems as they were on the morning of a day say the same of invoices due before it."""
    midnight = datetime.combine(cut, datetime.min.time())
    invoices, payments = (
        table.filter(pc.less(table["updated_at"], midnight))
        for table in (smaller["invoices"], smaller["payments"])
    )
    dropped = pc.less_equal(smaller["accounts"]["_file"], f"accounts_{cut.year}.csv")
    then = {"invoices": invoices, "payments": payments, "accounts": smaller["accounts"].filter(dropped)}
    assert then["payments"].num_rows < smaller["payments"].num_rows

    assert _due_before(cut, then) == _due_before(cut, smaller)


@pytest.mark.parametrize("paid_on", ["2025-07-15", "unreadable", None])
def test_no_later_payment_or_file_changes_a_record_of_before(
    smaller: Mapping[str, Any], paid_on: str | None
) -> None:
    """Whatever is booked from a day on, and whatever a later file says."""
    cut = date(2025, 7, 15)
    payments, accounts = smaller["payments"], smaller["accounts"]
    later = pc.greater_equal(payments["updated_at"], datetime.combine(cut, datetime.min.time()))
    changed = pc.if_else(later, pa.scalar(paid_on, "string"), payments["paid_on"])
    place = payments.schema.get_field_index("paid_on")
    payments = payments.set_column(place, "paid_on", changed)
    newer = pc.greater(accounts["_file"], f"accounts_{cut.year}.csv")
    for name in ("CreditLimitEUR", "country"):
        place = accounts.schema.get_field_index(name)
        accounts = accounts.set_column(
            place, name, pc.if_else(newer, pa.scalar("1", "string"), accounts[name])
        )
    other = {**smaller, "payments": payments, "accounts": accounts}

    assert _due_before(cut, other) == _due_before(cut, smaller)


def _due_before(cut: date, content: Mapping[str, Any]) -> Rows:
    found = [{name: row[name] for name in FEATURES} for row in run(content, 2) if row["due_on"] < cut]
    assert len(found) > 300
    return found
