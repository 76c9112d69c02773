"""All governance documents of a pilot, and what they are held against."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import PilotError
from harness.governance import (
    integrations,
    model_card,
    monitored,
    monitoring,
    owners,
    risks,
    rollout,
    runbook,
    stakeholders,
    system,
    tco,
)
from harness.governance.document import Document, examine
from harness.governance.explain import Finding
from harness.governance.markdown import Markdown, examine_markdown
from harness.governance.rules import Gate, NotRead, Rule

D = TypeVar("D", bound=Document)


@dataclass(frozen=True)
class Kind:
    """One of the documents.

    Attributes:
        name: Its name, with which its rules' ids begin.
        path: Where it lies, below the pilot's root.
        model: What it says.
        rules: Its own rules.
        later: Fields that have to be filled only from a later gate on than ``shadow``, by the start of
            their paths.
        sections: For Markdown: the headings that have to be there.
    """

    name: str
    path: str
    model: type[Document]
    rules: tuple[Rule, ...] = ()
    later: Mapping[str, Gate] = field(default_factory=dict)
    sections: tuple[str, ...] = ()

    def examine(self, root: Path) -> tuple[Document | None, list[Finding]]:
        """Read it, with every mistake in it."""
        if issubclass(self.model, Markdown):
            return examine_markdown(root / self.path, self.model, self.sections)
        return examine(root / self.path, self.model)

    def filled_from(self, path: str) -> Gate:
        """The gate from which a field has to be filled."""
        top = path.partition(".")[0]
        return self.later.get(top, "shadow")


KINDS: tuple[Kind, ...] = (
    Kind(
        "system",
        "governance/system.yaml",
        system.System,
        system.RULES,
        system.LATER,
    ),
    Kind("owners", "governance/owners.yaml", owners.Owners, owners.RULES, owners.LATER),
    Kind("risks", "governance/risks.yaml", risks.Risks, risks.RULES),
    Kind(
        "integrations",
        "governance/integrations.yaml",
        integrations.Integrations,
        integrations.RULES,
        integrations.LATER,
    ),
    Kind(
        "monitoring",
        "governance/monitoring.yaml",
        monitoring.Monitoring,
        monitored.RULES,
    ),
    Kind(
        "rollout",
        "governance/rollout.yaml",
        rollout.Rollout,
        rollout.RULES,
    ),
    Kind(
        "stakeholders",
        "governance/stakeholders.yaml",
        stakeholders.Stakeholders,
        stakeholders.RULES,
        stakeholders.LATER,
    ),
    Kind("tco", "governance/tco.yaml", tco.Tco, tco.RULES, tco.LATER),
    Kind(
        "model-card",
        "docs/model-card.md",
        model_card.ModelCard,
        sections=model_card.SECTIONS,
    ),
    Kind(
        "runbook",
        "docs/runbook.md",
        runbook.Runbook,
        runbook.RULES,
        runbook.LATER,
        runbook.SECTIONS,
    ),
)
BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class Facts:
    """What the documents are held against.

    Attributes:
        root: The pilot's folder.
        sources: The systems that pilot.toml reads.
        risk_tier: What pilot.toml says.
        today: The day on which the question is asked.
    """

    root: Path
    sources: tuple[str, ...]
    risk_tier: str
    today: date

    def has(self, path: str) -> bool:
        """Whether the repository has that file; a path may not lead out of it."""
        try:
            file = (self.root / path.partition("#")[0]).resolve()
            return file.is_file() and file.is_relative_to(self.root.resolve())
        except (OSError, ValueError, RuntimeError):
            return False  # too long, with a NUL, or a loop of links: no file has that name


def facts(root: Path, today: date | None = None) -> Facts:
    """Read what the rules need of pilot.toml.

    Raises:
        PilotError: It cannot be read.
    """
    try:
        values: dict[str, Any] = tomllib.loads((root / "pilot.toml").read_text(encoding="utf-8"))
        tier, sources = values["pilot"]["risk_tier"], tuple(values["sources"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise PilotError(
            "the sources and the risk tier cannot be read from it",
            where=str(root / "pilot.toml"),
            mend="`pilot status` says what is wrong with it.",
        ) from error
    return Facts(root, sources, str(tier), today or datetime.now(UTC).date())


@dataclass(frozen=True)
class Documents:
    """Every document that could be read."""

    facts: Facts
    read: Mapping[str, Document]

    def one(self, name: str, model: type[D]) -> D:
        """The document of that name.

        Raises:
            NotRead: It is missing or wrong.
        """
        found = self.read.get(name)
        if not isinstance(found, model):
            raise NotRead(BY_NAME[name].path)
        return found

    @property
    def system(self) -> system.System:
        """governance/system.yaml."""
        return self.one("system", system.System)

    @property
    def owners(self) -> owners.Owners:
        """governance/owners.yaml."""
        return self.one("owners", owners.Owners)

    @property
    def risks(self) -> risks.Risks:
        """governance/risks.yaml."""
        return self.one("risks", risks.Risks)

    @property
    def integrations(self) -> integrations.Integrations:
        """governance/integrations.yaml."""
        return self.one("integrations", integrations.Integrations)

    @property
    def rollout(self) -> rollout.Rollout:
        """governance/rollout.yaml."""
        return self.one("rollout", rollout.Rollout)

    @property
    def stakeholders(self) -> stakeholders.Stakeholders:
        """governance/stakeholders.yaml."""
        return self.one("stakeholders", stakeholders.Stakeholders)

    @property
    def tco(self) -> tco.Tco:
        """governance/tco.yaml."""
        return self.one("tco", tco.Tco)

    @property
    def runbook(self) -> runbook.Runbook:
        """docs/runbook.md."""
        return self.one("runbook", runbook.Runbook)

    @property
    def monitoring(self) -> monitoring.Monitoring:
        """governance/monitoring.yaml."""
        return self.one("monitoring", monitoring.Monitoring)

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that the monitor may raise."""
        return tuple(signal.id for signal in self.monitoring.signals)


def read_all(root: Path, today: date | None = None) -> tuple[Documents, list[Finding]]:
    """Read every document, with every mistake in each.

    Raises:
        PilotError: pilot.toml cannot be read.
    """
    read: dict[str, Document] = {}
    findings: list[Finding] = []
    for kind in KINDS:
        document, wrong = kind.examine(root)
        findings += wrong
        if document is not None:
            read[kind.name] = document
    return Documents(facts(root, today), read), findings


def holder(documents: Documents, role: str) -> str:
    """A role with its holder, as people are told: ``business (anna@example.org)``."""
    found = documents.read.get("owners")
    held = found.holder(role) if isinstance(found, owners.Owners) else ""
    return f"{role} ({held or 'nobody yet'})"
