"""governance/tco.yaml: what the pilot and its production cost, and who pays for how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from pydantic import Field

from harness.governance.document import Document
from harness.governance.rules import Gate, Problem, Rule
from harness.governance.values import Part, Pending, Text, Unfilled

if TYPE_CHECKING:
    from harness.governance.documents import Documents

USUAL = {"integration": 40, "infrastructure": 20, "change": 20, "modelling": 20}
"""Percent of the budget of pilots that reached production."""

USUAL_GROWTH = 15
"""Production costs that many times the pilot, or more."""

ROUNDING = Decimal("0.01")


class Split(Part):
    """The pilot's budget in percent: data and integration, infrastructure, change management, modelling."""

    integration: Pending[Decimal]
    infrastructure: Pending[Decimal]
    change: Pending[Decimal]
    modelling: Pending[Decimal]


class Line(Part):
    """A line of the yearly cost at full volume."""

    what: Text
    cost: Pending[Decimal]


class Production(Part):
    """A year at full volume.

    Attributes:
        decisions: How many decisions.
        lines: What it costs, line by line.
        total: The sum of the lines.
    """

    decisions: Pending[int]
    lines: tuple[Line, ...]
    total: Pending[Decimal]


class Funding(Part):
    """Money for a year, and the role that granted it."""

    year: Pending[int]
    amount: Pending[Decimal]
    granted_by: Text


class Tco(Document):
    """The whole file.

    Attributes:
        currency: Of every amount.
        pilot_cost: What the pilot costs in all.
        split: How that is divided.
        split_reason: Why it differs from 40/20/20/20.
        production: A year at full volume.
        reference: The bottom-up calculation behind a cost below 15 times the pilot's, by address or path.
        horizon_years: For how many years it is to be paid.
        funding: What was granted.
    """

    currency: Text
    pilot_cost: Pending[Decimal]
    split: Split
    split_reason: str = ""
    production: Production
    reference: str = ""
    horizon_years: int = Field(ge=1, le=50)
    funding: tuple[Funding, ...]


def _known(*values: Decimal | int | Unfilled) -> bool:
    return not any(isinstance(value, Unfilled) for value in values)


def _amount(value: Decimal | int | Unfilled) -> Decimal:
    return Decimal(0) if isinstance(value, Unfilled) else Decimal(value)


def _total(documents: Documents) -> Iterator[Problem]:
    production = documents.tco.production
    if not _known(production.total, *(line.cost for line in production.lines)):
        return
    found = sum((_amount(line.cost) for line in production.lines), Decimal(0))
    if abs(found - _amount(production.total)) > ROUNDING:
        yield Problem("production.total", f"the lines make {found}, not {production.total}")


def _amounts(documents: Documents) -> Iterator[Problem]:
    tco = documents.tco
    said = {"pilot_cost": tco.pilot_cost, "production.decisions": tco.production.decisions}
    said |= {f"production.lines.{number}.cost": line.cost for number, line in enumerate(tco.production.lines)}
    said |= {f"funding.{number}.amount": each.amount for number, each in enumerate(tco.funding)}
    for field, value in said.items():
        if _known(value) and not _amount(value).is_finite():
            yield Problem(field, f"{value} is no amount")
        elif _known(value) and (_amount(value) < 0 or (_amount(value) == 0 and field in list(said)[:2])):
            yield Problem(field, f"{value} is not above zero")


def _split(documents: Documents) -> Iterator[Problem]:
    parts = {name: getattr(documents.tco.split, name) for name in USUAL}
    if not _known(*parts.values()):
        return
    found = sum(map(_amount, parts.values()), Decimal(0))
    if abs(found - 100) > ROUNDING:
        yield Problem("split", f"the parts make {found}, not 100")


def _usual(documents: Documents) -> Iterator[Problem]:
    parts = {name: getattr(documents.tco.split, name) for name in USUAL}
    if not _known(*parts.values()) or documents.tco.split_reason.strip():
        return
    if any(_amount(parts[name]) != usual for name, usual in USUAL.items()):
        usual = "/".join(map(str, USUAL.values()))
        yield Problem("split_reason", f"the split differs from {usual}, and no reason is given")


def _growth(documents: Documents) -> Iterator[Problem]:
    tco = documents.tco
    if not _known(tco.pilot_cost, tco.production.total) or tco.reference.strip():
        return
    if _amount(tco.production.total) < USUAL_GROWTH * _amount(tco.pilot_cost):
        told = f"a year of production costs less than {USUAL_GROWTH} times the pilot, and nothing shows why"
        yield Problem("reference", told)


def _funded(documents: Documents) -> Iterator[Problem]:
    tco, first = documents.tco, documents.facts.today.year
    granted = {each.year: _amount(each.amount) for each in tco.funding if _known(each.year, each.amount)}
    wanted = range(first, first + tco.horizon_years)
    short = [str(year) for year in wanted if granted.get(year, Decimal(0)) < _amount(tco.production.total)]
    if _known(tco.production.total) and short:
        told = f"{', '.join(short)}: less is granted than {tco.production.total} {tco.currency} a year"
        yield Problem("funding", told)


RULES = (
    Rule("tco.total", "pilot", "Correct the sum or a line.", _total),
    Rule("tco.amounts", "pilot", "Write an amount.", _amounts),
    Rule("tco.split", "pilot", "Make it 100.", _split),
    Rule("tco.usual_split", "shadow", "Write the reason.", _usual),
    Rule("tco.growth", "shadow", "Name the calculation, by address or path.", _growth),
    Rule("tco.funded", "broad", "Have it granted, or shorten horizon_years.", _funded),
)
LATER: Mapping[str, Gate] = {"funding": "broad"}
