"""Documents in Markdown: YAML front matter that a model reads, and sections found by their headings."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import Field

from harness.governance.document import Document, named, parse, said_by, text_of, validate
from harness.governance.explain import Finding
from harness.governance.values import TODO, is_placeholder

M = TypeVar("M", bound="Markdown")

_FENCE = re.compile(r"^\s*(```|~~~)")
_HEADING = re.compile(r"^##\s+(.*?)\s*#*\s*$")
_SUBHEADING = re.compile(r"^\s*#{1,6}\s")
_MARK = re.compile(r"^\s*([-*+>]|\d+[.)])\s+(\[[ xX]\]\s*)?")
# One that is never closed hides all that follows.
_COMMENT = re.compile(r"(?s)<!--.*?(-->|\Z)")


class Markdown(Document):
    """A document whose sections are text.

    Attributes:
        sections: The text below each second-level heading, by its anchor.
    """

    sections: dict[str, str] = Field(default_factory=dict)


def anchor(heading: str) -> str:
    """The anchor that GitHub and GitLab give a heading."""
    kept = re.sub(r"[^\w\s-]", "", heading.lower())
    return re.sub(r"\s", "-", kept.strip())


def sections(text: str) -> dict[str, str]:
    """The text below each second-level heading; headings within code or a comment are none.

    What comes before the first is the section "", where there is any.
    """
    found: dict[str, list[str]] = {"": []}
    lines = found[""]
    fenced = False
    hidden = False
    for line in text.splitlines():
        fenced ^= not hidden and _FENCE.match(line) is not None
        heading = None if fenced or hidden else _HEADING.match(line)
        if not fenced:
            hidden = _still_hidden(line, hidden)
        if heading is None:
            lines.append(line)
            continue
        lines = found.setdefault(anchor(heading[1]), [])
    said = {name: "\n".join(body).strip() for name, body in found.items()}
    return {name: body for name, body in said.items() if name or body}


def _still_hidden(line: str, hidden: bool) -> bool:
    """Whether a comment is open at the end of a line."""
    opened, closed = line.rfind("<!--"), line.rfind("-->")
    return opened > closed or (hidden and closed < 0)


def unfilled(text: str) -> bool:
    """Whether a section says nothing yet: it is empty for its readers, or holds the sentinel."""
    shown = html.unescape(_COMMENT.sub("", text))
    said = (_MARK.sub("", line) for line in shown.splitlines() if not _SUBHEADING.match(line))
    if all(not line.strip() or is_placeholder(line) for line in said):
        return True
    return is_placeholder(shown) or re.search(rf"\b{TODO}\b", text) is not None


def examine_markdown(file: Path, model: type[M], wanted: tuple[str, ...]) -> tuple[M | None, list[Finding]]:
    """Read a document in Markdown, with every mistake in its front matter and every section that is missing.

    Args:
        file: The file.
        model: What its front matter says.
        wanted: Headings that have to be there, as they are written.
    """
    name = named(file)
    text = text_of(file, name)
    if isinstance(text, Finding):
        return None, [text]
    parts = re.split(r"(?m)^---[ \t]*$\n?", text, maxsplit=2)
    if len(parts) < 3 or parts[0].strip():
        return None, [
            Finding(name, "", "it does not begin with front matter", "Begin with ---, `owner:` and ---.")
        ]
    try:
        values = parse(parts[1])
    except yaml.YAMLError as error:
        return None, [Finding(name, "", said_by(error), "Correct that line.")]
    if isinstance(values, dict) and "sections" in values:
        return None, [Finding(name, "", "unknown key 'sections'", "Remove it.")]
    found = sections(parts[2])
    document, findings = validate(values, model, name)
    findings += [
        Finding(name, "", f"the section '{heading}' is missing", f"Add the heading `## {heading}`.")
        for heading in wanted
        if anchor(heading) not in found
    ]
    if document is None or findings:
        return None, findings
    return document.model_copy(update={"sections": found}), []
