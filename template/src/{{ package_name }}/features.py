"""From a record to the numbers that the model sees: the same expressions in training and in serving.

Light and row by row. Cleaning, joining and date arithmetic belong in sources.py and arrive here as numbers.
"""

import narwhals as nw

from .contract import COUNTRIES, SEGMENTS


def features() -> dict[str, nw.Expr]:
    """Each feature's name and its expression; an absent value stays absent, and the model copes with it."""
    amount = nw.col("amount_eur")
    limit = nw.col("credit_limit_eur")
    known = nw.col("prior_invoices")
    return {
        "amount_eur": amount,
        "limit_used": nw.when(limit >= 1).then(amount / nw.when(limit >= 1).then(limit).otherwise(1.0)),
        "terms_days": nw.col("terms_days"),
        "due_month": nw.col("due_month"),
        "customer_months": nw.col("customer_months"),
        "prior_invoices": known,
        "prior_late_share": nw.col("prior_late_share"),
        "segment": _code("segment", SEGMENTS),
        "country": _code("country", COUNTRIES),
    }


def _code(column: str, values: tuple[str, ...]) -> nw.Expr:
    """A category's place in its list, from 0; absent when it is absent or not in the list."""
    return nw.col(column).replace_strict(values, range(len(values)), default=None, return_dtype=nw.Float64)
