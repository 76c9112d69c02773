"""governance/integrations.yaml: the systems on both sides, who owns them, and what happens when one fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from harness.governance.document import Document
from harness.governance.rules import Gate, Problem, Rule
from harness.governance.values import OrNotApplicable, Part, Text

if TYPE_CHECKING:
    from harness.governance.documents import Documents


class Side(Part):
    """A system beside the pilot.

    Attributes:
        what: What it delivers or takes, and how often.
        owned_by: Who answers for it.
        on_failure: What happens when it is late, wrong or gone.
    """

    what: Text
    owned_by: Text
    on_failure: Text


class Supplier(Part):
    """Somebody outside whom the pilot depends on.

    Attributes:
        what: What they supply.
        fallback: What is done when they stop.
    """

    what: Text
    fallback: Text


class Integrations(Document):
    """The whole file; ``upstream`` has the names of [sources] in pilot.toml."""

    upstream: dict[str, Side]
    downstream: dict[str, Side]
    suppliers: OrNotApplicable[dict[str, Supplier]]


def _sources(documents: Documents) -> Iterator[Problem]:
    listed, sources = documents.integrations.upstream, documents.facts.sources
    for name in sources:
        if name not in listed:
            yield Problem("upstream", f"the source '{name}' of pilot.toml is not listed", f"Add `{name}:`.")
    for name in listed:
        if name not in sources:
            told = f"pilot.toml has no source '{name}'"
            yield Problem(f"upstream.{name}", told, "Remove it, or add [sources.…] to pilot.toml.")


def _sides(documents: Documents) -> Iterator[Problem]:
    for name in ("upstream", "downstream"):
        if not getattr(documents.integrations, name):
            yield Problem(name, "nothing is listed")


RULES = (
    Rule("integrations.sources", "pilot", "Keep both lists the same.", _sources),
    Rule("integrations.sides", "pilot", "List at least one system.", _sides),
)
LATER: Mapping[str, Gate] = {"suppliers": "early"}
