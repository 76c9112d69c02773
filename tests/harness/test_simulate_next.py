"""The systems go on for a week: what they bring, ingest counts as the simulator says, and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.data import engine, snapshot
from harness.data.extract import extract
from harness.data.origin import MANIFEST, origin
from harness.errors import PilotError
from harness.pilot import Table
from harness.settings import Settings, load_settings
from harness.simulate import Manifest, Parameters, Target, deliver_next, simulate
from harness.simulate.embedded import server
from ingesting import PILOT, quiet
from rendering import ROOT

SPEC = ROOT / "template" / "simulation.yaml"
TABLES = (
    Table("invoices", system="erp", key="invoice_id", watermark="updated_at"),
    Table("payments", system="erp", key="payment_id", watermark="updated_at"),
    Table("accounts", system="crm", files="accounts_*.csv"),
)
SIZE = Parameters.of("pilot", rows=2000)
SOURCES = '[sources.erp]\nkind = "postgres"\nurl = "{url}"\n[sources.crm]\nkind = "csv"\npath = "crm"\n'


class Systems:
    """An ERP and a CRM that are simulated, and a pilot that reads them."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        self.targets = {"erp": Target("postgres", url), "crm": Target("csv", str(root / "crm"))}
        (root / "pilot.toml").write_text(f"{PILOT}\n{SOURCES.format(url=url)}")
        self.manifest = root / MANIFEST
        self.manifest.parent.mkdir(parents=True)

    def begin(self) -> Manifest:
        made = simulate(SPEC, SIZE, self.targets, quiet)
        made.write(self.manifest)
        return made

    def go_on(self, spec: Path = SPEC) -> Manifest:
        made = deliver_next(spec, self.manifest, self.targets, quiet)
        made.write(self.manifest)
        return made

    @property
    def settings(self) -> Settings:
        return load_settings(self.root)

    def ingest(self, folder: str = "raw", *, full: bool = False) -> dict[str, Any]:
        place = self.root / "data" / folder
        return extract(self.settings, TABLES, place, quiet, whole=full).evidence["tables"]

    def origin(self, folder: str = "raw") -> Any:
        return origin(self.settings, TABLES, self.root / "data" / folder)

    def received(self, folder: str = "raw") -> dict[str, list[Any]]:
        """What ``records`` gets, in order."""
        backend = engine.connect(self.settings)
        tables = snapshot.tables(backend, TABLES, self.root / "data" / folder)
        found = {}
        for name, table in tables.items():
            kept = sorted(set(table.columns) - {"_row"})
            found[name] = sorted(map(repr, backend.to_pyarrow(table.select(kept)).to_pylist()))
        backend.disconnect()
        return found

    def content(self) -> dict[str, Any]:
        """Everything that the two systems hold."""
        with psycopg.connect(self.url) as connection:
            rows = {
                name: sorted(map(repr, connection.execute(f"select * from {name}").fetchall()))  # type: ignore[call-overload]
                for name in ("invoices", "payments")
            }
        return rows | {file.name: file.read_text() for file in sorted((self.root / "crm").glob("*.csv"))}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(tmp_path_factory.mktemp("pg")) as found:
        yield found


@pytest.fixture
def systems(tmp_path: Path, url: str) -> Systems:
    return Systems(tmp_path, url)


def test_what_a_week_brings_is_counted_as_the_simulator_says_and_nothing_is_lost(systems: Systems) -> None:
    systems.begin()
    systems.ingest()
    assert systems.origin().kind == "simulated"
    before = systems.content()
    weeks = []
    for number in (1, 2):
        made = systems.go_on()
        weeks.append((made, systems.content()))
        evidence = systems.ingest()
        assert len(made.deliveries) == number
        for name in ("invoices", "payments"):
            brought, last = made.deliveries[-1][name], evidence[name]["last"]
            assert (last["new"], last["changed"], last["late"]) == (
                brought.new,
                brought.changed,
                brought.late,
            )
            assert last["unmarked"] == last["gone"] == 0
            assert evidence[name]["parts"] == number + 1
        assert evidence["accounts"]["rows"] == made.tables["accounts"].rows
    invoices, payments = (made.deliveries[0][name] for name in ("invoices", "payments"))
    assert invoices.new == 20
    assert min(invoices.changed, invoices.late, payments.new) > 0
    assert min(made.deliveries[0]["accounts"].new, made.deliveries[0]["accounts"].changed) > 0
    after = weeks[-1][1]
    assert set(before["invoices"]) < set(after["invoices"])
    assert [name for name in before if before[name] != after[name]] == [
        "invoices",
        "payments",
        "accounts_2026.csv",
    ]
    # Everything anew gives the same records, and both are known for what was simulated.
    systems.ingest("whole", full=True)
    assert systems.received() == systems.received("whole")
    assert systems.origin() == systems.origin("whole")
    assert systems.origin().kind == "simulated"
    # One value that the simulator did not make, in a part of its own.
    with psycopg.connect(systems.url) as connection:
        connection.execute(
            "update invoices set amount = 'EUR 1.00'"
            " where updated_at = (select max(updated_at) from invoices)"
        )
    systems.ingest()
    assert systems.origin().kind == "real"
    # The same week comes wherever and whenever it is simulated.
    systems.begin()
    assert (systems.go_on(), systems.content()) == weeks[0]


def somebody_wrote(systems: Systems) -> Path:
    with psycopg.connect(systems.url) as connection:
        connection.execute("delete from payments where ctid in (select ctid from payments limit 1)")
    return SPEC


def another_declaration(systems: Systems) -> Path:
    file = systems.root / "simulation.yaml"
    file.write_text(SPEC.read_text().replace("0.8 * normal('size')", "0.9 * normal('size')"))
    return file


def never_simulated(systems: Systems) -> Path:
    systems.manifest.unlink()
    return SPEC


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (somebody_wrote, "rows, and the last delivery left"),
        (another_declaration, "simulation.yaml has changed since its systems were filled"),
        (never_simulated, "the manifest of the simulation is missing"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_system_that_is_not_as_it_was_left_gets_nothing(systems: Systems, fault: Any, told: str) -> None:
    systems.begin()
    spec = fault(systems)
    before = systems.content()
    with pytest.raises(PilotError, match=told):
        systems.go_on(spec)
    assert systems.content() == before
