"""Mistakes with batches, and with what became of a decision."""

from __future__ import annotations

from collections.abc import Callable

from mistakes.options import wrote
from mistakes.planted import Mistake, Pilot

BATCH = ("decide", "--batch")
HEAD = (
    "invoice_id,account_no,due_on,amount_eur,terms_days,due_month,segment,country,credit_limit_eur,"
    "customer_months,prior_invoices,prior_late_share"
)
ROW = "{},A-0000225,2026-03-15,489.78,30,3,retail,AT,3100.0,6,15,0.0"
A_BATCHS = "6f91c5bf-fb87-58e8-8579-b187cfbf629e"


def invoices(*names: str, head: str = HEAD) -> Callable[[Pilot], None]:
    return wrote("open.csv", "\n".join([head, *(ROW.format(name) for name in names), ""]))


def decided(pilot: Pilot, *options: str) -> None:
    invoices("R1", "R2")(pilot)
    done = pilot.here(*BATCH, "open.csv", "--id", "monday", *options)
    assert done.code == 0, done.stderr


def decided_before(pilot: Pilot) -> None:
    decided(pilot)
    invoices("R1", "R3")(pilot)


def somebody_elses(pilot: Pilot) -> None:
    decided(pilot)
    (pilot.root / "out").mkdir()
    (pilot.root / "out" / "monday-00000.csv").write_text("decision_id\n", encoding="utf-8")


def in_another_encoding(pilot: Pilot) -> None:
    (pilot.root / "open.csv").write_bytes(f"{HEAD},h\u00f6he\n".encode("latin-1"))


def a_folder(pilot: Pilot) -> None:
    (pilot.root / "in").mkdir()
    invoices("R1")(pilot)
    (pilot.root / "open.csv").rename(pilot.root / "in" / "open.csv")


def closed(pilot: Pilot) -> None:
    invoices("R1")(pilot)
    (pilot.root / "out").mkdir(mode=0o555)


def a_file(pilot: Pilot) -> None:
    invoices("R1")(pilot)
    (pilot.root / "out").touch()


def batch(title: str, options: tuple[str, ...], made: Callable[[Pilot], None], *says: str) -> Mistake:
    return Mistake(title, (*BATCH, *options), says, made, here=True)


def told(title: str, command: tuple[str, ...], *says: str, **more: int) -> Mistake:
    return Mistake(title, command, says, decided, here=True, **more)


MISTAKES = (
    batch(
        "a batch from a file that is not there",
        ("closed.csv",),
        invoices("R1"),
        "closed.csv: cannot be read: No such file or directory",
        "Name a readable file",
    ),
    batch(
        "a batch from a spreadsheet",
        ("open.xlsx",),
        wrote("open.xlsx", ""),
        "open.xlsx: no file that a batch is read from",
        "Name a .parquet or .csv file",
    ),
    batch(
        "a batch without a column of the contract",
        ("open.csv",),
        invoices("R1", head=HEAD.replace("amount_eur", "late")),
        "open.csv: there is no column 'amount_eur'",
        "Bring the contract's fields",
    ),
    batch(
        "a batch with a column that the contract does not know",
        ("open.csv",),
        invoices("R1", head=HEAD.replace("amount_eur", "amount")),
        "open.csv: columns that the contract does not know: amount",
        "Bring the contract's fields",
    ),
    batch(
        "a batch with semicolons between its values",
        ("open.csv",),
        wrote("open.csv", HEAD.replace(",", ";")),
        "open.csv: its first line is a single column: what separates values is no comma",
        "Write it anew",
    ),
    batch(
        "a batch in another encoding",
        ("open.csv",),
        in_another_encoding,
        "open.csv: cannot be read as csv: its first line is not UTF-8 text",
        "Write it anew; a CSV file as UTF-8",
    ),
    batch(
        "a batch from a Parquet file that was cut off",
        ("open.parquet",),
        wrote("open.parquet", "PAR1 and no end"),
        "open.parquet: cannot be read as parquet",
        "Write it anew",
    ),
    batch(
        "a batch gone on with other rows",
        ("open.csv", "--id", "monday"),
        decided_before,
        "the batch 'monday': it was begun with other rows than open.csv has now",
        "Bring back what it was begun with",
        "--id NAME",
    ),
    batch(
        "a batch gone on with other options",
        ("open.csv", "--id", "monday", "--reasons", "0"),
        decided,
        "the batch 'monday': it was begun otherwise: --reasons differs",
        "Go on as it was begun",
    ),
    batch(
        "a batch handed over where a file is",
        ("open.csv", "--to", "out"),
        a_file,
        "--to out: decisions cannot be written there, and nothing was decided: Not a directory",
        "Name a folder",
    ),
    Mistake(
        "a batch handed over where this account may not write",
        (*BATCH, "open.csv", "--to", "out"),
        ("--to out: decisions cannot be written there, and nothing was decided: Permission denied", "Name a"),
        closed,
        nobody=True,
    ),
    batch(
        "a batch handed over into the folder that is read",
        ("in", "--to", "in/out"),
        a_folder,
        "--to in/out: it lies in the folder that is read",
        "Name a folder beside it",
    ),
    batch(
        "a batch handed over under a name that something else has",
        ("open.csv", "--id", "monday", "--to", "out"),
        somebody_elses,
        "out/monday-00000.csv: it is there already, and does not hold what this batch decided",
        "Take it away",
    ),
    batch(
        "a batch delivered to nobody",
        ("open.csv", "--deliver"),
        invoices("R1"),
        "pilot.toml [downstream] url: nobody is named to deliver to",
        "leave out --deliver",
    ),
    told(
        "an explanation of a decision that there is not",
        ("explain", "00000000-0000-4000-8000-000000000000"),
        "[store] url in pilot.toml): no decision '00000000-0000-4000-8000-000000000000' is on record",
        "Give the decision_id",
    ),
    told(
        "an explanation of a decision that a batch made",
        ("explain", A_BATCHS),
        f"no decision '{A_BATCHS}' is on record",
        "it stands in the batch's files",
    ),
    told(
        "an explanation with too little of an id",
        ("explain", "6f9"),
        "pilot explain: '6f9' is too short for a decision's id",
        "Give 4 characters at least",
    ),
    told(
        "a delivery tried again that was not given up",
        ("outbox", "retry", A_BATCHS),
        "pilot outbox: it is not among those that were given up",
        "`pilot outbox list`",
        code=1,
    ),
    told(
        "a delivery dropped without saying which",
        ("outbox", "drop"),
        "pilot outbox: name the decisions, or say --all",
        "`pilot outbox list`",
    ),
    Mistake(
        "deliveries listed where there is no store",
        ("outbox", "list"),
        ("decisions.db: there is no store", "Correct [store] url in pilot.toml"),
        here=True,
    ),
)
