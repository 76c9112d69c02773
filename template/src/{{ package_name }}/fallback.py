"""The decision without any model: the rule that a collections clerk works by.

It decides whenever the model is stopped, fails or is not allowed to, and it is what the model must beat.
"""

from harness.pilot import Answer, Reason, Record

LATE_SHARE = 1 / 3
LARGE_EUR = 10_000


def decide(record: Record) -> Answer:
    """Call those who were late before, and new customers with a large invoice; wait for everybody else."""
    prior, late, amount = record["prior_invoices"], record["prior_late_share"], record["amount_eur"]
    if prior and late is not None:
        habit = Reason("late before", round(late, 2))
        return Answer("call" if late >= LATE_SHARE else "wait", (habit,))
    if amount >= LARGE_EUR:
        return Answer("call", (Reason("new customer with a large invoice", amount),))
    return Answer("wait", (Reason("no history", prior),))
