"""The data card: what a record is, who vouches for it, and what was found, for people who decide on it.

Its headings follow Gebru et al., "Datasheets for Datasets" (2021), as far as the contract and the checks know
the answers.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.contract import Amount, Contract, Field
from harness.data.checks import Quality
from harness.rules import Rule

NOTE = "<!-- Made by `pilot run` from contract.py and the data. Change those, not this file. -->"


def card(contract: Contract, quality: Quality) -> str:
    """The card as Markdown: the same contract and findings give the same text."""
    decision = contract.decision
    decided = (
        f"a number in {decision.unit}, from {decision.low:g} to {decision.high:g}"
        if isinstance(decision, Amount)
        else f"`{decision.above}` from a score of {decision.threshold:g} on, else `{decision.below}`"
    )
    declared: list[Field | Rule] = [*contract.fields, *contract.rules]
    vouched = sorted({each.vouched_by for each in declared} - {""})
    nobody = [each.name for each in declared if not each.vouched_by]
    return "\n".join(
        [
            NOTE,
            "# Data card",
            "",
            "## Composition",
            "",
            f"A record is identified by `{contract.key}`, is about `{contract.entity}` and is decided on "
            f"`{contract.event_time}`: {decided}.",
            f"What came of it is `{contract.label}`, known {contract.label_arrives_after_days} days later at "
            "the earliest.",
            "",
            f"{quality.rows:,} records were checked; {quality.bad:,} ({quality.bad_share:.2%}) were set "
            f"aside, and {quality.corrected:,} were corrected by hand.",
            "",
            *_table(
                ("field", "type", "meaning", "valid", "missing", "vouched for by"),
                (
                    (
                        f"`{each.name}`",
                        each.type,
                        each.meaning,
                        _valid(each),
                        "never" if each.required else f"{quality.missing.get(each.name, 0.0):.2%}",
                        each.vouched_by or "nobody",
                    )
                    for each in contract.fields
                ),
            ),
            "",
            "## Rules",
            "",
            *_table(
                ("rule", "meaning", "leads to", "broken by", "what to do", "vouched for by"),
                (
                    (
                        f"`{each.name}`",
                        each.meaning,
                        each.severity,
                        f"{quality.rules.get(each.name, 0):,}",
                        each.mend or "—",
                        each.vouched_by or "nobody",
                    )
                    for each in contract.rules
                ),
            ),
            *(
                f"No two records have {' and '.join(f'`{name}`' for name in names)} alike."
                for names in ((contract.key,), *contract.unique)
            ),
            "",
            "## Maintenance",
            "",
            f"Vouched for by {', '.join(vouched) or 'nobody'}."
            + (f" Nobody vouches for {', '.join(f'`{name}`' for name in nobody)}." if nobody else ""),
            "",
        ]
    )


def _valid(field: Field) -> str:
    if field.categories:
        return ", ".join(field.categories)
    unit = f" {field.unit}" if field.unit else ""
    if field.low is not None and field.high is not None:
        return f"{field.low:,g} to {field.high:,g}{unit}"
    if field.low is not None:
        return f"from {field.low:,g}{unit}"
    if field.high is not None:
        return f"up to {field.high:,g}{unit}"
    return {"text": "not blank"}.get(field.type, f"any{unit}")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    body = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    if not body:
        return ["None beside what the fields say.", ""]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body, ""]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
