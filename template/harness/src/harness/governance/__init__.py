"""What a pilot's governance documents say, as models: read, checked and exported as schemas.

The lowest layer: it knows nothing of the pilot's settings, data or service, so that a convention check can
read a document without installing them.
"""

from __future__ import annotations

from harness.governance.document import TODO, Document, examine, placeholders, read
from harness.governance.explain import Finding
from harness.governance.values import Filled, NotApplicable, OrNotApplicable, Part, Pending, Text, Unfilled

__all__ = [
    "TODO",
    "Document",
    "Filled",
    "Finding",
    "NotApplicable",
    "OrNotApplicable",
    "Part",
    "Pending",
    "Text",
    "Unfilled",
    "examine",
    "placeholders",
    "read",
]
