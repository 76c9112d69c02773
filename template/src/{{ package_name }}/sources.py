"""Where the data comes from, and how it becomes records: one record for each invoice.

Two systems are read as they are. The ERP keeps dates and money as text in several formats and loads some rows
twice. It also says when each row was changed, so only what is new is read, and of each row the newest version
counts. The CRM drops one file a year and renames its columns now and then. What cannot be read becomes null:
the contract says which nulls are allowed.

A record is an invoice on the morning of its due date, and holds only what was known then. The CRM drops the
file of a year when that year begins, so an invoice due in 2025 sees no file of 2026. Whether an
earlier invoice was paid in time counts only once its time had run out, the last day included.

The order of work matters: parse the text first and look across rows last, and read dates by position, not by
regular expressions. On ten million rows that is seven times faster.
"""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir

from harness.pilot import Expectation, Table

tables = (
    Table("invoices", system="erp", key="invoice_id", watermark="updated_at"),
    Table("payments", system="erp", key="payment_id", watermark="updated_at"),
    Table("accounts", system="crm", files="accounts_*.csv"),
)

# An invoice is late when it is still unpaid at the end of this day after its due date: known the day after.
KNOWN_AFTER_DAYS = 30

EURO_FOR_ONE = {"EUR": 1.0, "€": 1.0, "USD": 0.92, "$": 0.92, "GBP": 1.17, "£": 1.17}
SEGMENTS = ("retail", "manufacturing", "services", "public", "construction")
COUNTRIES = ("AT", "BE", "CH", "DE", "ES", "FR", "GB", "IT", "NL", "PL")


def records(tables: Mapping[str, ir.Table]) -> ir.Table:
    """Join the systems' tables into one record for each invoice; ``late`` is null while unknowable."""
    invoices, payments, accounts = tables["invoices"], tables["payments"], tables["accounts"]
    loads = ibis.union(invoices.select("updated_at"), payments.select("updated_at"))
    seen = loads.updated_at.max().as_scalar()
    bills = billed(invoices)
    joined = (
        bills.left_join(settled(payments), "invoice_id")
        .drop("invoice_id_right")
        .left_join(customers(accounts, bills.select("due_year").distinct()), ("account_no", "due_year"))
        .drop("account_no_right", "due_year_right")
    )
    return with_history(with_outcome(joined, seen.date())).select(
        "invoice_id",
        "account_no",
        "due_on",
        "amount_eur",
        terms_days=ibis._.due_day - ibis._.issued_on.epoch_days(),
        due_month=ibis._.due_on.month(),
        segment=ibis._.segment,
        country=ibis._.country,
        credit_limit_eur=ibis._.credit_limit_eur,
        customer_months=whole_months(ibis._.opened_on, ibis._.due_on),
        prior_invoices=ibis._.prior_invoices,
        prior_late_share=ibis._.prior_late / ibis._.prior_invoices.nullif(0),
        late=ibis._.late,
    )


def expectations(tables: Mapping[str, ir.Table]) -> tuple[Expectation, ...]:
    """What holds between the systems' tables before they are joined."""
    billed = tables["invoices"].select(invoice_id=tables["invoices"].invoice_id.strip())
    paid = tables["payments"].select(invoice_id=tables["payments"].invoice_id.strip())
    return (
        Expectation(
            "payments_have_invoices",
            paid.anti_join(billed, "invoice_id"),
            "A payment is for an invoice of the same ERP",
            vouched_by="accounts receivable",
            mend="Ask for the invoices that are missing: an extract that broke off looks like this.",
        ),
    )


def billed(invoices: ir.Table) -> ir.Table:
    """The ERP's invoices, parsed, each once."""
    parsed = invoices.select(
        invoice_id=invoices.invoice_id.strip(),
        account_no=invoices.account_no.strip().upper(),
        issued_on=day(invoices.issued_on),
        due_on=day(invoices.due_on),
        amount_eur=money(invoices.amount),
        updated_at=invoices.updated_at,
    )
    return latest(parsed, "invoice_id", by="updated_at").mutate(
        due_day=ibis._.due_on.epoch_days(), due_year=ibis._.due_on.year()
    )


def settled(payments: ir.Table) -> ir.Table:
    """For each paid invoice: the first day that can be read, and when one was booked that cannot be read."""
    parsed = payments.select(
        payment_id=payments.payment_id.strip(),
        invoice_id=payments.invoice_id.strip(),
        paid_on=day(payments.paid_on),
        booked_on=payments.updated_at.date(),
        updated_at=payments.updated_at,
    )
    return latest(parsed, "payment_id", by="updated_at").aggregate(
        by="invoice_id",
        paid_on=ibis._.paid_on.min(),
        unreadable_on=ibis._.booked_on.min(where=ibis._.paid_on.isnull()),
    )


def customers(accounts: ir.Table, years: ir.Table) -> ir.Table:
    """The CRM's accounts as they were known in each year: from the newest file that was dropped by then.

    A column is looked up under each name it has had.
    """
    parsed = accounts.select(
        account_no=renamed(accounts, "account_no", "AccountNumber", "account_id").strip().upper(),
        segment=known(renamed(accounts, "segment", "Industry").strip().lower(), SEGMENTS),
        country=known(accounts.country.strip().upper(), COUNTRIES),
        credit_limit_eur=renamed(accounts, "credit_limit", "CreditLimitEUR").strip().try_cast("float64"),
        opened_on=day(accounts.opened_on),
        file_year=accounts["_file"].replace("accounts_", "").replace(".csv", "").try_cast("int32"),
    )
    dropped = parsed.join(years, parsed.file_year <= years.due_year)
    return latest(dropped, "account_no", "due_year", by="file_year")


def with_outcome(invoices: ir.Table, seen: ir.DateScalar) -> ir.Table:
    """Add ``late``: null until the deadline has passed, and where an unreadable payment may have met it."""
    deadline = invoices.due_day + KNOWN_AFTER_DAYS
    in_time = (invoices.unreadable_on.epoch_days() <= deadline).fill_null(False)
    unclear = invoices.paid_on.isnull() & in_time
    known_by_now = (deadline < seen.epoch_days()) & ~unclear
    unpaid = invoices.paid_on.isnull() | (invoices.paid_on.epoch_days() > deadline)
    return invoices.mutate(late=known_by_now.ifelse(unpaid, ibis.null("boolean")))


def with_history(invoices: ir.Table) -> ir.Table:
    """Add what was known of the account on the due date: outcomes whose deadline had passed the day before.

    It takes a payment's date for the day on which it was known: the ERP keeps no earlier state of its rows.
    """
    known_then = ibis.range_window(
        group_by="account_no", order_by="due_day", preceding=(None, KNOWN_AFTER_DAYS + 1)
    )
    return invoices.mutate(
        prior_invoices=invoices.late.count().over(known_then),
        prior_late=invoices.late.cast("int64").sum().over(known_then),
    )


def latest(table: ir.Table, *key: str, by: str) -> ir.Table:
    """The newest row of each key. Rows equally new are told apart by their content, never by their order."""
    rest = [table[name] for name in table.columns if name not in (*key, by)]
    newest = ibis.window(group_by=key, order_by=[ibis.desc(by), *rest])
    return table.mutate(_rank=ibis.row_number().over(newest)).filter(ibis._["_rank"] == 0).drop("_rank", by)


def renamed(table: ir.Table, *names: str) -> ir.StringValue:
    """A column that has had several names: each row has it under one of them."""
    return ibis.coalesce(ibis.null("string"), *(table[name] for name in names if name in table.columns))


def known(value: ir.StringValue, values: tuple[str, ...]) -> ir.StringValue:
    """The value if it is one of the list, else null."""
    return value.isin(values).ifelse(value, ibis.null("string"))


def day(written: ir.StringValue) -> ir.DateValue:
    """A date written as 2025-03-07, 07.03.2025 or 03/07/2025; null for anything else."""
    text = written.strip()
    first, second, last = text.substr(0, 2), text.substr(3, 2), text.substr(6, 4)
    iso = ibis.cases(
        (text.like("____-__-__"), text),
        (text.like("__.__.____"), last + "-" + second + "-" + first),
        (text.like("__/__/____"), last + "-" + first + "-" + second),
    )
    return iso.try_cast("date")


def money(written: ir.StringValue) -> ir.FloatingValue:
    """Euros from EUR 1,234.56, 1.234,56 €, USD 1234.56 or £99.00; null for anything else.

    ``1.234`` is null as well: a thousand to some, one and a bit to others.
    """
    text = written.strip().upper()
    rate = ibis.cases(*((text.contains(sign), rate) for sign, rate in EURO_FOR_ONE.items()))
    number = text.translate("EURUSDGBP€$£ ", "")
    plain = ibis.cases(
        (number.like("%.__"), number.replace(",", "")),
        (number.like("%,__"), number.replace(".", "").replace(",", ".")),
        (number.contains(".") | number.contains(","), ibis.null("string")),
        else_=number,
    )
    return plain.try_cast("float64") * rate


def whole_months(start: ir.DateValue, end: ir.DateValue) -> ir.IntegerValue:
    """Whole months between two days."""
    months = (end.year() - start.year()) * 12 + end.month() - start.month()
    return months - (end.day() < start.day()).cast("int64")
