"""Yours: what the consumer gets at one end is what the source systems hold at the other.

Each invoice is looked up in the ERP by SQL, and its customer in the CRM's files, read here by other code than
sources.py. The fixtures are those of harness.testing. Write the same of your own systems.
"""

import csv
import re
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.data.extract import embedded_folder
from harness.simulate import embedded
from harness.testing import Consumer, PilotCopy

INVOICES = 25
EURO_FOR_ONE = {"EUR": Decimal(1), "€": Decimal(1), "USD": Decimal("0.92"), "$": Decimal("0.92")}
EURO_FOR_ONE |= {"GBP": Decimal("1.17"), "£": Decimal("1.17")}
Row = dict[str, Any]


@pytest.fixture
def erp(pilot_copy: PilotCopy) -> dict[str, list[Row]]:
    """The ERP's tables as they stand there, oldest load first."""
    with (
        embedded.server(embedded_folder(pilot_copy.settings, "erp")) as url,
        psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection,
    ):
        return {
            name: connection.execute(f"select * from {name} order by updated_at").fetchall()
            for name in ("invoices", "payments")
        }


def test_what_the_erp_and_the_crm_hold_arrives_at_the_consumer(
    pilot_copy: PilotCopy, serve: Callable[..., Any], consumer: Consumer, erp: dict[str, list[Row]]
) -> None:
    token = pilot_copy.token("end-to-end")
    service = serve(token, PILOT_SERVING__OPEN_IN_SANDBOX="false", **consumer.settings)
    answers = [service.decide(record) for record in pilot_copy.held_back(INVOICES)]

    arrived = {content["decision_id"]: content for content in consumer.received(INVOICES)}
    found = [arrived[answer["decision_id"]] for answer in answers]
    assert [content["decision"] for content in found] == [answer["decision"] for answer in answers]
    assert {content["decision"] for content in found} <= {"call", "wait"}
    records = [content["record"] for content in found]
    invoices = {row["invoice_id"].strip(): row for row in erp["invoices"]}  # the newest load of each
    paid = paid_on(erp["payments"])
    for record in records:
        expected = in_the_erp(invoices[record["invoice_id"]])
        expected |= in_the_crm(pilot_copy.root / "var" / "sources" / "crm", expected)
        expected |= history(list(invoices.values()), paid, expected)
        assert record == pytest.approx(expected), record["invoice_id"]
    # What is compared is there to be compared.
    for name in ("segment", "country", "credit_limit_eur", "customer_months", "prior_late_share"):
        assert any(record[name] is not None for record in records), name


def in_the_erp(row: Row) -> Row:
    """What the invoice itself says."""
    issued, due = day(row["issued_on"]), day(row["due_on"])
    return {
        "invoice_id": row["invoice_id"].strip(),
        "account_no": row["account_no"].strip().upper(),
        "due_on": due.isoformat(),
        "amount_eur": float(euros(row["amount"])),
        "terms_days": (due - issued).days,
        "due_month": due.month,
    }


def in_the_crm(folder: Path, invoice: Row) -> Row:
    """What the newest file that was there when the invoice fell due says of its customer."""
    due = date.fromisoformat(invoice["due_on"])
    names = {
        "account_no": ("account_no", "AccountNumber", "account_id"),
        "segment": ("segment", "Industry"),
        "credit_limit": ("credit_limit", "CreditLimitEUR"),
        "country": ("country",),
        "opened_on": ("opened_on",),
    }
    customer = dict.fromkeys(names, "")
    for file in sorted(folder.glob("accounts_*.csv")):
        if int(file.stem.removeprefix("accounts_")) > due.year:
            break
        with file.open(encoding="utf-8", newline="") as stream:
            for line in csv.DictReader(stream):
                read = {
                    ours: next(line[each] for each in theirs if each in line).strip()
                    for ours, theirs in names.items()
                }
                if read["account_no"].upper() == invoice["account_no"]:
                    customer = read
    opened = day(customer["opened_on"]) if customer["opened_on"] else None
    months = None
    if opened is not None:
        months = (due.year - opened.year) * 12 + due.month - opened.month - (due.day < opened.day)
    return {
        "segment": customer["segment"].lower() or None,
        "country": customer["country"].upper() or None,
        "credit_limit_eur": float(customer["credit_limit"]) if customer["credit_limit"] else None,
        "customer_months": months,
    }


def history(invoices: list[Row], paid: dict[str, date], invoice: Row) -> Row:
    """How the customer's earlier invoices turned out, those whose 30 days were over on the due date."""
    due = date.fromisoformat(invoice["due_on"])
    late = []
    for row in invoices:
        deadline = day(row["due_on"]) + timedelta(days=30)
        if row["account_no"].strip().upper() == invoice["account_no"] and deadline < due:
            late.append(paid.get(row["invoice_id"].strip(), date.max) > deadline)
    return {"prior_invoices": len(late), "prior_late_share": sum(late) / len(late) if late else None}


def paid_on(payments: list[Row]) -> dict[str, date]:
    """The day on which each paid invoice was paid."""
    newest = {row["payment_id"].strip(): row for row in payments}
    found: dict[str, date] = {}
    for row in newest.values():
        number, paid = row["invoice_id"].strip(), day(row["paid_on"])
        found[number] = min(paid, found.get(number, paid))
    return found


def day(written: str) -> date:
    """A day written as 2025-03-07, 07.03.2025 or 03/07/2025."""
    first, second, third = re.split(r"[-./]", written.strip())
    if "-" in written:
        return date(int(first), int(second), int(third))
    if "." in written:
        return date(int(third), int(second), int(first))
    return date(int(third), int(first), int(second))


def euros(written: str) -> Decimal:
    """Euros from EUR 1,234.56, 1.234,56 €, USD 1234.56 or £99.00."""
    rate = next(rate for sign, rate in EURO_FOR_ONE.items() if sign in written)
    digits = re.sub(r"[^0-9.,]", "", written)
    whole, cents = re.fullmatch(r"([0-9.,]*?)(?:[.,]([0-9]{2}))?", digits).groups()
    return rate * Decimal(f"{re.sub(r'[.,]', '', whole)}.{cents or '00'}")
