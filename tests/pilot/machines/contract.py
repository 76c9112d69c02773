"""A reading of a machine, and how many days its bearing then lasted."""

from harness.pilot import Amount, Contract, Field

contract = Contract(
    key="reading",
    entity="serial",
    event_time="taken_on",
    label="days_left",
    label_arrives_after_days=14,
    decision=Amount(unit="days", low=0, high=1_000),
    fields=(
        Field("reading", "text", "The reading's number"),
        Field("serial", "text", "The machine"),
        Field("taken_on", "date", "The day of the reading"),
        Field("heat", "number", "Bearing temperature", unit="°C", low=-40, high=400, required=False),
        Field("vibration", "number", "Vibration velocity", unit="mm/s", low=0, high=100),
        Field("hardness", "number", "Hardness, standardised", low=-10, high=10, required=False),
    ),
)
