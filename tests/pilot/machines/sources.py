"""Readings from the historian, the hardness of each machine's bearing from the workshop's newest file."""

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir

from harness.pilot import Table

tables = (
    Table("readings", system="historian"),
    Table("services", system="workshop", files="services_*.csv"),
)


def records(tables: Mapping[str, ir.Table]) -> ir.Table:
    """One record a reading; readings that were loaded twice count once."""
    readings, services = tables["readings"].distinct(), tables["services"]
    machines = services.select(
        serial=ibis.coalesce(services.serial, services.SerialNo).strip().upper(),
        hardness=services.hardness.try_cast("float64"),
        file=services["_file"],
    )
    newest = ibis.window(group_by="serial", order_by=[ibis.desc("file"), "hardness"])
    machines = machines.mutate(rank=ibis.row_number().over(newest)).filter(ibis._["rank"] == 0)
    written = readings.taken_on.strip()
    german = written[6:10] + "-" + written[3:5] + "-" + written[0:2]
    return (
        readings.mutate(taken_on=(written[2:3] == ".").ifelse(german, written).try_cast("date"))
        .left_join(machines.drop("rank", "file"), "serial")
        .select("reading", "serial", "taken_on", "heat", "vibration", "hardness", "days_left")
    )
