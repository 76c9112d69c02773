"""Daily weather from one CSV file without keys or dates: its lines are days, in order."""

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir

from harness.pilot import Table

tables = (Table("weather", system="station", files="weather.csv"),)

FIRST_DAY = ibis.date("1949-01-01")
MEASURED = {
    "temperature": "feat_1",
    "dew_point": "feat_2",
    "pressure": "feat_3",
    "visibility": "feat_4",
    "wind": "feat_5",
    "gust": "feat_6",
    "warmest": "feat_7",
    "coldest": "feat_8",
}


def records(tables: Mapping[str, ir.Table]) -> ir.Table:
    """One record a day."""
    days = tables["weather"]
    number = days["_row"]
    day = FIRST_DAY + number.as_interval("D")
    return days.select(
        day_id=number.cast("string").lpad(6, "0"),
        station=ibis.literal("Bellevue"),
        day=day,
        month=day.month(),
        rained=days.target.strip() == "1",
        **{name: days[column].try_cast("float64") for name, column in MEASURED.items()},
    )
