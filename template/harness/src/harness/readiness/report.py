"""Asking a gate, and what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from harness.control import STAGES, Stage
from harness.control.proposals import TO_SHADOW
from harness.errors import Inconclusive, PilotError, unforeseen
from harness.governance.checks import NO_SUM
from harness.governance.documents import BY_NAME, holder
from harness.governance.rules import GATES, Gate, NotRead, Problem, Rule, reached
from harness.readiness import gates
from harness.readiness.case import Case, Requirement, Unknown
from harness.settings import Settings


@dataclass(frozen=True)
class Missing:
    """Something that a gate asks for and does not find.

    Attributes:
        check: The check's id.
        gate: The gate from which it is asked.
        about: The document's path, or ``evidence``, ``control`` or ``signatures``.
        field: Where in it; empty for the whole.
        what: What is missing, in one clause.
        mend: What to do.
        owner: The role that has to do it, and who holds it.
        status: ``refused``, or ``unknown`` where it could not be established.
    """

    check: str
    gate: Gate
    about: str
    field: str
    what: str
    mend: str
    owner: str
    status: Literal["refused", "unknown"] = "refused"


@dataclass(frozen=True)
class Report:
    """What a gate said.

    Attributes:
        pilot: The pilot's name.
        stage: The stage in force.
        gate: The gate that was asked.
        missing: What it did not find, in the order in which it is told.
        checks: How many checks were asked.
        revision: The control state's revision; 0 without one.
        model: The digest of the model that the evidence speaks of; empty where there is none.
        evidence: The digest of the evidence lock; empty where there is none.
        percent: The model's share in the next stage; None where rollout.yaml does not say.
    """

    pilot: str
    stage: str
    gate: Gate
    missing: tuple[Missing, ...]
    checks: int
    revision: int
    model: str
    evidence: str
    percent: int | None

    @property
    def verdict(self) -> Literal["ready", "refused", "inconclusive"]:
        """What it comes to: anything refused refuses, anything unknown holds."""
        found = {each.status for each in self.missing}
        return "refused" if "refused" in found else "inconclusive" if found else "ready"

    @property
    def exit_code(self) -> int:
        """0 ready, 1 refused, 3 inconclusive."""
        return {"ready": 0, "refused": 1, "inconclusive": 3}[self.verdict]

    @property
    def digest(self) -> str:
        """What the gate said, as one number, for whoever approves a proposal."""
        said = json.dumps(self.document(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(said.encode()).hexdigest()

    def document(self) -> dict[str, Any]:
        """The report as plain data."""
        return {"verdict": self.verdict, **asdict(self)}


def next_gate(stage: Stage) -> Gate:
    """The gate after a stage.

    Raises:
        PilotError: There is none after the last.
    """
    place = STAGES.index(stage) + 1
    if place == len(STAGES):
        raise PilotError("there is no gate after 'full'", where="readiness", mend="Nothing is to be done.")
    return GATES[place]


def examine(settings: Settings, gate: Gate | None = None, now: datetime | None = None) -> Report:
    """Ask a gate; by default the one after the stage in force.

    Raises:
        PilotError: There is no gate after the stage.
        Inconclusive: The stage cannot be read, and no gate was named.
    """
    case = Case(settings, gate or "shadow", now or datetime.now(UTC))
    stage, revision = "unknown", 0
    try:
        stage, revision = case.stage, case.state.rev if case.state else 0
        case.gate = gate or _next(case)
    except Unknown as error:
        if gate is None:
            raise Inconclusive(error.what, where=str(case.folder), mend=error.mend) from error
    try:
        missing = tuple(_missing(case))
    finally:
        case.close()
    return Report(
        pilot=settings.pilot.name,
        stage=stage,
        gate=case.gate,
        missing=missing,
        checks=len(list(_asked(case.gate))),
        revision=revision,
        model=_or_empty(lambda: case.run.model),
        evidence=_or_empty(lambda: case.lock[1]),
        percent=_percent(case),
    )


def _next(case: Case) -> Gate:
    """The gate after the stage in force; for a model that the state does not name, the one into shadow."""
    state, packaged = case.state, _or_empty(lambda: case.run.model)
    named = {slot.digest for slot in (state.champion, state.challenger) if slot} if state else set()
    if packaged and named and packaged not in named and case.stage in TO_SHADOW:
        return "shadow"
    return next_gate(case.stage)


def _percent(case: Case) -> int | None:
    try:
        return case.documents.rollout.percent(case.gate)
    except NotRead:
        return None


def _or_empty(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except PilotError:
        return ""


def _asked(gate: Gate) -> Iterator[Rule | Requirement]:
    return (each for each in gates.EVERY if reached(each.gate, gate))


def _missing(case: Case) -> Iterator[Missing]:
    yield from _required(case, "evidence", gates.EVIDENCE)
    yield from _documents(case)
    yield from _required(case, "control", gates.CONTROL)
    yield from _required(case, "trial", gates.TRIAL)
    yield from _required(case, "signatures", gates.SIGNATURES)


def _required(case: Case, about: str, asked: Iterable[Requirement]) -> Iterator[Missing]:
    told: set[str] = set()
    for each in asked:
        if not reached(each.gate, case.gate):
            continue
        owner = holder(case.documents, each.role)
        try:
            problems = list(each.ask(case))
        except Exception as error:  # whatever keeps a check from answering is told, and never passes
            field, what, mend, status = _not_established(error, case)
            if f"{field}{what}" not in told:  # several checks may need what is missing
                yield Missing(each.id, each.gate, about, field, what, mend, owner, status)
            told.add(f"{field}{what}")
            continue
        for one in problems:
            yield Missing(each.id, each.gate, about, one.field, one.what, one.mend or each.mend, owner)


def _not_established(error: Exception, case: Case) -> tuple[str, str, str, Literal["refused", "unknown"]]:
    if isinstance(error, Unknown):
        return "", error.what, error.mend, "unknown"
    if isinstance(error, PilotError):
        return error.where, error.what, error.mend, "refused"
    if isinstance(error, NotRead):
        return str(error), "it cannot be read, and this check needs it", "Mend it first.", "unknown"
    told = unforeseen(error, case.root)
    return told.where, told.what, told.mend, "unknown"


def _documents(case: Case) -> Iterator[Missing]:
    for kind in BY_NAME.values():
        document = case.documents.read.get(kind.name)
        owner = holder(case.documents, document.owner) if document else holder(case.documents, "accountable")
        for wrong in case.findings:
            if wrong.file == kind.path:
                yield Missing(
                    f"{kind.name}.read", "pilot", kind.path, wrong.field, wrong.what, wrong.mend, owner
                )
        found: list[tuple[Rule, Problem]] = []
        broken: list[Missing] = []
        for rule in gates.DOCUMENTS:
            if rule.document == kind.name and reached(rule.gate, case.gate):
                try:
                    found += [(rule, one) for one in _problems(rule, case)]
                except Exception as error:  # a rule that cannot answer is told, and never passes
                    field, what, mend, status = _not_established(error, case)
                    broken.append(Missing(rule.id, rule.gate, kind.path, field, what, mend, owner, status))
        yield from broken
        # What contradicts itself or is out of date says more than what is still open.
        for rule, one in sorted(found, key=lambda pair: ".filled" in pair[0].id):
            yield Missing(rule.id, rule.gate, kind.path, one.field, one.what, one.mend or rule.mend, owner)


def _problems(rule: Rule, case: Case) -> list[Problem]:
    try:
        return list(rule.ask(case.documents))
    except NotRead:
        return []  # the document that it needs is told as one that cannot be read
    except ArithmeticError:
        return [NO_SUM]
