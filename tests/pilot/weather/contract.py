"""A day's measurements, and whether it rained."""

from harness.pilot import Choice, Contract, Field


def measured(name: str, meaning: str, unit: str, low: float, high: float) -> Field:
    """A measurement that the station may have missed."""
    return Field(name, "number", meaning, unit=unit, low=low, high=high, required=False, vouched_by="station")


contract = Contract(
    key="day_id",
    entity="station",
    event_time="day",
    label="rained",
    label_arrives_after_days=1,
    decision=Choice(above="rain", below="dry", threshold=0.4),
    fields=(
        Field("day_id", "text", "The day's number"),
        Field("station", "text", "Where it was measured"),
        Field("day", "date", "The day"),
        Field("month", "integer", "The month", low=1, high=12),
        measured("temperature", "Mean temperature", "°F", -60, 140),
        measured("dew_point", "Mean dew point", "°F", -60, 140),
        measured("pressure", "Mean sea-level pressure", "hPa", 850, 1100),
        measured("visibility", "Mean visibility", "miles", 0, 200),
        measured("wind", "Mean wind", "knots", 0, 200),
        measured("gust", "Strongest sustained wind", "knots", 0, 250),
        measured("warmest", "Highest temperature", "°F", -60, 150),
        measured("coldest", "Lowest temperature", "°F", -60, 150),
    ),
)
