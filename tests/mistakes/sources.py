"""Mistakes about the systems that the data comes from, and about the data."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from mistakes.planted import Mistake, Pilot, appended, edited

INGEST = ("stage", "ingest")


def url(address: str) -> dict[str, str]:
    return {"PILOT_SOURCES__ERP__URL": address}


def without_folder(pilot: Pilot) -> None:
    (pilot.root / "var" / "sources" / "crm").rename(pilot.root / "var" / "sources" / "mrc")


def no_csv(pilot: Pilot) -> None:
    for file in (pilot.root / "var" / "sources" / "crm").glob("*.csv"):
        file.write_bytes(b"\x00\xff" * 100)


def no_rows(pilot: Pilot) -> None:
    for file in (pilot.root / "var" / "sources" / "crm").glob("*.csv"):
        file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])


def newest_file(pilot: Pilot, change: Callable[[bytes], bytes]) -> None:
    file = pilot.root / "var" / "sources" / "crm" / "accounts_2026.csv"
    file.write_bytes(change(file.read_bytes()))


def without_sources(pilot: Pilot) -> None:
    shutil.rmtree(pilot.root / "var" / "sources", ignore_errors=True)


MISTAKES = (
    Mistake(
        "sources that were never simulated",
        ("run",),
        ("[sources.erp] url: the simulated database was never filled", "Run `pilot simulate`"),
        without_sources,
    ),
    Mistake(
        "the folder of the files is missing",
        INGEST,
        ("crm: ", "var/sources/crm/accounts_*.csv: no such file", "correct the path in pilot.toml"),
        without_folder,
        trained=True,
    ),
    Mistake(
        "the files are not CSV",
        INGEST,
        ("crm: ", ".csv: line 1 is not UTF-8", "convert it"),
        no_csv,
        trained=True,
    ),
    Mistake(
        "a file that was cut off",
        INGEST,
        ("crm: ", "accounts_2026.csv: its lines do not have the 5 columns", "have it dropped again"),
        lambda pilot: newest_file(pilot, lambda text: text[:200].rsplit(b",", 2)[0]),
        trained=True,
    ),
    Mistake(
        "a file in two encodings",
        INGEST,
        ("crm: ", "accounts_2026.csv: line ", "is not UTF-8: the file is in another encoding, or in two"),
        lambda pilot: newest_file(pilot, lambda text: text + b'"A-1","k\xfchl","DE","1","2020-01-01"\n'),
        trained=True,
    ),
    Mistake(
        "a system that drops files without rows",
        INGEST,
        ("accounts_*.csv: it gives no rows, and had ", "an outage", "Bring the source back"),
        no_rows,
        code=1,
        trained=True,
    ),
    Mistake(
        "a watermark without a key",
        INGEST,
        ("sources.py: the table 'invoices' has a watermark without a key", "Name the column"),
        edited("sources.py", 'key="invoice_id", ', ""),
        trained=True,
    ),
    Mistake(
        "a table that the database does not have",
        ("run",),
        ("erp.invoice: the table does not exist", "Correct its name in sources.py"),
        edited(
            "sources.py",
            'Table("invoices", system="erp"',
            'Table("invoices", system="erp", table="invoice"',
        ),
        trained=True,
        again=INGEST,
    ),
    Mistake(
        "sources.py reads a system that pilot.toml lacks",
        INGEST,
        ("pilot.toml [sources]: sources.py reads from 'epr'", "Add [sources.epr]"),
        edited("sources.py", 'Table("payments", system="erp"', 'Table("payments", system="epr"'),
        trained=True,
    ),
    Mistake(
        "an address that is none",
        INGEST,
        ("[sources.erp] url: not a database URL", "Write postgresql://"),
        more=url("the database in the cellar"),
        trained=True,
        rare=True,
    ),
    Mistake(
        "an address of another kind of database",
        INGEST,
        ("[sources.erp] url: not a database URL", "Write postgresql://"),
        more=url("mariner://host/database"),
        trained=True,
    ),
    Mistake(
        "a host that there is not",
        INGEST,
        ("[sources.erp] url (postgresql://reader:***@nowhere.invalid/erp)", "does not answer", "Check"),
        more=url("postgresql://reader:secret@nowhere.invalid/erp"),
        trained=True,
    ),
    Mistake(
        "a port where no database listens",
        INGEST,
        ("[sources.erp] url (postgresql://127.0.0.1:1/erp)", "does not answer", "refused", "Check"),
        more=url("postgresql://127.0.0.1:1/erp"),
        trained=True,
        rare=True,
    ),
    Mistake(
        "data that breaks the contract too often",
        ("run",),
        ("evidence/quality.json: ", "break the contract, most often 'amount_eur.too_high'", "quarantine"),
        edited("contract.py", "high=50_000_000,", "high=100,"),
        code=1,
        trained=True,
        again=("stage", "validate"),
    ),
    Mistake(
        "a join that gives nothing",
        INGEST,
        ("sources.py records(): no records come out of", "Check the join"),
        edited("sources.py", "        late=ibis._.late,\n    )", "        late=ibis._.late,\n    ).limit(0)"),
        code=1,
        trained=True,
        again=INGEST,
    ),
    Mistake(
        "a column that the contract wants is not produced",
        INGEST,
        ("sources.py records(): the column 'country' of the contract is missing", "Produce it"),
        edited("sources.py", "        country=ibis._.country,\n", ""),
        code=1,
        trained=True,
        again=INGEST,
    ),
    Mistake(
        "a column of another type than the contract says",
        INGEST,
        ("sources.py records(): 'due_month' is string, and the contract says integer", "Cast it"),
        edited("sources.py", "due_month=ibis._.due_on.month()", 'due_month=ibis._.due_on.strftime("%m")'),
        code=1,
        trained=True,
        again=INGEST,
    ),
    Mistake(
        "a column that the source does not have",
        INGEST,
        ("sources.py line", "has no attribute", "'ammount'", "Correct it"),
        edited("sources.py", "money(invoices.amount)", "money(invoices.ammount)"),
        trained=True,
    ),
    Mistake(
        "sources.py stops in the middle",
        INGEST,
        ("late_payment/sources.py: line", "is not valid Python", "Correct it"),
        appended("sources.py", "def ("),
    ),
)
