"""docs/model-card.md: how the model decides, where it is wrong, and its figures, which no hand writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.governance.markdown import Markdown

SECTIONS = ("What it decides", "Decision logic", "Data", "Limits", "Failure modes", "Figures")
FIGURES = re.compile(r"```figures\n.*?```", re.DOTALL)


class ModelCard(Markdown):
    """The front matter; nothing beyond what every document carries."""


def figures(digest: str, metrics: Mapping[str, Any]) -> str:
    """The block below `Figures`, as evidence gives it."""
    model, fallback = metrics.get("model", {}), metrics.get("fallback", {})
    lines = [f"model {digest}", f"{'':16}{'model':>10}{'fallback':>10}"]
    for name in sorted({*model, *fallback}):
        cells = [f"{side[name]:>10.3f}" if name in side else f"{'':10}" for side in (model, fallback)]
        lines.append(f"{name:16}{''.join(cells)}".rstrip())
    return "\n".join(["```figures", *lines, "```"])


def with_figures(text: str, block: str) -> str:
    """The card with that block in place of the one it has; unchanged where it has none."""
    return FIGURES.sub(lambda _: block, text, count=1)
