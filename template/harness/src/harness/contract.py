"""The contract: what a record is, and what holds of it, declared once in the pilot's contract.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, get_args

from harness.errors import PilotError
from harness.rules import Rule, Severity

FieldType = Literal["text", "integer", "number", "boolean", "date"]
_EXAMPLES: dict[FieldType, Any] = {
    "text": "a",
    "integer": 1,
    "number": 1.0,
    "boolean": True,
    "date": date(2000, 1, 1),
}


@dataclass(frozen=True)
class Field:
    """One value of the record that a decision is asked for.

    Attributes:
        name: The key in the request and the column in the data.
        type: ``text``, ``integer``, ``number``, ``boolean`` or ``date`` (ISO 8601).
        meaning: What the value says, for the data card and for the people who vouch for it.
        unit: The unit of measurement, where there is one.
        low: The smallest valid value, inclusive.
        high: The largest valid value, inclusive.
        categories: The allowed values of a text; empty means any text.
        required: Whether the value must be present. A value that may be absent may also be null.
        vouched_by: The role or person who answers for the rule.
        severity: What a record leads to whose value is missing or not valid. ``quarantine``: it is set aside.
            ``stop``: the pipeline stops at the first one. A request with such a value is refused in any case:
            no model has learned from one.
        mend: What to do about such a record.
        planned: Of a date: that it may lie after the event time and is known all the same, such as an agreed
            delivery. Any other date after the decision is taken for knowledge of the future.
    """

    name: str
    type: FieldType
    meaning: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    required: bool = True
    vouched_by: str = ""
    severity: Literal["quarantine", "stop"] = "quarantine"
    mend: str = ""
    planned: bool = False


@dataclass(frozen=True)
class Volume:
    """How many records there have to be. Fewer stop the pipeline: an extract that broke off looks like that.

    Attributes:
        at_least: Records in all.
        window_days: Days of the event time that are counted together; the newest of them end with the newest
            record, and each such window before counts as one of the past.
        drop_to: The share of the usual number in a window, the median of those of the past, under which the
            newest one counts as broken off; 0 to 1. 0 looks at no window.
    """

    at_least: int = 1
    window_days: int = 30
    drop_to: float = 0.0


@dataclass(frozen=True)
class Choice:
    """A yes-or-no decision: ``above`` from the threshold on, ``below`` under it.

    Attributes:
        above: The decision when the score reaches the threshold.
        below: The decision when it does not.
        threshold: The score, between 0 and 1, from which ``above`` is decided.
    """

    above: str
    below: str
    threshold: float = 0.5

    def of(self, score: float) -> str:
        """The decision that belongs to a score between 0 and 1."""
        return self.above if score >= self.threshold else self.below

    def valid(self, score: float) -> bool:
        """Whether a score is one that a model may give."""
        return 0.0 <= score <= 1.0


@dataclass(frozen=True)
class Amount:
    """A decision that is a number, as a regression gives it.

    Attributes:
        unit: The unit of the number.
        low: The smallest value that may be decided, inclusive.
        high: The largest value that may be decided, inclusive.
    """

    unit: str
    low: float
    high: float

    def of(self, score: float) -> float:
        """The decision that belongs to a score: the score itself."""
        return score

    def valid(self, score: float) -> bool:
        """Whether a score lies in the stated range; NaN and infinity do not."""
        return self.low <= score <= self.high


@dataclass(frozen=True)
class Contract:
    """What a record is, declared once and used for bulk checks, the request's schema and the data card.

    Attributes:
        key: The field that identifies a record; unique in the data.
        entity: The field that identifies whom the decision is about; rollout buckets hang on it. It may be
            the key itself where every record stands alone.
        event_time: The date field that says when the decision is due; the data is divided by it. Where the
            true date is missing, any date that grows with the records will do.
        label: The column with the outcome: true or false for a Choice, a number for an Amount, null while
            it is not known. It is in the data and never in a request.
        label_arrives_after_days: Days after ``event_time`` before which no outcome can be known.
        decision: What is decided, and how a score becomes it.
        fields: Every value of the request, key, entity and event time included.
        groups: Fields whose groups are compared for fairness.
        entities_apart: Whether the model is judged on entities only that it was not trained on; records of
            the others are then left out of the test.
        rules: What holds over several values of a record.
        unique: Fields, or groups of them, that no two records have alike, beside the key.
        volume: How many records there have to be.
        fresh_within_days: How old the newest record of real data may be when it is read, by its event time;
            None for any age. An extract that goes on giving last month's file looks like that.
        cache: How many scores a process that serves may keep and give again for a record that is the same in
            every field, by the same model; 0 has each request scored anew. Not for a model that looks at
            anything beside the record.
    """

    key: str
    entity: str
    event_time: str
    label: str
    label_arrives_after_days: int
    decision: Choice | Amount
    fields: tuple[Field, ...]
    groups: tuple[str, ...] = ()
    entities_apart: bool = False
    rules: tuple[Rule, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    volume: Volume = Volume()
    fresh_within_days: int | None = None
    cache: int = 0

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        for role in (self.key, self.entity, self.event_time, *self.groups):
            if role not in names:
                raise PilotError(
                    f"'{role}' is named as a key, entity, event time or group and is not among the fields",
                    where="contract.py",
                    mend=f"Add a Field named '{role}'.",
                )
        if len(set(names)) != len(names):
            repeated = sorted({name for name in names if names.count(name) > 1})
            raise PilotError(
                f"these fields are declared twice: {', '.join(repeated)}",
                where="contract.py",
                mend="Keep one of each.",
            )
        if self.cache < 0:
            raise PilotError(
                f"the contract's cache is {self.cache}",
                where="contract.py",
                mend="Write how many scores may be kept, or 0 for none.",
            )
        if self.label in names:
            raise PilotError(
                f"the label '{self.label}' is among the request's fields",
                where="contract.py",
                mend="Take it out: an outcome is not known when the decision is asked for.",
            )
        for declared in self.fields:
            if declared.type not in get_args(FieldType):
                raise PilotError(
                    f"the field '{declared.name}' has the unknown type '{declared.type}'",
                    where="contract.py",
                    mend=f"Use one of {', '.join(get_args(FieldType))}.",
                )
        self._check_rules(names)

    def _check_rules(self, names: list[str]) -> None:
        for severity, what in [(each.severity, f"field '{each.name}'") for each in self.fields]:
            if severity not in ("quarantine", "stop"):
                raise PilotError(
                    f"the {what} has the severity '{severity}'",
                    where="contract.py",
                    mend='Use "quarantine" or "stop"; a Rule may also "warn".',
                )
        called = [rule.name for rule in self.rules]
        if repeated := sorted({name for name in called if called.count(name) > 1 or name in names}):
            raise PilotError(
                f"these names of rules are taken: {', '.join(repeated)}",
                where="contract.py",
                mend="Give each rule a name of its own, and none that a field has.",
            )
        for unknown in sorted({name for group in self.unique for name in group} - set(names)):
            raise PilotError(
                f"'{unknown}' is to be unique and is not among the fields",
                where="contract.py",
                mend=f"Add a Field named '{unknown}'; each entry of `unique` is a tuple of fields.",
            )
        example = {each.name: _EXAMPLES[each.type] for each in self.fields}
        for rule in self.rules:
            rule.check(example)
            rule.check(dict.fromkeys(example))

    def field(self, name: str) -> Field:
        """The field of that name.

        Raises:
            KeyError: There is none.
        """
        for declared in self.fields:
            if declared.name == name:
                return declared
        raise KeyError(name)

    def breaks(self, record: Mapping[str, Any]) -> list[Rule]:
        """The rules that a request breaks and that have it refused.

        Args:
            record: Values as the contract types them.
        """
        return [rule for rule in self.rules if rule.severity != "warn" and rule.broken_by(record)]

    def severity(self, broken: str) -> Severity:
        """What a rule leads to, by the id that the checks and the quarantine give it."""
        for rule in self.rules:
            if rule.name == broken:
                return rule.severity
        name = broken.partition(".")[0]
        return next((each.severity for each in self.fields if each.name == name), "quarantine")
