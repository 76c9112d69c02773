"""The rule of thumb: damp air and poor sight mean rain."""

from harness.pilot import Answer, Reason, Record


def decide(record: Record) -> Answer:
    """Rain when the air is within ten degrees of its dew point and one sees less than ten miles."""
    temperature, dew_point, visibility = record["temperature"], record["dew_point"], record["visibility"]
    if temperature is None or dew_point is None or visibility is None:
        return Answer("dry", (Reason("not measured", None),))
    spread = round(temperature - dew_point, 1)
    damp = spread < 10 and visibility < 10
    return Answer("rain" if damp else "dry", (Reason("degrees above the dew point", spread),))
