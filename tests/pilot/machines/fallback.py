"""What the workshop's wall chart says."""

from harness.pilot import Answer, Reason, Record


def decide(record: Record) -> Answer:
    """A year, or half of it for a machine that shakes."""
    shakes = record["vibration"] > 3
    return Answer(180.0 if shakes else 365.0, (Reason("shakes", shakes),))
