"""Whether a pilot may go on: gates as data, asked of documents, evidence and control, offline.

A check says no, or that it cannot know; what is missing, unreadable or made by nothing yet never passes.
"""

from __future__ import annotations

from harness.readiness.report import Missing, Report, examine, next_gate

__all__ = ["Missing", "Report", "examine", "next_gate"]
