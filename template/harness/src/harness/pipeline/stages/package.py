"""Model, the team's code, contract and figures → one folder with a digest."""

from __future__ import annotations

from harness.pipeline.manifest import build_package
from harness.progress import Report
from harness.settings import Settings


def run(settings: Settings, report: Report) -> str:
    """Model, the team's code, contract and figures → one folder with a digest."""
    report("files", 0.5)
    manifest = build_package(settings)
    return f"model {manifest.digest[:12]}, {len(manifest.files)} files"
