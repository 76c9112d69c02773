"""Clean, profile and check a table: ``bulk.py standard|hand FILE FOLDER`` prints what each took and found.

``standard`` takes the harness's own functions and the example's, on Ibis; ``hand`` is SQL for DuckDB, written
for this table. Each is a process of its own, so that its peak memory is its own; both have to find the same.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import resource
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.contract import Choice, Contract, Field

SEGMENTS = ("construction", "manufacturing", "public", "retail", "services")
COUNTRIES = ("AT", "DE", "ES", "FR", "GB", "IT", "NL", "PL")
CHANNELS, STATES = ("partner", "phone", "shop", "web"), ("open", "paid", "returned", "sent")
EXAMPLE = Path(__file__).parents[2] / "template" / "src" / "{{ package_name }}" / "sources.py"
VOUCHED: Any = {"meaning": "As it says", "vouched_by": "benchmarks"}

contract = Contract(
    key="order_id",
    entity="account_no",
    event_time="ordered_on",
    label="returned",
    label_arrives_after_days=30,
    decision=Choice(above="call", below="wait", threshold=0.5),
    fields=(
        Field("order_id", "text", **VOUCHED),
        Field("account_no", "text", **VOUCHED),
        Field("ordered_on", "date", **VOUCHED),
        Field("due_on", "date", planned=True, **VOUCHED),
        Field("sent_on", "date", required=False, planned=True, **VOUCHED),
        Field("amount_eur", "number", low=0.01, high=8500, **VOUCHED),
        Field("freight_eur", "number", low=0, high=1000, required=False, **VOUCHED),
        Field("discount", "integer", low=0, high=38, required=False, **VOUCHED),
        Field("quantity", "integer", low=1, high=60, **VOUCHED),
        Field("weight_kg", "number", low=0, high=79, required=False, **VOUCHED),
        Field("segment", "text", categories=SEGMENTS, required=False, **VOUCHED),
        Field("country", "text", categories=COUNTRIES, required=False, **VOUCHED),
        Field("channel", "text", categories=CHANNELS, **VOUCHED),
        Field("status", "text", categories=STATES, **VOUCHED),
        Field("warehouse", "text", required=False, **VOUCHED),
        Field("postcode", "text", required=False, **VOUCHED),
        Field("rating", "number", low=1, high=5, required=False, **VOUCHED),
        Field("note", "text", required=False, **VOUCHED),
    ),
)


def main(way: str, file: Path, folder: Path) -> dict[str, Any]:
    """Seconds and processor seconds of each step, the peak of memory in MiB, and what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    work = Standard(folder) if way == "standard" else importlib.import_module("by_hand").ByHand(folder)
    took: dict[str, float] = {}
    cpu: dict[str, float] = {}
    found: dict[str, Any] = {}
    for name in ("clean", "profile", "check"):
        started, worked = time.perf_counter(), time.process_time()
        found[name] = getattr(work, name)(file)
        took[name], cpu[name] = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"took": took, "cpu": cpu, "peak": peak, "found": found}


class Standard:
    """As a pilot's stages do it."""

    def __init__(self, folder: Path) -> None:
        from harness.data import engine
        from harness.settings import load_settings

        (folder / "pilot.toml").write_text(PILOT, encoding="utf-8")
        self.settings = load_settings(folder)
        self.backend = engine.connect(self.settings)
        self.records = folder / "records.parquet"

    def clean(self, file: Path) -> int:
        """The example's way from what a system wrote to records, the newest row of each."""
        from harness.data import engine, filedrops

        query = (filedrops.read_files if file.suffix == ".csv" else filedrops.read_parquet)([str(file)])
        self.backend.raw_sql(f"CREATE VIEW orders AS {query}")
        records = engine.as_declared(self.backend, "joined", cleaned(example(), self.backend.table("orders")))
        engine.write_parquet(self.backend, records, self.records, order_by=["order_id"])
        return int(self.backend.read_parquet(self.records).count().to_pyarrow().as_py())

    def profile(self, _: Path) -> dict[str, Any]:
        """The profile of the records, as plain figures."""
        from harness.data.profile import profile_table

        named = {field.name: field.categories for field in contract.fields if field.categories}
        hidden = (contract.key, contract.entity)
        made = profile_table(self.backend.read_parquet(self.records), named, hidden=hidden)
        return {
            "rows": made.rows,
            "duplicates": made.duplicates,
            **{name: figures(column.model_dump()) for name, column in made.columns.items()},
        }

    def check(self, _: Path) -> dict[str, int]:
        """The contract's rules counted, the good records and the others written."""
        from harness.data import checks, engine

        quality, kept, aside = checks.check(self.backend.read_parquet(self.records), contract)
        for name, table in (("kept", kept), ("aside", aside)):
            engine.write_parquet(
                self.backend, table, self.records.with_name(f"{name}.parquet"), order_by=["order_id"]
            )
        return {"rows": quality.rows, "bad": quality.bad, **{k: v for k, v in quality.rules.items() if v}}


def figures(column: dict[str, Any]) -> dict[str, Any]:
    """What both ways have to find alike of a column."""
    wanted = (
        "missing",
        "blank",
        "placeholders",
        "distinct",
        "true",
        "low",
        "high",
        "quantiles",
        "undeclared",
    )
    found = {name: column[name] for name in wanted if column.get(name) not in (None, 0, ())}
    if column["categories"]:
        found["categories"] = column["categories"]
    if column["shapes"]:
        found["shapes"] = len(column["shapes"])
        found["most"] = column["shapes"][0]["rows"]
    return found


def cleaned(example: ModuleType, orders: Any) -> Any:
    """The table's records, written with the example's own functions."""
    import ibis

    text = {name: orders[name].strip() for name in orders.columns if not name.startswith("_")}
    parsed = orders.select(
        order_id=text["order_id"],
        account_no=text["account_no"].upper(),
        ordered_on=example.day(orders.ordered_on),
        due_on=example.day(orders.due_on),
        sent_on=example.day(orders.sent_on),
        amount_eur=example.money(orders.amount),
        freight_eur=example.money(orders.freight),
        discount=text["discount"].try_cast("int64"),
        quantity=text["quantity"].try_cast("int64"),
        weight_kg=text["weight"].try_cast("float64"),
        segment=example.known(text["segment"].lower(), SEGMENTS),
        country=example.known(text["country"].upper(), COUNTRIES),
        channel=example.known(text["channel"].lower(), CHANNELS),
        status=example.known(text["status"].lower(), STATES),
        warehouse=text["warehouse"].nullif("-"),
        postcode=text["postcode"],
        rating=text["rating"].try_cast("float64"),
        gift=text["gift"],
        note=text["note"],
        updated_at=text["updated_at"].try_cast("timestamp"),
    )
    newest = example.latest(parsed, "order_id", by="updated_at")
    return newest.mutate(returned=ibis._.status == "returned").drop("gift")


def example() -> ModuleType:
    """The example's sources.py, as it stands in the template."""
    spec = importlib.util.spec_from_file_location("example_sources", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PILOT = """
[pilot]
name = "Orders"
package = "orders"
purpose = "Say which order comes back."
use_case = "classification"
team = "bench"
owner = "bench"
on_call = "bench"
risk_tier = "minimal"
data_classification = "internal"
[sources.orders]
kind = "files"
path = "."
"""

if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])), default=str))
