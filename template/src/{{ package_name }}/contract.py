"""What a record is: one declaration for the bulk checks, the request and the data card.

A record is an invoice on the morning of the day it falls due. The question is whom to call; the outcome,
whether the invoice was still unpaid 30 days later, is known when those 30 days are over.
"""

from harness.pilot import Choice, Contract, Field, Rule

SEGMENTS = ("construction", "manufacturing", "public", "retail", "services")
COUNTRIES = ("AT", "DE", "ES", "FR", "GB", "IT", "NL", "PL")

contract = Contract(
    key="invoice_id",
    entity="account_no",
    event_time="due_on",
    label="late",
    label_arrives_after_days=30,
    # Calling a punctual customer costs minutes, missing a late one costs money: hence below one half.
    decision=Choice(above="call", below="wait", threshold=0.3),
    groups=("segment", "country"),
    fields=(
        Field("invoice_id", "text", "The invoice's number in the ERP", vouched_by="accounts receivable"),
        Field(
            "account_no",
            "text",
            "The customer's number, the same in ERP and CRM",
            vouched_by="sales operations",
        ),
        Field("due_on", "date", "The day on which payment was agreed", vouched_by="accounts receivable"),
        Field(
            "amount_eur",
            "number",
            "The invoice's gross amount",
            unit="EUR",
            low=0.01,
            high=50_000_000,
            vouched_by="accounts receivable",
        ),
        Field(
            "terms_days",
            "integer",
            "Days from issue to due date",
            unit="days",
            low=0,
            high=180,
            vouched_by="accounts receivable",
        ),
        Field(
            "due_month",
            "integer",
            "The month of the due date",
            low=1,
            high=12,
            vouched_by="accounts receivable",
        ),
        Field(
            "segment",
            "text",
            "The customer's industry",
            categories=SEGMENTS,
            required=False,
            vouched_by="sales operations",
        ),
        Field(
            "country",
            "text",
            "The customer's country, ISO 3166-1",
            categories=COUNTRIES,
            required=False,
            vouched_by="sales operations",
        ),
        Field(
            "credit_limit_eur",
            "number",
            "The credit that was granted",
            unit="EUR",
            low=0,
            high=100_000_000,
            required=False,
            vouched_by="credit control",
        ),
        Field(
            "customer_months",
            "integer",
            "Whole months since the account was opened",
            unit="months",
            low=0,
            high=1_200,
            required=False,
            vouched_by="sales operations",
        ),
        Field(
            "prior_invoices",
            "integer",
            "The customer's invoices whose outcome was known on the due date",
            low=0,
            high=10_000_000,
            vouched_by="accounts receivable",
        ),
        Field(
            "prior_late_share",
            "number",
            "The share of those that were late",
            low=0,
            high=1,
            required=False,
            vouched_by="accounts receivable",
        ),
    ),
    rules=(
        Rule(
            "share_needs_history",
            lambda it: (it["prior_invoices"] > 0) | it["prior_late_share"].isnull(),
            "Only a customer with earlier invoices has a share of late ones",
            vouched_by="accounts receivable",
            mend="See with_history() in sources.py.",
        ),
    ),
)
