"""Mistakes with outcomes, and with what is watched."""

from __future__ import annotations

from mistakes.options import wrote
from mistakes.planted import Mistake, Pilot, edited

DOCUMENT = "governance/monitoring.yaml"
MISSING = "measure: missing_share\n    over: all\n    threshold: "


def broken_monitors(pilot: Pilot) -> None:
    pilot.edit("monitors.py", "return measured", "return measured[0]")


MISTAKES = (
    Mistake(
        "outcomes in a spreadsheet",
        ("outcomes", "paid.xlsx"),
        (
            "paid.xlsx: '.xlsx' is no kind of file that outcomes are read from",
            "Bring .csv, .jsonl or .parquet",
        ),
        wrote("paid.xlsx", ""),
    ),
    Mistake(
        "outcomes in a file that is not there",
        ("outcomes", "paid.csv"),
        ("paid.csv: cannot be read: No such file", "Name a readable file"),
    ),
    Mistake(
        "outcomes without the column of the outcome",
        ("outcomes", "paid.csv"),
        ("paid.csv: there is no column 'late'", "It takes invoice_id and late"),
        wrote("paid.csv", "invoice_id,paid_late\n1,true\n"),
    ),
    Mistake(
        "a moment to look back from that is none",
        ("monitor", "--now", "yesterday"),
        ("--now: 'yesterday' is no moment", "Write it as 2026-01-31T12:00:00Z"),
    ),
    Mistake(
        "watching before there is a model",
        ("monitor",),
        ("no model is named", "Run `pilot run`"),
        code=3,
    ),
    Mistake(
        "a threshold that is no number",
        ("monitor",),
        (f"{DOCUMENT} signals.1.threshold: a number is wanted, not 'low'", "Correct it"),
        edited(DOCUMENT, f"{MISSING}0.05", f"{MISSING}low"),
        trained=True,
    ),
    Mistake(
        "a misspelt field to watch",
        ("monitor",),
        (f"{DOCUMENT} input-drift.over: 'amont_eur' cannot be watched", "Use some of", "amount_eur"),
        edited(DOCUMENT, "measure: psi\n    over: all", "measure: psi\n    over: [amont_eur]"),
        trained=True,
    ),
    Mistake(
        "an error in monitors.py",
        ("monitor",),
        ("monitors.py line", "IndexError", "Correct it"),
        broken_monitors,
        code=1,
        trained=True,
    ),
)
